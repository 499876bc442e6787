#include "constrain/decimal_range.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>
#include <vector>

namespace fathom {
namespace {

using Node = ByteGrammar::Node;

/// One digit after another: how much of a bound has been copied so far, and the remainder.
struct Progress {
  bool in_fraction;
  uint32_t digits;   // before the point: those still to come; behind it: those read
  bool at_low;       // equal to the low bound so far
  bool at_high;      // equal to the high bound so far
  bool after_digit;  // false: directly behind the point
  uint32_t remainder;

  auto key() const { return std::tie(in_fraction, digits, at_low, at_high, after_digit, remainder); }
  bool operator<(const Progress& other) const { return key() < other.key(); }
};

/// The numbers of a range whose bounds are not negative, as a graph.
class RangeGraph {
 public:
  RangeGraph(ByteGrammar& grammar, const DecimalRange& range, const Decimal& low, bool low_excluded,
             const std::optional<Decimal>& high, bool high_excluded)
      : grammar_(grammar),
        range_(range),
        low_(low),
        high_(high),
        low_excluded_(low_excluded),
        high_excluded_(high_excluded) {
    for (char digit = '0'; digit <= '9'; ++digit) {
      digits_.push_back(grammar.bytes(static_cast<uint8_t>(digit), static_cast<uint8_t>(digit)));
    }
    point_ = grammar.literal(".");
    nothing_ = grammar.empty();
  }

  Node build() {
    const size_t longest = high_ ? high_->whole.size() : std::max<size_t>(range_.whole_digits, low_.whole.size());
    for (size_t length = low_.whole.size(); length <= longest; ++length) {
      const bool at_low = length == low_.whole.size();
      const bool at_high = high_ && length == high_->whole.size();
      const Progress before{false, static_cast<uint32_t>(length), at_low, at_high, false, 0};
      read_digits(0, before, length > 1 ? 1 : 0);
    }
    while (!pending_.empty()) {
      const auto [state, progress] = pending_.back();
      pending_.pop_back();
      follow(state, progress);
    }
    return grammar_.graph(states_, edges_);
  }

 private:
  /// Digit of a bound that belongs to the next digit read.
  int bound_digit(const Decimal& bound, const Progress& progress) const {
    if (!progress.in_fraction) return bound.whole[bound.whole.size() - progress.digits] - '0';
    return progress.digits < bound.fraction.size() ? bound.fraction[progress.digits] - '0' : 0;
  }

  uint32_t state_of(const Progress& progress) {
    const auto [place, is_new] = state_of_.emplace(progress, states_);
    if (is_new) {
      ++states_;
      pending_.emplace_back(place->second, progress);
    }
    return place->second;
  }

  void read_digits(uint32_t from, const Progress& before, int least) {
    const int low = before.at_low ? bound_digit(low_, before) : 0;
    const int high = before.at_high ? bound_digit(*high_, before) : 9;
    for (int digit = std::max(least, low); digit <= high; ++digit) {
      Progress after = before;
      after.digits = before.in_fraction ? before.digits + 1 : before.digits - 1;
      after.at_low = before.at_low && digit == low;
      after.at_high = before.at_high && digit == high;
      after.after_digit = true;
      after.remainder = (before.remainder * 10 + static_cast<uint32_t>(digit)) % range_.multiple;
      edges_.push_back({from, state_of(after), digits_[static_cast<size_t>(digit)]});
    }
  }

  /// Whether the number may end here.
  bool complete(const Progress& progress) const {
    if (!progress.after_digit) return false;
    const size_t read = progress.in_fraction ? progress.digits : 0;
    // Bounds have no trailing zeros, so digits that are left make a bound greater than what has been read of it.
    if (progress.at_low && (low_excluded_ || read < low_.fraction.size())) return false;
    if (progress.at_high && high_excluded_ && read >= high_->fraction.size()) return false;
    uint64_t remainder = progress.remainder;
    for (size_t digit = read; digit < range_.multiple_scale; ++digit) remainder = remainder * 10 % range_.multiple;
    return remainder == 0;
  }

