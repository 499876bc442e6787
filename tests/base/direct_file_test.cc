#include "base/direct_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <random>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

std::string random_bytes(size_t count) {
  std::mt19937 random(3);
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

void write(const std::string& path, const std::string& bytes) {
  OutputFile file(path);
  file.write(bytes);
  file.commit();
}

TEST(DirectFile, ReadsAnyRangeToAnyAddress) {
  TemporaryDirectory directory;
  // Longer than two bounce buffers, and not a whole number of pages.
  const std::string bytes = random_bytes((size_t{1} << 20) + 12345);
  write(directory.file("data"), bytes);
  const DirectFile file(directory.file("data"));
  EXPECT_EQ(file.path(), directory.file("data"));
  Buffer memory;
  memory.reserve(bytes.size() + 4 * DirectFile::kPage);
  auto* page =
      reinterpret_cast<std::byte*>((reinterpret_cast<uintptr_t>(memory.as<std::byte>()) + DirectFile::kPage - 1) /
                                   DirectFile::kPage * DirectFile::kPage);
  Buffer bounce;
  for (uint64_t offset : {0, 1, 64, 4095, 4096, 4097, 524288, 1048576, 1060000}) {
    for (size_t count : {size_t{0}, size_t{1}, size_t{100}, size_t{4096}, size_t{9000}, size_t{600000}, bytes.size()}) {
      const size_t n = std::min(count, bytes.size() - offset);
      for (size_t shift : {size_t{offset % DirectFile::kPage}, size_t{0}, size_t{64}, size_t{7}}) {
        SCOPED_TRACE(testing::Message() << offset << " + " << n << " to " << shift);
        std::byte* to = page + shift;
        to[n] = std::byte{0x5a};
        file.read(offset, n, to, bounce);
        ASSERT_EQ(std::string(reinterpret_cast<const char*>(to), n), bytes.substr(offset, n));
        ASSERT_EQ(to[n], std::byte{0x5a}) << "wrote behind the end";
      }
    }
  }
}

TEST(DirectFile, ReadsWhereThereIsNoDirectReading) {
  if (!std::filesystem::is_directory("/dev/shm")) GTEST_SKIP() << "there is no /dev/shm";
  const std::string path = "/dev/shm/fathom-direct-file-test-" + std::to_string(::getpid());
  const std::string bytes = random_bytes(20000);
  write(path, bytes);
  std::string read(1000, '\0');
  Buffer bounce;
  const DirectFile file(path);
  ::unlink(path.c_str());
  file.read(4090, read.size(), reinterpret_cast<std::byte*>(read.data()), bounce);
  EXPECT_EQ(read, bytes.substr(4090, 1000));
}

TEST(DirectFile, SaysWhereAFileEnded) {
  TemporaryDirectory directory;
  const std::string path = directory.file("data");
  write(path, random_bytes(100000));
  const DirectFile file(path);
  ASSERT_EQ(::truncate(path.c_str(), 50000), 0);
  std::vector<std::byte> memory(100000 + DirectFile::kPage);
  Buffer bounce;
  for (size_t shift : {0, 1, 2}) {
    FATHOM_EXPECT_ERROR(file.read(10000, 80000, memory.data() + shift, bounce), ErrorKind::failure, path, "50000",
                        "10000");
  }
  FATHOM_EXPECT_ERROR(file.read(90000, 10, memory.data(), bounce), ErrorKind::failure, path, "90000");
  file.read(10000, 40000, memory.data(), bounce);
}

TEST(DirectFile, NamesWhatCannotBeOpened) {
  TemporaryDirectory directory;
  FATHOM_EXPECT_ERROR(DirectFile(directory.file("none")), ErrorKind::bad_input, directory.file("none"), "No such file");
  FATHOM_EXPECT_ERROR(DirectFile(directory.path()), ErrorKind::bad_input, directory.path(), "not a regular file");
  const std::string pipe = directory.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  FATHOM_EXPECT_ERROR(DirectFile{pipe}, ErrorKind::bad_input, pipe, "not a regular file");
}

}  // namespace
}  // namespace fathom
