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
constexpr int64_t kTokenBlock = 64;

using Job = Workspace::FeedForwardJob;

// Up half of all jobs: inner = silu(gate x) · up x, work items of some rows of one job.
void up_half(const std::vector<Job>& jobs, int64_t T, Workspace& ws, ThreadTeam& team) {
  int64_t rows = 0;
  for (const Job& job : jobs) rows += job.mlp->gate_proj.rows;
  const int64_t step = rows_per_item(rows, team.size());
  std::vector<int64_t>& begins = ws.item_begin;
  begins.assign(1, 0);
  for (const Job& job : jobs) begins.push_back(begins.back() + (job.mlp->gate_proj.rows + step - 1) / step);
  team.parallel_for(begins.back(), [&](int64_t item, int thread) {
    const auto j = std::upper_bound(begins.begin(), begins.end(), item) - begins.begin() - 1;
    const Job& job = jobs[static_cast<size_t>(j)];
    Workspace::Scratch& scratch = ws.scratch[static_cast<size_t>(thread)];
    const int64_t size = job.mlp->gate_proj.rows;
    const int64_t begin = (item - begins[static_cast<size_t>(j)]) * step;
    const int64_t end = std::min(begin + step, size);
    const int64_t n = end - begin;
    auto* gate = scratch.reserve<float>(scratch.gate, kTokenBlock * n);
    auto* up = scratch.reserve<float>(scratch.up, kTokenBlock * n);
    for (int64_t t0 = 0; t0 < job.count; t0 += kTokenBlock) {
      const int64_t count = std::min(kTokenBlock, job.count - t0);
      const int32_t* tokens = job.tokens + t0;
      linear_rows(job.x, tokens, count, job.mlp->gate_proj, begin, end, gate, n);
      linear_rows(job.x, tokens, count, job.mlp->up_proj, begin, end, up, n);
      for (int64_t t = 0; t < count; ++t) swiglu(gate + t * n, up + t * n, n, job.inner + (t0 + t) * size + begin);
    }
  });
}

// Down half: out[token] += weight · (down inner) over the jobs in order, so that each sum has one order. A work item
// owns some output rows.
void down_half(const std::vector<Job>& jobs, int64_t T, int64_t hidden, Workspace& ws, ThreadTeam& team) {
  auto* out = ws.branch.as<float>();
  const int64_t step = rows_per_item(hidden, team.size());
  team.parallel_for((hidden + step - 1) / step, [&](int64_t item, int thread) {
    Workspace::Scratch& scratch = ws.scratch[static_cast<size_t>(thread)];
    const int64_t begin = item * step;
    const int64_t end = std::min(begin + step, hidden);
    const int64_t n = end - begin;
    auto* partial = scratch.reserve<float>(scratch.gate, kTokenBlock * n);
    for (int64_t t = 0; t < T; ++t) std::fill(out + t * hidden + begin, out + t * hidden + end, 0.0f);
    for (const Job& job : jobs) {
      for (int64_t t0 = 0; t0 < job.count; t0 += kTokenBlock) {
        const int64_t count = std::min(kTokenBlock, job.count - t0);
        linear_rows(job.inner_view, ws.all_tokens.data() + t0, count, job.mlp->down_proj, begin, end, partial, n);
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
void sort_by_expert(int64_t T, int64_t E, int64_t K, Workspace& ws) {
  const auto* index = ws.router_index.as<int32_t>();
  const auto* weight = ws.router_weight.as<float>();
  std::fill(ws.expert_begin.begin(), ws.expert_begin.end(), 0);
  for (int64_t i = 0; i < T * K; ++i) ++ws.expert_begin[static_cast<size_t>(index[i]) + 1];
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

// Prepares each job's input; two operands if the shared experts are stored in another format.
void run_jobs(const LoadedModel& model, std::vector<Job>& jobs, int64_t routed_slots, int64_t routed_inner, int64_t T,
              Workspace& ws, ThreadTeam& team) {
  const int64_t hidden = model.config.hidden_size;
  const OperandRounding rounding = model.linear_rounding();
  const auto* x = ws.normed.as<float>();
  const MlpWeights& first = *jobs.front().mlp;
  const MlpWeights& last = *jobs.back().mlp;
  ws.operand.prepare(x, T, hidden, hidden, first.gate_proj, rounding, &team);
  const bool last_differs = !same_operand_form(first.gate_proj, last.gate_proj, rounding);
  if (last_differs) ws.second_operand.prepare(x, T, hidden, hidden, last.gate_proj, rounding, &team);
  for (Job& job : jobs) job.x = ws.operand.view();
  if (last_differs) jobs.back().x = ws.second_operand.view();
  up_half(jobs, T, ws, team);

  // The routed experts' inner rows lie together and become one operand; the last job's (shared experts, dense) another.
  const bool has_routed = routed_slots > 0;
  if (has_routed) {
    ws.inner_operand.prepare(jobs.front().inner, routed_slots, routed_inner, routed_inner, first.down_proj, rounding,
                             &team);
    int64_t slot = 0;
    for (Job& job : jobs) {
      if (slot == routed_slots) break;
      job.inner_view = ws.inner_operand.view(slot);
      slot += job.count;
    }
  }
  Job& tail = jobs.back();
  if (tail.weights == nullptr) {
    const int64_t inner = tail.mlp->gate_proj.rows;
    ws.second_inner_operand.prepare(tail.inner, tail.count, inner, inner, tail.mlp->down_proj, rounding, &team);
    tail.inner_view = ws.second_inner_operand.view();
  }
  down_half(jobs, T, hidden, ws, team);
}

}  // namespace

void dense_feed_forward(const LoadedModel& model, const MlpWeights& mlp, int64_t T, Workspace& ws, ThreadTeam& team) {
  ws.jobs.assign(1, Job{&mlp, ws.all_tokens.data(), nullptr, T, {}, ws.inner.as<float>(), {}});
  run_jobs(model, ws.jobs, 0, 0, T, ws, team);
}

void mixture_of_experts(const LoadedModel& model, int64_t layer, const MoeWeights& moe, int64_t T, Workspace& ws,
                        ThreadTeam& team) {
  const ModelConfig& config = model.config;
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  const int64_t inner = config.moe_intermediate_size;
  route(model, layer, moe, T, ws, team);
  sort_by_expert(T, E, K, ws);
  ws.jobs.clear();
  for (int64_t e = 0; e < E; ++e) {
    const int64_t begin = ws.expert_begin[static_cast<size_t>(e)];
    const int64_t count = ws.expert_begin[static_cast<size_t>(e) + 1] - begin;
    if (count == 0) continue;
    ws.jobs.push_back({&moe.experts[static_cast<size_t>(e)],
                       ws.slot_token.data() + begin,
                       ws.slot_weight.data() + begin,
                       count,
                       {},
                       ws.inner.as<float>() + begin * inner,
                       {}});
  }
  if (moe.shared_experts) {
    ws.jobs.push_back(
        {&*moe.shared_experts, ws.all_tokens.data(), nullptr, T, {}, ws.inner.as<float>() + T * K * inner, {}});
  }
  run_jobs(model, ws.jobs, T * K, inner, T, ws, team);
}

}  // namespace fathom
