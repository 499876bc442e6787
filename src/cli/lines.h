#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fathom {

/// Lines of a file or of the standard input ("-" or empty), one at a time, without the newline (and a carriage return
/// before it stays: text is not changed). A last line without newline counts.
class LineReader {
 public:
  explicit LineReader(const std::string& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// False at the end. `failure` if reading fails or is interrupted.
  bool next(std::string& line);
  int64_t line_number() const { return line_number_; }
  /// "FILE, line 3", for sentences.
  std::string where() const;

 private:
  std::string name_;
  int descriptor_ = -1;
  std::string buffer_;
  size_t position_ = 0;
  bool end_ = false;
  int64_t line_number_ = 0;
};

/// One JSON value as one line, newline included: UTF-8, with U+0085, U+2028 and U+2029 escaped because some readers
/// take them for line ends; bytes that are not UTF-8 become U+FFFD.
std::string json_line(const nlohmann::ordered_json& value);

/// The text as it may be shown on a terminal: control characters other than tab and newline become U+FFFD, so that what
/// a model says cannot move the cursor or do worse. `text` is whole characters.
std::string terminal_text(std::string_view text);

/// Writes to the standard output and flushes. `failure` with the system's reason (a full disk, a closed pipe).
void write_stdout(std::string_view text);

}  // namespace fathom
