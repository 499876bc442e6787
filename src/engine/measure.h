#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/machine_limits.h"
#include "model/cost.h"

namespace fathom {

double median(std::vector<double> values);

/// Least, median and greatest of a ratio over the repeats.
struct Spread {
  double least = 0;
  double median = 0;
  double greatest = 0;
};
Spread spread(const std::vector<double>& values);

/// Resident memory of the process, in bytes.
struct ResidentMemory {
  uint64_t peak = 0;       ///< greatest since the start, or since `reset_peak_memory`
  uint64_t mapped = 0;     ///< of the present one: pages of mapped files
  uint64_t anonymous = 0;  ///< of the present one: the rest
};
ResidentMemory resident_memory();
/// Makes the peak count anew from the present. False where the system does not offer it.
bool reset_peak_memory();

/// One repeat of a workload: what a pass took, what it had to read and compute, and the ceilings of the same moment
/// (the mean of those measured just before and just after).
struct Repeat {
  double seconds = 0;  ///< of one pass, the mean over the repeat's passes
  PassCost cost;       ///< of one pass, the mean over the repeat's passes
  MachineLimits limits;
};

/// One measured workload of a model.
struct Measurement {
  std::string name;
  int64_t tokens = 0;  ///< of one pass
  std::vector<Repeat> repeats;
  ResidentMemory memory;  ///< at the end of the last repeat

  double seconds() const;  ///< median of a pass
  double tokens_per_s() const { return static_cast<double>(tokens) / seconds(); }
  PassCost mean_cost() const;
  /// Least time of `pass_ceiling` ÷ time: 1 is the machine's best.
  Spread ceiling_fraction() const;
  /// Weight bytes ÷ time ÷ streaming read.
  Spread read_fraction() const;
  /// Time that the operations take at the rates of their arithmetic ÷ time.
  Spread peak_fraction() const;
};

/// Ceilings measured between repeats: `around` calls `work` and returns the ceilings of its moment. The sample after
/// one repeat is the sample before the next.
class MomentaryLimits {
 public:
  MomentaryLimits(ThreadTeam& team, ReadBandwidth& bandwidth) : team_(team), bandwidth_(bandwidth) {}
  template <typename Work>
  MachineLimits around(Work&& work) {
    const MachineLimits before = fresh_ ? last_ : measure_limits(team_, bandwidth_);
    work();
    last_ = measure_limits(team_, bandwidth_);
    fresh_ = true;
    return mean(before, last_);
  }
  /// Other work lies between the last sample and the next repeat.
  void forget() { fresh_ = false; }

 private:
  static MachineLimits mean(const MachineLimits& a, const MachineLimits& b);

  ThreadTeam& team_;
  ReadBandwidth& bandwidth_;
  MachineLimits last_;
  bool fresh_ = false;
};

/// Decodes `steps` tokens of each of `batch` sequences that hold `depth` positions (filled with random latents),
/// `repeats` times, each from the same depth. `bad_input` if the model has fewer positions.
Measurement measure_decode(const LoadedModel& model, int64_t batch, int64_t depth, int64_t steps, int64_t repeats,
                           ThreadTeam& team, MomentaryLimits& limits);

/// Prefills a prompt of `tokens` random tokens on top of `depth` positions in one pass, `repeats` times. `bad_input` as
/// above.
Measurement measure_prefill(const LoadedModel& model, int64_t tokens, int64_t depth, int64_t repeats, ThreadTeam& team,
                            MomentaryLimits& limits);

/// How long a new process takes from its start to the first byte on its standard output, and how much of the model lay
/// in the page cache before it.
struct FirstToken {
  double seconds = 0;
  double cached_fraction = 0;  ///< of the checkpoint's bytes
};
/// Runs `program` with `arguments`. `files` are the checkpoint's; with `cold` they are first dropped from the page
/// cache as far as the system lets go of them. `failure` with the child's own sentence if it fails.
FirstToken measure_first_token(const std::string& program, const std::vector<std::string>& arguments,
                               const std::vector<std::string>& files, bool cold);

}  // namespace fathom
