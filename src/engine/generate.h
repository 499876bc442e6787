#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "text/stop_matcher.h"
#include "text/tokenizer.h"

namespace fathom {

class Session;

/// A request whose answer is a text.
struct GenerationRequest : EngineRequest {
  std::vector<std::string> stop;  ///< the text ends before the first of these; needs a tokenizer
};

struct GenerationCallbacks {
  /// After every token: its id, and the text that became certain with it (often empty: half a character, or the
  /// beginning of a stop string, is held back). Once more with id −1 for text held back to the end. False ends the
  /// generation.
  std::function<bool(int32_t token, std::string_view text)> on_token;
  /// After each chunk of the prompt; may throw to stop.
  std::function<void(int64_t done, int64_t total)> on_prefill;
};

struct GenerationTimings {
  int64_t prefill_tokens = 0;  ///< prompt tokens that were computed
  int64_t reused_tokens = 0;   ///< prompt tokens whose cache was held already
  double prefill_ms = 0;       ///< to the first token, waiting included
  int64_t decode_tokens = 0;   ///< all but the first, which comes from the prefill
  double decode_ms = 0;
  int64_t drafts = 0, accepted = 0;  ///< of speculation
  double mask_ms = 0;                ///< spent on the answer's grammar
  /// Decoded tokens per second; 0 if there were none.
  double tokens_per_second() const;
};

struct Generation {
  std::vector<int32_t> tokens;  ///< without the end token; with all tokens of a stop string
  std::string text;             ///< empty without a tokenizer; without special tokens and from a stop string on
  FinishReason finish_reason = FinishReason::length;
  std::vector<SampledToken> logprobs;  ///< one per token if asked for
  GenerationTimings timings;
};

/// Makes an answer of the events of its request.
class AnswerBuilder {
 public:
  /// `tokenizer` may be null: no text then; request and tokenizer outlive it. `bad_input` for stop strings without a
  /// tokenizer, or an empty one.
  AnswerBuilder(const Tokenizer* tokenizer, const GenerationRequest& request);
  /// One more token; the result is the text that became certain with it.
  std::string add(const SampledToken& token);
  /// A stop string has come: what follows does not belong to the answer, and its request can be cancelled.
  bool stopped() const { return matcher_.matched(); }
  /// The end of the request. The result is text that was held back to the end; the generation is complete.
  std::string end(FinishReason reason, const RequestUsage& usage);
  const Generation& generation() const { return generation_; }

 private:
  using Clock = std::chrono::steady_clock;
  const GenerationRequest& request_;
  StopMatcher matcher_;
  std::optional<StreamDecoder> decoder_;
  Generation generation_;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point first_;
};

/// The request, with an answer no longer than a context of so many positions holds. `bad_input` if the prompt alone is
/// longer.
EngineRequest bounded(EngineRequest request, int64_t context);

/// Answers one request on a session, whose cache is used as far as the prompt agrees with what it holds.
///
/// Errors:  what Engine::submit and AnswerBuilder refuse, and `bad_input` for a prompt longer than the context; what
///          callbacks throw, after which the session can be used again.
Generation generate(Session& session, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks = {});

}  // namespace fathom
