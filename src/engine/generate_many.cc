#include "engine/generate_many.h"

#include <algorithm>
#include <map>
#include <memory>

#include "base/error.h"

namespace fathom {
namespace {

struct Answer {
  Answer(const Tokenizer* tokenizer, const GenerationRequest& request) : builder(tokenizer, request) {}
  AnswerBuilder builder;
  bool done = false;
};

EngineOptions engine_options(const LoadedModel& model, const GenerateManyOptions& options) {
  EngineOptions engine;
  const int64_t pages = LatentPool::pages_for(options.context);
  engine.cache_pages = plan_cache_pages(model, options.together * pages, pages, system_memory());
  engine.most_running = options.together;
  engine.most_tokens = std::max<int64_t>(512, (1 + options.drafts) * options.together);
  // Nobody watches: prompts are computed in large pieces.
  engine.most_prefill = engine.most_tokens;
  engine.drafts = options.drafts;
  engine.share_prefixes = options.share_prefixes;
  engine.store = options.store;
  return engine;
}

}  // namespace

EngineCounters generate_many(const LoadedModel& model, const Tokenizer* tokenizer,
                             const std::vector<GenerationRequest>& requests, const GenerateManyOptions& options,
                             ThreadTeam& team, const std::function<bool()>& stop,
                             const std::function<void(size_t index, const Generation& result)>& on_result) {
  std::vector<EngineRequest> to_submit;
  for (const GenerationRequest& request : requests) to_submit.push_back(bounded(request, options.context));
  Engine engine(model, engine_options(model, options), team);
  std::map<size_t, std::unique_ptr<Answer>> answers;  // submitted, not handed out
  size_t submitted = 0;
  size_t handed_out = 0;
  const auto on_event = [&](const TokenEvent& event) {
    Answer& answer = *answers.at(static_cast<size_t>(event.request));
    if (event.token) {
      answer.builder.add(*event.token);
      if (answer.builder.stopped()) engine.cancel(event.request);
    }
    if (!event.end) return;
    if (!event.error.empty()) throw_bad_input("prompt {}: {}", event.request, event.error);
    answer.builder.end(*event.end, *engine.usage(event.request));
    answer.done = true;
  };
  while (handed_out < requests.size()) {
    if (stop()) break;
    // A few wait, so that no step runs with less than it could.
    while (submitted < requests.size() && engine.running() + engine.waiting() < options.together + 4) {
      answers.emplace(submitted, std::make_unique<Answer>(tokenizer, requests[submitted]));
      engine.submit(std::move(to_submit[submitted]));
      ++submitted;
    }
    engine.step(on_event);
    for (auto next = answers.begin(); next != answers.end() && next->first == handed_out && next->second->done;
         next = answers.erase(next), ++handed_out) {
      on_result(handed_out, next->second->builder.generation());
    }
  }
  return engine.counters();
}

}  // namespace fathom
