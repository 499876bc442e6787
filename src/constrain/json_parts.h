#pragma once
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "constrain/byte_grammar.h"
#include "constrain/json_grammar.h"

namespace fathom {

/// The expressions that grammars of JSON are made of; each rule is made when it is first used.
class JsonParts {
 public:
  using Node = ByteGrammar::Node;

  JsonParts(ByteGrammar& grammar, const JsonLayout& layout) : grammar_(grammar), layout_(layout) {}

  /// The whitespace that may stand at a place where some may.
  Node space();
  /// What may stand before the whole value.
  Node before_value();
  /// One character inside a string: raw or escaped; an escaped surrogate pair is one character.
  Node character();
  Node string();
  /// A string of so many characters; `ByteGrammar::no_limit` for no upper bound.
  Node string_of(uint32_t minimum, uint32_t maximum);
  Node number();
  Node integer();
  Node any_object();
  Node any_array();
  Node any_value();
  /// A value as it is, laid out freely. `bad_input` if a string in it is not UTF-8.
  Node exactly(const nlohmann::ordered_json& value);
  /// `{` … `}` or `[` … `]` around any number of `element`s with commas between them.
  Node list(char open, Node element, char close);
  ByteGrammar& grammar() { return grammar_; }

 private:
  Node digits(uint32_t minimum, uint32_t maximum);
  /// At most `maximum` characters and the closing quotation mark.
  Node end_of_string(uint32_t maximum);
  Node text(std::string_view bytes) { return grammar_.literal(bytes); }

  ByteGrammar& grammar_;
  JsonLayout layout_;
  std::optional<Node> space_;
  std::optional<Node> character_;
  std::optional<Node> string_;
  std::optional<Node> block_;  // of 64 characters
  std::map<std::pair<uint32_t, uint32_t>, Node> strings_;
  std::map<uint32_t, Node> ends_;
  std::optional<Node> number_;
  std::optional<Node> integer_;
  std::optional<Node> value_;
};

/// The values that a schema allows, as `json_schema_grammar` says; several schemas may share one grammar and its parts.
ByteGrammar::Node json_schema_node(JsonParts& parts, const nlohmann::ordered_json& schema);

/// JSON text of a scalar value or a string. `bad_input` if it is not UTF-8.
std::string json_text(const nlohmann::ordered_json& value);

}  // namespace fathom
