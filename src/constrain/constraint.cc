#include "constrain/constraint.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <bitset>
#include <limits>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "constrain/automaton.h"

namespace fathom {

/// All the readings of what has been accepted: each the rule being read, and what follows when that rule ends.
///
/// Immutable and shared; an element's `rest` is again such a set. Readings that differ only in what is below them are
/// one element, so that a step costs as much as there are different elements, not as many as there are readings.
class ConstraintStack {
 public:
  struct Element {
    StateSets::Items items;  // null for `StateSets::end`
    uint32_t set;            // valid in this generation of the state sets
    uint64_t generation;
    std::shared_ptr<const ConstraintStack> rest;  // null for `StateSets::end`
    uint32_t distance;                            // of the set
  };

  explicit ConstraintStack(std::vector<Element> elements) : elements_(std::move(elements)) {
    static std::atomic<uint64_t> count{0};
    id_ = ++count;
    bytes_to_end_ = std::numeric_limits<uint32_t>::max();
    for (const Element& element : elements_) {
      const uint64_t below = element.rest == nullptr ? 0 : element.rest->bytes_to_end_;
      bytes_to_end_ = static_cast<uint32_t>(std::min<uint64_t>(bytes_to_end_, below + element.distance));
    }
  }
  // A sequence may nest deeper than the machine's stack allows destructors to.
  ~ConstraintStack() {
    std::vector<std::shared_ptr<const ConstraintStack>> orphans;
    release(elements_, orphans);
    while (!orphans.empty()) {
      const std::shared_ptr<const ConstraintStack> last = std::move(orphans.back());
      orphans.pop_back();
      if (last.use_count() != 1) continue;
      std::atomic_thread_fence(std::memory_order_acquire);  // after what other owners did before they let go
      release(last->elements_, orphans);
    }
  }
  ConstraintStack(const ConstraintStack&) = delete;
  ConstraintStack& operator=(const ConstraintStack&) = delete;

  const std::vector<Element>& elements() const { return elements_; }
  /// Never used twice.
  uint64_t id() const { return id_; }
  uint32_t bytes_to_end() const { return bytes_to_end_; }

 private:
  static void release(std::vector<Element>& elements, std::vector<std::shared_ptr<const ConstraintStack>>& out) {
    for (Element& element : elements) {
      if (element.rest != nullptr) out.push_back(std::move(element.rest));
    }
  }

  mutable std::vector<Element> elements_;  // changed only by the last owner's destructor
  uint64_t id_;
  uint32_t bytes_to_end_;
};

namespace {

/// Steps one mask or token may cost: 50 ms of the grammar of all palindromes, which goes on for ever.
constexpr uint64_t most_work = 20'000'000;
constexpr size_t largest_mask_cache_bytes = size_t{32} << 20;

struct Below;

/// An element of a stack during an operation; `below` is null only for `StateSets::base` and `StateSets::end`.
struct Element {
  uint32_t set;
  Below* below;
  bool operator==(const Element&) const = default;
};
using Elements = std::vector<Element>;

/// A `ConstraintStack` during an operation; one that was there before is loaded when it is first needed.
struct Below {
  Elements elements;
  std::shared_ptr<const ConstraintStack> stack;
  bool loaded = false;
  // What walks ask again and again, found when it is asked for the first or the sixteenth time.
  std::optional<bool> reaches_base;  // reading may come to `StateSets::base` without a byte
  uint32_t uses = 0;
  std::optional<std::bitset<256>> reads;  // classes of bytes that can come next
};

/// Reusable memory for `Below`s: what was taken last is given back first.
class Arena {
 public:
  Below* take() {
    if (used_ == items_.size()) items_.push_back(std::make_unique<Below>());
    Below* below = items_[used_++].get();
    below->elements.clear();
    below->stack.reset();
    below->loaded = true;
    below->reaches_base.reset();
    below->uses = 0;
    below->reads.reset();
    return below;
  }
  size_t used() const { return used_; }
  void shrink(size_t used) { used_ = used; }
  /// Gives everything back and lets go of the stacks.
  void clear() {
    for (size_t index = 0; index < used_; ++index) items_[index]->stack.reset();
    used_ = 0;
    if (items_.size() > 4096) items_.resize(4096);
  }

