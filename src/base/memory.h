#pragma once
#include <cstddef>
#include <cstdint>

namespace fathom {

/// Anonymous memory, zero, in huge pages (2 MB) where the system gives them: weights are read at the speed of the
/// memory, and 4 KB pages would cost a table walk every 4 KB. Pages are taken when they are first written. Starts at a
/// multiple of 2 MB.
class HugeBuffer {
 public:
  HugeBuffer() = default;
  /// `failure` naming the size if the system refuses the address space.
  explicit HugeBuffer(size_t bytes);
  ~HugeBuffer();
  HugeBuffer(HugeBuffer&& other) noexcept;
  HugeBuffer& operator=(HugeBuffer&& other) noexcept;

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Asks for huge pages in the whole ones of this memory; a system without them gives small ones.
void advise_huge_pages(void* data, size_t bytes);

/// What the system has, and what it could give to a program without swapping (MemTotal, MemAvailable of /proc/meminfo);
/// 0 where it does not say.
struct SystemMemory {
  uint64_t total_bytes = 0;
  uint64_t available_bytes = 0;
};
SystemMemory system_memory();

}  // namespace fathom
