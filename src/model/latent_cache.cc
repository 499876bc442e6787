#include "model/latent_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "kernels/norm.h"

namespace fathom {

LatentCache::LatentCache(const ModelConfig& config, DType dtype, int64_t context)
    : dtype_(dtype),
      context_(context),
      layers_(config.total_layers()),
      width_(config.kv_lora_rank + config.qk_rope_head_dim) {
  bytes_ = bytes_for(config, dtype, context);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw_failure("A latent cache for {} positions needs {} bytes of address space, which the system refused: {}.",
                  context, bytes_, std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(memory);
}

size_t LatentCache::bytes_for(const ModelConfig& config, DType dtype, int64_t context) {
  const int64_t pages = (context + kPage - 1) / kPage;
  const int64_t width = config.kv_lora_rank + config.qk_rope_head_dim;
  return static_cast<size_t>(pages * config.total_layers() * kPage * width) * dtype_bytes(dtype);
}

LatentCache::~LatentCache() {
  munmap(data_, bytes_);
}

void LatentCache::write(int64_t layer, int64_t position, const float* values) {
  if (dtype_ == DType::f32) {
    std::memcpy(row(layer, position), values, static_cast<size_t>(width_) * sizeof(float));
    return;
  }
  convert_f32_to_bf16(values, width_, reinterpret_cast<uint16_t*>(row(layer, position)));
}

void LatentCache::read(int64_t layer, int64_t position, float* values) const {
  if (dtype_ == DType::f32) {
    std::memcpy(values, row(layer, position), static_cast<size_t>(width_) * sizeof(float));
    return;
  }
  convert_bf16_to_f32(reinterpret_cast<const uint16_t*>(row(layer, position)), width_, values);
}

}  // namespace fathom
