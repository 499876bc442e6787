#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "model/weights.h"

namespace fathom {

/// What a store has done so far; the difference of two is what happened between.
struct ExpertCounters {
  int64_t lookups = 0;        ///< experts that passes needed, each once per pass and layer
  int64_t hits = 0;           ///< of them in memory when the router had chosen
  int64_t guesses = 0;        ///< experts that were guessed for a layer before its router had chosen
  int64_t right_guesses = 0;  ///< of them chosen
  int64_t guessed_hits = 0;   ///< of the hits: in memory only because they had been guessed
  uint64_t bytes_read = 0;    ///< from the files
  double seconds_waited = 0;  ///< in which a pass had nothing to compute because its experts had not arrived

  ExpertCounters operator-(const ExpertCounters& before) const;
};

/// Routed experts in a limited memory: the most used ones of all MoE layers stay there, the others are read from the
/// checkpoint's files when the router has chosen them.
///
/// An expert lies in a slot as it is stored (type, row-major, scales in float32), so what is computed with it has the
/// same bits as with mapped weights. Reading goes past the page cache, by a few threads of the store's own.
///
/// Which one makes room: the expert with the least use, where a use counts half after kUseHalfLife tokens; of equals
/// the one that was not used for longest. Never one that a pass still needs.
///
/// Any number of threads may run passes at once.
class ExpertStore {
 public:
  /// Takes at most `bytes` of memory for slots; `weights` were loaded without the experts' data (see load_weights) and
  /// outlive the store, like the checkpoint. `bad_input`: the model has no routed experts, or two of them need more
  /// than `bytes` (the sentence says how much). `failure`: no memory.
  ExpertStore(const Checkpoint& checkpoint, const ModelWeights& weights, uint64_t bytes);
  ~ExpertStore();
  ExpertStore(const ExpertStore&) = delete;
  ExpertStore& operator=(const ExpertStore&) = delete;

  /// Experts that fit into the memory at once.
  int64_t slots() const;
  uint64_t slot_bytes() const;
  ExpertCounters counters() const;

  /// Says which experts of a layer will probably be needed soon, the likeliest first. Reads what is missing while
  /// nothing certain is to be read; gives up what the layer's next pass turns out not to need.
  void guess(int64_t layer, std::span<const int32_t> experts);

  /// An expert that a pass needs, and for how many tokens.
  struct Need {
    int32_t expert;
    int64_t tokens;
  };

 private:
  friend class ExpertPass;
  struct Data;
  std::unique_ptr<Data> data_;
};

/// One layer's experts in one pass. All that are missing are requested at once; the pass takes them as they arrive,
/// computes, and gives them back, so that a pass may need more experts than there are slots.
class ExpertPass {
 public:
  /// `needs` ascending by expert; `tokens` of the pass.
  ExpertPass(ExpertStore& store, int64_t layer, std::span<const ExpertStore::Need> needs, int64_t tokens);
  /// Gives everything back and withdraws what is still requested.
  ~ExpertPass();
  ExpertPass(const ExpertPass&) = delete;
  ExpertPass& operator=(const ExpertPass&) = delete;

  /// The needs (as indices, ascending) that are in memory and were not taken before; with `wait` at least one, if any
  /// is left. Just one where a read waits for a slot: computing it makes room. `failure` if an expert could not be
  /// read.
  const std::vector<size_t>& take(bool wait);
  /// The weights of a need that was taken and not given back.
  const MlpWeights& weights(size_t need) const;
  /// Gives back what the last `take` returned.
  void release();
  /// All needs have been taken.
  bool all_taken() const { return left_ == 0; }

 private:
  ExpertStore::Data& data_;
  std::vector<int32_t> experts_;  // of the store, one per need
  std::vector<bool> was_taken_;
  std::vector<size_t> taken_;
  size_t left_;
};

}  // namespace fathom
