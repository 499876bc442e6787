#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace fathom {

/// XXH3-128 of bytes that come one piece after the other.
class ContentHash {
 public:
  ContentHash();
  ~ContentHash();
  ContentHash(const ContentHash&) = delete;
  ContentHash& operator=(const ContentHash&) = delete;
  void update(const void* data, size_t bytes);
  /// Of what came since the construction or the last `take`, as 32 hexadecimal digits; begins anew.
  std::string take();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// A run of bytes that was written: where it ends in its file, and its XXH3-128.
struct WrittenSegment {
  uint64_t end = 0;
  std::string hash;
};

/// `OUT.partial`, a directory that a run fills and that a later run of the same plan goes on with: whose it is, what of
/// its files is on the disk, and a lock that keeps a second run out as long as this object lives. Not for several
/// threads at once.
class PartialOutput {
 public:
  /// `out`: the absolute path of what is to be written. `identity`: everything that decides about the bytes.
  /// `bad_input` if another run is writing there or the directory is left over from another identity; `failure` if it
  /// cannot be made.
  PartialOutput(const std::filesystem::path& out, std::string identity);
  ~PartialOutput();
  PartialOutput(const PartialOutput&) = delete;
  PartialOutput& operator=(const PartialOutput&) = delete;

  std::filesystem::path path(const std::string& file) const { return directory_ / file; }
  /// What is recorded of a file, in its order; nothing of one that is not known.
  const std::vector<WrittenSegment>& segments(const std::string& file) const;
  /// Records what of a file is on the disk, and that nothing of it is (a later run writes it again).
  void set_segments(const std::string& file, std::vector<WrittenSegment> segments);
  void forget(const std::string& file) { set_segments(file, {}); }
  /// Whether every file was read again and found as it was written; the state between that and the last name given.
  bool checked() const { return checked_; }
  void set_checked();

  /// `failure` if the disk does not hold `missing` bytes more; a directory that holds nothing yet is gone then.
  void require_free(uint64_t missing);
  /// Removes the directory if nothing is recorded in it.
  void remove_if_unused();
  /// Removes what this object keeps in the directory, which then holds the result alone.
  void remove_records();

  const std::filesystem::path& directory() const { return directory_; }

 private:
  void save() const;

  std::string out_;
  std::filesystem::path directory_;
  std::string identity_;
  std::map<std::string, std::vector<WrittenSegment>> files_;
  bool checked_ = false;
  int lock_ = -1;
};

/// `failure`, naming `out`, if the disk of `place` does not hold `missing` bytes more.
void check_free_disk(const std::string& out, const std::filesystem::path& place, uint64_t missing);

}  // namespace fathom
