#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "constrain/byte_grammar.h"
#include "constrain/token_trie.h"

namespace fathom {

class ConstraintStack;

/// A grammar together with a vocabulary: what every sequence that must follow the grammar shares.
///
/// Masks that were computed are kept, 32 MB at most, as are the sets of grammar states that were met, 64 MB at most.
/// Threads: any number at once, also through different states; one computes while the others wait.
class Constraint {
 public:
  /// Compiles the grammar. `bad_input` as `compile_automaton` says, and if a byte that the grammar can write is not a
  /// token by itself: without it a sequence could come to a place from which no token leads on.
  Constraint(ByteGrammar grammar, std::shared_ptr<const TokenTrie> trie);
  ~Constraint();
  Constraint(const Constraint&) = delete;
  Constraint& operator=(const Constraint&) = delete;

  const TokenTrie& trie() const;

 private:
  friend class ConstraintState;
  struct Data;
  std::unique_ptr<Data> data_;
};

/// How far one sequence is in its grammar. A copy costs a few pointers, so that drafts can be tried and dropped.
///
/// At any time a token may come next or the sequence may end; `accept` never leads out of that. End tokens are not the
/// state's business: the caller allows them when `may_end`, and does not hand them to `accept`.
///
/// Errors: a grammar so ambiguous that one step would have to follow too many readings at once throws `bad_input` from
/// `accept`, `fill_mask` and `shortest_completion`; the state is then as it was. Threads: one at a time per state.
class ConstraintState {
 public:
  /// If `start_after` is not empty, the grammar begins behind the first place where these tokens follow each other
  /// (`</think>`); up to there every token is allowed, and the sequence may only end if the grammar is `optional`.
  explicit ConstraintState(std::shared_ptr<const Constraint> constraint, std::vector<int32_t> start_after = {},
                           bool optional = false);

  /// Takes one more token; false, and nothing changed, if it is not allowed.
  bool accept(int32_t token);
  /// Whether the sequence is a complete sentence.
  bool may_end() const { return may_end_; }
  /// Whether it is complete and nothing can follow.
  bool must_end() const { return must_end_; }
  /// Whether the grammar has begun.
  bool started() const { return !waiting_; }
  /// Sets bit i (of word i / 64) to whether token i may come next; all bits before the grammar has begun. `bits` has at
  /// least `(trie().vocab_size() + 63) / 64` words; bits beyond the vocabulary become 0.
  void fill_mask(std::span<uint64_t> bits) const;
  /// Least number of bytes that complete the sentence; 0 if it may end, and before the grammar has begun.
  uint32_t bytes_to_end() const { return bytes_to_end_; }
  /// Bytes that complete the sentence, as few as possible; single-byte tokens can always spell them.
  std::string shortest_completion() const;

 private:
  struct Waiting;
  bool accept_bytes(std::string_view bytes);

  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<const Waiting> waiting_;  // null once the grammar has begun
  uint32_t matched_ = 0;                    // tokens of `start_after` seen in a row
  std::shared_ptr<const ConstraintStack> stack_;
  uint32_t bytes_to_end_ = 0;
  bool may_end_ = false;
  bool must_end_ = false;
};

}  // namespace fathom
