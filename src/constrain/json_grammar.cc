#include "constrain/json_grammar.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "constrain/json_parts.h"

namespace fathom {

using Node = ByteGrammar::Node;

std::string json_text(const nlohmann::ordered_json& value) {
  try {
    return value.dump();
  } catch (const nlohmann::ordered_json::exception&) {
    throw_bad_input("A string in a JSON schema is not UTF-8.");
  }
}

Node JsonParts::digits(uint32_t minimum, uint32_t maximum) {
  return grammar_.repeat(grammar_.bytes('0', '9'), minimum, maximum);
}

Node JsonParts::space() {
  if (!layout_.whitespace) return grammar_.empty();
  if (!space_) {
    const Node indent = grammar_.repeat(grammar_.choice({text(" "), text("\t")}), 0, 32);
    const Node some = grammar_.choice({text(" "), grammar_.sequence({text("\n"), indent})});
    space_ = grammar_.shared("whitespace", grammar_.optional(some), true);
  }
  return *space_;
}

Node JsonParts::before_value() {
  return layout_.leading_line_ends ? grammar_.repeat(text("\n"), 0, 2) : grammar_.empty();
}

Node JsonParts::character() {
  if (character_) return *character_;
  CharacterSet raw(0x20, 0x10ffff);
  raw = raw.without({'"', '"'}).without({'\\', '\\'});
  const auto one_of = [&](std::initializer_list<std::pair<char, char>> ranges) {
    std::vector<Node> alternatives;
    for (const auto& [first, last] : ranges) {
      alternatives.push_back(grammar_.bytes(static_cast<uint8_t>(first), static_cast<uint8_t>(last)));
    }
    return grammar_.choice(std::move(alternatives));
  };
  const Node hex = one_of({{'0', '9'}, {'a', 'f'}, {'A', 'F'}});
  const Node not_d = one_of({{'0', '9'}, {'a', 'c'}, {'e', 'f'}, {'A', 'C'}, {'E', 'F'}});
  const Node d = one_of({{'d', 'd'}, {'D', 'D'}});
  const Node high = one_of({{'8', '9'}, {'a', 'b'}, {'A', 'B'}});
  const Node low = one_of({{'c', 'f'}, {'C', 'F'}});
  const Node single =
      one_of({{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}});
  // 3: behind \u; 4, 5, 6: three, two, one digit left; 7: behind \ud; 8 to 13: from \ud8 to the d of the low half.
  const Node escape = grammar_.graph(14, {{0, 2, text("\\")},
                                          {2, 1, single},
                                          {2, 3, text("u")},
                                          {3, 4, not_d},
                                          {4, 5, hex},
                                          {5, 6, hex},
                                          {6, 1, hex},
                                          {3, 7, d},
                                          {7, 5, grammar_.bytes('0', '7')},
                                          {7, 8, high},
                                          {8, 9, hex},
                                          {9, 10, hex},
                                          {10, 11, text("\\")},
                                          {11, 12, text("u")},
                                          {12, 13, d},
                                          {13, 5, low}});
  character_ = grammar_.choice({grammar_.characters(raw), escape});
  return *character_;
}

Node JsonParts::string() {
  if (!string_) {
    const Node inside = grammar_.repeat(character(), 0, ByteGrammar::no_limit);
    string_ = grammar_.shared("string", grammar_.sequence({text("\""), inside, text("\"")}), true);
  }
  return *string_;
}

Node JsonParts::end_of_string(uint32_t maximum) {
  const auto [place, is_new] = ends_.emplace(maximum, 0);
  if (is_new) {
    const Node end = grammar_.sequence({grammar_.repeat(character(), 0, maximum), text("\"")});
    place->second = grammar_.shared("end of a string", end, true);
  }
  return place->second;
}

Node JsonParts::string_of(uint32_t minimum, uint32_t maximum) {
  if (minimum == 0 && maximum == ByteGrammar::no_limit) return string();
  const auto [place, is_new] = strings_.emplace(std::pair(minimum, maximum), 0);
  if (!is_new) return place->second;
  constexpr uint32_t longest_unrolled = 512;
  constexpr uint32_t block = 64;
  Node inside = 0;
  if (minimum <= longest_unrolled && (maximum == ByteGrammar::no_limit || maximum <= longest_unrolled)) {
    inside = grammar_.sequence({grammar_.repeat(character(), minimum, maximum), text("\"")});
  } else {
    // Blocks, and an end with its quotation mark: neither of them can be left after every character, so that masks
    // inside them do not depend on what follows.
    if (!block_) block_ = grammar_.shared("64 characters", grammar_.repeat(character(), block, block), true);
    std::vector<Node> parts{grammar_.repeat(*block_, minimum / block, minimum / block),
                            grammar_.repeat(character(), minimum % block, minimum % block)};
    if (maximum == ByteGrammar::no_limit) {
      parts.push_back(grammar_.repeat(character(), 0, ByteGrammar::no_limit));
      parts.push_back(text("\""));
    } else {
      // Ends reach over the next block, so that while one is left the other still reads any plain token.
      const uint32_t optional = maximum - minimum;
      const uint32_t blocks = optional / block;
      std::vector<ByteGrammar::Edge> edges;
      const auto state = [](uint32_t index) { return index == 0 ? 0 : index + 1; };
      for (uint32_t index = 0; index < blocks; ++index) {
        edges.push_back({state(index), state(index + 1), *block_});
        edges.push_back({state(index), 1, end_of_string(std::min(2 * block - 1, optional - index * block))});
      }
      edges.push_back({state(blocks), 1, end_of_string(optional % block)});
      parts.push_back(grammar_.graph(blocks + 2, edges));
    }
    inside = grammar_.sequence(std::move(parts));
  }
  const Node whole = grammar_.shared("string", grammar_.sequence({text("\""), inside}), true);
  return strings_[{minimum, maximum}] = whole;
}

Node JsonParts::number() {
  if (number_) return *number_;
  const Node whole = grammar_.choice({text("0"), grammar_.sequence({grammar_.bytes('1', '9'), digits(0, 17)})});
  const Node fraction = grammar_.sequence({text("."), digits(1, 18)});
  const Node mark = grammar_.choice({text("e"), text("E")});
  const Node sign = grammar_.optional(grammar_.choice({text("+"), text("-")}));
  const Node exponent = grammar_.sequence({mark, sign, digits(1, 2)});
  const Node number = grammar_.sequence(
      {grammar_.optional(text("-")), whole, grammar_.optional(fraction), grammar_.optional(exponent)});
  number_ = grammar_.shared("number", number);
  return *number_;
}

Node JsonParts::integer() {
  if (integer_) return *integer_;
  const Node positive = grammar_.sequence({grammar_.bytes('1', '9'), digits(0, 17)});
  const Node integer = grammar_.choice({text("0"), grammar_.sequence({grammar_.optional(text("-")), positive})});
  integer_ = grammar_.shared("integer", integer);
  return *integer_;
}

Node JsonParts::list(char open, Node element, char close) {
  const Node more = grammar_.sequence({text(","), space(), element});
  const Node elements = grammar_.sequence({element, grammar_.repeat(more, 0, ByteGrammar::no_limit), space()});
  return grammar_.sequence(
      {text(std::string_view(&open, 1)), space(), grammar_.optional(elements), text(std::string_view(&close, 1))});
}

Node JsonParts::any_object() {
  const Node inside = grammar_.repeat(character(), 0, ByteGrammar::no_limit);
  const Node member = grammar_.sequence({text("\""), inside, text("\":"), space(), any_value()});
  return list('{', member, '}');
}

Node JsonParts::any_array() {
  return list('[', any_value(), ']');
}

Node JsonParts::any_value() {
  if (value_) return *value_;
  const ByteGrammar::Rule rule = grammar_.declare("value");
  value_ = grammar_.reference(rule);
  const Node inside = grammar_.repeat(character(), 0, ByteGrammar::no_limit);
  const Node string = grammar_.sequence({text("\""), inside, text("\"")});
  const Node value =
      grammar_.choice({any_object(), any_array(), string, number(), text("true"), text("false"), text("null")});
  grammar_.define(rule, value, true);
  return *value_;
}

Node JsonParts::exactly(const nlohmann::ordered_json& value) {
  if (!value.is_structured() || value.empty()) return text(json_text(value));
  std::vector<Node> parts{text(value.is_object() ? "{" : "["), space()};
  bool first = true;
  for (const auto& [name, element] : value.items()) {
    if (!first) parts.insert(parts.end(), {text(","), space()});
    first = false;
    if (value.is_object()) parts.insert(parts.end(), {text(json_text(name) + ":"), space()});
    parts.push_back(exactly(element));
  }
  parts.insert(parts.end(), {space(), text(value.is_object() ? "}" : "]")});
  return grammar_.sequence(std::move(parts));
}

ByteGrammar json_grammar(bool object_only, const JsonLayout& layout) {
  ByteGrammar grammar;
  JsonParts parts(grammar, layout);
  grammar.root = grammar.declare("json");
  const Node value = object_only ? parts.any_object() : parts.any_value();
  grammar.define(grammar.root, grammar.sequence({parts.before_value(), value}));
  return grammar;
}

}  // namespace fathom
