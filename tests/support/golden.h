#pragma once
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace fathom {

/// Directory of the shared reference results NAME ($FATHOM_SHARED/golden, or ../shared/golden beside the sources), or
/// "".
inline std::string shared_golden_dir(const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code error;
  const char* shared = std::getenv("FATHOM_SHARED");
  const fs::path root = shared != nullptr ? fs::path(shared) : fs::path(FATHOM_SOURCE_DIR) / ".." / "shared";
  const fs::path path = root / "golden" / name;
  return fs::is_directory(path, error) ? path.string() : "";
}

/// Directory of the reference results NAME ("bf16-tiny", "long-yarn", …): the copy in tests/data/golden, else the
/// shared one, else "".
inline std::string golden_dir(const std::string& name) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path path = fs::path(FATHOM_SOURCE_DIR) / "tests" / "data" / "golden" / name;
  return fs::is_directory(path, error) ? path.string() : shared_golden_dir(name);
}

/// Sets the string VARIABLE to the directory of the reference results NAME, or skips the test with a sentence.
#define FATHOM_GOLDEN_OR_SKIP(variable, name)              \
  const std::string variable = ::fathom::golden_dir(name); \
  if (variable.empty())                                    \
  GTEST_SKIP()                                             \
      << "the reference results \"" << (name)              \
      << "\" are not here: expected tests/data/golden or ../shared/golden (FATHOM_SHARED names another place)"

/// A new directory, removed with all it holds at the end of the scope.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    static std::atomic<int> count{0};
    path_ = std::filesystem::temp_directory_path() /
            ("fathom-test-" + std::to_string(::getpid()) + "-" + std::to_string(count++));
    std::filesystem::remove_all(path_);
    std::filesystem::create_directories(path_);
  }
  ~TemporaryDirectory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string path() const { return path_.string(); }
  /// Path of a file in it.
  std::string file(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace fathom
