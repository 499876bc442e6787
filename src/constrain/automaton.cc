#include "constrain/automaton.h"

#include <algorithm>
#include <map>
#include <queue>
#include <unordered_map>

#include "base/error.h"

namespace fathom {
namespace {

using Node = ByteGrammar::Node;
using Kind = ByteGrammar::Kind;

constexpr uint64_t huge = uint64_t{1} << 40;
/// A rule of at most this many states is copied into the rules that use it, since calls are what makes walks slow.
constexpr uint64_t largest_inlined = 48;
constexpr uint32_t deepest_inlined = 16;
/// A repetition that would take more states than this is made of calls, as is one of larger parts.
constexpr uint64_t largest_unrolled = 100'000;
constexpr uint64_t largest_repeated = 256;
constexpr uint32_t block_length = 64;

/// The automaton as it grows, before its edges are sorted by the state they leave.
struct Draft {
  struct ByteEdge {
    uint32_t from;
    Automaton::Edge edge;
  };
  struct CallEdge {
    uint32_t from;
    Automaton::Call call;
  };
  struct Epsilon {
    uint32_t from;
    uint32_t to;
  };
  std::vector<ByteEdge> edges;
  std::vector<CallEdge> calls;
  std::vector<Epsilon> epsilons;
};

class Compiler {
 public:
  explicit Compiler(ByteGrammar grammar) : grammar_(std::move(grammar)) {}

  Automaton compile() {
    for (const ByteGrammar::RuleBody& rule : grammar_.rules()) {
      if (!rule.defined) throw_bad_input("The rule \"{}\" is used and not defined.", rule.name);
    }
    measure_rules();
    result_.root = grammar_.root;
    // Only rules that are called get states, and compiling one may make new ones.
    need(grammar_.root);
    for (size_t index = 0; index < needed_.size(); ++index) {
      const uint32_t rule = needed_[index];
      const std::string name = grammar_.rules()[rule].name;
      current_ = static_cast<uint32_t>(index);
      const uint32_t start = add_state();
      const uint32_t accept = add_state();
      result_.rules.push_back({name, start, accept, false, 0});
      add(grammar_.rules()[rule].body, start, accept);
    }
    result_.root = 0;
    measure_distances();
    const Automaton::Rule& root = result_.rules[0];
    if (result_.distance[root.start] == Automaton::unreachable) {
      throw_bad_input("The grammar's rule \"{}\" has no finite sentence: expected a way to its end.", root.name);
    }
    drop_dead_ends();
    order_rules();
    find_classes();
    return std::move(result_);
  }

 private:
  uint32_t add_state() {
    if (result_.rule_of.size() >= largest_automaton_states) {
      throw_bad_input("The grammar is too large: expected at most {} states.", largest_automaton_states);
    }
    result_.rule_of.push_back(current_);
    return static_cast<uint32_t>(result_.rule_of.size() - 1);
  }

  /// Index in the result of a rule of the grammar.
  uint32_t need(uint32_t rule) {
    const auto [place, is_new] = index_of_.emplace(rule, static_cast<uint32_t>(needed_.size()));
    if (is_new) needed_.push_back(rule);
    return place->second;
  }

  bool inlined(uint32_t rule) const { return rule < inlined_.size() && inlined_[rule]; }

  /// About as many states as a node takes in one copy, at least one.
  uint64_t size(Node node) {
    if (node >= sizes_.size()) sizes_.resize(grammar_.parts().size(), 0);
    if (sizes_[node] != 0) return sizes_[node];
    const ByteGrammar::Part part = grammar_.parts()[node];
    uint64_t total = 1;
    switch (part.kind) {
      case Kind::literal:
        total = part.count;
        break;
      case Kind::bytes:
        break;
      case Kind::sequence:
        total = 0;
        [[fallthrough]];
      case Kind::choice:
        for (uint32_t child = 0; child < part.count; ++child) {
          const uint64_t states = size(grammar_.children()[part.first + child]);
          total += part.kind == Kind::choice ? states - 1 : states;
        }
        break;
      case Kind::repeat:
        total += size(part.first) *
                 std::max<uint64_t>(1, part.maximum == ByteGrammar::no_limit ? part.minimum : part.maximum);
        break;
      case Kind::reference:
        if (inlined(part.first)) total = rule_sizes_[part.first];
        break;
      case Kind::graph:
        total = part.minimum - 1;
        for (uint32_t edge = 0; edge < part.count; ++edge) total += size(grammar_.edges()[part.first + edge].label) - 1;
        break;
    }
    return sizes_[node] = std::clamp<uint64_t>(total, 1, huge);
  }

