#include "engine/session.h"

#include <algorithm>

#include "base/error.h"
#include "model/transformer.h"

namespace fathom {
namespace {

std::unique_ptr<LoadedModel> open_for_session(const std::string& directory, const SessionOptions& options,
                                              ThreadTeam& team) {
  OpenOptions open;
  open.compute = options.compute;
  open.weights = options.weights;
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
      : options(wanted),
        team(wanted.threads),
        model(open_for_session(directory, wanted, team)),
        cache(model->config, model->cache_dtype(), wanted.context),
        workspace(*model, std::min(wanted.prefill_chunk, wanted.context), team.size()),
        logits(static_cast<size_t>(model->config.vocab_size)) {
    tokens.reserve(static_cast<size_t>(options.context));
  }

  // Computes `count` tokens behind those held and appends them.
  void append(const int32_t* ids, int64_t count, AttentionForm form, bool want_logits) {
    const Span span{&cache, static_cast<int64_t>(tokens.size()), 0, count, form};
    forward(*model, {{ids, static_cast<size_t>(count)}, {&span, 1}}, workspace, team);
    if (want_logits) {
      const auto last = static_cast<int32_t>(count - 1);
      compute_logits(*model, model->weights.lm_head, {&last, 1}, workspace, team, logits.data());
    }
    tokens.insert(tokens.end(), ids, ids + count);
  }

  SessionOptions options;
  ThreadTeam team;
  std::unique_ptr<LoadedModel> model;
  LatentCache cache;
  Workspace workspace;
  std::vector<float> logits;
  std::vector<int32_t> tokens;
  int64_t reused = 0;
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

std::span<const float> Session::prefill(std::span<const int32_t> tokens,
                                        const std::function<void(int64_t, int64_t)>& progress) {
  Data& d = *data_;
  check_tokens(d.model->config, tokens);
  if (static_cast<int64_t>(tokens.size()) > d.options.context) {
    throw_bad_input("The prompt has {} tokens; the context holds {}.", tokens.size(), d.options.context);
  }

  const size_t most = std::min(tokens.size(), d.tokens.size());
  auto common = static_cast<size_t>(std::mismatch(tokens.begin(), tokens.begin() + most, d.tokens.begin()).first -
                                    tokens.begin());
  // The last token is computed even if it is held: its logits are not.
  common = std::min(common, tokens.size() - 1);
  d.tokens.resize(common);
  d.reused = static_cast<int64_t>(common);
  const auto total = static_cast<int64_t>(tokens.size() - common);
  const AttentionForm form = choose_attention(d.model->config, total, d.reused);
  for (int64_t done = 0; done < total;) {
    const int64_t count = std::min(d.workspace.max_tokens, total - done);
    d.append(tokens.data() + common + done, count, form, done + count == total);
    done += count;
    if (progress) progress(done, total);
  }
  return d.logits;
}

std::span<const float> Session::decode(int32_t token) {
  Data& d = *data_;
  check_tokens(d.model->config, {&token, 1});
  if (static_cast<int64_t>(d.tokens.size()) >= d.options.context) {
    throw_bad_input("The context of {} positions is full.", d.options.context);
  }
  d.append(&token, 1, AttentionForm::absorbed, true);
  return d.logits;
}

const std::vector<int32_t>& Session::tokens() const {
  return data_->tokens;
}

int64_t Session::reused_tokens() const {
  return data_->reused;
}

std::optional<ExpertCounters> Session::expert_counters() const {
  if (!data_->model->experts) return std::nullopt;
  return data_->model->experts->counters();
}

void Session::clear() {
  data_->tokens.clear();
  data_->reused = 0;
}

}  // namespace fathom
