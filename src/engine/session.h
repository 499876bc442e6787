#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "engine/engine.h"
#include "formats/model_config.h"
#include "model/compute_mode.h"
#include "model/expert_store.h"
#include "model/weight_storage.h"

namespace fathom {

struct LoadedModel;

struct SessionOptions {
  std::optional<ComputeMode> compute;  ///< nothing: bf16, or int8 where the weights are held in integers
  WeightOptions weights;
  bool fp8_cache = false;                     ///< see OpenOptions
  int threads = 0;                            ///< 0: one per hardware thread
  int64_t context = 4096;                     ///< most positions of a sequence; cache memory is taken as they fill
  int64_t prefill_chunk = 512;                ///< most tokens of a prompt in one pass
  int64_t drafts = 0;                         ///< see EngineOptions
  std::string store_directory;                ///< for a PageStore; empty: none
  uint64_t store_bytes = uint64_t{10} << 30;  ///< its limit
  /// Called before memory is taken for weights, with what they take and the bytes of a full cache; may throw to stop.
  std::function<void(const WeightPlan& plan, uint64_t cache_bytes)> on_plan;
  /// Called while weights are brought into memory, in bytes of the files; may throw to stop.
  std::function<void(uint64_t done, uint64_t total)> on_progress;
};

/// A model opened from a checkpoint directory, with threads and an engine that runs one request at a time and keeps
/// its cache for the next: what `chat` and `generate` drive. One thread at a time.
class Session {
 public:
  /// `bad_input` for everything that is wrong with the checkpoint, options that contradict one another, or a context
  /// longer than the model's. `failure` if the weights do not fit the memory.
  Session(const std::string& directory, const SessionOptions& options);
  ~Session();

  const ModelConfig& config() const;
  const LoadedModel& model() const;
  ThreadTeam& team();
  int64_t context() const;
  int64_t drafts() const;
  /// Null if no directory was given. Made when it is first asked for; `bad_input`: see PageStore.
  std::shared_ptr<PageStore> store();
  /// Made when it is first asked for.
  Engine& engine();
  /// Waits until what is to be stored is written; the latest sentence about something that could not be, or empty.
  std::string store_problem();
  /// What the expert store has done so far; nothing without one.
  std::optional<ExpertCounters> expert_counters() const;
  /// Forgets what is cached.
  void clear();

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