  void collect_references(Node node, std::vector<uint32_t>& out, std::vector<uint32_t>& seen, uint32_t mark) const {
    if (seen[node] == mark) return;
    seen[node] = mark;
    const ByteGrammar::Part& part = grammar_.parts()[node];
    if (part.kind == Kind::reference) out.push_back(part.first);
    if (part.kind == Kind::repeat) collect_references(part.first, out, seen, mark);
    for (uint32_t index = 0; index < part.count; ++index) {
      if (part.kind == Kind::sequence || part.kind == Kind::choice) {
        collect_references(grammar_.children()[part.first + index], out, seen, mark);
      } else if (part.kind == Kind::graph) {
        collect_references(grammar_.edges()[part.first + index].label, out, seen, mark);
      }
    }
  }

  /// Decides which rules are inlined: from those that use no rule upwards, so that recursive ones are never reached.
  void measure_rules() {
    const size_t count = grammar_.rules().size();
    std::vector<std::vector<uint32_t>> users(count);
    std::vector<uint32_t> unresolved(count, 0);
    std::vector<uint32_t> depth(count, 0);
    std::vector<uint32_t> seen(grammar_.parts().size(), 0);
    std::vector<uint32_t> ready;
    for (uint32_t rule = 0; rule < count; ++rule) {
      std::vector<uint32_t> used;
      collect_references(grammar_.rules()[rule].body, used, seen, rule + 1);
      unresolved[rule] = static_cast<uint32_t>(used.size());
      for (const uint32_t other : used) users[other].push_back(rule);
      if (used.empty()) ready.push_back(rule);
    }
    inlined_.assign(count, false);
    rule_sizes_.assign(count, huge);
    for (size_t index = 0; index < ready.size(); ++index) {
      const uint32_t rule = ready[index];
      rule_sizes_[rule] = size(grammar_.rules()[rule].body);
      inlined_[rule] =
          !grammar_.rules()[rule].separate && rule_sizes_[rule] <= largest_inlined && depth[rule] < deepest_inlined;
      for (const uint32_t user : users[rule]) {
        if (inlined_[rule]) depth[user] = std::max(depth[user], depth[rule] + 1);
        if (--unresolved[user] == 0) ready.push_back(user);
      }
    }
    sizes_.clear();
  }

  /// Paths from one state to another that read the node. Nothing else leaves `to` through what is added here, and
  /// nothing added enters `from`.
  void add(Node node, uint32_t from, uint32_t to) {
    const ByteGrammar::Part part = grammar_.parts()[node];
    switch (part.kind) {
      case Kind::literal: {
        if (part.count == 0) draft_.epsilons.push_back({from, to});
        uint32_t at = from;
        for (uint32_t index = 0; index < part.count; ++index) {
          const uint32_t next = index + 1 == part.count ? to : add_state();
          const auto byte = static_cast<uint8_t>(grammar_.text()[part.first + index]);
          draft_.edges.push_back({at, {byte, byte, next}});
          at = next;
        }
        break;
      }
      case Kind::bytes:
        draft_.edges.push_back({from, {static_cast<uint8_t>(part.first), static_cast<uint8_t>(part.count), to}});
        break;
      case Kind::sequence: {
        if (part.count == 0) draft_.epsilons.push_back({from, to});
        uint32_t at = from;
        for (uint32_t index = 0; index < part.count; ++index) {
          const uint32_t next = index + 1 == part.count ? to : add_state();
          add(grammar_.children()[part.first + index], at, next);
          at = next;
        }
        break;
      }
      case Kind::choice:
        for (uint32_t index = 0; index < part.count; ++index) {
          add(grammar_.children()[part.first + index], from, to);
        }
        break;
      case Kind::repeat:
        add_repeat(node, part, from, to);
        break;
      case Kind::reference:
        if (inlined(part.first)) {
          add(grammar_.rules()[part.first].body, from, to);
        } else {
          draft_.calls.push_back({from, {need(part.first), to}});
        }
        break;
      case Kind::graph: {
        bool returns = false;  // to the start, or from the end
        for (uint32_t index = 0; index < part.count; ++index) {
          const ByteGrammar::Edge& edge = grammar_.edges()[part.first + index];
          returns = returns || edge.to == 0 || edge.from == 1;
        }
        std::vector<uint32_t> states{from, to};
        if (returns) states = {add_state(), add_state()};
        while (states.size() < part.minimum) states.push_back(add_state());
        if (returns) draft_.epsilons.insert(draft_.epsilons.end(), {{from, states[0]}, {states[1], to}});
        for (uint32_t index = 0; index < part.count; ++index) {
          const ByteGrammar::Edge edge = grammar_.edges()[part.first + index];
          add(edge.label, states[edge.from], states[edge.to]);
        }
        break;
      }
    }
  }

