#pragma once
#include <cstdint>

namespace fathom {

/// Most experts that the router takes; its working arrays of this size live on the stack.
constexpr int64_t kGreatestExpertCount = 4096;

enum class ScoringFunc { sigmoid, softmax };
enum class TopkMethod { noaux_tc, group_limited_greedy, greedy };

/// The router's part of a model's config, under the same names.
struct RouterConfig {
  int64_t n_routed_experts = 0;     ///< E
  int64_t num_experts_per_tok = 0;  ///< K
  int64_t n_group = 1;
  int64_t topk_group = 1;
  TopkMethod topk_method = TopkMethod::noaux_tc;
  ScoringFunc scoring_func = ScoringFunc::sigmoid;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1;
};

/// Chooses the routed experts of one token and their weights.
///
/// `noaux_tc` (DeepSeek-V3): choice score = score + `bias`; a group ranks by the sum of its two best; experts outside
/// the best `topk_group` groups are excluded (−∞). `group_limited_greedy` (V2): choice score = score, a group ranks by
/// its best. `greedy`: no groups. The K best remaining win. Weights are the scores without the bias, divided by their
/// sum (+ 1e-20) if `norm_topk_prob`, times `routed_scaling_factor`. Ties go to the lower expert id.
///
/// Shapes:  logits [E] f32; bias [E] f32 or null; score [E] out: sigmoid or softmax; index, weight [K] out, ascending
/// by expert id. Returns: false if a logit is NaN (then the choice is meaningless but within range). Source:
/// DeepSeek-V3 report (arXiv 2412.19437) §2.1.2, eq. 12–16; reference `inference/model.py`, `Gate.forward`.
bool route_token(const float* logits, const float* bias, const RouterConfig& config, float* score, int32_t* index,
                 float* weight);

}  // namespace fathom
