#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "base/error.h"

namespace fathom {

namespace {

/// Large enough that the cost of a system call vanishes, small enough to be free.
constexpr size_t kBufferBytes = size_t{1} << 20;

std::string reason(int error) {
  return std::generic_category().message(error);
}

/// The sentence of a failed write or creation: what went wrong in the words of the person who has to mend it.
[[noreturn]] void throw_write_failure(const std::string& path, int error) {
  switch (error) {
    case ENOSPC:
      throw_failure("{}: cannot be written, the disk is full", path);
    case EDQUOT:
      throw_failure("{}: cannot be written, the disk quota is used up", path);
    case EFBIG:
      throw_failure("{}: cannot be written, the file would pass the file size limit", path);
    case EACCES:
    case EPERM:
      throw_failure("{}: cannot be written, permission denied", path);
    case EROFS:
      throw_failure("{}: cannot be written, the file system is read-only", path);
    case ENOENT:
      throw_failure("{}: cannot be written, its directory does not exist", path);
    case ENOTDIR:
      throw_failure("{}: cannot be written, a part of its path is not a directory", path);
    case EISDIR:
      throw_failure("{}: cannot be written, it is a directory", path);
    default:
      throw_failure("{}: cannot be written, {}", path, reason(error));
  }
}

[[noreturn]] void throw_read_error(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
      throw_bad_input("{}: no such file", path);
    case ENOTDIR:
      throw_bad_input("{}: no such file (a part of the path is not a directory)", path);
    case EACCES:
      throw_bad_input("{}: cannot be read, permission denied", path);
    case EMFILE:
    case ENFILE:
      throw_failure("{}: cannot be opened, too many open files (see ulimit -n)", path);
    default:
      throw_bad_input("{}: cannot be read, {}", path, reason(error));
  }
}

/// Closes a descriptor at the end of a scope.
struct Descriptor {
  int value;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

/// Opens for reading; `bad_input` unless it is a regular file. O_NONBLOCK: opening a FIFO must not wait for a writer.
int open_regular_file(const std::string& path, uint64_t& size) {
  int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw_read_error(path, errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    int error = errno;
    ::close(descriptor);
    throw_read_error(path, error);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw_bad_input("{}: expected a file, found {}", path,
                    S_ISDIR(status.st_mode) ? "a directory" : "something that is not a regular file");
  }
  size = static_cast<uint64_t>(status.st_size);
  return descriptor;
}

}  // namespace

std::string read_file(const std::string& path, size_t max_bytes) {
  uint64_t size = 0;
  Descriptor file{open_regular_file(path, size)};
  if (size > max_bytes) throw_bad_input("{}: expected at most {} bytes, found {}", path, max_bytes, size);
  // The size is a hint only (files under /proc report 0, others may grow): read to the end, and count.
  std::string text;
  text.resize(static_cast<size_t>(size) + 1);
  size_t filled = 0;
  for (;;) {
    ssize_t count = ::read(file.value, text.data() + filled, text.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_read_error(path, errno);
    if (count == 0) break;
    filled += static_cast<size_t>(count);
    if (filled > max_bytes) throw_bad_input("{}: expected at most {} bytes, found more", path, max_bytes);
    if (filled == text.size()) text.resize(text.size() * 2);
  }
  text.resize(filled);
  return text;
}

bool file_exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  uint64_t size = 0;
  Descriptor file{open_regular_file(path, size)};
  if (size == 0) return;  // mmap refuses an empty range
  void* address = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.value, 0);
  if (address == MAP_FAILED) throw_failure("{}: cannot be mapped into memory, {}", path, reason(errno));
  data_ = static_cast<const std::byte*>(address);
  size_ = static_cast<size_t>(size);
}

void MappedFile::populate() const {
  if (size_ == 0) return;
#ifdef MADV_POPULATE_READ
  madvise(const_cast<std::byte*>(data_), size_, MADV_POPULATE_READ);
#endif
  // Under a hypervisor that shadows the page tables the first touch of a page still costs a fault of its own (measured:
  // products on untouched pages ran at 3 GB/s).
  constexpr size_t kPage = 4096;
  for (size_t offset = 0; offset < size_; offset += kPage) {
    static_cast<void>(*reinterpret_cast<const volatile std::byte*>(data_ + offset));
  }
}

