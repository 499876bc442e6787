#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "base/memory.h"

namespace fathom {

/// Raw memory that starts on a cache line, uninitialised; grows and never shrinks. Growing drops the contents. Much
/// memory lies in huge pages: activations are met in an order that would cost a table walk for each small page.
class Buffer {
 public:
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    memory_.reset();
    memory_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
    bytes_ = bytes;
    if (bytes >= kMuch) advise_huge_pages(memory_.get(), bytes);
  }
  size_t bytes() const { return bytes_; }

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(memory_.get());
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(memory_.get());
  }

 private:
  static constexpr size_t kMuch = size_t{4} << 20;
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* memory) const { ::operator delete(memory, kAlignment); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  size_t bytes_ = 0;
};

/// Room for `count` values of type T, as `Buffer::reserve`.
template <typename T>
T* reserve(Buffer& buffer, int64_t count) {
  buffer.reserve(static_cast<size_t>(count) * sizeof(T));
  return buffer.as<T>();
}

}  // namespace fathom
