#include "kernels/router.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fathom {
namespace {

constexpr float kExcluded = -std::numeric_limits<float>::infinity();

void scores_of(const float* logits, int64_t E, ScoringFunc function, float* score) {
  if (function == ScoringFunc::sigmoid) {
    for (int64_t e = 0; e < E; ++e) score[e] = 1.0f / (1.0f + std::exp(-logits[e]));
    return;
  }
  const float greatest = *std::max_element(logits, logits + E);
  float sum = 0;
  for (int64_t e = 0; e < E; ++e) sum += score[e] = std::exp(logits[e] - greatest);
  for (int64_t e = 0; e < E; ++e) score[e] /= sum;
}

// Rank of a group of experts by their choice scores.
float group_score(const float* choice, int64_t n, TopkMethod method) {
  float best = kExcluded;
  float second = kExcluded;
  for (int64_t i = 0; i < n; ++i) {
    if (choice[i] > best) {
      second = best;
      best = choice[i];
    } else {
      second = std::max(second, choice[i]);
    }
  }
  return method == TopkMethod::noaux_tc ? best + second : best;
}

}  // namespace

bool route_token(const float* logits, const float* bias, const RouterConfig& config, float* score, int32_t* index,
                 float* weight) {
  const int64_t E = config.n_routed_experts;
  const int64_t K = config.num_experts_per_tok;
  bool finite = true;
  for (int64_t e = 0; e < E; ++e) finite = finite && !std::isnan(logits[e]);
  scores_of(logits, E, config.scoring_func, score);

  // At most 4,096 experts: small enough for the stack of any thread, checked when the config is read. Nothing here is
  // cleared as a whole: that would take longer than routing among 256.
  float choice[kGreatestExpertCount];
  for (int64_t e = 0; e < E; ++e) choice[e] = bias != nullptr ? score[e] + bias[e] : score[e];

  if (config.topk_method != TopkMethod::greedy && config.n_group > 1 && config.topk_group < config.n_group) {
    const int64_t size = E / config.n_group;
    float group[kGreatestExpertCount];
    for (int64_t g = 0; g < config.n_group; ++g) group[g] = group_score(choice + g * size, size, config.topk_method);
    bool kept[kGreatestExpertCount];
    std::fill(kept, kept + config.n_group, false);
    for (int64_t i = 0; i < config.topk_group; ++i) {
      int64_t best = -1;
      for (int64_t g = 0; g < config.n_group; ++g) {
        if (!kept[g] && (best < 0 || group[g] > group[best])) best = g;
      }
      kept[best] = true;
    }
    for (int64_t g = 0; g < config.n_group; ++g) {
      if (!kept[g]) std::fill(choice + g * size, choice + (g + 1) * size, kExcluded);
    }
  }

  // The K best so far, best first. A later expert has to be greater to come in, so ties go to the lower id.
  int32_t best[kGreatestExpertCount];
  int64_t found = 0;
  for (int64_t e = 0; e < E; ++e) {
    if (found == K && !(choice[e] > choice[best[K - 1]])) continue;
    int64_t place = found < K ? found++ : K - 1;
    for (; place > 0 && choice[e] > choice[best[place - 1]]; --place) best[place] = best[place - 1];
    best[place] = static_cast<int32_t>(e);
  }
  std::sort(best, best + K);
  float sum = 0;
  for (int64_t i = 0; i < K; ++i) {
    index[i] = best[i];
    weight[i] = score[best[i]];
    sum += score[best[i]];
  }
  for (int64_t i = 0; i < K; ++i) {
    if (config.norm_topk_prob) weight[i] /= sum + 1e-20f;
    weight[i] *= config.routed_scaling_factor;
  }
  return finite;
}

}  // namespace fathom
