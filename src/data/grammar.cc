#include "data/grammar.h"

#include <vector>

#include "base/error.h"

namespace fathom {
namespace {

bool is_letter(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z');
}
char upper(char character) {
  return character >= 'a' && character <= 'z' ? static_cast<char>(character - 'a' + 'A') : character;
}
bool is_vowel(char character) {
  return std::string_view("aeiouAEIOU").find(character) != std::string_view::npos;
}
/// How a word sounds at its start: "an honest", "an hour".
bool wants_an(std::string_view words) {
  return !words.empty() && (is_vowel(words[0]) || words.starts_with("honest") || words.starts_with("hour"));
}
bool is_stop(char character) {
  return character == '.' || character == '!' || character == '?';
}
bool is_blank(char character) {
  return character == ' ' || character == '\n';
}

/// Articles, capitals, and marks that are not for the reader.
std::string polished(std::string_view raw) {
  std::string out;
  bool capital = true;
  for (size_t at = 0; at < raw.size(); ++at) {
    const char character = raw[at];
    if (character == '^') {
      capital = true;
      continue;
    }
    if (character == '~') {
      // "a~ apple" and "a~apple" alike.
      size_t next = at + 1;
      while (next < raw.size() && raw[next] == ' ') ++next;
      if (wants_an(raw.substr(next))) out += 'n';
      out += ' ';
      at = next - 1;
      continue;
    }
    if (character == ' ' && (out.empty() || is_blank(out.back()))) continue;  // an empty alternative left two blanks
    const bool opens = character == '"' && (out.empty() || is_blank(out.back()));
    // A speech that goes on after "said Tom," does not begin anew.
    if (opens) capital = out.size() < 2 || out[out.size() - 2] != ',';
    if (character == '\n' || (character == ' ' && is_stop(out.back()))) capital = true;
    out += capital ? upper(character) : character;
    if (is_letter(character) || (character >= '0' && character <= '9')) capital = false;
  }
  return out;
}

}  // namespace

const std::string& Grammar::get(const std::string& name) const {
  const auto found = variables_.find(name);
  if (found == variables_.end()) throw_failure("A template names the variable \"{}\", which is not set", name);
  return found->second;
}

std::string Grammar::expand(std::string_view pattern) const {
  std::string raw;
  expand_into(pattern, raw);
  return polished(raw);
}

std::string Grammar::fragment(std::string_view pattern) const {
  std::string raw;
  expand_into(pattern, raw);
  return raw;
}

void Grammar::expand_into(std::string_view pattern, std::string& out) const {
  for (size_t at = 0; at < pattern.size(); ++at) {
    if (pattern[at] == '$') {
      size_t end = at + 1;
      while (end < pattern.size() && ((pattern[end] >= 'a' && pattern[end] <= 'z') || pattern[end] == '_')) ++end;
      out += get(std::string(pattern.substr(at + 1, end - at - 1)));
      at = end - 1;
    } else if (pattern[at] == '{') {
      std::vector<std::string_view> alternatives;
      size_t begin = at + 1;
      int depth = 1;
      size_t end = begin;
      for (; end < pattern.size() && depth > 0; ++end) {
        if (pattern[end] == '{') ++depth;
        if (pattern[end] == '}') --depth;
        if ((pattern[end] == '|' && depth == 1) || depth == 0) {
          alternatives.push_back(pattern.substr(begin, end - begin));
          begin = end + 1;
        }
      }
      if (depth > 0) throw_failure("The template \"{}\" has an open brace", pattern);
      expand_into(random_.pick(alternatives), out);
      at = end - 1;
    } else {
      out += pattern[at];
    }
  }
}

std::string with_article(std::string_view words) {
  return std::string(wants_an(words) ? "an " : "a ") + std::string(words);
}

std::string capitalised(std::string text) {
  if (!text.empty()) text[0] = upper(text[0]);
  return text;
}

}  // namespace fathom
