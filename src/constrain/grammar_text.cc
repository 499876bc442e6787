#include "constrain/grammar_text.h"

#include <fmt/format.h>

#include <map>

#include "constrain/pattern_reader.h"

namespace fathom {
namespace {

using Node = ByteGrammar::Node;

bool is_name_character(uint32_t character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         (character >= '0' && character <= '9') || character == '-' || character == '_';
}

class GrammarParser {
 public:
  explicit GrammarParser(std::string_view text) : reader_(text, "The grammar") {}

  ByteGrammar parse() {
    skip_blanks();
    while (!reader_.at_end()) {
      const size_t start = reader_.position();
      const std::string defined = name();
      skip_blanks();
      if (!reader_.take_if("::=")) {
        reader_.fail(fmt::format("expected '::=' behind the name \"{}\", found {}.", defined, reader_.shown()));
      }
      skip_blanks();
      const ByteGrammar::Rule rule = rule_named(defined, start);
      if (grammar_.rules()[rule].defined) {
        reader_.fail_at(start, fmt::format("the rule \"{}\" is defined twice.", defined));
      }
      grammar_.define(rule, alternatives(0));
      if (!reader_.at_end() && !at_rule()) {
        reader_.fail(fmt::format("expected the next rule or the end, found {}.", reader_.shown()));
      }
    }
    for (const auto& [used, place] : rules_) {
      if (!grammar_.rules()[place.rule].defined) {
        reader_.fail_at(place.position, fmt::format("the rule \"{}\" is not defined.", used));
      }
    }
    const auto root = rules_.find("root");
    if (root == rules_.end()) reader_.fail_at(0, "expected a rule with the name \"root\", found none.");
    grammar_.root = root->second.rule;
    return std::move(grammar_);
  }

 private:
  struct Place {
    ByteGrammar::Rule rule;
    size_t position;  // of its first use or definition
  };

  void skip_blanks() {
    while (!reader_.at_end()) {
      const uint32_t character = reader_.peek();
      if (character == '#') {
        while (!reader_.at_end() && reader_.peek() != '\n') reader_.take();
      } else if (character == ' ' || character == '\t' || character == '\n' || character == '\r') {
        reader_.take();
      } else {
        return;
      }
    }
  }

  std::string name() {
    std::string text;
    while (!reader_.at_end() && is_name_character(reader_.peek())) text += static_cast<char>(reader_.take());
    if (text.empty()) reader_.fail(fmt::format("expected the name of a rule, found {}.", reader_.shown()));
    if (text.size() > 200) reader_.fail("expected a name of at most 200 letters.");
    return text;
  }

  ByteGrammar::Rule rule_named(const std::string& text, size_t position) {
    const auto found = rules_.find(text);
    if (found != rules_.end()) return found->second.rule;
    const ByteGrammar::Rule rule = grammar_.declare(text);
    rules_.emplace(text, Place{rule, position});
    return rule;
  }

  /// Whether a name and `::=` come next.
  bool at_rule() {
    const size_t start = reader_.position();
    while (!reader_.at_end() && is_name_character(reader_.peek())) reader_.take();
    const bool has_name = reader_.position() > start;
    skip_blanks();
    const bool result = has_name && reader_.goes_on_with("::=");
    reader_.go_to(start);
    return result;
  }

  Node alternatives(int depth) {
    std::vector<Node> nodes;
    do {
      skip_blanks();
      nodes.push_back(sequence(depth));
    } while (reader_.take_if("|"));
    return grammar_.choice(std::move(nodes));
  }

  Node sequence(int depth) {
    std::vector<Node> nodes;
    while (!reader_.at_end() && reader_.peek() != '|' && reader_.peek() != ')' && !at_rule()) {
      Node node = element(depth);
      skip_blanks();
      while (is_repetition(reader_.peek())) {
        uint32_t minimum = 0;
        uint32_t maximum = ByteGrammar::no_limit;
        const uint32_t sign = reader_.take();
        if (sign == '+') minimum = 1;
        if (sign == '?') maximum = 1;
        if (sign == '{') reader_.counts(minimum, maximum);
        node = grammar_.repeat(node, minimum, maximum);
        skip_blanks();
      }
      nodes.push_back(node);
    }
    return grammar_.sequence(std::move(nodes));
  }

  static bool is_repetition(uint32_t sign) { return sign == '*' || sign == '+' || sign == '?' || sign == '{'; }

  Node element(int depth) {
    const size_t start = reader_.position();
    if (reader_.take_if("\"")) {
      std::vector<Node> characters;
      while (!reader_.take_if("\"")) {
        if (reader_.at_end()) reader_.fail_at(start, "expected '\"' at the end of this text, found none.");
        const uint32_t character = one_character();
        characters.push_back(grammar_.characters({character, character}));
      }
      return grammar_.sequence(std::move(characters));
    }
    if (reader_.take_if("[")) return character_class(start);
    if (reader_.take_if(".")) return grammar_.characters({0, 0x10ffff});
    if (reader_.take_if("(")) {
      if (depth >= deepest_grammar_input) {
        reader_.fail_at(start, fmt::format("expected parentheses at most {} deep.", deepest_grammar_input));
      }
      const Node node = alternatives(depth + 1);
      if (!reader_.take_if(")")) reader_.fail_at(start, "expected ')' for this parenthesis, found none.");
      return node;
    }
    if (!is_name_character(reader_.peek())) {
      reader_.fail(fmt::format("expected a text, a class, a name or '(', found {}.", reader_.shown()));
    }
    const std::string used = name();
    return grammar_.reference(rule_named(used, start));
  }

  Node character_class(size_t start) {
    const bool negated = reader_.take_if("^");
    CharacterSet set;
    while (!reader_.take_if("]")) {
      if (reader_.at_end()) reader_.fail_at(start, "expected ']' for this class, found none.");
      const size_t item = reader_.position();
      const uint32_t first = one_character();
      uint32_t last = first;
      if (reader_.peek() == '-' && reader_.peek(1) != ']' && !reader_.at_end(1)) {
        reader_.take();
        last = one_character();
      }
      if (first > last) reader_.fail_at(item, "expected a range of ascending characters.");
      set.add(first, last);
    }
    if (negated) set = set.complement();
    if (set.empty()) reader_.fail_at(start, "expected a class with at least one character.");
    return grammar_.characters(set);
  }

  uint32_t one_character() {
    const size_t start = reader_.position();
    const uint32_t character = reader_.take();
    if (character != '\\') return character;
    if (reader_.at_end()) reader_.fail_at(start, "expected a character behind '\\', found the end.");
    const uint32_t letter = reader_.take();
    switch (letter) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return reader_.hexadecimal(2);
      case 'u':
      case 'U': {
        const uint32_t number = reader_.hexadecimal(letter == 'u' ? 4 : 8);
        if (number > 0x10ffff || (number >= 0xd800 && number <= 0xdfff)) {
          reader_.fail_at(start, "expected a Unicode character, found a surrogate or a number above 10FFFF.");
        }
        return number;
      }
      case '\\':
      case '"':
      case '\'':
      case '[':
      case ']':
      case '-':
      case '^':
      case '/':
        return letter;
      default:
        reader_.fail_at(start, "expected one of n, r, t, x, u, U, \\, \", [, ], - and ^ behind '\\'.");
    }
  }

  PatternReader reader_;
  ByteGrammar grammar_;
  std::map<std::string, Place> rules_;
};

}  // namespace

ByteGrammar grammar_from_text(std::string_view text) {
  return GrammarParser(text).parse();
}

}  // namespace fathom