 private:
  std::vector<std::unique_ptr<Below>> items_;
  size_t used_ = 0;
};

/// Tokens, as ids where they are few and as bits where they are many.
class TokenSet {
 public:
  TokenSet() = default;
  explicit TokenSet(std::span<const uint64_t> bits) {
    size_t count = 0;
    for (const uint64_t word : bits) count += static_cast<size_t>(std::popcount(word));
    if (count * sizeof(int32_t) > bits.size_bytes()) {
      bits_.assign(bits.begin(), bits.end());
      return;
    }
    for (size_t word = 0; word < bits.size(); ++word) {
      for (uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
        ids_.push_back(static_cast<int32_t>(word * 64 + static_cast<size_t>(std::countr_zero(rest))));
      }
    }
  }
  void add_to(std::span<uint64_t> bits) const {
    for (size_t word = 0; word < bits_.size(); ++word) bits[word] |= bits_[word];
    for (const int32_t id : ids_) bits[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
  }
  size_t memory() const { return bits_.size() * sizeof(uint64_t) + ids_.size() * sizeof(int32_t); }

 private:
  std::vector<uint64_t> bits_;
  std::vector<int32_t> ids_;
};

/// What an element of the stack allows, as far as it does not depend on what is below it.
struct Mask {
  TokenSet tokens;
  std::vector<uint32_t> pops;  // nodes at which the element is read to its end and a token goes on
};

/// The masks used last.
class MaskCache {
 public:
  /// State set; tree of the vocabulary; id of the stack below, or 0 for the mask without it.
  using Key = std::tuple<uint32_t, size_t, uint64_t>;

  std::shared_ptr<const Mask> find(Key key) {
    const auto found = places_.find(key);
    if (found == places_.end()) return nullptr;
    order_.splice(order_.begin(), order_, found->second);
    return found->second->mask;
  }
  std::shared_ptr<const Mask> insert(Key key, Mask mask) {
    const size_t memory = sizeof(Mask) + 128 + mask.tokens.memory() + mask.pops.size() * sizeof(uint32_t);
    order_.push_front({key, std::make_shared<const Mask>(std::move(mask)), memory});
    places_[key] = order_.begin();
    memory_ += memory;
    std::shared_ptr<const Mask> result = order_.front().mask;
    while (memory_ > largest_mask_cache_bytes && order_.size() > 1) {
      memory_ -= order_.back().memory;
      places_.erase(order_.back().key);
      order_.pop_back();
    }
    return result;
  }
  void clear() {
    order_.clear();
    places_.clear();
    memory_ = 0;
  }

 private:
  struct Entry {
    Key key;
    std::shared_ptr<const Mask> mask;
    size_t memory;
  };
  std::list<Entry> order_;  // last used first
  std::map<Key, std::list<Entry>::iterator> places_;
  size_t memory_ = 0;
};

}  // namespace

struct Constraint::Data {
  Data(Automaton compiled, std::shared_ptr<const TokenTrie> tokens)
      : automaton(std::move(compiled)),
        trie(std::move(tokens)),
        sets(automaton, work),
        root_called(std::any_of(automaton.calls.begin(), automaton.calls.end(),
                                [&](const Automaton::Call& one) { return one.rule == automaton.root; })),
        pending_of(automaton.rules.size()) {}

  /// Begins an operation: all that the one before left in the working memory goes.
  void begin() {
    work = 0;
    steps.clear();
    loaded.clear();
    loaded_of.clear();
    for (const uint32_t rule : queue) pending_of[rule] = {};
    queue.clear();
    if (sets.large()) {
      sets.clear();
      masks.clear();
    }
  }

