#include "base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "base/interrupt.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

TEST(File, ReadsWhole) {
  TemporaryDirectory directory;
  const std::string path = directory.file("text");
  OutputFile file(path);
  file.write("first ");
  file.write("second");
  EXPECT_EQ(file.bytes_written(), 12u);
  EXPECT_FALSE(file_exists(path));
  EXPECT_TRUE(file_exists(path + ".partial"));
  file.commit();
  EXPECT_TRUE(file_exists(path));
  EXPECT_FALSE(file_exists(path + ".partial"));
  EXPECT_EQ(read_file(path, 100), "first second");
  EXPECT_EQ(read_file(path, 12), "first second");
  FATHOM_EXPECT_ERROR(read_file(path, 11), ErrorKind::bad_input, path, "at most 11 bytes", "12");
}

TEST(File, ReadsFilesWhoseSizeTheSystemDoesNotTell) {
  EXPECT_NE(read_file("/proc/self/status", 1 << 20).find("Name:"), std::string::npos);
}

TEST(File, NamesWhatCannotBeRead) {
  TemporaryDirectory directory;
  FATHOM_EXPECT_ERROR(read_file(directory.file("none"), 10), ErrorKind::bad_input, directory.file("none"),
                      "no such file");
  FATHOM_EXPECT_ERROR(read_file(directory.path(), 10), ErrorKind::bad_input, directory.path(), "directory");
  FATHOM_EXPECT_ERROR(MappedFile(directory.file("none")), ErrorKind::bad_input, directory.file("none"), "no such file");
  FATHOM_EXPECT_ERROR(MappedFile(directory.path()), ErrorKind::bad_input, directory.path(), "directory");
  // Opening a pipe must not wait for somebody to write into it.
  const std::string pipe = directory.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  FATHOM_EXPECT_ERROR(MappedFile{pipe}, ErrorKind::bad_input, pipe, "not a regular file");
}

TEST(File, MapsFiles) {
  TemporaryDirectory directory;
  const std::string path = directory.file("data");
  {
    OutputFile file(path);
    file.write("abc");
    file.commit();
  }
  const MappedFile mapped(path);
  ASSERT_EQ(mapped.size(), 3u);
  EXPECT_EQ(static_cast<char>(mapped.data()[1]), 'b');
  EXPECT_EQ(mapped.path(), path);

  const std::string empty = directory.file("empty");
  OutputFile(empty).commit();
  const MappedFile nothing(empty);
  EXPECT_EQ(nothing.size(), 0u);
  EXPECT_EQ(nothing.data(), nullptr);
}

TEST(File, LargeAndSmallWritesKeepTheirOrder) {
  TemporaryDirectory directory;
  const std::string path = directory.file("mixed");
  std::string expected;
  OutputFile file(path);
  for (size_t size : {size_t{1}, size_t{1} << 20, (size_t{1} << 20) - 1, size_t{3}, (size_t{5} << 20) + 7, size_t{0}}) {
    const std::string piece(size, static_cast<char>('a' + expected.size() % 23));
    file.write(piece);
    expected += piece;
  }
  EXPECT_EQ(file.bytes_written(), expected.size());
  file.commit();
  EXPECT_EQ(read_file(path, expected.size()), expected);
}

TEST(File, UnfinishedFilesLeaveNothing) {
  TemporaryDirectory directory;
  const std::string path = directory.file("unfinished");
  {
    OutputFile file(path);
    file.write(std::string(size_t{2} << 20, 'x'));
  }
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(File, WriteFailuresAreSentences) {
  TemporaryDirectory directory;
  const std::string orphan = directory.file("none/file");
  FATHOM_EXPECT_ERROR(OutputFile{orphan}, ErrorKind::failure, orphan, "its directory does not exist");
  if (::geteuid() != 0) {  // root may write anywhere
    ASSERT_EQ(::chmod(directory.path().c_str(), 0500), 0);
    FATHOM_EXPECT_ERROR(OutputFile{directory.file("x")}, ErrorKind::failure, "permission denied");
    ASSERT_EQ(::chmod(directory.path().c_str(), 0700), 0);
  }
  // A full disk: the partial file is a link to the device that is always full.
  const std::string full = directory.file("full");
  ASSERT_EQ(::symlink("/dev/full", (full + ".partial").c_str()), 0);
  FATHOM_EXPECT_ERROR(
      {
        OutputFile file(full);
        file.write(std::string(size_t{2} << 20, 'x'));
        file.commit();
      },
      ErrorKind::failure, full, "the disk is full");
  EXPECT_FALSE(fs::is_symlink(full + ".partial"));
  EXPECT_FALSE(file_exists(full));
}

TEST(File, FileSizeLimit) {
  TemporaryDirectory directory;
  const std::string path = directory.file("limited");
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 1 << 20;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  FATHOM_EXPECT_ERROR(
      {
        OutputFile file(path);
        file.write(std::string(size_t{4} << 20, 'x'));
        file.commit();
      },
      ErrorKind::failure, path, "file size limit");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_TRUE(fs::is_empty(directory.path()));
}

TEST(File, DirectoriesAndFreeSpace) {
  TemporaryDirectory directory;
  make_directories(directory.file("a/b/c"));
  make_directories(directory.file("a/b/c"));
  EXPECT_TRUE(fs::is_directory(directory.file("a/b/c")));
  EXPECT_GT(free_disk_bytes(directory.file("not/yet/there")), 0u);
  OutputFile(directory.file("file")).commit();
  FATHOM_EXPECT_ERROR(make_directories(directory.file("file/x")), ErrorKind::failure, directory.file("file/x"));
}

TEST(PieceReader, ReadsAnyPieceAndSaysWhereTheFileEnds) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  std::ofstream(path) << "0123456789";
  const PieceReader file(path);
  char piece[4] = {};
  file.prefetch(0, 10);
  file.read(3, piece, 3);
  EXPECT_EQ(std::string(piece), "345");
  file.forget(0, 10);
  file.read(9, piece, 1);
  EXPECT_EQ(piece[0], '9');
  file.read(10, piece, 0);
  FATHOM_EXPECT_ERROR(file.read(8, piece, 3), ErrorKind::failure, path, "byte 10", "1 bytes too early");
  FATHOM_EXPECT_ERROR(PieceReader(directory.path()), ErrorKind::bad_input, "a directory");
}

TEST(MappedFile, ReleasedPagesComeBack) {
  const TemporaryDirectory directory;
  const std::string path = directory.file("data");
  std::ofstream(path) << "0123456789";
  const MappedFile file(path);
  EXPECT_EQ(file.data()[4], std::byte{'4'});
  file.release();
  EXPECT_EQ(file.data()[4], std::byte{'4'});
}

TEST(Interrupt, SetsAFlagThatEndsLoops) {
  install_interrupt_handler();
  EXPECT_FALSE(interrupted());
  check_interrupt();
  std::raise(SIGINT);
  EXPECT_TRUE(interrupted());
  FATHOM_EXPECT_ERROR(check_interrupt(), ErrorKind::failure, "interrupted");
  clear_interrupt();
  EXPECT_FALSE(interrupted());
  std::raise(SIGTERM);
  EXPECT_TRUE(interrupted());
  clear_interrupt();
  for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) std::signal(signal, SIG_DFL);
}

TEST(InterruptDeathTest, TheSecondOneEndsTheProgram) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        install_interrupt_handler();
        std::raise(SIGINT);
        std::raise(SIGINT);
      },
      testing::KilledBySignal(SIGINT), "");
}

}  // namespace
}  // namespace fathom