  void follow(uint32_t state, const Progress& progress) {
    if (!progress.in_fraction && progress.digits > 0) {
      read_digits(state, progress, 0);
      return;
    }
    if (complete(progress)) edges_.push_back({state, 1, nothing_});
    if (!progress.in_fraction && range_.fraction_digits > 0) {
      Progress after = progress;
      after.in_fraction = true;
      after.after_digit = false;
      edges_.push_back({state, state_of(after), point_});
    } else if (progress.in_fraction && progress.digits < range_.fraction_digits) {
      read_digits(state, progress, 0);
    }
  }

  ByteGrammar& grammar_;
  const DecimalRange& range_;
  const Decimal low_;
  const std::optional<Decimal> high_;
  const bool low_excluded_;
  const bool high_excluded_;
  std::vector<Node> digits_;
  Node point_ = 0;
  Node nothing_ = 0;
  uint32_t states_ = 2;
  std::vector<ByteGrammar::Edge> edges_;
  std::map<Progress, uint32_t> state_of_;
  std::vector<std::pair<uint32_t, Progress>> pending_;
};

}  // namespace

std::optional<Decimal> parse_decimal(std::string_view number, size_t most_digits) {
  Decimal result;
  result.negative = !number.empty() && number[0] == '-';
  if (result.negative) number.remove_prefix(1);
  const size_t mark = std::min(number.find_first_of("eE"), number.size());
  int exponent = 0;
  if (mark < number.size()) {
    std::string_view text = number.substr(mark + 1);
    if (!text.empty() && text[0] == '+') text.remove_prefix(1);
    std::from_chars(text.data(), text.data() + text.size(), exponent);
    if (exponent > 1000 || exponent < -1000) return std::nullopt;
  }
  const std::string_view mantissa = number.substr(0, mark);
  const size_t point = std::min(mantissa.find('.'), mantissa.size());
  std::string digits(mantissa.substr(0, point));
  if (point < mantissa.size()) digits += mantissa.substr(point + 1);
  int64_t split = static_cast<int64_t>(point) + exponent;
  if (split < 0) {
    digits.insert(0, static_cast<size_t>(-split), '0');
    split = 0;
  }
  if (split > static_cast<int64_t>(digits.size())) digits.resize(static_cast<size_t>(split), '0');
  result.whole = digits.substr(0, static_cast<size_t>(split));
  result.fraction = digits.substr(static_cast<size_t>(split));
  result.whole.erase(0, std::min(result.whole.find_first_not_of('0'), result.whole.size()));
  result.fraction.erase(result.fraction.find_last_not_of('0') + 1);
  if (result.whole.empty()) result.whole = "0";
  if (result.whole.size() > most_digits || result.fraction.size() > most_digits) return std::nullopt;
  if (result.zero()) result.negative = false;
  return result;
}

ByteGrammar::Node decimal_range(ByteGrammar& grammar, const DecimalRange& range) {
  const auto absolute = [](Decimal value) {
    value.negative = false;
    return value;
  };
  const Decimal zero;
  std::vector<Node> alternatives;
  if (!range.high || !range.high->negative) {
    const bool from_zero = !range.low || range.low->negative;
    const Decimal low = from_zero ? zero : *range.low;
    RangeGraph graph(grammar, range, low, !from_zero && range.low_excluded, range.high, range.high_excluded);
    alternatives.push_back(graph.build());
  }
  if (!range.low || range.low->negative) {
    const bool to_zero = !range.high || !range.high->negative;
    const Decimal nearest = to_zero ? zero : absolute(*range.high);
    const std::optional<Decimal> farthest =
        range.low ? std::optional<Decimal>(absolute(*range.low)) : std::optional<Decimal>();
    RangeGraph graph(grammar, range, nearest, to_zero || range.high_excluded, farthest, range.low_excluded);
    alternatives.push_back(grammar.sequence({grammar.literal("-"), graph.build()}));
  }
  return grammar.choice(std::move(alternatives));
}

}  // namespace fathom
