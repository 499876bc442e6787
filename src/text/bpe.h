#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace fathom {

/// The merging half of byte-level BPE: the bytes of one piece to ids.
/// Threads: `encode` from any number of threads at once, after the last `add_merge`.
class Bpe {
 public:
  Bpe();

  /// Id of a single byte; bytes without one are left out of the result, as the Hugging Face library does.
  void set_byte(uint8_t byte, int32_t id) { byte_id_[byte] = id; }
  /// Id that stands for bytes without a token; a run of them is one id if `fuse`.
  void set_unknown(int32_t id, bool fuse) {
    unknown_ = id;
    fuse_unknown_ = fuse;
  }
  /// Room for so many merges.
  void reserve(size_t merges);
  /// A pair that may be joined. Lower ranks first; a pair given twice keeps the later rank.
  void add_merge(int32_t left, int32_t right, uint32_t rank, int32_t joined);

  /// Appends the ids of a piece of any length; O(n log n). Short pieces are remembered per thread.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint64_t empty_key = ~uint64_t{0};
  static constexpr uint32_t no_rank = ~uint32_t{0};
  struct Merge {
    uint64_t pair = empty_key;
    uint32_t rank = no_rank;
    int32_t joined = -1;
  };

  void encode_uncached(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_short(std::vector<int32_t>& symbols) const;
  void merge_long(std::vector<int32_t>& symbols) const;
  Merge find(int32_t left, int32_t right) const;

  std::array<int32_t, 256> byte_id_;
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false;
  std::vector<Merge> table_;  // open addressing, at most half full
  int shift_ = 0;             // 64 − log2 of the table's size
  size_t merges_ = 0;
  uint32_t serial_;  // tells this instance's entries in the per-thread memory from another's
};

}  // namespace fathom
