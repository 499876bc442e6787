// A grammar, a regular expression or a JSON schema from a client, and text that may or may not follow it: either a
// sentence, or a state that always has a way to its end and whose mask is what it accepts.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "constrain/constraint.h"
#include "constrain/grammar_text.h"
#include "constrain/json_grammar.h"
#include "constrain/regex_grammar.h"

namespace {

/// Every byte, and some tokens that cross the borders of what grammars are made of.
std::shared_ptr<const fathom::TokenTrie> trie() {
  static const auto made = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const char* token :
         {"aa",   "ab", "aab",  "\",",   "\"}", "\":",         "{\"",  "}]", "]}",  "true", "null", "1.5",
          "\n  ", "é",  "\xc3", "\xa9x", "\\u", "abcdefghijk", "xy\"", "00", "a\"", "[[",   "a"}) {
      tokens.emplace_back(token);
    }
    return std::make_shared<const fathom::TokenTrie>(tokens);
  }();
  return made;
}

fathom::ByteGrammar read(uint8_t kind, std::string_view text) {
  switch (kind % 4) {
    case 0:
      return fathom::regex_grammar(text);
    case 1:
      return fathom::grammar_from_text(text);
    case 2: {
      const auto schema = nlohmann::ordered_json::parse(text, nullptr, false);
      if (!schema.is_discarded()) return fathom::json_schema_grammar(schema, {.whitespace = kind < 128});
      return fathom::json_grammar(kind < 128);
    }
    default:
      return fathom::json_schema_grammar({{"type", "string"}, {"pattern", std::string(text)}});
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The first byte says what the text up to the first byte 0xfe is; the rest are tokens to choose.
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data + 1), size - 1);
  const size_t end = std::min(input.find('\xfe'), input.size());
  const std::string_view choices = input.substr(std::min(end + 1, input.size()));
  try {
    const auto constraint = std::make_shared<const fathom::Constraint>(read(data[0], input.substr(0, end)), trie());
    fathom::ConstraintState state(constraint);
    std::array<uint64_t, 5> bits{};
    for (const char choice : choices.substr(0, 32)) {
      state.fill_mask(bits);
      std::vector<int32_t> allowed;
      for (int32_t token = 0; token < trie()->vocab_size(); ++token) {
        const bool in_mask = (bits[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
        fathom::ConstraintState copy = state;
        if (copy.accept(token) != in_mask) std::abort();
        if (in_mask) allowed.push_back(token);
      }
      if (allowed.empty() != state.must_end()) std::abort();
      if (allowed.empty()) break;
      if (!state.accept(allowed[static_cast<uint8_t>(choice) % allowed.size()])) std::abort();
    }
    if (state.bytes_to_end() > 1000) return 0;
    const std::string rest = state.shortest_completion();
    if (rest.size() != state.bytes_to_end()) std::abort();
    for (const char byte : rest) {
      if (state.may_end() || !state.accept(static_cast<uint8_t>(byte))) std::abort();
    }
    if (!state.may_end()) std::abort();
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
  }
  return 0;
}
