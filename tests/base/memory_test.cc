#include "base/memory.h"

#include <gtest/gtest.h>

#include "support/errors.h"

namespace fathom {
namespace {

TEST(HugeBuffer, IsZeroAlignedAndMovable) {
  constexpr size_t kBytes = (size_t{3} << 20) + 5;
  HugeBuffer buffer(kBytes);
  EXPECT_EQ(buffer.bytes(), kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (size_t{2} << 20), 0u);
  for (size_t at : {size_t{0}, kBytes / 2, kBytes - 1}) EXPECT_EQ(buffer.data()[at], std::byte{0});
  buffer.data()[kBytes - 1] = std::byte{7};
  HugeBuffer other(1);
  other = std::move(buffer);
  EXPECT_EQ(other.bytes(), kBytes);
  EXPECT_EQ(other.data()[kBytes - 1], std::byte{7});
  const HugeBuffer third(std::move(other));
  EXPECT_EQ(third.data()[kBytes - 1], std::byte{7});
  EXPECT_EQ(HugeBuffer().data(), nullptr);
  EXPECT_EQ(HugeBuffer(0).data(), nullptr);
}

TEST(HugeBuffer, SaysWhatTheSystemRefused) {
  FATHOM_EXPECT_ERROR(HugeBuffer(size_t{1} << 60), ErrorKind::failure, "1152921504.61 GB");
}

TEST(SystemMemory, IsKnown) {
  const SystemMemory memory = system_memory();
  EXPECT_GT(memory.available_bytes, uint64_t{1} << 20);
  EXPECT_LE(memory.available_bytes, memory.total_bytes);
}

}  // namespace
}  // namespace fathom
