#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/gnuplot.h"
#include "train/run_log.h"

namespace fathom {

/// A training run in a picture.
struct PlotRun {
  std::string label;  ///< its name in legends
  RunLog log;         ///< at least one step
};

constexpr size_t kMostPlotRuns = 16;

/// What a run came to. NaN where the log does not say.
struct RunSummary {
  int64_t steps = 0;                            ///< the last one's number
  int64_t tokens = 0;                           ///< trained on
  double main_loss = kNotLogged;                ///< smoothed, at the end
  double validation_loss = kNotLogged;          ///< main loss of the last validation
  double mean_load_violation = kNotLogged;      ///< over all steps and MoE layers
  double greatest_load_violation = kNotLogged;  ///< the same
  /// Greatest |relative difference| of the smoothed main loss to the first run's at the same step, over the second
  /// half of the steps that both have. NaN for the first run.
  double greatest_relative_difference = kNotLogged;
};

/// Exponential average over about `steps` values: each weighs 1 − 1 / `steps` times what the one after it weighs
/// (`steps` = 10: the 0.9 of the DeepSeek-V3 report, appendix B.1). The weights of the values so far are normalised, so
/// that the average begins at the first value. NaN stays NaN and counts for nothing. `steps` ≥ 1; 1: the values.
std::vector<double> exponential_average(std::span<const double> values, int64_t steps);

/// Relative difference of `run`'s smoothed main loss to `reference`'s, (run / reference − 1), at the steps that both
/// have: (step, difference).
std::vector<std::array<double, 2>> relative_loss_difference(const RunLog& reference, const RunLog& run,
                                                            int64_t smooth_steps);

RunSummary summarize_run(const std::vector<PlotRun>& runs, size_t run, int64_t smooth_steps);

/// The pictures of one run or several, each run in the same colours and dashes throughout: loss, load, violation,
/// learning-rate, gradient-norm, and for several runs loss-difference (to the first). A picture of which the logs hold
/// nothing is left out. 1 … kMostPlotRuns runs.
std::vector<Picture> training_pictures(const std::vector<PlotRun>& runs, int64_t smooth_steps);

}  // namespace fathom
