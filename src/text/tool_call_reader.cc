#include "text/tool_call_reader.h"

#include <algorithm>

#include "text/control_tokens.h"

namespace fathom {
namespace {

constexpr std::string_view blanks = " \t\r\n";
constexpr std::string_view fence = "```";

std::string_view without_leading_blanks(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(blanks), text.size()));
  return text;
}

std::string_view without_trailing_blanks(std::string_view text) {
  return text.substr(0, text.find_last_not_of(blanks) + 1);
}

bool is_letter(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}

bool begins_a_name(char character) {
  return is_letter(character) || (character >= '0' && character <= '9') || character == '_' || character == '-';
}

/// Size of the arguments if nothing followed them: without blanks and the closing fence, or a part of it at the end.
size_t certain_size(std::string_view text, bool fenced) {
  const std::string_view body = without_trailing_blanks(text);
  if (!fenced) return body.size();
  size_t ticks = 0;
  while (ticks < fence.size() && ticks < body.size() && body[body.size() - 1 - ticks] == '`') ++ticks;
  // Fewer than three with blanks behind them do not become a fence.
  if (ticks == 0 || (ticks < fence.size() && body.size() != text.size())) return body.size();
  return without_trailing_blanks(body.substr(0, body.size() - ticks)).size();
}

}  // namespace

ToolCallReader::Piece ToolCallReader::push(std::string_view text) {
  Piece piece;
  read(text, piece);
  return piece;
}

ToolCallReader::Piece ToolCallReader::separator() {
  Piece piece;
  if (stage_ == Stage::head) {
    type_ = without_trailing_blanks(held_);
    held_.clear();
    name_bytes_ = 0;
    name_ended_ = false;
    stage_ = Stage::name;
  } else if (stage_ == Stage::name) {
    if (!held_.empty() || !type_.empty()) set_name(held_.empty() ? type_ : std::string(held_), piece);
  } else {
    read(control_tokens::tool_sep, piece);
  }
  return piece;
}

ToolCallReader::Piece ToolCallReader::close() {
  Piece piece;
  if (!named_) {
    set_name(held_.empty() ? type_ : std::string(held_), piece);
    return piece;
  }
  std::string_view rest = without_trailing_blanks(held_);
  if (fenced_ && rest.ends_with(fence)) rest = without_trailing_blanks(rest.substr(0, rest.size() - fence.size()));
  piece.arguments = rest;
  held_.clear();
  return piece;
}

void ToolCallReader::set_name(std::string_view name, Piece& piece) {
  piece.name = std::string(without_trailing_blanks(name));
  named_ = true;
  held_.clear();
  stage_ = Stage::opening;
}

void ToolCallReader::read(std::string_view text, Piece& piece) {
  if (stage_ <= Stage::name) {
    read_name(text, piece);
  } else {
    read_arguments(text, piece);
  }
}

void ToolCallReader::read_name(std::string_view text, Piece& piece) {
  if (held_.empty()) text = without_leading_blanks(text);
  if (text.empty()) return;
  const size_t before = held_.size();
  held_ += text;
  // In V3.1's form the name stood before the separator. A tool may have the name "function".
  if (stage_ == Stage::name && !type_.empty() && !(type_ == "function" && begins_a_name(held_[0]))) {
    const std::string arguments = held_;
    set_name(type_, piece);
    read_arguments(arguments, piece);
    return;
  }
  if (!name_ended_) {
    const size_t end = held_.find_first_of("\n`{", before);
    if (end == std::string::npos) return;
    name_ended_ = true;
    name_bytes_ = end;
  }
  // Before a separator it was the type: only what comes next tells.
  const size_t next = held_.find_first_not_of(blanks, std::max(name_bytes_, before));
  if (stage_ == Stage::head && next == std::string::npos) return;
  const std::string all = held_;
  set_name(std::string_view(all).substr(0, name_bytes_), piece);
  read_arguments(std::string_view(all).substr(name_bytes_), piece);
}

void ToolCallReader::read_arguments(std::string_view text, Piece& piece) {
  if (stage_ == Stage::opening) {
    if (held_.empty()) text = without_leading_blanks(text);
    held_ += text;
    if (held_.size() < fence.size() && fence.starts_with(held_)) return;
    fenced_ = held_.starts_with(fence);
    stage_ = fenced_ ? Stage::fence : Stage::arguments;
    const std::string rest = held_.substr(fenced_ ? fence.size() : 0);
    held_.clear();
    read_arguments(rest, piece);
    return;
  }
  if (stage_ == Stage::fence) {
    text.remove_prefix(static_cast<size_t>(std::find_if_not(text.begin(), text.end(), is_letter) - text.begin()));
    if (text.empty()) return;
    stage_ = Stage::fence_end;
  }
  if (stage_ == Stage::fence_end) {
    text = without_leading_blanks(text);
    if (text.empty()) return;
    stage_ = Stage::arguments;
  }
  held_ += text;
  // Blanks alone make nothing certain; this keeps a long run of them from being looked at again and again.
  if (without_leading_blanks(text).empty()) return;
  const size_t certain = certain_size(held_, fenced_);
  piece.arguments.append(held_, 0, certain);
  held_.erase(0, certain);
}

}  // namespace fathom