  /// A reference to a rule that reads the node and is not inlined.
  Node outlined(Node node) {
    const auto [place, is_new] = outlined_.emplace(node, 0);
    if (is_new) {
      const std::string name = grammar_.rules()[needed_[current_]].name;
      place->second = grammar_.shared(name, node, true);
    }
    return place->second;
  }

  uint32_t add_copies(Node node, uint32_t count, uint32_t from) {
    for (uint32_t copy = 0; copy < count; ++copy) {
      const uint32_t next = add_state();
      add(node, from, next);
      from = next;
    }
    return from;
  }

  void add_loop(Node node, bool at_least_once, uint32_t from, uint32_t to) {
    const uint32_t before = add_state();
    const uint32_t after = add_state();
    draft_.epsilons.push_back({from, before});
    add(node, before, after);
    draft_.epsilons.push_back({after, before});
    draft_.epsilons.push_back({at_least_once ? after : before, to});
  }

  /// Up to `count` copies, each of which may be the last.
  void add_optional(Node node, uint32_t count, uint32_t from, uint32_t to) {
    draft_.epsilons.push_back({from, to});
    for (uint32_t copy = 0; copy < count; ++copy) {
      const uint32_t next = copy + 1 == count ? to : add_state();
      add(node, from, next);
      if (next != to) draft_.epsilons.push_back({next, to});
      from = next;
    }
  }

  void add_repeat(Node whole, const ByteGrammar::Part& part, uint32_t from, uint32_t to) {
    Node node = part.first;
    const bool endless = part.maximum == ByteGrammar::no_limit;
    const uint64_t count = endless ? std::max<uint64_t>(1, part.minimum) : part.maximum;
    uint64_t unit = size(node);
    if (unit * count > largest_unrolled && unit > largest_repeated) {
      node = outlined(node);
      unit = 1;
    }
    if (unit * count <= largest_unrolled) {
      if (endless && part.minimum > 0) {
        add_loop(node, true, add_copies(node, part.minimum - 1, from), to);
      } else if (endless) {
        add_loop(node, false, from, to);
      } else {
        add_optional(node, part.maximum - part.minimum, add_copies(node, part.minimum, from), to);
      }
      return;
    }

    // Blocks of 64 copies: all blocks are one rule, so that what is cached for it serves every block.
    const auto [place, is_new] = blocks_.emplace(whole, Blocks{});
    if (is_new) {
      const std::string name = grammar_.rules()[needed_[current_]].name;
      const Node block = grammar_.repeat(node, block_length, block_length);
      place->second.whole = grammar_.shared(name, block, true);
      const Node piece = grammar_.repeat(node, 1, block_length - 1);
      place->second.piece = grammar_.shared(name, piece, true);
    }
    const Blocks blocks = place->second;
    uint32_t at = add_copies(blocks.whole, part.minimum / block_length, from);
    at = add_copies(node, part.minimum % block_length, at);
    if (endless) {
      add_loop(node, false, at, to);
      return;
    }
    const uint32_t optional = part.maximum - part.minimum;
    for (uint32_t block = 0; block < optional / block_length; ++block) {
      draft_.epsilons.push_back({at, to});
      add(blocks.piece, at, to);
      at = add_copies(blocks.whole, 1, at);
    }
    add_optional(node, optional % block_length, at, to);
  }

