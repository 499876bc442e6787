#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "formats/model_config.h"

namespace fathom {

/// The latent cache of one sequence: per position and layer the normalised latent c_kv [kv_lora_rank] and the rotated
/// shared key k_pe [qk_rope_head_dim], side by side.
///
/// Positions lie in pages of 64; a page holds all layers. Address space for the whole context is reserved at once and
/// memory is taken by the system when a page is first written, so that nothing is allocated per token.
class LatentCache {
 public:
  static constexpr int64_t kPage = 64;

  /// `dtype` is f32 or bf16. Layers include the MTP layers.
  LatentCache(const ModelConfig& config, DType dtype, int64_t context);
  ~LatentCache();
  /// Bytes of a cache whose every position is filled.
  static size_t bytes_for(const ModelConfig& config, DType dtype, int64_t context);
  LatentCache(const LatentCache&) = delete;
  LatentCache& operator=(const LatentCache&) = delete;

  DType dtype() const { return dtype_; }
  int64_t context() const { return context_; }
  int64_t width() const { return width_; }
  /// Rows [64, width] of a page in a layer.
  std::byte* page(int64_t layer, int64_t page) const {
    return data_ + static_cast<size_t>((page * layers_ + layer) * kPage * width_) * dtype_bytes(dtype_);
  }
  /// Elements from a page to the next one of the same layer.
  int64_t page_stride() const { return layers_ * kPage * width_; }
  /// Stores [c_kv | k_pe] of one position, rounded to the cache's type.
  void write(int64_t layer, int64_t position, const float* values);
  /// Reads it back as float32.
  void read(int64_t layer, int64_t position, float* values) const;

 private:
  std::byte* row(int64_t layer, int64_t position) const {
    return page(layer, position / kPage) + static_cast<size_t>(position % kPage * width_) * dtype_bytes(dtype_);
  }

  DType dtype_;
  int64_t context_;
  int64_t layers_;
  int64_t width_;
  size_t bytes_ = 0;
  std::byte* data_ = nullptr;
};

}  // namespace fathom
