#include "constrain/regex_grammar.h"

#include <fmt/format.h>

#include <optional>

#include "constrain/pattern_reader.h"

namespace fathom {
namespace {

using Node = ByteGrammar::Node;

CharacterSet digits() {
  return {'0', '9'};
}

CharacterSet word_characters() {
  CharacterSet set('0', '9');
  set.add('A', 'Z');
  set.add('a', 'z');
  set.add('_', '_');
  return set;
}

CharacterSet blanks() {
  CharacterSet set(0x09, 0x0d);
  set.add(' ', ' ');
  return set;
}

/// What some dialect takes for a blank. A text may only match if it does in every dialect, so this is what \S and [^\s]
/// leave out, and `blanks` what \s and [^\S] read.
CharacterSet unicode_blanks() {
  CharacterSet set = blanks();
  for (const uint32_t one : {0x85u, 0xa0u, 0x1680u, 0x180eu, 0x202fu, 0x205fu, 0x3000u, 0xfeffu}) set.add(one, one);
  set.add(0x2000, 0x200a);
  set.add(0x2028, 0x2029);
  return set;
}

CharacterSet line_ends() {
  CharacterSet set('\n', '\n');
  set.add('\r', '\r');
  set.add(0x2028, 0x2029);
  return set;
}

bool is_letter(uint32_t character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}

class RegexParser {
 public:
  /// `any`: see `json_pattern`; without it the pattern is matched as a whole.
  RegexParser(ByteGrammar& grammar, std::string_view pattern, std::optional<Node> any, const std::string& what)
      : grammar_(grammar), reader_(pattern, what), any_(any) {}

  Node parse() {
    std::vector<Node> alternatives;
    do {
      const bool from_start = reader_.take_if("^");
      const Node middle = sequence(0);
      const bool to_end = reader_.take_if("$");
      if (to_end && !reader_.at_end() && reader_.peek() != '|') {
        reader_.fail("'$' is supported only at the end of the pattern.");
      }
      std::vector<Node> parts;
      if (any_ && !from_start) parts.push_back(grammar_.repeat(*any_, 0, ByteGrammar::no_limit));
      parts.push_back(middle);
      if (any_ && !to_end) parts.push_back(grammar_.repeat(*any_, 0, ByteGrammar::no_limit));
      alternatives.push_back(grammar_.sequence(std::move(parts)));
    } while (reader_.take_if("|"));
    if (!reader_.at_end()) reader_.fail(fmt::format("expected the end of the pattern, found {}.", reader_.shown()));
    return grammar_.choice(std::move(alternatives));
  }

 private:
  Node one_of(const CharacterSet& set) { return any_ ? grammar_.json_characters(set) : grammar_.characters(set); }

  Node alternatives(int depth) {
    std::vector<Node> parts;
    do {
      parts.push_back(sequence(depth));
    } while (reader_.take_if("|"));
    return grammar_.choice(std::move(parts));
  }

  Node sequence(int depth) {
    std::vector<Node> parts;
    while (!reader_.at_end() && reader_.peek() != '|' && reader_.peek() != ')') {
      if (reader_.peek() == '$' && depth == 0) break;
      parts.push_back(repeated(depth));
    }
    return grammar_.sequence(std::move(parts));
  }

  Node repeated(int depth) {
    Node node = atom(depth);
    bool is_repeated = false;
    while (true) {
      uint32_t minimum = 0;
      uint32_t maximum = ByteGrammar::no_limit;
      const size_t start = reader_.position();
      if (reader_.take_if("*")) {
      } else if (reader_.take_if("+")) {
        minimum = 1;
      } else if (reader_.take_if("?")) {
        maximum = 1;
      } else if (reader_.take_if("{")) {
        reader_.counts(minimum, maximum);
      } else {
        return node;
      }
      if (is_repeated) reader_.fail_at(start, "a repetition cannot be repeated without a group around it.");
      is_repeated = true;
      reader_.take_if("?");
      if (reader_.peek() == '+') reader_.fail("possessive repetitions are not supported.");
      node = grammar_.repeat(node, minimum, maximum);
    }
  }

