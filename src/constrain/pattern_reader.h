#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "constrain/byte_grammar.h"

namespace fathom {

/// The characters of a text that describes a grammar, with a place in it for sentences.
class PatternReader {
 public:
  /// `what` begins every sentence ("The pattern"). `bad_input` if `text` is not UTF-8 or longer than a million bytes.
  PatternReader(std::string_view text, std::string what);

  bool at_end(size_t ahead = 0) const { return at_ + ahead >= characters_.size(); }
  /// 0 at the end: the text itself holds no NUL.
  uint32_t peek(size_t ahead = 0) const { return at_end(ahead) ? 0 : characters_[at_ + ahead]; }
  uint32_t take() { return characters_[at_++]; }
  /// Whether the text goes on with these ASCII characters, which are then taken.
  bool take_if(std::string_view text);
  bool goes_on_with(std::string_view text) const;
  size_t position() const { return at_; }
  void go_to(size_t position) { at_ = position; }

  /// "…, line 2, column 5: SENTENCE" with the place of `position`; `bad_input`.
  [[noreturn]] void fail_at(size_t position, const std::string& sentence) const;
  [[noreturn]] void fail(const std::string& sentence) const { fail_at(at_, sentence); }

  /// Exactly `digits` hexadecimal digits.
  uint32_t hexadecimal(int digits);
  /// A decimal number of at most nine digits.
  uint32_t decimal();
  /// The bounds of a repetition behind its `{`, up to and including `}`.
  void counts(uint32_t& minimum, uint32_t& maximum);
  /// The next character as a sentence shows it.
  std::string shown() const;

 private:
  std::string what_;
  std::vector<uint32_t> characters_;
  size_t at_ = 0;
};

inline constexpr uint32_t largest_repetition = 100'000;

}  // namespace fathom
