#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "formats/model_config.h"
#include "model/compute_mode.h"
#include "model/expert_store.h"
#include "model/weight_storage.h"

namespace fathom {

struct LoadedModel;

struct SessionOptions {
  std::optional<ComputeMode> compute;  ///< nothing: bf16, or int8 where the weights are held in integers
  WeightOptions weights;
  int threads = 0;              ///< 0: one per hardware thread
  int64_t context = 4096;       ///< most positions of a sequence; cache memory is taken as they fill
  int64_t prefill_chunk = 512;  ///< most tokens of a prompt in one pass
  /// Called before memory is taken for weights, with what they take and the bytes of a full cache; may throw to stop.
  std::function<void(const WeightPlan& plan, uint64_t cache_bytes)> on_plan;
  /// Called while weights are brought into memory, in bytes of the files; may throw to stop.
  std::function<void(uint64_t done, uint64_t total)> on_progress;
};

/// A model opened from a checkpoint directory with one growing sequence and its latent cache: what `chat` and
/// `generate` drive. One thread at a time.
class Session {
 public:
  /// `bad_input` for everything that is wrong with the checkpoint, options that contradict one another, or a context
  /// longer than the model's. `failure` if the weights do not fit the memory.
  Session(const std::string& directory, const SessionOptions& options);
  ~Session();

  const ModelConfig& config() const;
  /// What an `Engine` beside it runs on.
  const LoadedModel& model() const;
  ThreadTeam& team();
  int64_t context() const;

  /// Makes the sequence equal to `tokens` and returns the logits [V] that follow its last token. The longest common
  /// prefix with the current sequence is kept (not computed again); `progress(done, total)` is called after each chunk
  /// and may throw to stop: the sequence then holds what is done. `bad_input`: no tokens, more than `context`, an id
  /// outside the vocabulary.
  std::span<const float> prefill(std::span<const int32_t> tokens,
                                 const std::function<void(int64_t done, int64_t total)>& progress = {});
  /// Appends one token and returns the logits that follow it. Valid until the next call. `bad_input` if the context is
  /// full.
  std::span<const float> decode(int32_t token);

  /// Tokens whose cache is held.
  const std::vector<int32_t>& tokens() const;
  /// Tokens of the last `prefill` that were found in the cache.
  int64_t reused_tokens() const;
  /// What the expert store has done so far; nothing without one.
  std::optional<ExpertCounters> expert_counters() const;
  void clear();

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
