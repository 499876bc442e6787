#include "constrain/pattern_reader.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/utf8.h"

namespace fathom {

PatternReader::PatternReader(std::string_view text, std::string what) : what_(std::move(what)) {
  constexpr size_t longest = 1'000'000;
  if (text.size() > longest) {
    throw_bad_input("{} has {} bytes: expected at most {}.", what_, text.size(), longest);
  }
  const size_t valid = utf8_valid_prefix(text);
  if (valid != text.size()) throw_bad_input("{} is not UTF-8: found byte {} out of place.", what_, valid);
  if (text.find('\0') != std::string_view::npos) throw_bad_input("{} holds a NUL byte: write it as \\x00.", what_);
  while (!text.empty()) {
    characters_.push_back(utf8_code_point(text));
    text.remove_prefix(utf8_step(text).bytes);
  }
}

bool PatternReader::goes_on_with(std::string_view text) const {
  for (size_t index = 0; index < text.size(); ++index) {
    if (peek(index) != static_cast<uint8_t>(text[index])) return false;
  }
  return true;
}

bool PatternReader::take_if(std::string_view text) {
  if (!goes_on_with(text)) return false;
  at_ += text.size();
  return true;
}

void PatternReader::fail_at(size_t position, const std::string& sentence) const {
  size_t line = 1;
  size_t column = 1;
  for (size_t index = 0; index < position && index < characters_.size(); ++index) {
    column = characters_[index] == '\n' ? 1 : column + 1;
    if (characters_[index] == '\n') ++line;
  }
  throw_bad_input("{}, line {}, column {}: {}", what_, line, column, sentence);
}

std::string PatternReader::shown() const {
  if (at_end()) return "the end";
  const uint32_t character = peek();
  if (character > 0x20 && character < 0x7f) return fmt::format("'{}'", static_cast<char>(character));
  return fmt::format("U+{:04X}", character);
}

uint32_t PatternReader::hexadecimal(int digits) {
  uint32_t value = 0;
  for (int index = 0; index < digits; ++index) {
    const uint32_t character = peek();
    uint32_t digit = 0;
    if (character >= '0' && character <= '9') {
      digit = character - '0';
    } else if (character >= 'a' && character <= 'f') {
      digit = character - 'a' + 10;
    } else if (character >= 'A' && character <= 'F') {
      digit = character - 'A' + 10;
    } else {
      fail(fmt::format("expected {} hexadecimal digits, found {}.", digits, shown()));
    }
    value = value << 4 | digit;
    ++at_;
  }
  return value;
}

uint32_t PatternReader::decimal() {
  const size_t start = at_;
  uint32_t value = 0;
  while (peek() >= '0' && peek() <= '9') {
    if (at_ - start >= 9) fail_at(start, "expected a number of at most nine digits.");
    value = value * 10 + (take() - '0');
  }
  if (at_ == start) fail(fmt::format("expected a number, found {}.", shown()));
  return value;
}

void PatternReader::counts(uint32_t& minimum, uint32_t& maximum) {
  const size_t start = at_;
  minimum = maximum = decimal();
  if (take_if(",")) maximum = peek() == '}' ? ByteGrammar::no_limit : decimal();
  if (!take_if("}")) fail(fmt::format("expected '}}' after the bounds of a repetition, found {}.", shown()));
  if (minimum > largest_repetition || (maximum != ByteGrammar::no_limit && maximum > largest_repetition)) {
    fail_at(start, fmt::format("expected at most {} repetitions.", largest_repetition));
  }
  if (minimum > maximum) {
    fail_at(start, fmt::format("expected bounds in order, found {} before {}.", minimum, maximum));
  }
}

}  // namespace fathom
