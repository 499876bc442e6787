#pragma once
#include "model/transformer.h"

namespace fathom {

/// Multi-head latent attention of one layer over a batch: reads `workspace.normed` [T, hidden], appends the latents to
/// the caches, leaves the result in `workspace.branch` [T, hidden].
///
/// Source: DeepSeek-V3 report §2.1.1, eq. 1–11; absorbed form as in the official demo's `MLA.forward`.
void latent_attention(const LoadedModel& model, int64_t layer, const Batch& batch, Workspace& workspace,
                      ThreadTeam& team, LayerTape* tape = nullptr);

}  // namespace fathom
