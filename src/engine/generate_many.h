#pragma once
#include <functional>
#include <vector>

#include "engine/engine.h"
#include "engine/generate.h"

namespace fathom {

struct GenerateManyOptions {
  int64_t together = 16;   ///< requests that run at once
  int64_t context = 4096;  ///< most positions of a request
  int64_t drafts = 0;      ///< see EngineOptions
  bool share_prefixes = true;
  std::shared_ptr<PageStore> store;  ///< see EngineOptions
};

/// Runs all requests through an engine with room for `together` of them at full length (or as many as memory allows,
/// see plan_cache_pages), and hands the results out in the order of the requests, each as soon as it and all before it
/// are done. A result's times are those between its admission, its first token and its end, with the others beside it.
///
/// `stop` is asked between steps; if it says so, what is not handed out by then is left. Errors: as `generate`, and
/// `bad_input` for a prompt that is longer than the context.
EngineCounters generate_many(const LoadedModel& model, const Tokenizer* tokenizer,
                             const std::vector<GenerationRequest>& requests, const GenerateManyOptions& options,
                             ThreadTeam& team, const std::function<bool()>& stop,
                             const std::function<void(size_t index, const Generation& result)>& on_result);

}  // namespace fathom
