#include "base/growing_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

[[noreturn]] void throw_write_failure(const std::string& path) {
  throw_failure("{}: cannot be written, {}", path, std::strerror(errno));
}

}  // namespace

GrowingFile::GrowingFile(std::string path, uint64_t kept) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) throw_write_failure(path_);
  const off_t size = ::lseek(descriptor_, 0, SEEK_END);
  const auto end = static_cast<off_t>(kept);
  try {
    if (size < 0) throw_write_failure(path_);
    if (size < end) {
      throw_failure("{}: expected at least {} bytes, which an earlier run wrote, found {}", path_, kept, size);
    }
    if (::ftruncate(descriptor_, end) != 0 || ::lseek(descriptor_, end, SEEK_SET) != end) throw_write_failure(path_);
  } catch (...) {
    ::close(descriptor_);
    throw;
  }
}

GrowingFile::~GrowingFile() {
  ::close(descriptor_);
}

void GrowingFile::write(const void* data, size_t bytes) {
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t count = ::write(descriptor_, next, bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_write_failure(path_);
    next += count;
    bytes -= static_cast<size_t>(count);
  }
}

void GrowingFile::sync() {
  if (::fdatasync(descriptor_) != 0) throw_write_failure(path_);
}

}  // namespace fathom
