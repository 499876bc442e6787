#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace fathom {

/// What a store has done so far.
struct PageStoreCounters {
  int64_t hits = 0;     ///< pages that `load` brought
  int64_t misses = 0;   ///< pages that it did not, damaged ones included
  int64_t damaged = 0;  ///< files that did not hold what their name promises; removed
  int64_t saved = 0;    ///< files written
  int64_t dropped = 0;  ///< pages not written: no room in the queue or the limit, or nothing there that they continue
  int64_t failed = 0;   ///< pages not written: the system refused
  int64_t evicted = 0;  ///< files removed to stay within the limit
  uint64_t bytes = 0;   ///< of the store's files now
};

/// Pages of the latent cache in a directory, one file a page, so that a prefix is not computed again after a restart.
///
/// A page belongs to its whole prefix: all tokens up to and including its own 64. The file holds the tokens of the
/// prefix, the identity of the model and a checksum over everything; a page is given out only if all of them agree, so
/// a torn or exchanged file is a miss. The checksum is no signature: who may write to the directory may answer in the
/// model's place, and who may read it may read the prompts. It is created for its owner alone.
///
/// Limit: when there is no room for a new file, those go first that were used longest ago (by their modification time,
/// which a use renews), but a page never before the pages that continue it, and never to make room for its own
/// continuation. Files of all identities count; files that are not a store's are not touched.
///
/// Several processes may use one directory: files get their name when they are whole, those that another process wrote
/// or removed are noticed at the next write, and the limit is then passed at most by the pages being written at the
/// time.
///
/// Writing is done by a thread of the store's own. Every function from any thread.
class PageStore {
 public:
  /// Bytes that wait to be written unless told otherwise: a prompt of 2000 tokens whose pages take 8 MB.
  static constexpr uint64_t kQueueBytes = uint64_t{256} << 20;

  /// Creates the directory if it is not there. `identity` says whose pages these are: everything about weights, cache
  /// type and layout that decides about their bytes. `bad_input`: the directory cannot be created or written, or
  /// `limit_bytes` has no room for a page.
  PageStore(const std::string& directory, const std::string& identity, size_t page_bytes, uint64_t limit_bytes,
            uint64_t queue_bytes = kQueueBytes);
  /// Writes what waits.
  ~PageStore();
  PageStore(const PageStore&) = delete;
  PageStore& operator=(const PageStore&) = delete;

  /// How many of the first tokens lie in pages that are there one behind the other. No disk access.
  int64_t match(std::span<const int32_t> tokens) const;
  /// Whether the last page of a prefix is there. No disk access. Here and below a prefix is a positive multiple of 64
  /// tokens, anything else a `failure`.
  bool contains(std::span<const int32_t> prefix) const;
  /// Reads the last page of a prefix into `page` [page_bytes]. If false, `page` may have been written in part.
  bool load(std::span<const int32_t> prefix, std::span<std::byte> page);
  /// Keeps the last page of a prefix, if the page before it is there: copies it and writes it in the background. One
  /// that is there counts as used. False if it was dropped at once; what happens later is counted.
  bool save(std::span<const int32_t> prefix, std::span<const std::byte> page);
  /// Waits until nothing waits to be written.
  void flush();

  PageStoreCounters counters() const;
  /// The latest sentence about a file that could not be written or removed, or was damaged; empty if there is none
  /// since the last call.
  std::string take_problem();

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