  void count(uint64_t cost) {
    work += cost;
    if (work > most_work) {
      throw_bad_input("The grammar is too ambiguous: one step would follow more than {} readings of the text at once.",
                      most_work);
    }
  }

  Below* load(const std::shared_ptr<const ConstraintStack>& stack) {
    Below*& below = loaded_of[stack.get()];
    if (below == nullptr) {
      below = loaded.take();
      below->stack = stack;
      below->loaded = false;
    }
    return below;
  }

  const Elements& elements(Below* below) {
    if (!below->loaded) {
      below->loaded = true;
      for (const ConstraintStack::Element& element : below->stack->elements()) {
        if (element.items == nullptr) {
          below->elements.push_back({StateSets::end, nullptr});
          continue;
        }
        const uint32_t set = element.generation == sets.generation() ? element.set : sets.intern(element.items);
        below->elements.push_back({set, load(element.rest)});
      }
    }
    return below->elements;
  }

  void add_unique(Elements& out, const Element& element) {
    count(out.size() + 1);
    if (std::find(out.begin(), out.end(), element) == out.end()) out.push_back(element);
  }

  /// The elements that may read the next byte: `tops` and, where one may be at its end, what is below it.
  void close(const Elements& tops, Elements& out) {
    out = tops;
    for (size_t index = 0; index < out.size(); ++index) {
      if (!sets.accepting(out[index].set) || out[index].below == nullptr) continue;
      const Elements& next = elements(out[index].below);
      for (const Element& element : next) add_unique(out, element);
    }
  }

  void merge(Elements& out, const Element& element) {
    count(out.size() + 1);
    const auto same =
        std::find_if(out.begin(), out.end(), [&](const Element& other) { return other.set == element.set; });
    if (same == out.end()) {
      out.push_back(element);
    } else if (same->below != element.below) {
      Below* both = steps.take();
      both->elements = elements(same->below);
      const size_t before = both->elements.size();
      for (const Element& one : elements(element.below)) add_unique(both->elements, one);
      if (both->elements.size() > before) same->below = both;
    }
  }

  void arrive(Elements& out, uint32_t set, Below* below) {
    if (set == StateSets::dead) return;
    if (!sets.final(set)) {
      merge(out, {set, below});
      return;
    }
    for (const Element& element : elements(below)) merge(out, element);
  }

  /// A rule that the byte in hand begins, with what follows it.
  struct Pending {
    Below* below = nullptr;
    bool owned = false;
  };

  bool later(uint32_t left, uint32_t right) const { return automaton.rules[left].order > automaton.rules[right].order; }

  void call(const StateSets::Call& call, Below* below) {
    Pending& pending = pending_of[call.rule];
    if (pending.below == nullptr) {
      queue.push_back(call.rule);
      std::push_heap(queue.begin(), queue.end(), [this](uint32_t left, uint32_t right) { return later(left, right); });
      if (call.tail) {
        pending = {below, false};
        return;
      }
      pending = {steps.take(), true};
    } else if (!pending.owned) {
      if (call.tail && pending.below == below) return;
      Below* own = steps.take();
      own->elements = elements(pending.below);
      pending = {own, true};
    }
    if (call.tail) {
      for (const Element& element : elements(below)) add_unique(pending.below->elements, element);
    } else {
      add_unique(pending.below->elements, {call.to, below});
    }
  }

  /// Reads one byte from `set`: edges lead to `out`, calls wait in the queue.
  void read(uint32_t set, Below* below, uint32_t byte_class, Elements& out) {
    arrive(out, sets.next(set, byte_class), below);
    if (!sets.calling(set)) return;
    for (const StateSets::Call& one : sets.calls(set)) {
      count(1);
      if (sets.may_begin(one.rule, byte_class)) call(one, below);
    }
  }

