#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/dtype.h"
#include "formats/model_config.h"
#include "kernels/latent_page.h"

namespace fathom {

/// Memory for latents: per position and layer the normalised latent c_kv [kv_lora_rank] and the rotated shared key k_pe
/// [qk_rope_head_dim], side by side, as latent_page.h says. A page holds 64 positions of all layers, MTP's included.
///
/// Pages are counted: one that several sequences share is free when the last of them gives it back. Address space for
/// all pages is reserved at once, and the system takes memory when a page is first written. One thread at a time.
class LatentPool {
 public:
  static constexpr int64_t kPage = kPagePositions;

  /// `dtype` is f32, bf16 or f8_e4m3. `failure` if the system refuses the address space.
  LatentPool(const ModelConfig& config, DType dtype, int64_t pages);
  ~LatentPool();
  LatentPool(const LatentPool&) = delete;
  LatentPool& operator=(const LatentPool&) = delete;
  /// Pages that hold so many positions.
  static int64_t pages_for(int64_t positions) { return (positions + kPage - 1) / kPage; }
  /// Bytes of so many pages.
  static size_t bytes_for(const ModelConfig& config, DType dtype, int64_t pages);

  DType dtype() const { return dtype_; }
  int64_t width() const { return width_; }
  int64_t pages() const { return static_cast<int64_t>(references_.size()); }
  int64_t free_pages() const { return static_cast<int64_t>(free_.size()); }
  /// Where a page begins, and how far into it a layer's part lies.
  std::byte* page(int64_t id) const { return data_ + static_cast<size_t>(id) * page_bytes_; }
  size_t layer_offset(int64_t layer) const { return static_cast<size_t>(layer) * layer_bytes_; }
  size_t page_bytes() const { return page_bytes_; }

  /// A free page, the lowest one, with one reference; −1 if there is none.
  int64_t take();
  /// One reference more, or less.
  void share(int64_t id) { ++references_[static_cast<size_t>(id)]; }
  void give_back(int64_t id);
  int64_t references(int64_t id) const { return references_[static_cast<size_t>(id)]; }

 private:
  DType dtype_;
  int64_t width_;
  size_t layer_bytes_;
  size_t page_bytes_;
  size_t bytes_ = 0;
  std::byte* data_ = nullptr;
  std::vector<int32_t> references_;
  std::vector<int64_t> free_;  // a heap, the lowest first
};

/// The latent cache of one sequence: the pages of a pool that hold its positions, in order.
class LatentCache {
 public:
  static constexpr int64_t kPage = LatentPool::kPage;

  /// With a pool of its own that has room for `context` positions.
  LatentCache(const ModelConfig& config, DType dtype, int64_t context);
  /// Without pages; the pool outlives it.
  explicit LatentCache(LatentPool& pool) : pool_(pool) {}
  ~LatentCache();
  /// Bytes of a cache whose every position is filled.
  static size_t bytes_for(const ModelConfig& config, DType dtype, int64_t context);
  LatentCache(const LatentCache&) = delete;
  LatentCache& operator=(const LatentCache&) = delete;

  DType dtype() const { return pool_.dtype(); }
  int64_t width() const { return pool_.width(); }
  /// Positions that its pages have room for.
  int64_t capacity() const { return static_cast<int64_t>(ids_.size()) * kPage; }
  const std::vector<int64_t>& ids() const { return ids_; }
  /// Takes pages until there is room for so many positions; false, and none taken, if the pool has too few.
  bool reserve(int64_t positions);
  /// Gives back the pages behind the one that holds the last of so many positions.
  void shrink(int64_t positions);
  /// Puts a page of the pool, one reference more, behind its last one.
  void share_page(int64_t id);
  /// Makes page `index` its own: a copy if others hold it too. False if the pool has no page for it.
  bool own_page(int64_t index);

  /// Where each page begins; a layer's part lies `layer_offset` bytes further.
  const std::byte* const* pages() const { return pages_.data(); }
  size_t layer_offset(int64_t layer) const { return pool_.layer_offset(layer); }
  /// A layer's part of a page.
  std::byte* page(int64_t layer, int64_t page) const {
    return pool_.page(ids_[static_cast<size_t>(page)]) + pool_.layer_offset(layer);
  }
  /// Stores [c_kv | k_pe] of one position, rounded to the cache's type.
  void write(int64_t layer, int64_t position, const float* values);
  /// Reads it back as float32.
  void read(int64_t layer, int64_t position, float* values) const;

 private:
  void add(int64_t id);

  std::unique_ptr<LatentPool> own_;
  LatentPool& pool_;
  std::vector<int64_t> ids_;
  std::vector<const std::byte*> pages_;
};

}  // namespace fathom
