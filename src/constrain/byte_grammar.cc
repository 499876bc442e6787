#include "constrain/byte_grammar.h"

#include <algorithm>
#include <array>
#include <map>

#include "base/error.h"

namespace fathom {
namespace {

constexpr uint32_t last_character = 0x10ffff;
constexpr uint32_t first_surrogate = 0xd800;
constexpr uint32_t last_surrogate = 0xdfff;

std::string encode(uint32_t character) {
  std::string out;
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (character >> shift & 0x3f)); };
  if (character < 0x80) {
    out += static_cast<char>(character);
  } else if (character < 0x800) {
    out += static_cast<char>(0xc0 | character >> 6);
    tail(0);
  } else if (character < 0x10000) {
    out += static_cast<char>(0xe0 | character >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xf0 | character >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
  return out;
}

/// Byte ranges, one after another.
using ByteRun = std::vector<std::array<uint8_t, 2>>;

/// Splits a range of characters into runs whose encodings are a product of byte ranges, and appends those.
void append_utf8_ranges(uint32_t first, uint32_t last, std::vector<ByteRun>& out) {
  for (const uint32_t limit : {0x7fu, 0x7ffu, 0xffffu}) {
    if (first <= limit && last > limit) {
      append_utf8_ranges(first, limit, out);
      append_utf8_ranges(limit + 1, last, out);
      return;
    }
  }
  for (int shift = 6; shift <= 18 && last >= 0x80; shift += 6) {
    const uint32_t mask = (1u << shift) - 1;
    if ((first & ~mask) == (last & ~mask)) continue;
    if ((first & mask) != 0) {
      append_utf8_ranges(first, first | mask, out);
      append_utf8_ranges((first | mask) + 1, last, out);
      return;
    }
    if ((last & mask) != mask) {
      append_utf8_ranges(first, (last & ~mask) - 1, out);
      append_utf8_ranges(last & ~mask, last, out);
      return;
    }
  }
  const std::string low = encode(first);
  const std::string high = encode(last);
  ByteRun run;
  for (size_t index = 0; index < low.size(); ++index) {
    run.push_back({static_cast<uint8_t>(low[index]), static_cast<uint8_t>(high[index])});
  }
  out.push_back(std::move(run));
}

}  // namespace

void CharacterSet::add(uint32_t first, uint32_t last) {
  last = std::min(last, last_character);
  if (first > last) return;
  if (first <= last_surrogate && last >= first_surrogate) {
    if (first < first_surrogate) add(first, first_surrogate - 1);
    if (last > last_surrogate) add(last_surrogate + 1, last);
    return;
  }
  // The ranges that overlap or touch the new one become one with it.
  auto begin =
      std::find_if(ranges_.begin(), ranges_.end(), [&](const Range& range) { return range.last + 1 >= first; });
  auto end = begin;
  Range joined{first, last};
  for (; end != ranges_.end() && end->first <= last + 1; ++end) {
    joined.first = std::min(joined.first, end->first);
    joined.last = std::max(joined.last, end->last);
  }
  ranges_.insert(ranges_.erase(begin, end), joined);
}

void CharacterSet::add(const CharacterSet& other) {
  for (const Range& range : other.ranges_) add(range.first, range.last);
}

CharacterSet CharacterSet::complement() const {
  CharacterSet result;
  uint32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) result.add(next, range.first - 1);
    next = range.last + 1;
  }
  result.add(next, last_character);
  return result;
}

CharacterSet CharacterSet::without(const CharacterSet& other) const {
  CharacterSet rest = complement();
  rest.add(other);
  return rest.complement();
}

ByteGrammar::Node ByteGrammar::add(Part part) {
  if (parts_.size() >= largest_grammar_nodes || children_.size() + edges_.size() >= 2 * largest_grammar_nodes ||
      text_.size() >= 8 * largest_grammar_nodes) {
    throw_bad_input("The grammar is too large: expected at most {} parts.", largest_grammar_nodes);
  }
  if (part.depth > deepest_grammar_node) {
    throw_bad_input("The grammar is nested too deeply: expected at most {} levels.", deepest_grammar_node);
  }
  parts_.push_back(part);
  return static_cast<Node>(parts_.size() - 1);
}

uint16_t ByteGrammar::above(const std::vector<Node>& nodes) const {
  uint16_t depth = 0;
  for (const Node node : nodes) depth = std::max(depth, parts_[node].depth);
  return static_cast<uint16_t>(depth + 1);
}

ByteGrammar::Node ByteGrammar::literal(std::string_view bytes) {
  const auto first = static_cast<uint32_t>(text_.size());
  text_ += bytes;
  return add({Kind::literal, 0, first, static_cast<uint32_t>(bytes.size()), 0, 0});
}

