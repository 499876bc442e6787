#pragma once
#include <filesystem>
#include <string>

namespace fathom {

/// The absolute path of a directory to be written. `bad_input` unless it is new or empty.
std::filesystem::path require_new_directory(const std::string& out);

/// `PATH.partial` while it is being filled; gone with all it holds unless it was given its name.
class PartialDirectory {
 public:
  /// `bad_input` if `PATH.partial` is there: another run left it or is using it.
  explicit PartialDirectory(const std::filesystem::path& final_path);
  ~PartialDirectory();
  PartialDirectory(const PartialDirectory&) = delete;
  PartialDirectory& operator=(const PartialDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// Renames it to its final name, over an empty directory if there is one.
  void commit();

 private:
  std::filesystem::path final_path_;
  std::filesystem::path path_;
};

}  // namespace fathom
