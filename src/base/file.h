#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace fathom {

/// The whole of a file, at most `max_bytes`. `bad_input` names the path if it is missing, a directory or too large.
std::string read_file(const std::string& path, size_t max_bytes);

bool file_exists(const std::string& path);

/// A file mapped read-only into memory; pages are read when they are touched.
class MappedFile {
 public:
  /// `bad_input` if the path cannot be opened or is not a regular file.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  const std::string& path() const { return path_; }
  /// Reads the whole file and touches each of its pages now, so that later reads do not fault.
  void populate() const;
  /// Lets the mapped pages go from this process; they come back when they are touched.
  void release() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

/// A file that is read piece by piece, at any place. Any number of threads at once.
class PieceReader {
 public:
  /// `bad_input` if the path cannot be opened or is not a regular file.
  explicit PieceReader(std::string path);
  ~PieceReader();
  PieceReader(const PieceReader&) = delete;
  PieceReader& operator=(const PieceReader&) = delete;

  /// Exactly these bytes. `failure` with the path and the system's reason, or that the file ends before them.
  void read(uint64_t offset, void* to, size_t bytes) const;
  /// Asks the system to bring a range into its page cache in the background.
  void prefetch(uint64_t offset, uint64_t bytes) const;
  /// Tells the system that a range will not be read again soon: its page cache may go. (Pages that another process has
  /// mapped stay.)
  void forget(uint64_t offset, uint64_t bytes) const;

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// An output file that gets its name only when it is whole: written as `PATH.partial`, renamed by `commit`, removed by
/// the destructor if `commit` was not reached. Every failed write throws `failure` with the path and the system's
/// reason.
class OutputFile {
 public:
  explicit OutputFile(std::string path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  uint64_t bytes_written() const { return written_; }
  /// Flushes to the disk and renames to the final name.
  void commit();

 private:
  void flush_buffer();

  std::string path_;
  std::string partial_path_;
  std::string buffer_;
  uint64_t written_ = 0;
  int descriptor_ = -1;
};

/// Creates a directory and its parents. `failure` with the system's reason.
void make_directories(const std::string& path);

/// Bytes free for us on the file system that holds `path` (or its nearest existing parent).
uint64_t free_disk_bytes(const std::string& path);

}  // namespace fathom
