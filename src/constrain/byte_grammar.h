#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// Unicode characters as ascending ranges that neither overlap nor touch; surrogates are never members.
class CharacterSet {
 public:
  struct Range {
    uint32_t first;
    uint32_t last;  ///< inclusive
  };

  CharacterSet() = default;
  /// The characters from `first` to `last`, both included.
  CharacterSet(uint32_t first, uint32_t last) { add(first, last); }

  void add(uint32_t first, uint32_t last);
  void add(const CharacterSet& other);
  /// Every character that is not in this set.
  CharacterSet complement() const;
  CharacterSet without(const CharacterSet& other) const;
  const std::vector<Range>& ranges() const { return ranges_; }
  bool empty() const { return ranges_.empty(); }

 private:
  std::vector<Range> ranges_;
};

/// A context-free grammar over bytes, in the making: rules, each with one expression.
///
/// An expression is a `Node`; it may stand in several places. The functions that make one throw `bad_input` where the
/// grammar becomes too large (`largest_grammar_nodes`) or too deep (`deepest_grammar_node`), so that what a stranger
/// wrote can be turned into a grammar without further care. Everything of one grammar belongs to one thread.
class ByteGrammar {
 public:
  using Node = uint32_t;
  using Rule = uint32_t;
  static constexpr uint32_t no_limit = UINT32_MAX;

  enum class Kind : uint8_t { literal, bytes, sequence, choice, repeat, reference, graph };
  struct Part {
    Kind kind;
    uint16_t depth;
    uint32_t first;    ///< into `text`, `children` or `edges`; the child of a repetition; the rule of a reference
    uint32_t count;    ///< bytes, children or edges; of `bytes` the greatest byte, `first` being the least
    uint32_t minimum;  ///< of a repetition; of a graph its number of states
    uint32_t maximum;  ///< of a repetition
  };
  /// In a graph: reading `label` leads from one state to another.
  struct Edge {
    uint32_t from;
    uint32_t to;
    Node label;
  };
  struct RuleBody {
    std::string name;  ///< for sentences
    Node body = 0;
    bool defined = false;
    bool separate = false;  ///< never copied into the rules that use it, so that all uses share what is cached for it
  };

  /// Exactly these bytes; none at all is the empty sentence.
  Node literal(std::string_view bytes);
  Node empty() { return literal({}); }
  /// One byte of a range, both ends included.
  Node bytes(uint8_t first, uint8_t last);
  Node sequence(std::vector<Node> parts);
  /// One of the alternatives; with no alternatives there is no sentence.
  Node choice(std::vector<Node> alternatives);
  /// `node` from `minimum` to `maximum` times; `no_limit` for any number.
  Node repeat(Node node, uint32_t minimum, uint32_t maximum);
  Node optional(Node node) { return repeat(node, 0, 1); }
  /// The labels along any path from state 0 to state 1 of a graph with `states` ≥ 2 states.
  Node graph(uint32_t states, const std::vector<Edge>& edges);
  Node reference(Rule rule);
  /// One character of the set in UTF-8.
  Node characters(const CharacterSet& set);
  /// One character of the set as it stands inside a JSON string: raw, or escaped where JSON wants it so.
  Node json_characters(const CharacterSet& set);

  /// A rule without a body yet, so that rules can refer to each other.
  Rule declare(std::string name);
  void define(Rule rule, Node body, bool separate = false);
  /// A reference to a new rule with this body.
  Node shared(std::string name, Node body, bool separate = false);

  Rule root = 0;

  const std::vector<Part>& parts() const { return parts_; }
  const std::vector<RuleBody>& rules() const { return rules_; }
  const std::vector<Node>& children() const { return children_; }
  const std::vector<Edge>& edges() const { return edges_; }
  const std::string& text() const { return text_; }

 private:
  Node add(Part part);
  uint16_t above(const std::vector<Node>& nodes) const;

  std::vector<Part> parts_;
  std::vector<Node> children_;
  std::vector<Edge> edges_;
  std::string text_;
  std::vector<RuleBody> rules_;
};

inline constexpr size_t largest_grammar_nodes = 1'000'000;
inline constexpr size_t largest_grammar_rules = 50'000;
inline constexpr int deepest_grammar_node = 2000;
/// How deeply groups, schemas and parentheses may be nested in what the front-ends read.
inline constexpr int deepest_grammar_input = 200;

}  // namespace fathom
