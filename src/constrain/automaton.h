#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "constrain/byte_grammar.h"

namespace fathom {

/// A grammar as a pushdown automaton: one nondeterministic automaton per rule, whose edges read a byte or call a rule.
///
/// What cannot be completed is not in it: from every state some sequence of bytes leads to the end of its rule.
struct Automaton {
  struct Edge {
    uint8_t first;
    uint8_t last;
    uint32_t to;
  };
  struct Call {
    uint32_t rule;
    uint32_t to;  ///< state after the rule has been read
  };
  struct Rule {
    std::string name;
    uint32_t start;
    uint32_t accept;  ///< nothing leads out of it
    bool nullable;
    uint32_t order;  ///< smaller than that of every rule it may begin with
  };
  static constexpr uint32_t unreachable = UINT32_MAX;

  uint32_t root = 0;
  std::vector<Rule> rules;
  std::vector<uint32_t> edge_begin;     ///< [states + 1] into `edges`
  std::vector<uint32_t> call_begin;     ///< [states + 1] into `calls`
  std::vector<uint32_t> epsilon_begin;  ///< [states + 1] into `epsilons`
  std::vector<Edge> edges;
  std::vector<Call> calls;
  std::vector<uint32_t> epsilons;
  std::vector<uint32_t> distance;       ///< [states] least number of bytes to the end of the rule, or `unreachable`
  std::vector<uint32_t> rule_of;        ///< [states]
  std::array<uint8_t, 256> class_of{};  ///< bytes that no edge tells apart have one class
  std::vector<uint8_t> sample;          ///< [classes] a byte of each class

  uint32_t states() const { return static_cast<uint32_t>(rule_of.size()); }
  uint32_t classes() const { return static_cast<uint32_t>(sample.size()); }
  std::span<const Edge> edges_of(uint32_t state) const {
    return std::span(edges).subspan(edge_begin[state], edge_begin[state + 1] - edge_begin[state]);
  }
  std::span<const Call> calls_of(uint32_t state) const {
    return std::span(calls).subspan(call_begin[state], call_begin[state + 1] - call_begin[state]);
  }
  std::span<const uint32_t> epsilons_of(uint32_t state) const {
    return std::span(epsilons).subspan(epsilon_begin[state], epsilon_begin[state + 1] - epsilon_begin[state]);
  }
};

inline constexpr uint32_t largest_automaton_states = 200'000;
inline constexpr uint32_t longest_left_chain = 1000;

/// `bad_input` if a rule is not defined, if no finite sentence exists, if a rule can begin with itself (left
/// recursion; the sentence names it) or if the automaton is larger than `largest_automaton_states`.
Automaton compile_automaton(ByteGrammar grammar);

/// Sets of automaton states, made when they are first reached.
///
/// A set holds the states of one rule in which one and the same call of it may be. Ids are valid until `clear`, which
/// the owner calls where `large` says so; `items` survives. Threads: one at a time.
class StateSets {
 public:
  using Items = std::shared_ptr<const std::vector<uint32_t>>;
  static constexpr uint32_t dead = 0;
  static constexpr uint32_t base = 1;  ///< below the stack that is looked at: nothing is known
  static constexpr uint32_t end = 2;   ///< below the root rule: the sentence is complete
  static constexpr uint32_t first_real = 3;
  static constexpr uint32_t unknown = UINT32_MAX;
  static constexpr uint32_t longest_plain_run = 32;

  struct Call {
    uint32_t rule;
    uint32_t to;  ///< set after the rule
    bool tail;    ///< nothing follows in this rule
  };
  struct Set {
    Items items;
    std::vector<Call> calls;
    uint32_t distance = 0;  ///< least number of bytes to the end of the rule
    bool calls_known = false;
  };

  /// `work` counts the steps of the operation in progress.
  StateSets(const Automaton& automaton, uint64_t& work);

  uint32_t start(uint32_t rule);
  uint32_t intern(const Items& items);
  const Set& operator[](uint32_t set) const { return sets_[set]; }
  /// Whether all that can happen in the set is reading a byte: no call, no end.
  bool simple(uint32_t set) const { return traits_[set] == 0; }
  bool calling(uint32_t set) const { return (traits_[set] & is_calling) != 0; }
  /// Whether the rule may end here.
  bool accepting(uint32_t set) const { return (traits_[set] & is_accepting) != 0; }
  /// Whether it must.
  bool final(uint32_t set) const { return (traits_[set] & is_final) != 0; }
  const std::vector<Call>& calls(uint32_t set);
  /// Set after one byte of the class, `dead` if there is none.
  uint32_t next(uint32_t set, uint32_t byte_class) {
    const uint32_t known = next_[set * classes_ + byte_class];
    return known != unknown ? known : make_next(set, byte_class);
  }
  /// `next`, or `unknown` if it has not been asked for yet.
  uint32_t known_next(uint32_t set, uint32_t byte_class) const { return next_[set * classes_ + byte_class]; }
  /// How many plain characters in a row (see `TokenTrie`) the set reads for certain, `longest_plain_run` at most, with
  /// no call and, unless `may_end`, no end on the way.
  uint32_t plain_run(uint32_t set, bool may_end);
  bool may_begin(uint32_t rule, uint32_t byte_class) const { return first_[rule * classes_ + byte_class]; }
  bool large() const { return bytes_ > largest_bytes; }
  void clear();
  /// Grows with every `clear`.
  uint64_t generation() const { return generation_; }

 private:
  enum Trait : uint8_t { is_calling = 1, is_accepting = 2, is_final = 4 };
  static constexpr size_t largest_bytes = size_t{64} << 20;

  struct ItemsHash {
    size_t operator()(const std::vector<uint32_t>* items) const;
  };
  struct ItemsEqual {
    bool operator()(const std::vector<uint32_t>* left, const std::vector<uint32_t>* right) const {
      return *left == *right;
    }
  };

  uint32_t make_next(uint32_t set, uint32_t byte_class);
  /// The set of what follows from the states in `pending_` without reading a byte.
  uint32_t close_pending();
  uint32_t insert(Items items);
  void compute_first();
  /// The sets after one plain character; none if it can be refused.
  const std::vector<uint32_t>& after_plain(uint32_t set);

  const Automaton& automaton_;
  uint64_t& work_;
  size_t classes_;
  std::deque<Set> sets_;         // references to them hold until `clear`
  std::vector<uint32_t> next_;   // [sets, classes]
  std::vector<uint8_t> traits_;  // [sets] what walks ask of each set they meet
  std::unordered_map<uint32_t, std::vector<uint32_t>> after_plain_;
  std::vector<uint32_t> start_;  // [rules], or unknown
  std::vector<bool> first_;      // [rules, classes] whether a rule may begin with a byte
  std::unordered_map<const std::vector<uint32_t>*, uint32_t, ItemsHash, ItemsEqual> ids_;
  std::vector<uint32_t> pending_;
  std::vector<uint32_t> closed_;
  std::vector<uint32_t> mark_;  // [states] the last closure that met the state
  uint32_t closure_ = 0;
  size_t bytes_ = 0;
  uint64_t generation_ = 0;
};

}  // namespace fathom
