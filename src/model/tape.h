#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "base/dtype.h"
#include "base/thread_team.h"
#include "formats/model_config.h"
#include "kernels/norm.h"

namespace fathom {

/// Rows that a training pass keeps, in float32 or BF16. BF16 loses nothing where the next product rounds to BF16
/// anyway.
struct KeptRows {
  DType dtype = DType::f32;
  int64_t cols = 0;
  Buffer data;

  void reserve(DType as, int64_t rows, int64_t columns) {
    dtype = as;
    cols = columns;
    data.reserve(bytes(rows));
  }
  size_t bytes(int64_t rows) const { return static_cast<size_t>(rows * cols) * dtype_bytes(dtype); }
  const std::byte* row(int64_t r) const { return data.as<std::byte>() + bytes(r); }
  std::byte* row(int64_t r) { return data.as<std::byte>() + bytes(r); }
  /// Keeps n values of row r from column `first` on.
  void put(int64_t r, int64_t first, const float* values, int64_t n) {
    if (dtype == DType::bf16) {
      convert_f32_to_bf16(values, n, reinterpret_cast<uint16_t*>(row(r)) + first);
    } else {
      std::copy(values, values + n, reinterpret_cast<float*>(row(r)) + first);
    }
  }
  /// Keeps the first `rows` rows, [rows, cols] f32.
  void put_rows(const float* values, int64_t rows, ThreadTeam& team) {
    team.parallel_for(rows, [&](int64_t r, int) { put(r, 0, values + r * cols, cols); });
  }
  /// n values of row r from column `first` on, as float32.
  void get(int64_t r, int64_t first, float* values, int64_t n) const {
    if (dtype == DType::bf16) {
      convert_bf16_to_f32(reinterpret_cast<const uint16_t*>(row(r)) + first, n, values);
    } else {
      std::copy_n(reinterpret_cast<const float*>(row(r)) + first, n, values);
    }
  }
  const float* f32_row(int64_t r) const { return reinterpret_cast<const float*>(row(r)); }
};

/// The two halves of a SwiGLU before they meet.
struct MlpTape {
  KeptRows gate, up;  ///< [rows, inner]
};

/// What one layer's backward needs of its forward. T tokens of the batch; what is not here is computed again: the
/// norms, the keys and values (from the latents in the cache), the product inside SwiGLU.
struct LayerTape {
  int64_t tokens = 0;                 ///< T of the recorded pass
  KeptRows input;                     ///< [T, hidden] f32, the residual stream before the layer
  KeptRows q_latent;                  ///< [T, q_lora_rank] f32, before its norm
  KeptRows kv_latent;                 ///< [T, kv_lora_rank + d_rope] f32, before norm and rotation
  KeptRows q;                         ///< [T, H (d_nope + d_rope)], rotated
  KeptRows attended;                  ///< [T, H d_v]
  KeptRows middle;                    ///< [T, hidden] f32, the residual stream before the feed-forward
  MlpTape routed;                     ///< [T K, moe_intermediate_size], tokens sorted by expert
  MlpTape always;                     ///< [T, inner] of the dense feed-forward or of the shared experts
  KeptRows score;                     ///< [T, E] f32
  std::vector<int32_t> index;         ///< [T, K] chosen experts, ascending
  std::vector<float> weight;          ///< [T, K]
  std::vector<int64_t> expert_begin;  ///< [E + 1] slots of each expert
  std::vector<int32_t> slot_token;    ///< [T K] token of each slot
  std::vector<float> slot_weight;     ///< [T K]
  KeptRows previous;                  ///< [T, hidden] f32, MTP layers only: the hidden state that came in
  KeptRows output;  ///< [T, hidden] f32, last layer of a pass: the residual stream before the final norm
};

/// What `forward` and `mtp_forward` keep for a backward: one entry for each layer, filled when it runs.
struct Tape {
  DType dtype = DType::f32;  ///< of what only meets products: BF16 where those round to BF16
  std::vector<LayerTape> layers;
};

/// Takes the memory of one layer's tape for passes of T tokens; keeps what is large enough.
void reserve_layer_tape(const ModelConfig& config, int64_t layer, int64_t T, DType dtype, LayerTape& tape);

/// Bytes of the tapes of all layers for T tokens (the router's few integers aside).
uint64_t tape_bytes(const ModelConfig& config, int64_t T, DType dtype);

}  // namespace fathom