void MappedFile::release() const {
  if (size_ > 0) ::madvise(const_cast<std::byte*>(data_), size_, MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

PieceReader::PieceReader(std::string path) : path_(std::move(path)) {
  uint64_t size = 0;
  descriptor_ = open_regular_file(path_, size);
}

PieceReader::~PieceReader() {
  ::close(descriptor_);
}

void PieceReader::read(uint64_t offset, void* to, size_t bytes) const {
  auto* next = static_cast<std::byte*>(to);
  while (bytes > 0) {
    const ssize_t count = ::pread(descriptor_, next, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_failure("{}: cannot be read at byte {}, {}", path_, offset, reason(errno));
    if (count == 0) throw_failure("{}: the file ends at byte {}, {} bytes too early", path_, offset, bytes);
    next += count;
    offset += static_cast<uint64_t>(count);
    bytes -= static_cast<size_t>(count);
  }
}

void PieceReader::prefetch(uint64_t offset, uint64_t bytes) const {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void PieceReader::forget(uint64_t offset, uint64_t bytes) const {
  ::posix_fadvise(descriptor_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
}

OutputFile::OutputFile(std::string path) : path_(std::move(path)), partial_path_(path_ + ".partial") {
  descriptor_ = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_write_failure(path_, errno);
  buffer_.reserve(kBufferBytes);
}

OutputFile::~OutputFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(partial_path_.c_str());
}

void OutputFile::write(const void* data, size_t bytes) {
  if (bytes == 0) return;  // an empty tensor may come with a null pointer
  const char* next = static_cast<const char*>(data);
  written_ += bytes;
  if (buffer_.size() + bytes < kBufferBytes) {
    buffer_.append(next, bytes);
    return;
  }
  flush_buffer();
  // Large blocks go to the system as they are: the buffer exists for small writes only.
  while (bytes >= kBufferBytes) {
    ssize_t count = ::write(descriptor_, next, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_write_failure(path_, errno);
    next += count;
    bytes -= static_cast<size_t>(count);
  }
  buffer_.append(next, bytes);
}

void OutputFile::flush_buffer() {
  size_t done = 0;
  while (done < buffer_.size()) {
    ssize_t count = ::write(descriptor_, buffer_.data() + done, buffer_.size() - done);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_write_failure(path_, errno);
    done += static_cast<size_t>(count);
  }
  buffer_.clear();
}

void OutputFile::commit() {
  flush_buffer();
  // Some file systems report a full disk only here. EINVAL: the target (a pipe, /dev/full's kin) cannot be
  // synchronised.
  if (::fsync(descriptor_) != 0 && errno != EINVAL) throw_write_failure(path_, errno);
  if (::rename(partial_path_.c_str(), path_.c_str()) != 0) throw_write_failure(path_, errno);
  int descriptor = descriptor_;
  descriptor_ = -1;  // the file has its name now: the destructor must leave it
  if (::close(descriptor) != 0) throw_write_failure(path_, errno);
}

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error && !std::filesystem::is_directory(path, error)) error = std::make_error_code(std::errc::not_a_directory);
  if (error) throw_failure("{}: the directory cannot be created, {}", path, error.message());
}

uint64_t free_disk_bytes(const std::string& path) {
  std::error_code error;
  std::filesystem::path place = std::filesystem::absolute(path, error);
  if (error) throw_failure("{}: cannot be resolved, {}", path, error.message());
  for (;;) {
    struct statvfs status {};
    if (::statvfs(place.c_str(), &status) == 0)
      return static_cast<uint64_t>(status.f_bavail) * static_cast<uint64_t>(status.f_frsize);
    int code = errno;
    std::filesystem::path parent = place.parent_path();
    if ((code != ENOENT && code != ENOTDIR) || parent == place)
      throw_failure("{}: the free disk space cannot be asked, {}", path, reason(code));
    place = parent;
  }
}

}  // namespace fathom
