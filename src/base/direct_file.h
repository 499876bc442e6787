#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "base/buffer.h"

namespace fathom {

/// A file that is read past the page cache (O_DIRECT), so that reading it pushes nothing out of memory; plain reads
/// where the file system has no such thing. Any number of threads may read at once.
class DirectFile {
 public:
  /// File offsets and addresses that are equal modulo this are read in place; others are copied.
  static constexpr size_t kPage = 4096;

  /// `bad_input` if the path cannot be opened or is not a regular file.
  explicit DirectFile(std::string path);
  ~DirectFile();
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  const std::string& path() const { return path_; }
  /// Reads go past the page cache.
  bool direct() const { return direct_; }

  /// Reads bytes [offset, offset + bytes) of the file. `bounce` is the calling thread's own memory for what is not read
  /// in place. `failure` names the file, the offset and the system's reason, or says where the file ended.
  void read(uint64_t offset, size_t bytes, std::byte* to, Buffer& bounce) const;

 private:
  size_t read_some(uint64_t offset, size_t bytes, std::byte* to) const;
  void read_in_place(uint64_t offset, size_t bytes, std::byte* to) const;
  void read_through(uint64_t offset, size_t bytes, std::byte* to, Buffer& bounce) const;

  std::string path_;
  int descriptor_ = -1;
  bool direct_ = false;
};

}  // namespace fathom
