#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace fathom {

/// An output file that several runs write one after the other, each from where the one before it came to; it stays as
/// it is when a run ends early. Every failure throws `failure` with the path and the system's reason.
class GrowingFile {
 public:
  /// Creates the file, or cuts it to its first `kept` bytes. `failure` if it has fewer.
  GrowingFile(std::string path, uint64_t kept);
  ~GrowingFile();
  GrowingFile(const GrowingFile&) = delete;
  GrowingFile& operator=(const GrowingFile&) = delete;

  void write(const void* data, size_t bytes);
  /// Returns when everything that was written is on the disk.
  void sync();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace fathom