  /// All stacks after one more byte; none if it is not allowed.
  void step(const Elements& tops, uint32_t byte_class, Elements& out) {
    out.clear();
    if (tops.size() == 1) {
      const Element top = tops.front();
      if (sets.simple(top.set)) {
        arrive(out, sets.next(top.set, byte_class), top.below);
        return;
      }
    }
    close(tops, closed);
    // Only what is loaded or pending may grow while `closed` is walked.
    for (const Element& element : closed) read(element.set, element.below, byte_class, out);
    while (!queue.empty()) {
      std::pop_heap(queue.begin(), queue.end(), [this](uint32_t left, uint32_t right) { return later(left, right); });
      const uint32_t rule = queue.back();
      queue.pop_back();
      Below* below = pending_of[rule].below;
      pending_of[rule] = {};
      read(sets.start(rule), below, byte_class, out);
    }
  }

  /// The stacks at a node of a walk; nearly always there is one, and then `many` is not touched.
  struct Level {
    bool single = false;
    Element top{};
    Elements many;
    size_t used = 0;  // of `steps`

    void set(const Elements& tops) {
      single = tops.size() == 1;
      if (single) {
        top = tops[0];
      } else {
        many = tops;
      }
    }
  };

  /// Whether the class is known not to come next in what is below; `used` is how much of `steps` must be kept.
  bool refuses(Below* below, uint32_t byte_class, size_t used) {
    constexpr uint32_t worth_knowing = 16;  // finding it costs as much as a few dozen steps
    if (!below->reads) {
      if (++below->uses < worth_knowing) return false;
      steps.shrink(used);
      below->reads.emplace();
      Elements after;
      for (uint32_t one = 0; one < automaton.classes(); ++one) {
        step(elements(below), one, after);
        below->reads->set(one, !after.empty());
        steps.shrink(used);
      }
    }
    return !below->reads->test(byte_class);
  }

  bool reaches_base(Below* below) {
    if (!below->reaches_base) {
      close(elements(below), closed);
      below->reaches_base =
          std::any_of(closed.begin(), closed.end(), [](const Element& one) { return one.set == StateSets::base; });
    }
    return *below->reaches_base;
  }

  /// Follows the tokens of the nodes [begin, end) from `start`. `visit(node index, stacks)` is called for every node
  /// that can be reached and says whether what is below it matters.
  template <typename Visit>
  void walk(std::span<const TokenTrie::Node> nodes, const Elements& start, uint32_t begin_node, uint32_t end_node,
            Visit visit) {
    if (begin_node >= end_node) return;
    const size_t above = nodes[begin_node].depth - size_t{1};
    if (levels.empty()) levels.resize(2);
    levels[0].set(start);
    levels[0].used = steps.used();
    for (uint32_t index = begin_node; index < end_node;) {
      const TokenTrie::Node& node = nodes[index];
      const size_t level = node.depth - above;
      if (level >= levels.size()) levels.resize(level + 1);
      const uint32_t byte_class = automaton.class_of[node.byte];
      const Level& from = levels[level - 1];
      Level& to = levels[level];
      // Nearly all steps read a byte in one rule; this way a walk over 274,000 nodes takes 3 ms and by `step` 8.5.
      if (from.single && !sets.calling(from.top.set) &&
          (sets.simple(from.top.set) || refuses(from.top.below, byte_class, from.used))) {
        const uint32_t next = sets.known_next(from.top.set, byte_class);
        if (next == StateSets::dead) {
          index = node.skip;
          continue;
        }
        if (next != StateSets::unknown && !sets.final(next)) {
          to.single = true;
          to.top = {next, from.top.below};
          to.used = from.used;
          index = visit(index, std::span(&to.top, 1)) ? index + 1 : node.skip;
          continue;
        }
      }
      steps.shrink(from.used);
      if (from.single) single.assign(1, from.top);
      step(from.single ? single : from.many, byte_class, stepped);
      if (stepped.empty()) {
        index = node.skip;
        continue;
      }
      to.set(stepped);
      to.used = steps.used();
      index = visit(index, std::span<const Element>(stepped)) ? index + 1 : node.skip;
    }
  }

