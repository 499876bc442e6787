#include "engine/generate_many.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "base/error.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

struct Answer {
  Answer(const Tokenizer* tokenizer, const std::vector<std::string>& stop) : text(tokenizer, stop) {}
  AnswerText text;
  Generation result;
  Clock::time_point begin = Clock::now();
  Clock::time_point first;
  bool done = false;
};

FinishReason finish_reason(EndReason reason) {
  switch (reason) {
    case EndReason::stop:
      return FinishReason::stop;
    case EndReason::cancelled:
      return FinishReason::cancelled;
    case EndReason::length:
    case EndReason::insufficient_resource:
      return FinishReason::length;
  }
  return FinishReason::length;
}

EngineOptions engine_options(const LoadedModel& model, const GenerateManyOptions& options) {
  EngineOptions engine;
  const int64_t pages = (options.context + LatentPool::kPage - 1) / LatentPool::kPage;
  engine.cache_pages = options.together * pages;
  engine.most_running = options.together;
  engine.most_tokens = std::max<int64_t>(512, 2 * options.together);
  // Nobody watches: prompts are computed in large pieces.
  engine.most_prefill = engine.most_tokens;
  engine.speculate = options.speculate && model.config.num_nextn_predict_layers > 0;
  engine.share_prefixes = options.share_prefixes;
  return engine;
}

}  // namespace

EngineCounters generate_many(const LoadedModel& model, const Tokenizer* tokenizer,
                             const std::vector<GenerationRequest>& requests, const GenerateManyOptions& options,
                             ThreadTeam& team, const std::function<bool()>& stop,
                             const std::function<void(size_t index, const Generation& result)>& on_result) {
  for (const GenerationRequest& request : requests) {
    if (std::ssize(request.prompt) > options.context) {
      throw_bad_input("The prompt has {} tokens; the context holds {}.", request.prompt.size(), options.context);
    }
  }
  Engine engine(model, engine_options(model, options), team);
  std::map<size_t, std::unique_ptr<Answer>> answers;  // submitted, not handed out
  size_t submitted = 0;
  size_t handed_out = 0;
  const auto on_event = [&](const TokenEvent& event) {
    Answer& answer = *answers.at(static_cast<size_t>(event.request));
    Generation& result = answer.result;
    if (event.token && !answer.text.stopped()) {
      if (result.tokens.empty()) answer.first = Clock::now();
      result.tokens.push_back(event.token->token);
      if (requests[static_cast<size_t>(event.request)].sampling.logprobs >= 0) result.logprobs.push_back(*event.token);
      result.text += answer.text.push(event.token->token);
      if (answer.text.stopped()) engine.cancel(event.request);
    }
    if (!event.end) return;
    const Clock::time_point now = Clock::now();
    if (result.tokens.empty()) answer.first = now;
    result.finish_reason = answer.text.stopped() ? FinishReason::stop : finish_reason(*event.end);
    result.text += answer.text.finish();
    if (answer.text.stopped()) result.finish_reason = FinishReason::stop;
    const RequestUsage& usage = *engine.usage(event.request);
    result.timings.reused_tokens = usage.hit_tokens;
    result.timings.prefill_tokens = usage.prompt_tokens - usage.hit_tokens;
    result.timings.prefill_ms = milliseconds(answer.begin, answer.first);
    result.timings.decode_tokens = std::max<int64_t>(0, std::ssize(result.tokens) - 1);
    result.timings.decode_ms = milliseconds(answer.first, now);
    answer.done = true;
  };
  while (handed_out < requests.size()) {
    if (stop()) break;
    // A few wait, so that no step runs with less than it could.
    while (submitted < requests.size() && engine.running() + engine.waiting() < options.together + 4) {
      const GenerationRequest& from = requests[submitted];
      EngineRequest request;
      request.prompt = from.prompt;
      request.sampling = from.sampling;
      // As `generate`: the last token needs no position.
      request.max_new_tokens = std::min(from.max_new_tokens, options.context + 1 - std::ssize(from.prompt));
      request.end_tokens = from.end_tokens;
      answers.emplace(submitted, std::make_unique<Answer>(tokenizer, from.stop));
      engine.submit(std::move(request));
      ++submitted;
    }
    engine.step(on_event);
    for (auto next = answers.begin(); next != answers.end() && next->first == handed_out && next->second->done;
         next = answers.erase(next), ++handed_out) {
      on_result(handed_out, next->second->result);
    }
  }
  return engine.counters();
}

}  // namespace fathom
