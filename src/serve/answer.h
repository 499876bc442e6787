#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/generate.h"
#include "serve/access.h"
#include "serve/chat_request.h"
#include "serve/engine_runner.h"
#include "serve/http_server.h"
#include "text/answer_splitter.h"

namespace fathom {

/// What became of a request, for the log and the metrics.
struct AnswerRecord {
  int status = 200;
  std::string finish;  ///< finish reasons, one per choice, joined by commas; "gone" if the client left
  int64_t prompt_tokens = 0, hit_tokens = 0, completion_tokens = 0, reasoning_tokens = 0;
  int64_t drafts = 0, accepted = 0;
  double seconds = 0, first_token_seconds = 0;  ///< since the request came; the latter 0 if there was no token
  std::string prompt, text;                     ///< only where prompts are logged
};

/// What an answer needs of the server.
struct AnswerContext {
  std::shared_ptr<HttpReply> reply;
  EngineRunner* runner = nullptr;
  const ServedModel* model = nullptr;
  std::unique_ptr<Access::Permit> permit;
  HttpHeaders headers;  ///< of the reply, beside its content type
  std::chrono::steady_clock::time_point begin;
  std::chrono::steady_clock::time_point deadline;
  std::function<void(double seconds)> on_gap;  ///< between two tokens of a choice
  std::function<void(const AnswerRecord&)> on_done;
};

/// An answer on its way from the engine to a client: one or several choices, streamed or whole. It ends when all its
/// choices have, and cancels them when the client goes, a deadline passes or the server shuts down.
///
/// States: nothing sent → begun (a stream's first chunk, or the first keep-alive) → done. Until it has begun an error
/// has a status of its own; later it becomes an error object in the stream. Threads: any; one lock over everything.
class Answer : public std::enable_shared_from_this<Answer> {
 public:
  using Json = nlohmann::ordered_json;
  using Clock = std::chrono::steady_clock;

  virtual ~Answer() = default;
  /// Hands the requests to the engine, one per choice. Called once.
  void start(std::vector<EngineRequest> requests);
  /// To be called now and then: sends a keep-alive if nothing was sent for `quiet`, and ends what is past its deadline.
  /// False once the answer is done.
  bool tick(Clock::time_point now, std::chrono::milliseconds quiet);
  /// Ends it with insufficient_system_resource: the server is going down.
  void interrupt();

 protected:
  struct Choice {
    uint64_t ticket = 0;
    int64_t tokens = 0;
    bool done = false;
    std::string finish;
    RequestUsage usage;
    Clock::time_point last{};
  };

  Answer(AnswerContext context, const AnswerRequest& request, std::string id);

  /// One more token of a choice; false if its answer is complete with it.
  virtual bool take(size_t choice, const SampledToken& token) = 0;
  /// The choice has ended: sends what was held back. The result is its finish reason.
  virtual std::string close(size_t choice, FinishReason reason) = 0;
  /// The choice as a whole reply has it, without `index` and `finish_reason`.
  virtual Json whole(size_t choice) = 0;
  /// What closes a choice in a stream, the same way.
  virtual Json last_chunk(size_t choice) = 0;
  virtual std::string_view object() const = 0;
  virtual int64_t reasoning_tokens() const { return 0; }

  /// Sends a chunk of a stream with one choice. Only for streams.
  void send_chunk(size_t choice, Json fields);
  bool streams() const { return request_.stream; }
  const ServedModel& model() const { return *context_.model; }
  const AnswerRequest& request() const { return request_; }
  size_t choice_count() const { return choices_.size(); }
  /// {"token","logprob","bytes"} of one token.
  Json logprob_json(int32_t token, double logprob) const;

 private:
  class Listener;

  bool on_token(size_t choice, const SampledToken& token);
  void on_end(size_t choice, FinishReason reason, const RequestUsage& usage, const std::string& error);
  void on_refused(size_t choice, const Error& error);
  void on_gone();
  void cancel_all();
  void finish_if_done();
  void fail(int status, const std::string& sentence, std::string_view code);
  void begin_stream();
  void write(std::string text);
  Json head() const;
  std::pair<int64_t, int64_t> prompt_tokens() const;
  Json usage_json() const;
  void report(int status);

  AnswerContext context_;
  AnswerRequest request_;
  std::string id_;
  int64_t created_;
  std::mutex mutex_;
  std::vector<Choice> choices_;
  bool begun_ = false;
  bool done_ = false;
  bool gone_ = false;
  bool interrupted_ = false;
  Clock::time_point last_write_;
  Clock::time_point first_token_{};
};

/// POST /v1/chat/completions.
std::shared_ptr<Answer> make_chat_answer(AnswerContext context, const ChatRequest& request,
                                         const AnswerSplitOptions& splitter);
/// POST /v1/completions.
std::shared_ptr<Answer> make_completion_answer(AnswerContext context, const CompletionRequest& request);

/// "chatcmpl-" and so on with 24 random letters and digits.
std::string random_id(std::string_view prefix);

}  // namespace fathom
