#pragma once
#include <functional>
#include <vector>

#include "engine/measure.h"
#include "train/trainer.h"

namespace fathom {

/// One optimizer step: what it took, and the ceiling of its moment.
struct TrainingRepeat {
  double forward_backward_seconds = 0;
  double optimizer_seconds = 0;  ///< gradients to zero, their norm, AdamW, new compute copies
  double peak_ops_per_s = 0;  ///< BF16 dot products, mean of just before and just after; float32 where there are none
  double seconds() const { return forward_backward_seconds + optimizer_seconds; }
};

struct TrainingMeasurement {
  int64_t tokens = 0;     ///< of a step
  double operations = 0;  ///< of the model in a step, see training_operations
  std::vector<TrainingRepeat> repeats;

  double seconds() const;  ///< median of a step
  double optimizer_seconds() const;
  double tokens_per_s() const { return static_cast<double>(tokens) / seconds(); }
  /// Operations ÷ time ÷ BF16 dot products of the same moment.
  Spread peak_fraction() const;
};

/// A model of about 20 M active weights in the proportions of V3: one dense layer, then 4 of 16 experts and a shared
/// one, one MTP layer.
ModelConfig training_bench_model();

/// Steps on random tokens from random weights: one to warm up, then `repeats`. `on_plan` is called with the memory that
/// it is going to take, before it is taken. `failure` if that is more than there is, or when interrupted.
TrainingMeasurement measure_training(const ModelConfig& config, const TrainOptions& options, int64_t repeats,
                                     ThreadTeam& team, const std::function<void(const TrainingMemory&)>& on_plan);

}  // namespace fathom