  /// Least number of bytes from every state to the end of its rule (Knuth's generalisation of Dijkstra's algorithm: a
  /// call costs the callee's whole distance). States without one are what no finite sentence passes.
  void measure_distances() {
    const uint32_t states = result_.states();
    std::vector<std::vector<std::pair<uint32_t, uint32_t>>> before(states);  // state and cost of an edge into it
    std::vector<std::vector<uint32_t>> calls_into(states);                   // calls whose callee or return this is
    for (const auto& [from, edge] : draft_.edges) before[edge.to].emplace_back(from, 1);
    for (const auto& [from, to] : draft_.epsilons) before[to].emplace_back(from, 0);
    for (uint32_t call = 0; call < draft_.calls.size(); ++call) {
      calls_into[draft_.calls[call].call.to].push_back(call);
      calls_into[result_.rules[draft_.calls[call].call.rule].start].push_back(call);
    }

    std::vector<uint32_t>& distance = result_.distance;
    distance.assign(states, Automaton::unreachable);
    std::vector<bool> settled(states, false);
    using Entry = std::pair<uint32_t, uint32_t>;
    std::priority_queue<Entry, std::vector<Entry>, std::greater<>> queue;
    const auto relax = [&](uint32_t state, uint64_t value) {
      value = std::min<uint64_t>(value, Automaton::unreachable - 1);
      if (value >= distance[state]) return;
      distance[state] = static_cast<uint32_t>(value);
      queue.emplace(distance[state], state);
    };
    for (const Automaton::Rule& rule : result_.rules) relax(rule.accept, 0);
    while (!queue.empty()) {
      const auto [value, state] = queue.top();
      queue.pop();
      if (settled[state]) continue;
      settled[state] = true;
      for (const auto& [from, cost] : before[state]) relax(from, uint64_t{value} + cost);
      for (const uint32_t index : calls_into[state]) {
        const auto& [from, call] = draft_.calls[index];
        const uint32_t start = result_.rules[call.rule].start;
        if (settled[start] && settled[call.to]) relax(from, uint64_t{distance[start]} + distance[call.to]);
      }
    }
    for (Automaton::Rule& rule : result_.rules) rule.nullable = distance[rule.start] == 0;
  }

  template <typename Item, typename Value, typename Get>
  void sort_by_state(const std::vector<Item>& items, Get get, std::vector<uint32_t>& begin, std::vector<Value>& out) {
    begin.assign(result_.states() + 1, 0);
    for (const Item& item : items) ++begin[item.from + 1];
    for (uint32_t state = 0; state < result_.states(); ++state) begin[state + 1] += begin[state];
    out.resize(items.size());
    std::vector<uint32_t> place(begin.begin(), begin.end() - 1);
    for (const Item& item : items) out[place[item.from]++] = get(item);
  }

  void drop_dead_ends() {
    const auto dead = [&](uint32_t state) { return result_.distance[state] == Automaton::unreachable; };
    std::erase_if(draft_.edges, [&](const Draft::ByteEdge& item) { return dead(item.edge.to); });
    std::erase_if(draft_.epsilons, [&](const Draft::Epsilon& item) { return dead(item.to); });
    std::erase_if(draft_.calls, [&](const Draft::CallEdge& item) {
      return dead(item.call.to) || dead(result_.rules[item.call.rule].start);
    });
    sort_by_state(
        draft_.edges, [](const auto& item) { return item.edge; }, result_.edge_begin, result_.edges);
    sort_by_state(
        draft_.calls, [](const auto& item) { return item.call; }, result_.call_begin, result_.calls);
    sort_by_state(
        draft_.epsilons, [](const auto& item) { return item.to; }, result_.epsilon_begin, result_.epsilons);
  }

