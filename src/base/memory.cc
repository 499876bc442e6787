#include "base/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <fstream>
#include <string>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

size_t rounded_up(size_t bytes) {
  return (bytes + kHugePage - 1) / kHugePage * kHugePage;
}

}  // namespace

HugeBuffer::HugeBuffer(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  // One page more than asked for, so that a multiple of the page size lies in it; what is over goes back.
  const size_t wanted = rounded_up(bytes);
  void* taken = ::mmap(nullptr, wanted + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (taken == MAP_FAILED) {
    throw_failure("{:.2f} GB of memory were asked for and the system refused: {}.", static_cast<double>(bytes) / 1e9,
                  std::generic_category().message(errno));
  }
  auto* begin = static_cast<std::byte*>(taken);
  const size_t before = rounded_up(reinterpret_cast<uintptr_t>(begin)) - reinterpret_cast<uintptr_t>(begin);
  if (before > 0) ::munmap(begin, before);
  if (before < kHugePage) ::munmap(begin + before + wanted, kHugePage - before);
  data_ = begin + before;
  advise_huge_pages(data_, wanted);
}

void advise_huge_pages(void* data, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const size_t first = rounded_up(begin);
  const size_t last = (begin + bytes) / kHugePage * kHugePage;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

HugeBuffer::~HugeBuffer() {
  if (data_ != nullptr) ::munmap(data_, rounded_up(bytes_));
}

HugeBuffer::HugeBuffer(HugeBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HugeBuffer& HugeBuffer::operator=(HugeBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SystemMemory system_memory() {
  SystemMemory memory;
  std::ifstream stream("/proc/meminfo");
  std::string key;
  while (stream >> key) {
    uint64_t kilobytes = 0;
    if (key == "MemTotal:" && stream >> kilobytes) memory.total_bytes = kilobytes * 1024;
    if (key == "MemAvailable:" && stream >> kilobytes) memory.available_bytes = kilobytes * 1024;
    stream.ignore(1 << 10, '\n');
  }
  return memory;
}

}  // namespace fathom
