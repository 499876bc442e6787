#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/thread_team.h"
#include "model/transformer.h"

namespace fathom {

/// What of a forward pass to keep.
struct TraceOptions {
  bool logits = true;
  bool hidden = false;  ///< embedding, hidden state after each layer, final
  bool router = false;
  bool cache = false;
  bool mtp = false;                        ///< results of the MTP layers; nothing if the model has none
  int64_t greedy_tokens = 0;               ///< continue greedily by so many tokens
  int64_t chunk = 512;                     ///< most tokens in one pass
  std::optional<AttentionForm> attention;  ///< nothing: chosen by the lengths
  std::vector<int64_t> positions;          ///< keep these rows only; names then end in "_at_positions"
};

/// A tensor of a trace, with the data.
struct TracedTensor {
  std::string name;
  DType dtype;  ///< f32 or i32
  Shape shape;
  std::vector<float> values;
  std::vector<int32_t> indices;

  TensorView view() const {
    return dtype == DType::f32 ? tensor_view(dtype, shape, values.data()) : tensor_view(dtype, shape, indices.data());
  }
};

/// Runs a prompt and returns the numbers themselves under these names (T prompt tokens, S greedy tokens, V vocabulary):
/// `prompt` [T]; `embedding` [T, hidden]; `layer.I.hidden`; `layer.I.c_kv`, `layer.I.k_pe` as the cache holds them;
/// `layer.I.router.index` (ascending), `.weight`, `.score`; `hidden.final` (after model.norm); `logits` [T, V];
/// `greedy.tokens` [S], `greedy.logits` [S, V]; `mtp.next_tokens`, `mtp.hidden` (after shared_head.norm), `mtp.logits`,
/// `mtp.draft_tokens` and `layer.L.*` of the first MTP layer (`mtp.D.*` of the one at depth D ≥ 1). With `positions`:
/// `positions`, `NAME_at_positions`, `last_logits` [V], `inverse_frequency`.
///
/// `bad_input`: no tokens, an id outside the vocabulary, more positions than the model's, a position outside the
/// prompt.
std::vector<TracedTensor> trace_forward(const LoadedModel& model, const std::vector<int32_t>& prompt,
                                        const TraceOptions& options, ThreadTeam& team);

}  // namespace fathom
