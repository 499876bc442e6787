#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fathom {

/// What stands at the start of some bytes.
struct Utf8Step {
  enum class Kind {
    character,  ///< a whole character
    invalid,    ///< bytes that no continuation makes valid: one U+FFFD
    truncated,  ///< the text ends inside a character that is valid so far
  };
  Kind kind;
  uint8_t bytes;  ///< length, 1 to 4; of an invalid sequence, its maximal subpart (Unicode 3.9, table 3-8)
};

/// Classifies the start of `text`, which is not empty.
Utf8Step utf8_step(std::string_view text);

/// Length of the longest prefix that is valid UTF-8; the whole size if all of it is.
size_t utf8_valid_prefix(std::string_view text);

/// Appends `bytes`, with each maximal subpart of an ill-formed sequence as one U+FFFD (as Rust's `from_utf8_lossy`).
///
/// If `keep_truncated`, a character cut off at the end is left out. Returns the number of bytes used.
size_t append_lossy(std::string& out, std::string_view bytes, bool keep_truncated);

/// Code point of the character at the start of valid, not empty text.
uint32_t utf8_code_point(std::string_view text);

/// Unicode White_Space.
bool is_white_space(uint32_t code_point);

}  // namespace fathom
