#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "model/latent_cache.h"

namespace fathom {

/// Which tokens the pages of a pool hold, so that sequences with a common beginning compute it once: a tree whose edges
/// are 64 token ids and whose nodes are pages, each held by one reference of the tree; a leaf may be filled in part. A
/// page may lack what the MTP layers hold in it. One thread at a time.
class PrefixTree {
 public:
  explicit PrefixTree(LatentPool& pool) : pool_(pool) {}
  ~PrefixTree();
  PrefixTree(const PrefixTree&) = delete;
  PrefixTree& operator=(const PrefixTree&) = delete;

  /// How many of the first tokens lie in pages of the tree.
  int64_t match(std::span<const int32_t> tokens) const;
  struct Shared {
    int64_t tokens = 0;    ///< as `match`
    int64_t with_mtp = 0;  ///< of these, how many from the first on have the MTP layers' part too
  };
  /// Puts these pages behind those of an empty cache, each shared. The last page may agree in its first tokens alone:
  /// who writes behind them owns the page first (LatentCache::own_page).
  Shared share(std::span<const int32_t> tokens, LatentCache& cache);
  /// Keeps the pages of a sequence whose first tokens are these, those of the first `with_mtp` tokens with the MTP
  /// layers' part; a last page that is filled in part only if nobody writes to it any more. What is there already
  /// stays, unless it is less.
  void insert(std::span<const int32_t> tokens, int64_t with_mtp, const LatentCache& cache);
  /// Gives back pages that only the tree holds, those first whose tokens were asked for longest ago, until the pool has
  /// `pages` free ones. False if there are not enough.
  bool free_pages(int64_t pages);
  int64_t pages() const { return count_; }

 private:
  struct Node {
    std::vector<int32_t> tokens;  // of its page; 64, or fewer in a leaf
    int64_t page = -1;
    int64_t with_mtp = 0;  // of its tokens
    uint64_t used = 0;     // time of its last match
    Node* parent = nullptr;
    std::map<int32_t, std::vector<std::unique_ptr<Node>>> children;  // by first token
  };
  // Calls `use(node, tokens that agree)` for each page on the way; the last may agree in part.
  template <typename Use>
  void walk(std::span<const int32_t> tokens, Use use) const;
  void release(Node& node);

  LatentPool& pool_;
  mutable Node root_;
  uint64_t time_ = 0;
  int64_t count_ = 0;
};

}  // namespace fathom
