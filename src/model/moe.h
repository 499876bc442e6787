#pragma once
#include "model/transformer.h"

namespace fathom {

/// Dense SwiGLU feed-forward: reads `workspace.normed` [T, hidden], leaves the result in `workspace.branch`.
void dense_feed_forward(const LoadedModel& model, const MlpWeights& mlp, int64_t T, Workspace& workspace,
                        ThreadTeam& team, LayerTape* tape = nullptr);

/// DeepSeekMoE: routes, runs each chosen expert once over its tokens and the shared experts over all. Same buffers; the
/// router's choice stays in `workspace.router_*`. `failure` if router logits are not numbers.
///
/// Source: DeepSeek-V3 report §2.1.2; reference `inference/model.py`, `MoE.forward`.
void mixture_of_experts(const LoadedModel& model, int64_t layer, const MoeWeights& moe, int64_t T, Workspace& workspace,
                        ThreadTeam& team, LayerTape* tape = nullptr);

}  // namespace fathom
