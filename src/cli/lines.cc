#include "cli/lines.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {

LineReader::LineReader(const std::string& path) : name_(path) {
  if (path.empty() || path == "-") {
    name_ = "standard input";
    descriptor_ = STDIN_FILENO;
    return;
  }
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor_ < 0) throw_bad_input("{}: cannot be opened, {}", path, std::generic_category().message(errno));
}

LineReader::~LineReader() {
  if (descriptor_ > STDIN_FILENO) ::close(descriptor_);
}

bool LineReader::next(std::string& line) {
  line.clear();
  while (true) {
    const size_t newline = buffer_.find('\n', position_);
    if (newline != std::string::npos) {
      line.append(buffer_, position_, newline - position_);
      position_ = newline + 1;
      ++line_number_;
      return true;
    }
    line.append(buffer_, position_, std::string::npos);
    position_ = 0;
    buffer_.clear();
    if (end_) {
      if (line.empty()) return false;
      ++line_number_;
      return true;
    }
    buffer_.resize(size_t{1} << 16);
    const ssize_t count = ::read(descriptor_, buffer_.data(), buffer_.size());
    const int reason = errno;
    buffer_.resize(count > 0 ? static_cast<size_t>(count) : 0);
    if (count == 0) end_ = true;
    if (count < 0) {
      check_interrupt();
      if (reason != EINTR) throw_bad_input("{}: cannot be read, {}", name_, std::generic_category().message(reason));
    }
  }
}

std::string LineReader::where() const {
  return name_ + ", line " + std::to_string(line_number_);
}

std::string json_line(const nlohmann::ordered_json& value) {
  const std::string text = value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string line;
  line.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size(); ++i) {
    const std::string_view rest = std::string_view(text).substr(i);
    if (rest.starts_with("\xc2\x85")) {
      line += "\\u0085";
      i += 1;
    } else if (rest.starts_with("\xe2\x80\xa8") || rest.starts_with("\xe2\x80\xa9")) {
      line += rest[2] == '\xa8' ? "\\u2028" : "\\u2029";
      i += 2;
    } else {
      line += text[i];
    }
  }
  line += '\n';
  return line;
}

std::string terminal_text(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F are control characters of two bytes, C2 80 to C2 9F.
    const bool two_bytes = byte == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (two_bytes || byte == 0x7f || (byte < 0x20 && byte != '\n' && byte != '\t')) {
      safe += "\xef\xbf\xbd";
      if (two_bytes) ++i;
    } else {
      safe += text[i];
    }
  }
  return safe;
}

void write_stdout(std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = ::write(STDOUT_FILENO, text.data(), text.size());
    if (count < 0) {
      if (errno == EINTR) continue;
      throw_failure("the output cannot be written: {}", std::generic_category().message(errno));
    }
    text.remove_prefix(static_cast<size_t>(count));
  }
}

}  // namespace fathom
