#include "base/output_directory.h"

#include "base/error.h"
#include "base/file.h"

namespace fathom {

namespace fs = std::filesystem;

fs::path require_new_directory(const std::string& out) {
  if (out.empty()) throw_bad_input("--out: expected the name of a directory, found nothing");
  std::error_code error;
  fs::path path = fs::absolute(out, error).lexically_normal();
  if (error) throw_failure("{}: cannot be resolved, {}", out, error.message());
  if (!path.has_filename()) path = path.parent_path();  // "dir/"
  if (!fs::exists(path, error)) return path;
  if (!fs::is_directory(path, error)) throw_bad_input("{}: expected a new directory, found a file", out);
  const bool empty = fs::is_empty(path, error);
  if (error) throw_failure("{}: the directory cannot be read, {}", out, error.message());
  if (!empty) throw_bad_input("{}: expected a new or an empty directory, found files in it", out);
  return path;
}

PartialDirectory::PartialDirectory(const fs::path& final_path)
    : final_path_(final_path), path_(final_path.string() + ".partial") {
  std::error_code error;
  if (fs::exists(path_, error)) {
    throw_bad_input("{}: this directory is left over from another run (or in use by one), expected nothing there",
                    path_.string());
  }
  make_directories(path_.string());
}

PartialDirectory::~PartialDirectory() {
  if (path_.empty()) return;
  std::error_code error;
  fs::remove_all(path_, error);
}

void PartialDirectory::commit() {
  std::error_code error;
  fs::rename(path_, final_path_, error);  // replaces an empty directory
  if (error) throw_failure("{}: cannot get its name, {}", final_path_.string(), error.message());
  path_.clear();
}

}  // namespace fathom
