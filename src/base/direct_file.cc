#include "base/direct_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "base/error.h"

namespace fathom {
namespace {

// Large enough that the device streams, small enough to stay in a core's cache until it is copied.
constexpr size_t kBounceBytes = size_t{512} << 10;

std::string reason(int error) {
  return std::generic_category().message(error);
}

uint64_t page_down(uint64_t value) {
  return value / DirectFile::kPage * DirectFile::kPage;
}

uint64_t page_up(uint64_t value) {
  return page_down(value + DirectFile::kPage - 1);
}

// The first page border in the buffer, behind which kBounceBytes have room.
std::byte* bounce_memory(Buffer& bounce) {
  bounce.reserve(kBounceBytes + DirectFile::kPage);
  return reinterpret_cast<std::byte*>(page_up(reinterpret_cast<uintptr_t>(bounce.as<std::byte>())));
}

[[noreturn]] void throw_ended(const std::string& path, uint64_t offset, size_t bytes, uint64_t end) {
  throw_failure("{}: the file ends at byte {}, expected {} bytes at offset {}; it has changed since it was opened",
                path, end, bytes, offset);
}

}  // namespace

DirectFile::DirectFile(std::string path) : path_(std::move(path)) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer; regular files know no such thing.
  constexpr int kFlags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  descriptor_ = ::open(path_.c_str(), kFlags | O_DIRECT);
  direct_ = descriptor_ >= 0;
  if (!direct_) descriptor_ = ::open(path_.c_str(), kFlags);
  if (descriptor_ < 0) {
    const int error = errno;
    if (error == EMFILE || error == ENFILE) {
      throw_failure("{}: cannot be opened, too many open files (see ulimit -n)", path_);
    }
    throw_bad_input("{}: cannot be opened, {}", path_, reason(error));
  }
  struct stat status {};
  const bool regular = ::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode);
  if (!regular) {
    ::close(descriptor_);
    throw_bad_input("{}: expected a file, found something that is not a regular file", path_);
  }
  if (!direct_) return;
  // Some file systems accept the flag and refuse the reads, or want larger blocks than a page.
  Buffer bounce;
  if (::pread(descriptor_, bounce_memory(bounce), kPage, 0) >= 0) return;
  ::close(descriptor_);
  direct_ = false;
  descriptor_ = ::open(path_.c_str(), kFlags);
  if (descriptor_ < 0) throw_bad_input("{}: cannot be opened, {}", path_, reason(errno));
}

DirectFile::~DirectFile() {
  ::close(descriptor_);
}

// Up to `bytes`; fewer only at the end of the file.
size_t DirectFile::read_some(uint64_t offset, size_t bytes, std::byte* to) const {
  size_t filled = 0;
  while (filled < bytes) {
    const ssize_t count = ::pread(descriptor_, to + filled, bytes - filled, static_cast<off_t>(offset + filled));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) {
      throw_failure("{}: {} bytes at offset {} cannot be read, {}", path_, bytes - filled, offset + filled,
                    reason(errno));
    }
    filled += static_cast<size_t>(count);
    // A direct read that ends within a page has met the end of the file; going on from there would not be aligned.
    if (count == 0 || (direct_ && filled % kPage != 0)) break;
  }
  return filled;
}

void DirectFile::read_in_place(uint64_t offset, size_t bytes, std::byte* to) const {
  const size_t filled = read_some(offset, bytes, to);
  if (filled < bytes) throw_ended(path_, offset, bytes, offset + filled);
}

// By whole pages into the bounce buffer, and from there.
void DirectFile::read_through(uint64_t offset, size_t bytes, std::byte* to, Buffer& bounce) const {
  std::byte* const memory = bounce_memory(bounce);
  const uint64_t end = offset + bytes;
  for (uint64_t position = offset; position < end;) {
    const uint64_t first = page_down(position);
    const size_t wanted = std::min<uint64_t>(kBounceBytes, page_up(end) - first);
    const uint64_t filled_to = first + read_some(first, wanted, memory);
    if (filled_to < std::min(end, first + wanted)) throw_ended(path_, offset, bytes, filled_to);
    const size_t count = std::min(end, filled_to) - position;
    std::memcpy(to, memory + (position - first), count);
    to += count;
    position += count;
  }
}

void DirectFile::read(uint64_t offset, size_t bytes, std::byte* to, Buffer& bounce) const {
  if (bytes == 0) return;
  if (!direct_) {
    read_in_place(offset, bytes, to);
    return;
  }
  const uint64_t end = offset + bytes;
  const uint64_t first = page_up(offset);
  const uint64_t last = page_down(end);
  if (first >= last || (reinterpret_cast<uintptr_t>(to) - offset) % kPage != 0) {
    read_through(offset, bytes, to, bounce);
    return;
  }
  if (offset < first) read_through(offset, first - offset, to, bounce);
  read_in_place(first, last - first, to + (first - offset));
  if (last < end) read_through(last, end - last, to + (last - offset), bounce);
}

}  // namespace fathom
