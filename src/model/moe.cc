#include "model/moe.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "kernels/norm.h"
#include "kernels/router.h"

namespace fathom {
namespace {

// Tokens of one expert that a work item handles at a time: bounds its scratch, and a block of weights is still in the
// cache for the next ones.
constexpr int64_t kTokenBlock = 96;

using Job = Workspace::FeedForwardJob;

// Up half of all jobs: inner = silu(gate x) · up x, work items of some rows of one job.
void up_half(const std::vector<Job>& jobs, Workspace& ws, ThreadTeam& team) {
  int64_t rows = 0;
  for (const Job& job : jobs) rows += job.mlp->gate_proj.rows;
  const int64_t step = rows_per_item(rows, most_tokens(jobs), team.size());
  std::vector<int64_t>& begins = ws.item_begin;
  begins.assign(1, 0);
  for (const Job& job : jobs) begins.push_back(begins.back() + (job.mlp->gate_proj.rows + step - 1) / step);
  const auto gate_of = [&](int64_t item) -> std::pair<size_t, NextRows> {
    const auto j = static_cast<size_t>(std::upper_bound(begins.begin(), begins.end(), item) - begins.begin() - 1);
    if (j >= jobs.size()) return {};
    const Weight& gate = jobs[j].mlp->gate_proj;
    const int64_t begin = (item - begins[j]) * step;
    return {j, {&gate, begin, std::min(begin + step, gate.rows)}};
  };
  team.parallel_for(begins.back(), [&](int64_t item, int thread) {
    const auto [j, gate_rows] = gate_of(item);
    const NextRows following = gate_of(item + team.size()).second;  // the threads take turns
    const Job& job = jobs[j];
    Workspace::Scratch& scratch = ws.scratch[static_cast<size_t>(thread)];
    const int64_t size = gate_rows.weight->rows;
    const int64_t begin = gate_rows.begin;
    const int64_t end = gate_rows.end;
    const int64_t n = end - begin;
    auto* gate = scratch.reserve<float>(scratch.gate, kTokenBlock * n);
    auto* up = scratch.reserve<float>(scratch.up, kTokenBlock * n);
    for (int64_t t0 = 0; t0 < job.count; t0 += kTokenBlock) {
      const int64_t count = std::min(kTokenBlock, job.count - t0);
      const OperandView x = job.x_rows != nullptr ? job.x : job.x.from_row(t0);
      const int32_t* x_rows = job.x_rows != nullptr ? job.x_rows + t0 : nullptr;
      linear_rows(x, x_rows, count, job.mlp->gate_proj, begin, end, gate, n, {&job.mlp->up_proj, begin, end});
      linear_rows(x, x_rows, count, job.mlp->up_proj, begin, end, up, n,
                  t0 + kTokenBlock < job.count ? gate_rows : following);
      if (job.tape != nullptr) {
        for (int64_t t = 0; t < count; ++t) {
          job.tape->gate.put(job.tape_row + t0 + t, begin, gate + t * n, n);
          job.tape->up.put(job.tape_row + t0 + t, begin, up + t * n, n);
        }
      }
      for (int64_t t = 0; t < count; ++t) swiglu(gate + t * n, up + t * n, n, job.inner + (t0 + t) * size + begin);
    }
  });
}

// Down half: out[token] += weight · (down inner) over the jobs in order, so that each sum has one order; out [T,
// hidden] begins at 0. A work item owns some output rows.
void down_half(const std::vector<Job>& jobs, int64_t T, int64_t hidden, float* out, Workspace& ws, ThreadTeam& team) {
  const int64_t step = rows_per_item(hidden, most_tokens(jobs), team.size());
  team.parallel_for((hidden + step - 1) / step, [&](int64_t item, int thread) {
    Workspace::Scratch& scratch = ws.scratch[static_cast<size_t>(thread)];
    const int64_t begin = item * step;
    const int64_t end = std::min(begin + step, hidden);
    const int64_t n = end - begin;
    auto* partial = scratch.reserve<float>(scratch.gate, kTokenBlock * n);
    for (int64_t t = 0; t < T; ++t) std::fill(out + t * hidden + begin, out + t * hidden + end, 0.0f);
    for (size_t j = 0; j < jobs.size(); ++j) {
      const Job& job = jobs[j];
      // After the last job this thread goes on with the first one's rows of another item.
      const int64_t ahead = j + 1 < jobs.size() ? begin : std::min(begin + team.size() * step, hidden);
      const NextRows next = {&jobs[(j + 1) % jobs.size()].mlp->down_proj, ahead, std::min(ahead + n, hidden)};
      for (int64_t t0 = 0; t0 < job.count; t0 += kTokenBlock) {
        const int64_t count = std::min(kTokenBlock, job.count - t0);
        linear_rows(job.inner_view.from_row(t0), nullptr, count, job.mlp->down_proj, begin, end, partial, n,
                    t0 + kTokenBlock < job.count ? NextRows{&job.mlp->down_proj, begin, end} : next);
        for (int64_t t = 0; t < count; ++t) {
          const float weight = job.weights != nullptr ? job.weights[t0 + t] : 1.0f;
          float* row = out + job.tokens[t0 + t] * hidden + begin;
          for (int64_t r = 0; r < n; ++r) row[r] += weight * partial[t * n + r];
        }
      }
    }
  });
}

// Tokens sorted by expert: slot_token, slot_weight and where each expert's slots begin.
void sort_by_expert(int64_t layer, int64_t T, int64_t E, int64_t K, Workspace& ws) {
  const auto* index = ws.router_index.as<int32_t>();
  const auto* weight = ws.router_weight.as<float>();
  std::fill(ws.expert_begin.begin(), ws.expert_begin.end(), 0);
  for (int64_t i = 0; i < T * K; ++i) ++ws.expert_begin[static_cast<size_t>(index[i]) + 1];
  ws.experts_run += std::count_if(ws.expert_begin.begin(), ws.expert_begin.end(), [](int64_t n) { return n > 0; });
  int64_t* sent = ws.expert_tokens.data() + layer * E;
  for (int64_t e = 0; e < E; ++e) sent[e] += ws.expert_begin[static_cast<size_t>(e) + 1];
  for (int64_t e = 0; e < E; ++e)
    ws.expert_begin[static_cast<size_t>(e) + 1] += ws.expert_begin[static_cast<size_t>(e)];
  for (int64_t i = 0; i < T * K; ++i) {
    // Filling moves each begin to the next one's place; shifted back below.
    const auto slot = static_cast<size_t>(ws.expert_begin[static_cast<size_t>(index[i])]++);
    ws.slot_token[slot] = static_cast<int32_t>(i / K);
    ws.slot_weight[slot] = weight[i];
  }
  for (int64_t e = E; e > 0; --e) ws.expert_begin[static_cast<size_t>(e)] = ws.expert_begin[static_cast<size_t>(e) - 1];
  ws.expert_begin[0] = 0;
}

void route(const LoadedModel& model, int64_t layer, const MoeWeights& moe, int64_t T, Workspace& ws, ThreadTeam& team) {
  const ModelConfig& config = model.config;
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  // Float32 whatever the mode: a rounded logit changes which experts run.
  ws.operand.prepare(ws.normed.as<float>(), T, config.hidden_size, config.hidden_size, moe.gate, OperandRounding::none,
                     &team);
  linear(ws.operand.view(), T, {{&moe.gate, ws.router_logits.as<float>(), E}}, team);
  const float* bias = moe.e_score_correction_bias.empty() ? nullptr : moe.e_score_correction_bias.data();
  const RouterConfig router = config.router();
  std::atomic<int64_t> bad_token{-1};
  team.parallel_for(T, [&](int64_t t, int) {
    const bool finite =
        route_token(ws.router_logits.as<float>() + t * E, bias, router, ws.router_score.as<float>() + t * E,
                    ws.router_index.as<int32_t>() + t * K, ws.router_weight.as<float>() + t * K);
    if (!finite) bad_token.store(t, std::memory_order_relaxed);
  });
  if (bad_token.load() >= 0) {
    throw_failure(
        "Layer {}: the router's logits of token {} of the batch are not numbers; the weights or an earlier layer hold "
        "NaN or infinity.",
        layer, bad_token.load());
  }
}

void keep_route(const ModelConfig& config, int64_t T, const Workspace& ws, LayerTape& tape, ThreadTeam& team) {
  const int64_t TK = T * config.num_experts_per_tok;
  tape.score.put_rows(ws.router_score.as<float>(), T, team);
  tape.index.assign(ws.router_index.as<int32_t>(), ws.router_index.as<int32_t>() + TK);
  tape.weight.assign(ws.router_weight.as<float>(), ws.router_weight.as<float>() + TK);
  tape.expert_begin = ws.expert_begin;
  tape.slot_token.assign(ws.slot_token.begin(), ws.slot_token.begin() + TK);
  tape.slot_weight.assign(ws.slot_weight.begin(), ws.slot_weight.begin() + TK);
}

// The batch's activations in the forms of the first and of the last job's weights: two operands if the shared experts
// are stored in another format. `slots`: the first are in the order of slots.
struct Inputs {
  OperandView first, last;
  bool slots = false;
};

Inputs prepare_inputs(const LoadedModel& model, const MlpWeights& first, const MlpWeights& last, int64_t T,
                      Workspace& ws, ThreadTeam& team) {
  const int64_t hidden = model.config.hidden_size;
  const OperandRounding rounding = model.linear_rounding();
  const auto* x = ws.normed.as<float>();
  ws.operand.prepare(x, T, hidden, hidden, first.gate_proj, rounding, &team);
  if (same_operand_form(first.gate_proj, last.gate_proj, rounding)) return {ws.operand.view(), ws.operand.view()};
  ws.second_operand.prepare(x, T, hidden, hidden, last.gate_proj, rounding, &team);
  return {ws.operand.view(), ws.second_operand.view()};
}

// Batches of which experts get so few tokens that products read them one by one.
constexpr int64_t kFewTokens = 8;

// The inputs of routed and shared experts.
Inputs prepare_expert_inputs(const LoadedModel& model, const MoeWeights& moe, int64_t T, Workspace& ws,
                             ThreadTeam& team) {
  const MlpWeights& form = moe.experts.front();
  Inputs inputs = prepare_inputs(model, form, moe.shared_experts ? *moe.shared_experts : form, T, ws, team);
  if (inputs.first.form != OperandForm::int8 || T <= kFewTokens) return inputs;
  ws.slot_operand.gather(inputs.first, ws.slot_token.data(), T * model.config.num_experts_per_tok, team);
  inputs.first = ws.slot_operand.view();
  inputs.slots = true;
  return inputs;
}

bool is_shared(const Job& job) {
  return job.weights == nullptr;
}

// Up half of the jobs, and their activations as the down half needs them: routed experts' rows lie together and become
// one operand; the last job's (shared experts, dense) another.
void run_up(const LoadedModel& model, std::vector<Job>& jobs, Workspace& ws, ThreadTeam& team) {
  const OperandRounding rounding = model.linear_rounding();
  up_half(jobs, ws, team);
  int64_t routed_rows = 0;
  for (const Job& job : jobs) routed_rows += is_shared(job) ? 0 : job.count;
  if (routed_rows > 0) {
    const Job& front = jobs.front();
    const int64_t inner = front.mlp->gate_proj.rows;
    ws.inner_operand.prepare(front.inner, routed_rows, inner, inner, front.mlp->down_proj, rounding, &team);
    int64_t row = 0;
    for (Job& job : jobs) {
      if (is_shared(job)) break;
      job.inner_view = ws.inner_operand.view(row);
      row += job.count;
    }
  }
  Job& tail = jobs.back();
  if (is_shared(tail)) {
    const int64_t inner = tail.mlp->gate_proj.rows;
    ws.second_inner_operand.prepare(tail.inner, tail.count, inner, inner, tail.mlp->down_proj, rounding, &team);
    tail.inner_view = ws.second_inner_operand.view();
  }
}

Job routed_job(const MlpWeights& mlp, size_t expert, const Inputs& inputs, float* inner, Workspace& ws) {
  const int64_t begin = ws.expert_begin[expert];
  const int32_t* tokens = ws.slot_token.data() + begin;
  return {&mlp,
          tokens,
          ws.slot_weight.data() + begin,
          ws.expert_begin[expert + 1] - begin,
          inputs.slots ? inputs.first.from_row(begin) : inputs.first,
          inputs.slots ? nullptr : tokens,
          inner,
          {}};
}

// The shared experts' job; `inner` behind those of the routed ones.
Job shared_job(const LoadedModel& model, const MlpWeights& mlp, int64_t T, const OperandView& x, Workspace& ws) {
  const int64_t routed = T * model.config.num_experts_per_tok * model.config.moe_intermediate_size;
  return {&mlp, ws.all_tokens.data(), nullptr, T, x, nullptr, ws.inner.as<float>() + routed, {}};
}

// Tokens for which the next layer's experts are guessed: a decode step, a verification. Longer passes need most experts
// anyway.
constexpr int64_t kMostGuessedTokens = 4;

// Guesses the next layer's experts by showing its router this layer's input: the residual stream changes little from
// layer to layer.
void guess_next_layer(const LoadedModel& model, int64_t layer, int64_t T, Workspace& ws, ThreadTeam& team) {
  const ModelConfig& config = model.config;
  const auto next = static_cast<size_t>(layer + 1);
  if (T > kMostGuessedTokens || layer + 1 >= config.num_hidden_layers || !model.weights.layers[next].moe) return;
  const LayerWeights& weights = model.weights.layers[next];
  const MoeWeights& moe = *weights.moe;
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  const int64_t hidden = config.hidden_size;
  auto* normed = ws.branch.as<float>();  // nothing is in it yet
  for (int64_t t = 0; t < T; ++t) {
    rms_norm(ws.hidden.as<float>() + t * hidden, hidden, weights.post_attention_layernorm,
             static_cast<float>(config.rms_norm_eps), normed + t * hidden);
  }
  std::vector<float> logits(static_cast<size_t>(T * E));
  ws.second_operand.prepare(normed, T, hidden, hidden, moe.gate, OperandRounding::none, &team);
  linear(ws.second_operand.view(), T, {{&moe.gate, logits.data(), E}}, team);
  const float* bias = moe.e_score_correction_bias.empty() ? nullptr : moe.e_score_correction_bias.data();
  std::vector<float> score(static_cast<size_t>(E));
  std::vector<float> weight(static_cast<size_t>(K));
  std::vector<int32_t> index(static_cast<size_t>(K));
  std::vector<std::pair<float, int32_t>> guessed;
  for (int64_t t = 0; t < T; ++t) {
    if (!route_token(logits.data() + t * E, bias, config.router(), score.data(), index.data(), weight.data())) return;
    for (size_t k = 0; k < index.size(); ++k) guessed.emplace_back(-weight[k], index[k]);
  }
  std::sort(guessed.begin(), guessed.end());
  std::vector<int32_t> likeliest_first;
  for (const auto& [minus_weight, expert] : guessed) likeliest_first.push_back(expert);
  model.experts->guess(layer + 1, likeliest_first);
}

// What down_half adds to each token, from rows that were computed apart: experts ascending, then the shared ones.
void add_in_order(const MoeWeights& moe, int64_t T, int64_t hidden, Workspace& ws, ThreadTeam& team) {
  auto* out = ws.branch.as<float>();
  const auto* apart = ws.apart.as<float>();
  const size_t E = moe.experts.size();
  const int64_t step = rows_per_item(hidden, T, team.size());
  team.parallel_for((hidden + step - 1) / step, [&](int64_t item, int) {
    const int64_t begin = item * step;
    const int64_t end = std::min(begin + step, hidden);
    for (int64_t t = 0; t < T; ++t) std::fill(out + t * hidden + begin, out + t * hidden + end, 0.0f);
    const auto add = [&](int64_t from, int64_t to, float weight) {
      for (int64_t k = begin; k < end; ++k) out[to * hidden + k] += weight * apart[from * hidden + k];
    };
    for (size_t e = 0; e < E; ++e) {
      const auto first = static_cast<size_t>(ws.expert_begin[e]);
      const auto last = static_cast<size_t>(ws.expert_begin[e + 1]);
      for (size_t slot = first; slot < last; ++slot) {
        add(ws.apart_begin[e] + static_cast<int64_t>(slot - first), ws.slot_token[slot], ws.slot_weight[slot]);
      }
    }
    for (int64_t t = 0; t < T && moe.shared_experts; ++t) add(ws.apart_begin[E] + t, t, 1.0f);
  });
}

// The experts come from the store: those that are there at once are computed, with the shared ones, while the others
// arrive. What arrives out of order is computed apart and added at the end, so that the sums are the same.
void run_from_store(const LoadedModel& model, int64_t layer, const MoeWeights& moe, int64_t T, Workspace& ws,
                    ThreadTeam& team) {
  const int64_t hidden = model.config.hidden_size;
  const size_t E = moe.experts.size();
  std::vector<ExpertStore::Need> needs;
  for (size_t e = 0; e < E; ++e) {
    const int64_t count = ws.expert_begin[e + 1] - ws.expert_begin[e];
    if (count > 0) needs.push_back({static_cast<int32_t>(e), count});
  }
  ExpertPass pass(*model.experts, layer, needs, T);
  guess_next_layer(model, layer, T, ws, team);
  const MlpWeights& form = moe.experts.front();
  const Inputs inputs = prepare_expert_inputs(model, moe, T, ws, team);

  bool shared_left = moe.shared_experts.has_value();
  const std::vector<size_t>* taken = &pass.take(!shared_left);
  const bool at_once = pass.all_taken();
  if (!at_once)
    ws.apart.reserve(static_cast<size_t>(T * (model.config.num_experts_per_tok + 1) * hidden) * sizeof(float));
  auto* inner = ws.inner.as<float>();
  int64_t apart_rows = 0;
  while (!taken->empty() || shared_left) {
    ws.jobs.clear();
    int64_t rows = 0;
    for (size_t need : *taken) {
      const auto expert = static_cast<size_t>(needs[need].expert);
      ws.apart_begin[expert] = apart_rows + rows;
      ws.jobs.push_back(routed_job(pass.weights(need), expert, inputs, inner + rows * form.gate_proj.rows, ws));
      rows += needs[need].tokens;
    }
    if (shared_left) {
      ws.apart_begin[E] = apart_rows + rows;
      ws.jobs.push_back(shared_job(model, *moe.shared_experts, T, inputs.last, ws));
      rows += T;
      shared_left = false;
    }
    run_up(model, ws.jobs, ws, team);
    if (at_once) {
      down_half(ws.jobs, T, hidden, ws.branch.as<float>(), ws, team);
      return;
    }
    // Each job's outputs into rows of their own, without factors.
    int64_t row = 0;
    for (Job& job : ws.jobs) {
      job.tokens = ws.all_tokens.data() + row;
      job.weights = nullptr;
      row += job.count;
    }
    down_half(ws.jobs, rows, hidden, ws.apart.as<float>() + apart_rows * hidden, ws, team);
    apart_rows += rows;
    pass.release();
    taken = &pass.take(true);
  }
  add_in_order(moe, T, hidden, ws, team);
}

}  // namespace

void dense_feed_forward(const LoadedModel& model, const MlpWeights& mlp, int64_t T, Workspace& ws, ThreadTeam& team,
                        LayerTape* tape) {
  const Inputs inputs = prepare_inputs(model, mlp, mlp, T, ws, team);
  ws.jobs.assign(1, Job{&mlp, ws.all_tokens.data(), nullptr, T, inputs.last, nullptr, ws.inner.as<float>(), {}});
  if (tape != nullptr) ws.jobs.back().tape = &tape->always;
  run_up(model, ws.jobs, ws, team);
  down_half(ws.jobs, T, model.config.hidden_size, ws.branch.as<float>(), ws, team);
}

void mixture_of_experts(const LoadedModel& model, int64_t layer, const MoeWeights& moe, int64_t T, Workspace& ws,
                        ThreadTeam& team, LayerTape* tape) {
  const ModelConfig& config = model.config;
  const int64_t inner = config.moe_intermediate_size;
  route(model, layer, moe, T, ws, team);
  sort_by_expert(layer, T, config.n_routed_experts, config.num_experts_per_tok, ws);
  if (tape != nullptr) keep_route(config, T, ws, *tape, team);
  if (model.experts) {
    run_from_store(model, layer, moe, T, ws, team);
    return;
  }
  const Inputs inputs = prepare_expert_inputs(model, moe, T, ws, team);
  ws.jobs.clear();
  for (size_t e = 0; e < moe.experts.size(); ++e) {
    if (ws.expert_begin[e] == ws.expert_begin[e + 1]) continue;
    float* own_inner = ws.inner.as<float>() + ws.expert_begin[e] * inner;
    ws.jobs.push_back(routed_job(moe.experts[e], e, inputs, own_inner, ws));
    if (tape == nullptr) continue;
    ws.jobs.back().tape = &tape->routed;
    ws.jobs.back().tape_row = ws.expert_begin[e];
  }
  if (moe.shared_experts) {
    ws.jobs.push_back(shared_job(model, *moe.shared_experts, T, inputs.last, ws));
    if (tape != nullptr) ws.jobs.back().tape = &tape->always;
  }
  run_up(model, ws.jobs, ws, team);
  down_half(ws.jobs, T, config.hidden_size, ws.branch.as<float>(), ws, team);
}

}  // namespace fathom
