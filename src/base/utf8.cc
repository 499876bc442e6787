#include "base/utf8.h"

#include <cstring>

namespace fathom {
namespace {

constexpr std::string_view replacement = "\xef\xbf\xbd";

/// Bytes of the ASCII run at the start, counted in words of eight.
size_t ascii_words(std::string_view text) {
  size_t at = 0;
  while (at + 8 <= text.size()) {
    uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    if ((word & 0x8080808080808080u) != 0) break;
    at += 8;
  }
  return at;
}

}  // namespace

Utf8Step utf8_step(std::string_view text) {
  using Kind = Utf8Step::Kind;
  const auto byte = [&](size_t index) { return static_cast<uint8_t>(text[index]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {Kind::character, 1};
  if (lead < 0xc2 || lead > 0xf4) return {Kind::invalid, 1};
  // Only the second byte has a narrower range: overlong forms, surrogates and code points above U+10FFFF end here.
  uint8_t low = 0x80;
  uint8_t high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  const uint8_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  for (uint8_t index = 1; index < length; ++index) {
    if (index >= text.size()) return {Kind::truncated, index};
    if (byte(index) < low || byte(index) > high) return {Kind::invalid, index};
    low = 0x80;
    high = 0xbf;
  }
  return {Kind::character, length};
}

size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    at += ascii_words(text.substr(at));
    if (at >= text.size()) break;
    const Utf8Step step = utf8_step(text.substr(at));
    if (step.kind != Utf8Step::Kind::character) return at;
    at += step.bytes;
  }
  return at;
}

size_t append_lossy(std::string& out, std::string_view bytes, bool keep_truncated) {
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t valid = utf8_valid_prefix(bytes.substr(at));
    out.append(bytes, at, valid);
    at += valid;
    if (at >= bytes.size()) break;
    const Utf8Step step = utf8_step(bytes.substr(at));
    if (keep_truncated && step.kind == Utf8Step::Kind::truncated) break;
    out.append(replacement);
    at += step.bytes;
  }
  return at;
}

uint32_t utf8_code_point(std::string_view text) {
  const auto byte = [&](size_t index) { return static_cast<uint32_t>(static_cast<uint8_t>(text[index])); };
  const uint32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xe0) return (lead & 0x1fu) << 6 | (byte(1) & 0x3fu);
  if (lead < 0xf0) return (lead & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu);
  return (lead & 0x07u) << 18 | (byte(1) & 0x3fu) << 12 | (byte(2) & 0x3fu) << 6 | (byte(3) & 0x3fu);
}

bool is_white_space(uint32_t code_point) {
  return (code_point >= 0x09 && code_point <= 0x0d) || code_point == 0x20 || code_point == 0x85 || code_point == 0xa0 ||
         code_point == 0x1680 || (code_point >= 0x2000 && code_point <= 0x200a) || code_point == 0x2028 ||
         code_point == 0x2029 || code_point == 0x202f || code_point == 0x205f || code_point == 0x3000;
}

}  // namespace fathom
