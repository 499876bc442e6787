#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampling.h"
#include "text/tokenizer.h"

namespace fathom {

class Session;

/// Why a generation ended.
enum class FinishReason {
  stop,       ///< the model's end token, or a stop string
  length,     ///< `max_new_tokens` or the context is full
  cancelled,  ///< the caller's callback said so
};

/// "stop", "length", "cancelled".
std::string_view finish_reason_name(FinishReason reason);

struct GenerationRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int64_t max_new_tokens = 256;
  std::vector<int32_t> end_tokens;  ///< the model's end-of-text ids; a generation that draws one ends without it
  std::vector<std::string> stop;    ///< the text ends before the first of these; needs a tokenizer
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
  double prefill_ms = 0;
  int64_t decode_tokens = 0;  ///< passes of one token; the first token of an answer comes from the prefill
  double decode_ms = 0;
  /// Decode passes per second; 0 if there were none.
  double tokens_per_second() const;
};

struct Generation {
  std::vector<int32_t> tokens;  ///< without the end token; with all tokens of a stop string
  std::string text;             ///< empty without a tokenizer; without special tokens and from a stop string on
  FinishReason finish_reason = FinishReason::length;
  std::vector<SampledToken> logprobs;  ///< one per token if asked for
  GenerationTimings timings;
};

/// Finds stop strings in a stream of text.
class StopMatcher {
 public:
  explicit StopMatcher(std::vector<std::string> stop);
  /// Adds text and returns what cannot belong to a stop string any more; after a match, what stood before it.
  std::string push(std::string_view text);
  /// What was held back for nothing.
  std::string finish();
  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stop_;
  std::string pending_;
  bool matched_ = false;
};

/// The text of an answer as its tokens come: what is certain, and where it ends.
class AnswerText {
 public:
  /// `tokenizer` may be null: no text then. `bad_input` for stop strings without one, or an empty one.
  AnswerText(const Tokenizer* tokenizer, const std::vector<std::string>& stop);
  /// The text that became certain with a token.
  std::string push(int32_t token);
  /// What was held back to the end.
  std::string finish();
  /// A stop string has come: what follows does not belong to the answer.
  bool stopped() const { return matcher_.matched(); }

 private:
  StopMatcher matcher_;
  std::optional<StreamDecoder> decoder_;
};

/// What the loop needs of a model: a `Session`, or a test's own.
struct SequenceModel {
  std::function<std::span<const float>(std::span<const int32_t> tokens)> prefill;
  std::function<std::span<const float>(int32_t token)> decode;
  std::function<int64_t()> reused_tokens;
  int64_t context = 0;  ///< most positions
};

/// Prefills the prompt, then draws and decodes until the request says stop. The last token drawn is not decoded:
/// afterwards the model holds the prompt and all tokens but the last.
///
/// Errors:  what the model throws; `bad_input` for stop strings without a tokenizer, an empty stop string, or
///          `max_new_tokens` below 1.
/// Threads: one at a time per model.
Generation generate(const SequenceModel& model, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks = {});

/// The same on a session, whose cache is used as far as the prompt agrees with the sequence it holds.
Generation generate(Session& session, const Tokenizer* tokenizer, const GenerationRequest& request,
                    const GenerationCallbacks& callbacks = {});

}  // namespace fathom