  Node atom(int depth) {
    const size_t start = reader_.position();
    switch (reader_.peek()) {
      case '(':
        return group(depth);
      case '[':
        return one_of(character_class());
      case '.':
        reader_.take();
        return one_of(line_ends().complement());
      case '\\':
        return one_of(escape(false, false));
      case '^':
        reader_.fail("'^' is supported only at the start of the pattern.");
      case '$':
        reader_.fail("'$' is supported only at the end of the pattern.");
      case '*':
      case '+':
      case '?':
        reader_.fail(fmt::format("expected something to repeat before {}.", reader_.shown()));
      case '{':
        reader_.fail("expected something to repeat before '{'; the sign itself is written \\{.");
      default:
        break;
    }
    const uint32_t character = reader_.take();
    if (character == 0) reader_.fail_at(start, "expected a character.");
    return one_of({character, character});
  }

  Node group(int depth) {
    const size_t start = reader_.position();
    if (depth >= deepest_grammar_input) {
      reader_.fail(fmt::format("expected groups at most {} deep.", deepest_grammar_input));
    }
    reader_.take();
    if (reader_.take_if("?")) {
      if (reader_.goes_on_with("=") || reader_.goes_on_with("!")) {
        reader_.fail_at(start, "lookahead is not supported.");
      }
      if (reader_.goes_on_with("<=") || reader_.goes_on_with("<!")) {
        reader_.fail_at(start, "lookbehind is not supported.");
      }
      if (reader_.take_if("P<") || reader_.take_if("<")) {
        while (is_letter(reader_.peek()) || reader_.peek() == '_' || (reader_.peek() >= '0' && reader_.peek() <= '9')) {
          reader_.take();
        }
        if (!reader_.take_if(">")) reader_.fail(fmt::format("expected '>' after a name, found {}.", reader_.shown()));
      } else if (!reader_.take_if(":")) {
        reader_.fail_at(start, "this kind of group is not supported: expected (…), (?:…) or (?<name>…).");
      }
    } else if (reader_.peek() == '*') {
      reader_.fail_at(start, "this kind of group is not supported: expected (…), (?:…) or (?<name>…).");
    }
    const Node node = alternatives(depth + 1);
    if (!reader_.take_if(")")) reader_.fail_at(start, "expected ')' for this group, found none.");
    return node;
  }

  /// A backslash and what it stands for; `negated`: in a class that reads everything else.
  CharacterSet escape(bool in_class, bool negated) {
    const size_t start = reader_.position();
    reader_.take();
    if (reader_.at_end()) reader_.fail_at(start, "expected a character after '\\', found the end.");
    const uint32_t letter = reader_.take();
    const auto single = [](uint32_t character) { return CharacterSet(character, character); };
    switch (letter) {
      case 'd':
        return digits();
      case 'D':
        return digits().complement();
      case 'w':
        return word_characters();
      case 'W':
        return word_characters().complement();
      case 's':
        return negated ? unicode_blanks() : blanks();
      case 'S':
        return (negated ? blanks() : unicode_blanks()).complement();
      case 't':
        return single('\t');
      case 'n':
        return single('\n');
      case 'r':
        return single('\r');
      case 'f':
        return single('\f');
      case 'v':
        return single('\v');
      case 'x':
        return single(reader_.hexadecimal(2));
      case 'u':
        return single(unicode_escape(start));
      case 'b':
      case 'B':
        reader_.fail_at(start, fmt::format("\\{} (a word's edge) is not supported.", static_cast<char>(letter)));
      case 'k':
        reader_.fail_at(start, "backreferences are not supported.");
      case 'p':
      case 'P':
        reader_.fail_at(start, "Unicode properties (\\p) are not supported.");
      default:
        break;
    }
    if (letter == '0' && !(reader_.peek() >= '0' && reader_.peek() <= '9')) return single(0);
    if (letter >= '0' && letter <= '9') {
      reader_.fail_at(start, in_class ? "octal characters are not supported." : "backreferences are not supported.");
    }
    if (is_letter(letter)) {
      reader_.fail_at(start, fmt::format("\\{} is not supported.", static_cast<char>(letter)));
    }
    return single(letter);
  }