  size_t words() const { return (static_cast<size_t>(trie->vocab_size()) + 63) / 64; }

  /// The tree of the tokens that remain behind the first `tree` slices; the whole one has the number of all slices.
  std::span<const TokenTrie::Node> tree_nodes(size_t tree) const {
    return tree < trie->slices().size() ? std::span(trie->slices()[tree].others) : trie->nodes();
  }

  /// Whether reading the set's rule to its end can matter: nothing follows the root rule unless a rule calls it.
  bool end_matters(uint32_t set) const {
    return root_called || automaton.rule_of[sets[set].items->front()] != automaton.root;
  }

  std::shared_ptr<const Mask> own_mask(uint32_t set, size_t tree) {
    if (auto known = masks.find({set, tree, 0})) return known;
    Below* below = loaded.take();
    below->elements.push_back({StateSets::base, nullptr});
    Mask mask;
    std::vector<uint64_t> bits(words(), 0);
    const bool matters = end_matters(set);
    const std::span<const TokenTrie::Node> nodes = tree_nodes(tree);
    walk(nodes, {{set, below}}, 0, static_cast<uint32_t>(nodes.size()),
         [&](uint32_t index, std::span<const Element> tops) {
           const TokenTrie::Node& node = nodes[index];
           if (node.token >= 0) bits[static_cast<size_t>(node.token) / 64] |= uint64_t{1} << (node.token % 64);
           const bool is_base = tops.size() == 1 && tops[0].set == StateSets::base;
           if (!matters || (tops.size() == 1 && !is_base && sets.simple(tops[0].set))) return true;
           const bool popped = std::any_of(tops.begin(), tops.end(), [&](const Element& top) {
             return top.set == StateSets::base || (sets.accepting(top.set) && reaches_base(top.below));
           });
           if (popped && node.skip > index + 1) mask.pops.push_back(index);
           return !is_base;
         });
    mask.tokens = TokenSet(bits);
    return masks.insert({set, tree, 0}, std::move(mask));
  }

