#include "engine/session.h"

#include <algorithm>

#include "base/error.h"
#include "engine/model_identity.h"
#include "model/transformer.h"

namespace fathom {
namespace {

std::unique_ptr<LoadedModel> open_for_session(const std::string& directory, const SessionOptions& options,
                                              ThreadTeam& team) {
  OpenOptions open;
  open.compute = options.compute;
  open.weights = options.weights;
  open.fp8_cache = options.fp8_cache;
  open.on_progress = options.on_progress;
  // Before a minute of loading, not after it.
  open.on_plan = [&](const LoadedModel& model, const WeightPlan& plan) {
    const int64_t most = model.config.max_position_embeddings;
    if (most > 0 && options.context > most) {
      throw_bad_input("A context of {} positions was asked for; {} allows {} (max_position_embeddings).",
                      options.context, directory, most);
    }
    if (options.on_plan) {
      options.on_plan(plan, LatentCache::bytes_for(model.config, model.cache_dtype(), options.context));
    }
  };
  return open_model(directory, open, team);
}

}  // namespace

struct Session::Data {
  Data(const std::string& directory, const SessionOptions& wanted)
      : options(wanted), team(wanted.threads), model(open_for_session(directory, wanted, team)) {}

  SessionOptions options;
  ThreadTeam team;
  std::unique_ptr<LoadedModel> model;
  std::shared_ptr<PageStore> store;
  std::unique_ptr<Engine> engine;
};

Session::Session(const std::string& directory, const SessionOptions& options) {
  if (options.context < 1) throw_bad_input("The context must be at least 1 position; it is {}.", options.context);
  if (options.prefill_chunk < 1)
    throw_bad_input("The prefill chunk must be at least 1 token; it is {}.", options.prefill_chunk);
  data_ = std::make_unique<Data>(directory, options);
}

Session::~Session() = default;

const ModelConfig& Session::config() const {
  return data_->model->config;
}

const LoadedModel& Session::model() const {
  return *data_->model;
}

ThreadTeam& Session::team() {
  return data_->team;
}

int64_t Session::context() const {
  return data_->options.context;
}

int64_t Session::drafts() const {
  return data_->options.drafts;
}

std::shared_ptr<PageStore> Session::store() {
  Data& d = *data_;
  if (!d.store && !d.options.store_directory.empty()) {
    d.store = std::make_shared<PageStore>(d.options.store_directory, model_identity(*d.model),
                                          stored_page_bytes(*d.model), d.options.store_bytes);
  }
  return d.store;
}

Engine& Session::engine() {
  Data& d = *data_;
  if (!d.engine) {
    EngineOptions options;
    // One more, for the copy of a page that a prompt shares in part.
    const int64_t pages = LatentPool::pages_for(d.options.context) + 1;
    options.cache_pages = plan_cache_pages(*d.model, pages, std::min<int64_t>(pages, 4), system_memory());
    options.most_running = 1;
    options.drafts = d.options.drafts;
    options.store = store();
    options.most_tokens = std::max(1 + options.drafts, std::min(d.options.prefill_chunk, d.options.context));
    d.engine = std::make_unique<Engine>(*d.model, options, d.team);
  }
  return *d.engine;
}

std::string Session::store_problem() {
  if (!data_->store) return {};
  data_->store->flush();
  return data_->store->take_problem();
}

std::optional<ExpertCounters> Session::expert_counters() const {
  if (!data_->model->experts) return std::nullopt;
  return data_->model->experts->counters();
}

void Session::clear() {
  if (data_->engine) data_->engine->forget();
}

}  // namespace fathom
