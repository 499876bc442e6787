#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "constrain/byte_grammar.h"

namespace fathom {

/// A decimal number, exactly: sign, digits before the point without leading zeros ("0" for none), digits behind it
/// without trailing zeros.
struct Decimal {
  bool negative = false;
  std::string whole = "0";
  std::string fraction;

  bool zero() const { return whole == "0" && fraction.empty(); }
  friend bool operator==(const Decimal&, const Decimal&) = default;
};

/// Reads a JSON number ("1.5e-7"); nothing if it would have more than `most_digits` digits on a side of the point.
std::optional<Decimal> parse_decimal(std::string_view number, size_t most_digits);

/// Which decimal numbers are meant, and how they may be written: without an exponent, without leading zeros, zero
/// without a sign.
struct DecimalRange {
  std::optional<Decimal> low;
  std::optional<Decimal> high;
  bool low_excluded = false;
  bool high_excluded = false;
  uint32_t whole_digits = 18;    ///< at most, before the point; more if a bound has more
  uint32_t fraction_digits = 0;  ///< at most, behind it
  /// Only multiples of `multiple` / 10^`multiple_scale`; `multiple` is 1 to `largest_multiple`, and the scale is not
  /// less than `fraction_digits` unless `multiple` is 1.
  uint32_t multiple = 1;
  uint32_t multiple_scale = 0;
};

inline constexpr uint32_t largest_multiple = 1000;

/// Exactly the numbers of the range; an expression without a sentence if there are none.
ByteGrammar::Node decimal_range(ByteGrammar& grammar, const DecimalRange& range);

}  // namespace fathom