  /// Tokens that read the element `set` to its end, at one of the `pops`, and go on in what is below it.
  std::shared_ptr<const Mask> mask_below(uint32_t set, Below* below, const Mask& own, size_t tree) {
    const MaskCache::Key key{set, tree, below->stack->id()};
    if (auto known = masks.find(key)) return known;
    const Elements start = elements(below);
    std::vector<uint64_t> bits(words(), 0);
    const std::span<const TokenTrie::Node> nodes = tree_nodes(tree);
    for (const uint32_t pop : own.pops) {
      for (uint32_t child = pop + 1; child < nodes[pop].skip; child = nodes[child].skip) {
        if (refuses(below, automaton.class_of[nodes[child].byte], 0)) continue;
        walk(nodes, start, child, nodes[child].skip, [&](uint32_t index, std::span<const Element>) {
          const int32_t token = nodes[index].token;
          if (token >= 0) bits[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
          return true;
        });
      }
    }
    return masks.insert(key, {TokenSet(bits), {}});
  }

  void fill_mask(const std::shared_ptr<const ConstraintStack>& stack, std::span<uint64_t> bits) {
    begin();
    Elements readers;
    close(elements(load(stack)), readers);
    std::erase_if(readers, [](const Element& reader) { return reader.set < StateSets::first_real; });
    uint32_t run = 0;
    for (const Element& reader : readers) run = std::max(run, sets.plain_run(reader.set, !end_matters(reader.set)));
    size_t tree = 0;
    while (tree < trie->slices().size() && trie->slices()[tree].characters > run) ++tree;
    if (tree < trie->slices().size()) {
      const std::vector<uint64_t>& plain = trie->slices()[tree].plain;
      std::copy(plain.begin(), plain.end(), bits.begin());
    }
    for (const Element& reader : readers) {
      const std::shared_ptr<const Mask> own = own_mask(reader.set, tree);
      own->tokens.add_to(bits);
      if (own->pops.empty()) continue;
      const Elements& next = elements(reader.below);
      const bool last =
          std::all_of(next.begin(), next.end(), [](const Element& one) { return one.set == StateSets::end; });
      if (!last) mask_below(reader.set, reader.below, *own, tree)->tokens.add_to(bits);
    }
    for (const TokenTrie::Twin& twin : trie->twins()) {
      if ((bits[static_cast<size_t>(twin.lower) / 64] >> (twin.lower % 64) & 1) != 0) {
        bits[static_cast<size_t>(twin.token) / 64] |= uint64_t{1} << (twin.token % 64);
      }
    }
  }

  std::shared_ptr<const ConstraintStack> keep(const Elements& tops) {
    std::vector<ConstraintStack::Element> kept;
    for (const Element& top : tops) {
      const StateSets::Set& set = sets[top.set];
      kept.push_back(
          {set.items, top.set, sets.generation(), top.below == nullptr ? nullptr : keep(top.below), set.distance});
    }
    return std::make_shared<const ConstraintStack>(std::move(kept));
  }

  // Deep only by as many rules as one token begins and `longest_left_chain` each: what was there before is kept.
  std::shared_ptr<const ConstraintStack> keep(Below* below) {
    if (below->stack == nullptr) below->stack = keep(below->elements);
    return below->stack;
  }

  std::shared_ptr<const ConstraintStack> first_stack() {
    begin();
    Below* end = loaded.take();
    end->elements.push_back({StateSets::end, nullptr});
    return keep({{sets.start(automaton.root), end}});
  }

  /// Null if the bytes are not allowed.
  std::shared_ptr<const ConstraintStack> after(const std::shared_ptr<const ConstraintStack>& stack,
                                               std::string_view bytes) {
    Elements tops = elements(load(stack));
    Elements next;
    for (const char byte : bytes) {
      step(tops, automaton.class_of[static_cast<uint8_t>(byte)], next);
      if (next.empty()) return nullptr;
      std::swap(tops, next);
    }
    return keep(tops);
  }

  Automaton automaton;
  std::shared_ptr<const TokenTrie> trie;
  std::mutex mutex;  // of everything below
  uint64_t work = 0;
  StateSets sets;
  const bool root_called;  // by a rule
  MaskCache masks;
  Arena steps;   // made by steps; a walk gives back what lies behind it
  Arena loaded;  // of stacks that were there before the operation
  std::unordered_map<const ConstraintStack*, Below*> loaded_of;
  Elements closed;
  std::vector<Pending> pending_of;  // [rules]
  std::vector<uint32_t> queue;      // rules with a pending call, a heap: callers first
  std::vector<Level> levels;        // of a walk, by the depth of the node
  Elements single;                  // of a walk
  Elements stepped;                 // of a walk
};

Constraint::Constraint(ByteGrammar grammar, std::shared_ptr<const TokenTrie> trie)
    : data_(std::make_unique<Data>(compile_automaton(std::move(grammar)), std::move(trie))) {
  for (const Automaton::Edge& edge : data_->automaton.edges) {
    for (uint32_t byte = edge.first; byte <= edge.last; ++byte) {
      if (!data_->trie->has_byte(static_cast<uint8_t>(byte))) {
        throw_bad_input(
            "The vocabulary has no token for the single byte 0x{:02x}: a constraint needs one for every byte that its "
            "grammar can write.",
            byte);
      }
    }
  }
}

Constraint::~Constraint() = default;

const TokenTrie& Constraint::trie() const {
  return *data_->trie;
}

/// The tokens behind which the grammar begins, with the table of Knuth, Morris and Pratt.
struct ConstraintState::Waiting {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> shorter;  // length of the longest border of each prefix
};

ConstraintState::ConstraintState(std::shared_ptr<const Constraint> constraint, std::vector<int32_t> start_after,
                                 bool optional)
    : constraint_(std::move(constraint)) {
  if (!start_after.empty()) {
    may_end_ = optional;
    Waiting waiting{std::move(start_after), {}};
    waiting.shorter.assign(waiting.tokens.size(), 0);
    for (uint32_t at = 1, length = 0; at < waiting.tokens.size(); ++at) {
      while (length > 0 && waiting.tokens[at] != waiting.tokens[length]) length = waiting.shorter[length - 1];
      if (waiting.tokens[at] == waiting.tokens[length]) ++length;
      waiting.shorter[at] = length;
    }
    waiting_ = std::make_shared<const Waiting>(std::move(waiting));
    return;
  }
  accept_bytes({});
}

bool ConstraintState::accept_bytes(std::string_view bytes) {
  Constraint::Data& data = *constraint_->data_;
  const std::lock_guard lock(data.mutex);
  std::shared_ptr<const ConstraintStack> next;
  if (stack_ == nullptr) {
    next = data.first_stack();
  } else {
    data.begin();
    next = data.after(stack_, bytes);
    if (next == nullptr) return false;
  }
  data.begin();
  Elements readers;
  data.close(data.elements(data.load(next)), readers);
  const auto is_end = [](const Element& element) { return element.set == StateSets::end; };
  may_end_ = std::any_of(readers.begin(), readers.end(), is_end);
  must_end_ = may_end_ && std::all_of(readers.begin(), readers.end(), [&](const Element& element) {
                return is_end(element) || data.sets.final(element.set);
              });
  bytes_to_end_ = next->bytes_to_end();
  stack_ = std::move(next);
  return true;
}

bool ConstraintState::accept(int32_t token) {
  if (waiting_ != nullptr) {
    while (matched_ > 0 && waiting_->tokens[matched_] != token) matched_ = waiting_->shorter[matched_ - 1];
    if (waiting_->tokens[matched_] == token) ++matched_;
    if (matched_ == waiting_->tokens.size()) {
      accept_bytes({});
      waiting_ = nullptr;
    }
    return true;
  }
  const std::string_view bytes = constraint_->trie().bytes(token);
  return !bytes.empty() && accept_bytes(bytes);
}

void ConstraintState::fill_mask(std::span<uint64_t> bits) const {
  Constraint::Data& data = *constraint_->data_;
  if (bits.size() < data.words()) {
    throw_failure("A mask has {} words: expected at least {} for {} tokens.", bits.size(), data.words(),
                  data.trie->vocab_size());
  }
  if (waiting_ != nullptr) {
    std::fill(bits.begin(), bits.end(), ~uint64_t{0});
    return;
  }
  std::fill(bits.begin(), bits.end(), uint64_t{0});
  const std::lock_guard lock(data.mutex);
  data.fill_mask(stack_, bits);
}

std::string ConstraintState::shortest_completion() const {
  std::string completion;
  if (waiting_ != nullptr) return completion;
  Constraint::Data& data = *constraint_->data_;
  const std::lock_guard lock(data.mutex);
  std::shared_ptr<const ConstraintStack> at = stack_;
  while (at->bytes_to_end() > 0) {
    const uint32_t before = at->bytes_to_end();
    std::shared_ptr<const ConstraintStack> nearer;
    data.begin();
    for (const uint8_t byte : data.automaton.sample) {
      const auto next = data.after(at, std::string_view(reinterpret_cast<const char*>(&byte), 1));
      if (next == nullptr || next->bytes_to_end() >= before) continue;
      nearer = next;
      completion += static_cast<char>(byte);
      break;
    }
    if (nearer == nullptr) throw_failure("No byte leads nearer to the end of the sentence, {} bytes away.", before);
    at = std::move(nearer);
  }
  return completion;
}

}  // namespace fathom
