#include "model/tape.h"

namespace fathom {
namespace {

// Calls `use(rows, dtype, T, cols)` for every KeptRows that a layer fills: the one list of shapes.
template <typename Use>
void for_kept(const ModelConfig& c, int64_t layer, int64_t T, DType dtype, LayerTape& tape, Use use) {
  use(tape.input, DType::f32, T, c.hidden_size);
  if (c.q_lora_rank) use(tape.q_latent, DType::f32, T, *c.q_lora_rank);
  use(tape.kv_latent, DType::f32, T, c.kv_lora_rank + c.qk_rope_head_dim);
  use(tape.q, dtype, T, c.num_attention_heads * c.qk_head_dim());
  use(tape.attended, dtype, T, c.num_attention_heads * c.v_head_dim);
  use(tape.middle, DType::f32, T, c.hidden_size);
  int64_t always = c.intermediate_size;
  if (c.is_moe_layer(layer)) {
    always = c.n_shared_experts * c.moe_intermediate_size;
    use(tape.routed.gate, dtype, T * c.num_experts_per_tok, c.moe_intermediate_size);
    use(tape.routed.up, dtype, T * c.num_experts_per_tok, c.moe_intermediate_size);
    use(tape.score, DType::f32, T, c.n_routed_experts);
  }
  if (always > 0) {
    use(tape.always.gate, dtype, T, always);
    use(tape.always.up, dtype, T, always);
  }
  if (c.is_mtp_layer(layer)) use(tape.previous, DType::f32, T, c.hidden_size);
  if (layer + 1 >= c.num_hidden_layers) use(tape.output, DType::f32, T, c.hidden_size);
}

}  // namespace

void reserve_layer_tape(const ModelConfig& config, int64_t layer, int64_t T, DType dtype, LayerTape& tape) {
  for_kept(config, layer, T, dtype, tape,
           [](KeptRows& kept, DType as, int64_t rows, int64_t cols) { kept.reserve(as, rows, cols); });
}

uint64_t tape_bytes(const ModelConfig& config, int64_t T, DType dtype) {
  uint64_t bytes = 0;
  for (int64_t layer = 0; layer < config.total_layers(); ++layer) {
    LayerTape tape;
    for_kept(config, layer, T, dtype, tape, [&](KeptRows&, DType as, int64_t rows, int64_t cols) {
      bytes += static_cast<uint64_t>(rows * cols) * dtype_bytes(as);
    });
  }
  return bytes;
}

}  // namespace fathom