  uint32_t unicode_escape(size_t start) {
    uint32_t character = 0;
    if (reader_.take_if("{")) {
      const size_t first = reader_.position();
      while (reader_.peek() != '}' && reader_.position() - first < 6)
        character = character << 4 | reader_.hexadecimal(1);
      if (reader_.position() == first || !reader_.take_if("}")) {
        reader_.fail_at(start, "expected one to six hexadecimal digits in \\u{…}.");
      }
    } else {
      character = reader_.hexadecimal(4);
      if (character >= 0xd800 && character < 0xdc00 && reader_.take_if("\\u")) {
        const uint32_t low = reader_.hexadecimal(4);
        if (low < 0xdc00 || low > 0xdfff) reader_.fail_at(start, "expected a low surrogate after a high one.");
        character = 0x10000 + ((character - 0xd800) << 10) + (low - 0xdc00);
      }
    }
    if (character > 0x10ffff || (character >= 0xd800 && character <= 0xdfff)) {
      reader_.fail_at(start, "expected a Unicode character, found a lone surrogate or a number above 10FFFF.");
    }
    return character;
  }

  CharacterSet character_class() {
    const size_t start = reader_.position();
    reader_.take();
    const bool negated = reader_.take_if("^");
    if (reader_.peek() == ']') reader_.fail("an empty class is not supported; the sign itself is written \\].");
    CharacterSet set;
    while (!reader_.take_if("]")) {
      if (reader_.at_end()) reader_.fail_at(start, "expected ']' for this class, found none.");
      if (reader_.goes_on_with("[:") || reader_.goes_on_with("[.") || reader_.goes_on_with("[=")) {
        reader_.fail("POSIX classes are not supported; the sign itself is written \\[.");
      }
      const size_t item = reader_.position();
      const CharacterSet first = class_item(negated);
      if (reader_.peek() != '-' || reader_.peek(1) == ']' || reader_.at_end(1)) {
        set.add(first);
        continue;
      }
      reader_.take();
      const CharacterSet last = class_item(negated);
      const auto is_single = [](const CharacterSet& one) {
        return one.ranges().size() == 1 && one.ranges()[0].first == one.ranges()[0].last;
      };
      if (!is_single(first) || !is_single(last)) reader_.fail_at(item, "expected single characters around '-'.");
      if (first.ranges()[0].first > last.ranges()[0].first) {
        reader_.fail_at(item, "expected a range of ascending characters.");
      }
      set.add(first.ranges()[0].first, last.ranges()[0].first);
    }
    if (negated) set = set.complement();
    if (set.empty()) reader_.fail_at(start, "expected a class with at least one character.");
    return set;
  }

  CharacterSet class_item(bool negated) {
    if (reader_.peek() == '\\') return escape(true, negated);
    const uint32_t character = reader_.take();
    return {character, character};
  }

  ByteGrammar& grammar_;
  PatternReader reader_;
  std::optional<Node> any_;
};

}  // namespace

ByteGrammar regex_grammar(std::string_view pattern) {
  ByteGrammar grammar;
  grammar.root = grammar.declare("pattern");
  grammar.define(grammar.root, RegexParser(grammar, pattern, std::nullopt, "The pattern").parse());
  return grammar;
}

ByteGrammar::Node json_pattern(ByteGrammar& grammar, std::string_view pattern, ByteGrammar::Node any,
                               const std::string& what) {
  return RegexParser(grammar, pattern, any, what).parse();
}

}  // namespace fathom
