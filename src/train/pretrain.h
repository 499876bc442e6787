#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/memory.h"
#include "base/thread_team.h"
#include "train/recipe.h"
#include "train/run_checkpoint.h"
#include "train/trainer.h"

namespace fathom {

/// What a run shows while it goes on; one line of RUN/log.jsonl holds the same.
struct StepReport {
  RunPosition position;
  int64_t steps = 0;  ///< of the whole run
  StepPlan plan;
  Losses losses;  ///< of the whole step: means over its labels and its sequences
  double gradient_norm = 0;
  double clip_factor = 1;
  double seconds = 0;
  double tokens_per_second = 0;
  double fraction_of_peak = 0;         ///< operations of the model ÷ time ÷ BF16 dot products of this moment
  std::vector<double> load_violation;  ///< per MoE layer: greatest load ÷ mean load − 1
  double seconds_left = 0;             ///< at the pace so far
};

/// Losses on held-out sequences.
struct ValidationReport {
  int64_t step = 0;
  double main = 0;
  std::vector<double> mtp;
  int64_t sequences = 0;
};

/// What a run is going to take.
struct PretrainPlan {
  TrainingMemory memory;
  uint64_t average_bytes = 0;  ///< of the moving average
  int64_t steps = 0;           ///< of the whole run
  int64_t start_step = 0;      ///< steps that are done already
  uint64_t bytes() const { return memory.total() + average_bytes; }
};

/// `failure` if a plan takes more memory than the system has available (where it says so).
void check_training_memory(const PretrainPlan& plan, const SystemMemory& system);

/// What the caller sees of a run; empty functions are not called.
struct PretrainEvents {
  /// Before memory is taken.
  std::function<void(const Recipe& recipe, const PretrainPlan& plan)> on_start;
  std::function<void(const StepReport& report)> on_step;
  std::function<void(const ValidationReport& report)> on_validation;
  std::function<void(const std::string& directory)> on_checkpoint;
};

struct PretrainOptions {
  std::string run;         ///< directory of the run
  bool resume = false;     ///< go on from its latest checkpoint; else the directory must not hold a run
  int64_t stop_after = 0;  ///< steps after which to write a checkpoint and stop; 0: at the end of the budget
};

/// Trains a model as its recipe says. RUN holds recipe.json (`recipe_text` as it was given), log.jsonl, checkpoints
/// (docs/training.md).
///
/// A run that is stopped (SIGINT: after the present step, with a checkpoint) or killed, and resumed, gives the same
/// bits as one that is not; the number of threads changes none. A loss or gradient that is not finite ends the run with
/// a `failure`; the state before the step and its batch are kept in RUN/not-finite-step-N. `bad_input`, before anything
/// is written: data of another tokenizer or vocabulary or without the split that validation needs; sequences that are
/// longer than the model's positions; a run that is there already, or none to resume; a checkpoint of a run with
/// another identity (run_identity). `failure`: another process trains in RUN; too little memory; see save_checkpoint.
/// Returns the last checkpoint's directory.
std::string pretrain(const Recipe& recipe, const std::string& recipe_text, const PretrainOptions& options,
                     const PretrainEvents& events, ThreadTeam& team);

}  // namespace fathom
