#include "model/latent_cache.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <functional>

#include "base/error.h"

namespace fathom {

LatentPool::LatentPool(const ModelConfig& config, DType dtype, int64_t pages)
    : dtype_(dtype), width_(config.kv_lora_rank + config.qk_rope_head_dim) {
  layer_bytes_ = latent_page_bytes(dtype, width_);
  page_bytes_ = bytes_for(config, dtype, 1);
  bytes_ = bytes_for(config, dtype, pages);
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw_failure("A latent cache for {} positions needs {} bytes of address space, which the system refused: {}.",
                  pages * kPage, bytes_, std::strerror(errno));
  }
  data_ = static_cast<std::byte*>(memory);
  references_.resize(static_cast<size_t>(pages), 0);
  // Ascending numbers are a heap whose lowest is in front.
  for (int64_t id = 0; id < pages; ++id) free_.push_back(id);
}

LatentPool::~LatentPool() {
  munmap(data_, bytes_);
}

size_t LatentPool::bytes_for(const ModelConfig& config, DType dtype, int64_t pages) {
  const int64_t width = config.kv_lora_rank + config.qk_rope_head_dim;
  return static_cast<size_t>(pages * config.total_layers()) * latent_page_bytes(dtype, width);
}

int64_t LatentPool::take() {
  if (free_.empty()) return -1;
  std::pop_heap(free_.begin(), free_.end(), std::greater<>());
  const int64_t id = free_.back();
  free_.pop_back();
  references_[static_cast<size_t>(id)] = 1;
  return id;
}

void LatentPool::give_back(int64_t id) {
  if (--references_[static_cast<size_t>(id)] > 0) return;
  free_.push_back(id);
  std::push_heap(free_.begin(), free_.end(), std::greater<>());
}

LatentCache::LatentCache(const ModelConfig& config, DType dtype, int64_t context)
    : own_(std::make_unique<LatentPool>(config, dtype, LatentPool::pages_for(context))), pool_(*own_) {
  reserve(context);
}

LatentCache::~LatentCache() {
  shrink(0);
}

size_t LatentCache::bytes_for(const ModelConfig& config, DType dtype, int64_t context) {
  return LatentPool::bytes_for(config, dtype, LatentPool::pages_for(context));
}

void LatentCache::add(int64_t id) {
  ids_.push_back(id);
  pages_.push_back(pool_.page(id));
}

bool LatentCache::reserve(int64_t positions) {
  const int64_t missing = LatentPool::pages_for(positions) - static_cast<int64_t>(ids_.size());
  if (missing > pool_.free_pages()) return false;
  for (int64_t i = 0; i < missing; ++i) add(pool_.take());
  return true;
}

void LatentCache::shrink(int64_t positions) {
  const auto kept = static_cast<size_t>(LatentPool::pages_for(positions));
  while (ids_.size() > kept) {
    pool_.give_back(ids_.back());
    ids_.pop_back();
    pages_.pop_back();
  }
}

void LatentCache::share_page(int64_t id) {
  pool_.share(id);
  add(id);
}

bool LatentCache::own_page(int64_t index) {
  int64_t& id = ids_[static_cast<size_t>(index)];
  if (pool_.references(id) == 1) return true;
  const int64_t copy = pool_.take();
  if (copy < 0) return false;
  std::memcpy(pool_.page(copy), pool_.page(id), pool_.page_bytes());
  pool_.give_back(id);
  id = copy;
  pages_[static_cast<size_t>(index)] = pool_.page(copy);
  return true;
}

void LatentCache::write(int64_t layer, int64_t position, const float* values) {
  store_latent(dtype(), page(layer, position / kPage), position % kPage, width(), values);
}

void LatentCache::read(int64_t layer, int64_t position, float* values) const {
  load_latent(dtype(), page(layer, position / kPage), position % kPage, width(), values);
}

}  // namespace fathom