  /// Rules that a rule may begin with.
  std::vector<uint32_t> left_calls(uint32_t rule, std::vector<uint32_t>& mark) const {
    std::vector<uint32_t> pending{result_.rules[rule].start};
    std::vector<uint32_t> found;
    while (!pending.empty()) {
      const uint32_t state = pending.back();
      pending.pop_back();
      if (mark[state] == rule + 1) continue;
      mark[state] = rule + 1;
      for (const uint32_t to : result_.epsilons_of(state)) pending.push_back(to);
      for (const Automaton::Call& call : result_.calls_of(state)) {
        found.push_back(call.rule);
        if (result_.rules[call.rule].nullable) pending.push_back(call.to);
      }
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

  void order_rules() {
    const size_t count = result_.rules.size();
    std::vector<uint32_t> mark(result_.states(), 0);
    std::vector<std::vector<uint32_t>> begins(count);
    std::vector<uint32_t> callers(count, 0);
    for (uint32_t rule = 0; rule < count; ++rule) {
      begins[rule] = left_calls(rule, mark);
      for (const uint32_t other : begins[rule]) ++callers[other];
    }
    std::vector<uint32_t> ordered;
    std::vector<uint32_t> chain(count, 0);
    for (uint32_t rule = 0; rule < count; ++rule) {
      if (callers[rule] == 0) ordered.push_back(rule);
    }
    for (size_t index = 0; index < ordered.size(); ++index) {
      const uint32_t rule = ordered[index];
      result_.rules[rule].order = static_cast<uint32_t>(index);
      for (const uint32_t other : begins[rule]) {
        chain[other] = std::max(chain[other], chain[rule] + 1);
        if (chain[other] > longest_left_chain) {
          throw_bad_input("The rule \"{}\" is the first part of a chain of rules: expected at most {} of them.",
                          result_.rules[other].name, longest_left_chain);
        }
        if (--callers[other] == 0) ordered.push_back(other);
      }
    }
    if (ordered.size() == count) return;
    // Every rule left over that begins with one of its kind leads to a cycle; so many steps end inside it.
    uint32_t rule = 0;
    while (callers[rule] == 0) ++rule;
    std::vector<std::vector<uint32_t>> begun_by(count);
    for (uint32_t other = 0; other < count; ++other) {
      if (callers[other] == 0) continue;
      for (const uint32_t begun : begins[other]) begun_by[begun].push_back(other);
    }
    for (size_t step = 0; step < count; ++step) rule = begun_by[rule].front();
    throw_bad_input("The rule \"{}\" can begin with itself (left recursion): expected something before it.",
                    result_.rules[rule].name);
  }

  void find_classes() {
    std::array<bool, 257> border{};
    border[0] = true;
    for (const Automaton::Edge& edge : result_.edges) border[edge.first] = border[edge.last + 1] = true;
    for (uint32_t byte = 0; byte < 256; ++byte) {
      if (border[byte]) result_.sample.push_back(static_cast<uint8_t>(byte));
      result_.class_of[byte] = static_cast<uint8_t>(result_.sample.size() - 1);
    }
  }

  struct Blocks {
    Node whole = 0;
    Node piece = 0;
  };

  ByteGrammar grammar_;
  Automaton result_;
  Draft draft_;
  std::vector<uint64_t> sizes_;       // of nodes, 0: not known
  std::vector<uint64_t> rule_sizes_;  // of the grammar's rules
  std::vector<bool> inlined_;
  std::vector<uint32_t> needed_;  // rules of the grammar in the order of the result
  std::unordered_map<uint32_t, uint32_t> index_of_;
  std::unordered_map<Node, Node> outlined_;
  std::unordered_map<Node, Blocks> blocks_;
  uint32_t current_ = 0;
};

}  // namespace

Automaton compile_automaton(ByteGrammar grammar) {
  return Compiler(std::move(grammar)).compile();
}

size_t StateSets::ItemsHash::operator()(const std::vector<uint32_t>* items) const {
  uint64_t hash = items->size();
  for (const uint32_t item : *items) {
    hash = (hash ^ item) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 29;
  }
  return hash;
}

StateSets::StateSets(const Automaton& automaton, uint64_t& work)
    : automaton_(automaton), work_(work), classes_(automaton.classes()), mark_(automaton.states(), 0) {
  compute_first();
  clear();
}

void StateSets::clear() {
  ids_.clear();
  sets_.assign(first_real, Set{});
  next_.assign(first_real * classes_, dead);
  traits_.assign(first_real, 0);
  after_plain_.clear();
  start_.assign(automaton_.rules.size(), unknown);
  for (Set& set : sets_) set.calls_known = true;
  bytes_ = 0;
  ++generation_;
}

void StateSets::compute_first() {
  first_.assign(automaton_.rules.size() * classes_, false);
  std::vector<uint32_t> by_order(automaton_.rules.size());
  for (uint32_t rule = 0; rule < by_order.size(); ++rule) by_order[automaton_.rules[rule].order] = rule;
  // A rule comes after those that begin with it.
  for (size_t index = by_order.size(); index-- > 0;) {
    const uint32_t rule = by_order[index];
    pending_.assign(1, automaton_.rules[rule].start);
    ++closure_;
    while (!pending_.empty()) {
      const uint32_t state = pending_.back();
      pending_.pop_back();
      if (mark_[state] == closure_) continue;
      mark_[state] = closure_;
      for (const Automaton::Edge& edge : automaton_.edges_of(state)) {
        for (uint32_t one = automaton_.class_of[edge.first]; one <= automaton_.class_of[edge.last]; ++one) {
          first_[rule * classes_ + one] = true;
        }
      }
      for (const uint32_t to : automaton_.epsilons_of(state)) pending_.push_back(to);
      for (const Automaton::Call& call : automaton_.calls_of(state)) {
        for (size_t one = 0; one < classes_; ++one) {
          if (first_[call.rule * classes_ + one]) first_[rule * classes_ + one] = true;
        }
        if (automaton_.rules[call.rule].nullable) pending_.push_back(call.to);
      }
    }
  }
}

uint32_t StateSets::close_pending() {
  ++closure_;
  closed_.clear();
  while (!pending_.empty()) {
    const uint32_t state = pending_.back();
    pending_.pop_back();
    if (mark_[state] == closure_) continue;
    mark_[state] = closure_;
    ++work_;
    const auto calls = automaton_.calls_of(state);
    const bool accepts = automaton_.rules[automaton_.rule_of[state]].accept == state;
    if (accepts || !calls.empty() || !automaton_.edges_of(state).empty()) closed_.push_back(state);
    for (const uint32_t to : automaton_.epsilons_of(state)) pending_.push_back(to);
    for (const Automaton::Call& call : calls) {
      if (automaton_.rules[call.rule].nullable) pending_.push_back(call.to);
    }
  }
  if (closed_.empty()) return dead;
  std::sort(closed_.begin(), closed_.end());
  const auto found = ids_.find(&closed_);
  return found != ids_.end() ? found->second : insert(std::make_shared<const std::vector<uint32_t>>(closed_));
}

uint32_t StateSets::insert(Items items) {
  const auto id = static_cast<uint32_t>(sets_.size());
  Set set;
  set.distance = Automaton::unreachable;
  bool accepting = false;
  bool calling = false;
  bool reading = false;
  for (const uint32_t state : *items) {
    set.distance = std::min(set.distance, automaton_.distance[state]);
    accepting = accepting || automaton_.rules[automaton_.rule_of[state]].accept == state;
    calling = calling || !automaton_.calls_of(state).empty();
    reading = reading || !automaton_.edges_of(state).empty();
  }
  const bool ends = accepting && !calling && !reading;
  traits_.push_back(
      static_cast<uint8_t>((calling ? is_calling : 0) | (accepting ? is_accepting : 0) | (ends ? is_final : 0)));
  set.calls_known = !calling;
  set.items = std::move(items);
  bytes_ += sizeof(Set) + 64 + 4 * (classes_ + set.items->size());
  ids_.emplace(set.items.get(), id);
  sets_.push_back(std::move(set));
  next_.resize(next_.size() + classes_, unknown);
  return id;
}

uint32_t StateSets::intern(const Items& items) {
  const auto found = ids_.find(items.get());
  return found != ids_.end() ? found->second : insert(items);
}

uint32_t StateSets::start(uint32_t rule) {
  if (start_[rule] == unknown) {
    pending_.assign(1, automaton_.rules[rule].start);
    const uint32_t set = close_pending();
    start_[rule] = set;
  }
  return start_[rule];
}

uint32_t StateSets::make_next(uint32_t set, uint32_t byte_class) {
  const uint8_t byte = automaton_.sample[byte_class];
  pending_.clear();
  const Items items = sets_[set].items;
  work_ += items->size();
  for (const uint32_t state : *items) {
    for (const Automaton::Edge& edge : automaton_.edges_of(state)) {
      if (edge.first <= byte && byte <= edge.last) pending_.push_back(edge.to);
    }
  }
  const uint32_t next = close_pending();
  return next_[set * classes_ + byte_class] = next;
}

const std::vector<uint32_t>& StateSets::after_plain(uint32_t set) {
  const auto known = after_plain_.find(set);
  if (known != after_plain_.end()) return known->second;
  // UTF-8 of plain characters: from a state, bytes lead to another one, and in state 0 a character is complete.
  struct Range {
    uint8_t from, first, last, to;
  };
  static constexpr Range ranges[] = {{0, 0x20, 0x21, 0}, {0, 0x23, 0x5b, 0}, {0, 0x5d, 0x7e, 0}, {0, 0xc2, 0xdf, 1},
                                     {0, 0xe0, 0xe0, 4}, {0, 0xe1, 0xe1, 2}, {0, 0xe2, 0xe2, 8}, {0, 0xe3, 0xec, 2},
                                     {0, 0xed, 0xed, 5}, {0, 0xee, 0xef, 2}, {0, 0xf0, 0xf0, 6}, {0, 0xf1, 0xf3, 3},
                                     {0, 0xf4, 0xf4, 7}, {1, 0x80, 0xbf, 0}, {2, 0x80, 0xbf, 1}, {3, 0x80, 0xbf, 2},
                                     {4, 0xa0, 0xbf, 1}, {5, 0x80, 0x9f, 1}, {6, 0x90, 0xbf, 2}, {7, 0x80, 0x8f, 2},
                                     {8, 0x80, 0x80, 9}, {8, 0x81, 0xbf, 1}, {9, 0x80, 0xa7, 0}, {9, 0xaa, 0xbf, 0}};
  std::vector<uint32_t> result;
  std::vector<std::pair<uint8_t, uint32_t>> pending{{0, set}};
  std::vector<std::pair<uint8_t, uint32_t>> seen;
  bool refused = false;
  while (!pending.empty() && !refused) {
    const auto [state, at] = pending.back();
    pending.pop_back();
    for (const Range& range : ranges) {
      if (range.from != state) continue;
      for (uint32_t one = automaton_.class_of[range.first]; one <= automaton_.class_of[range.last]; ++one) {
        const uint32_t to = next(at, one);
        const std::pair<uint8_t, uint32_t> reached{range.to, to};
        if (to == dead || (range.to != 0 && !simple(to))) {
          refused = true;
        } else if (range.to == 0) {
          if (std::find(result.begin(), result.end(), to) == result.end()) result.push_back(to);
        } else if (std::find(seen.begin(), seen.end(), reached) == seen.end()) {
          seen.push_back(reached);
          pending.push_back(reached);
        }
      }
    }
    // What reads characters one by one has few places to go; anything else is not worth the search.
    refused = refused || result.size() > 4 || seen.size() > 64;
  }
  if (refused) result.clear();
  bytes_ += 64 + 4 * result.size();
  return after_plain_[set] = std::move(result);
}

uint32_t StateSets::plain_run(uint32_t set, bool may_end) {
  std::vector<uint32_t> now{set};
  for (uint32_t length = 0; length < longest_plain_run; ++length) {
    std::vector<uint32_t> later;
    for (const uint32_t one : now) {
      if (calling(one) || (accepting(one) && !may_end)) return length;
      const std::vector<uint32_t>& after = after_plain(one);
      if (after.empty()) return length;
      for (const uint32_t to : after) {
        if (std::find(later.begin(), later.end(), to) == later.end()) later.push_back(to);
      }
    }
    if (later.size() > 16) return length + 1;
    if (later == now) return longest_plain_run;
    now = std::move(later);
  }
  return longest_plain_run;
}

const std::vector<StateSets::Call>& StateSets::calls(uint32_t set) {
  if (sets_[set].calls_known) return sets_[set].calls;
  std::map<uint32_t, std::vector<uint32_t>> by_rule;
  for (const uint32_t state : *sets_[set].items) {
    for (const Automaton::Call& call : automaton_.calls_of(state)) by_rule[call.rule].push_back(call.to);
  }
  std::vector<Call> calls;
  for (auto& [rule, to] : by_rule) {
    pending_ = std::move(to);
    const uint32_t after = close_pending();
    calls.push_back({rule, after, final(after)});
  }
  bytes_ += calls.size() * sizeof(Call);
  sets_[set].calls = std::move(calls);
  sets_[set].calls_known = true;
  return sets_[set].calls;
}

}  // namespace fathom
