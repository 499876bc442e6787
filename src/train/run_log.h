#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom {

/// What a number is that the log does not hold (or holds as null, as JSON writes a number that is not finite).
constexpr double kNotLogged = std::numeric_limits<double>::quiet_NaN();

/// One optimizer step.
struct StepRecord {
  int64_t step = 0;    ///< from 1
  int64_t tokens = 0;  ///< trained on since the beginning, this step included
  double loss = kNotLogged;
  double main = kNotLogged;  ///< mean cross-entropy of the next token, in nats
  std::vector<double> mtp;   ///< the same of each MTP depth
  double balance = kNotLogged;
  double gradient_norm = kNotLogged;  ///< before clipping
  double clip_factor = kNotLogged;    ///< what the gradient was multiplied by
  double learning_rate = kNotLogged;
  double bias_update_speed = kNotLogged;
  int64_t sequences = 0;
  double tokens_per_second = kNotLogged;
  double fraction_of_peak = kNotLogged;
  std::vector<double> load_violation;  ///< of each MoE layer: greatest load / mean load − 1
  double seconds = kNotLogged;
};

/// Losses on the validation shard after a step.
struct ValidationRecord {
  int64_t step = 0;
  int64_t tokens = 0;
  double main = kNotLogged;
  std::vector<double> mtp;
  int64_t sequences = 0;
};

/// Tokens that each expert was given in the steps after the record before this one.
struct ExpertLoadRecord {
  int64_t step = 0;
  int64_t tokens = 0;
  std::vector<std::pair<int64_t, std::vector<int64_t>>> layers;  ///< (layer id, [E]), ascending; MTP layers are last
};

/// RUN/log.jsonl: each kind in ascending order of steps.
struct RunLog {
  std::vector<StepRecord> steps;
  std::vector<ValidationRecord> validations;
  std::vector<ExpertLoadRecord> loads;
};

/// Reads a run's log, one JSON object per line.
///
/// Keys that are not known, and objects that hold none of `main`, `validation` and `expert_load`, are passed over. A
/// last line without newline that is not a whole object was torn when the run was killed, and is ignored. A run that
/// went on from a checkpoint repeats steps: where steps go back, the later lines count.
/// Errors: `bad_input` names the line and the key of a value of another type; `source` is the file's name.
RunLog parse_run_log(std::string_view text, const std::string& source);

/// The means of runs that differ in their seed, over the steps that all have: of every number and validation, loads
/// summed up. A record or number that one of the logs lacks is left out. `bad_input` if there is no common step, or if
/// the logs' steps have other numbers or other counts of layers and depths; `source` names the runs in it.
RunLog mean_log(const std::vector<RunLog>& logs, const std::string& source);

/// The log of a run directory. `bad_input` if there is no such directory, no log in it, or no step in the log.
RunLog read_run_log(const std::string& run);

}  // namespace fathom
