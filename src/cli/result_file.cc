#include "cli/result_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "cli/lines.h"

namespace fathom {

ResultFile::ResultFile(std::string path, int64_t lines,
                       const std::function<bool(int64_t, const nlohmann::json&)>& belongs)
    : path_(std::move(path)), partial_path_(path_ + ".partial") {
  from_partial_ = file_exists(partial_path_);
  if (!from_partial_ && !file_exists(path_)) return;
  const std::string& found = from_partial_ ? partial_path_ : path_;
  const std::string text = read_file(found, size_t{1} << 34);
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    if (newline == std::string::npos) break;  // torn
    const nlohmann::json line =
        nlohmann::json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin),
                              text.begin() + static_cast<std::ptrdiff_t>(newline), nullptr, false);
    if (kept_ == lines || line.is_discarded() || !belongs(kept_, line)) {
      throw_bad_input(
          "{}, line {}: this is not the result of prompt {} of this command; remove the file, or name another output "
          "file",
          found, kept_ + 1, kept_);
    }
    ++kept_;
    begin = newline + 1;
    bytes_ = begin;
  }
  if (!from_partial_ && bytes_ == 0 && !text.empty()) {
    throw_bad_input("{}: the file exists and holds something else; remove it, or name another output file", found);
  }
  complete_ = !from_partial_ && kept_ == lines && bytes_ == text.size();
  if (!from_partial_) kept_text_ = text.substr(0, bytes_);
}

ResultFile::~ResultFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (bytes_ == 0) ::unlink(partial_path_.c_str());  // nothing to go on from
}

void ResultFile::open() {
  descriptor_ = ::open(partial_path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail(errno);
  const uint64_t keep = from_partial_ ? bytes_ : 0;
  if (::ftruncate(descriptor_, static_cast<off_t>(keep)) != 0) fail(errno);
  if (::lseek(descriptor_, 0, SEEK_END) < 0) fail(errno);
  write(kept_text_);
}

void ResultFile::append(std::string_view line) {
  bytes_ += line.size();
  write(line);
}

void ResultFile::commit() {
  if (::fsync(descriptor_) != 0) fail(errno);
  if (::rename(partial_path_.c_str(), path_.c_str()) != 0) fail(errno);
  ::close(descriptor_);
  descriptor_ = -1;
}

void ResultFile::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(descriptor_, text.data(), text.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      fail(errno);
    }
    text.remove_prefix(static_cast<size_t>(count));
  }
}

void ResultFile::fail(int reason) const {
  throw_failure("{}: cannot be written, {}", partial_path_, std::generic_category().message(reason));
}

}  // namespace fathom