ByteGrammar::Node ByteGrammar::bytes(uint8_t first, uint8_t last) {
  return add({Kind::bytes, 0, first, last, 0, 0});
}

ByteGrammar::Node ByteGrammar::sequence(std::vector<Node> parts) {
  if (parts.size() == 1) return parts[0];
  const auto first = static_cast<uint32_t>(children_.size());
  children_.insert(children_.end(), parts.begin(), parts.end());
  return add({Kind::sequence, above(parts), first, static_cast<uint32_t>(parts.size()), 0, 0});
}

ByteGrammar::Node ByteGrammar::choice(std::vector<Node> alternatives) {
  if (alternatives.size() == 1) return alternatives[0];
  const auto first = static_cast<uint32_t>(children_.size());
  children_.insert(children_.end(), alternatives.begin(), alternatives.end());
  return add({Kind::choice, above(alternatives), first, static_cast<uint32_t>(alternatives.size()), 0, 0});
}

ByteGrammar::Node ByteGrammar::repeat(Node node, uint32_t minimum, uint32_t maximum) {
  if (minimum == 1 && maximum == 1) return node;
  if (maximum == 0) return empty();
  return add({Kind::repeat, above({node}), node, 1, minimum, maximum});
}

ByteGrammar::Node ByteGrammar::graph(uint32_t states, const std::vector<Edge>& edges) {
  std::vector<Node> labels;
  for (const Edge& edge : edges) labels.push_back(edge.label);
  const auto first = static_cast<uint32_t>(edges_.size());
  edges_.insert(edges_.end(), edges.begin(), edges.end());
  return add({Kind::graph, above(labels), first, static_cast<uint32_t>(edges.size()), states, 0});
}

ByteGrammar::Node ByteGrammar::reference(Rule rule) {
  return add({Kind::reference, 0, rule, 0, 0, 0});
}

ByteGrammar::Node ByteGrammar::characters(const CharacterSet& set) {
  std::vector<ByteRun> runs;
  for (const CharacterSet::Range& range : set.ranges()) append_utf8_ranges(range.first, range.last, runs);
  // One state for each way to go on, so that the many lead bytes share what follows: 11 states for all of Unicode.
  std::map<ByteRun, uint32_t> state_of{{ByteRun{}, 1}};
  std::vector<Edge> edges;
  for (const ByteRun& run : runs) {
    uint32_t from = 0;
    for (auto at = run.begin(); at != run.end(); ++at) {
      const auto [place, is_new] = state_of.emplace(ByteRun(at + 1, run.end()), state_of.size() + 1);
      edges.push_back({from, place->second, bytes((*at)[0], (*at)[1])});
      if (!is_new) break;  // the rest is there already
      from = place->second;
    }
  }
  if (state_of.size() > 1) return graph(static_cast<uint32_t>(state_of.size()) + 1, edges);
  std::vector<Node> alternatives;
  for (const Edge& edge : edges) alternatives.push_back(edge.label);
  return choice(std::move(alternatives));
}

ByteGrammar::Node ByteGrammar::json_characters(const CharacterSet& set) {
  CharacterSet escaped(0, 0x1f);
  escaped.add('"', '"');
  escaped.add('\\', '\\');
  std::vector<Node> alternatives{characters(set.without(escaped))};
  const CharacterSet rest = set.without(escaped.complement());
  for (const CharacterSet::Range& range : rest.ranges()) {
    for (uint32_t character = range.first; character <= range.last; ++character) {
      constexpr std::string_view controls = "\b\f\n\r\t";
      constexpr std::string_view letters = "bfnrt";
      const size_t control = character == 0 ? std::string_view::npos : controls.find(static_cast<char>(character));
      std::string text = "\\";
      if (character >= 0x20) {
        text += static_cast<char>(character);
      } else if (control != std::string_view::npos) {
        text += letters[control];
      } else {
        constexpr std::string_view digits = "0123456789abcdef";
        text += "u00";
        text += digits[character >> 4];
        text += digits[character & 15];
      }
      alternatives.push_back(literal(text));
    }
  }
  return choice(std::move(alternatives));
}

ByteGrammar::Rule ByteGrammar::declare(std::string name) {
  if (rules_.size() >= largest_grammar_rules) {
    throw_bad_input("The grammar is too large: expected at most {} rules.", largest_grammar_rules);
  }
  rules_.push_back({std::move(name), 0, false, false});
  return static_cast<Rule>(rules_.size() - 1);
}

void ByteGrammar::define(Rule rule, Node body, bool separate) {
  rules_[rule].body = body;
  rules_[rule].defined = true;
  rules_[rule].separate = separate;
}

ByteGrammar::Node ByteGrammar::shared(std::string name, Node body, bool separate) {
  const Rule rule = declare(std::move(name));
  define(rule, body, separate);
  return reference(rule);
}

}  // namespace fathom
