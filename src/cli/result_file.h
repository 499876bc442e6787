#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fathom {

/// The output of a batch: one JSON line per prompt, written to `PATH.partial` as they finish and renamed to PATH when
/// all are there. Unlike `OutputFile` an unfinished one stays, so that the same command goes on where it was
/// interrupted.
class ResultFile {
 public:
  /// Looks at what an earlier run left. Lines of `PATH.partial` (or, without one, of PATH) are kept as long as
  /// `belongs(number, line)` holds; a last line without newline was torn and is dropped. Writes nothing yet.
  /// `bad_input` if a whole line does not belong: the file holds something else, and it is not ours to throw away.
  ResultFile(std::string path, int64_t lines, const std::function<bool(int64_t, const nlohmann::json&)>& belongs);
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  /// Results of an earlier run.
  int64_t kept() const { return kept_; }
  /// PATH itself is there with every result.
  bool complete() const { return complete_; }

  /// Opens the file for the lines that are missing. `failure` with the system's reason.
  void open();
  /// Adds a line, newline included, and hands it to the system at once.
  void append(std::string_view line);
  /// Flushes to the disk and renames to the final name.
  void commit();

 private:
  void write(std::string_view text);
  [[noreturn]] void fail(int reason) const;

  std::string path_;
  std::string partial_path_;
  std::string kept_text_;  // lines to copy into a new partial file
  bool from_partial_ = false;
  bool complete_ = false;
  int64_t kept_ = 0;
  uint64_t bytes_ = 0;
  int descriptor_ = -1;
};

}  // namespace fathom
