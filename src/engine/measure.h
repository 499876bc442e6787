#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/machine_limits.h"
#include "model/cost.h"

namespace fathom {

/// One measured workload: how long a pass took, what it had to read and compute, and the ceilings of the same moments.
struct Measurement {
  std::string name;
  int64_t tokens = 0;              ///< tokens of one pass
  PassCost cost;                   ///< of one pass, the mean over the passes
  std::vector<double> seconds;     ///< of one pass, per repeat
  std::vector<double> read_limit;  ///< bytes per second that a streaming read reached just before each repeat

  double median_seconds() const;
  double tokens_per_s() const { return static_cast<double>(tokens) / median_seconds(); }
  /// Median over the repeats of (weight + cache bytes ÷ seconds ÷ streaming read).
  double read_fraction() const;
  /// Operations per second over a ceiling.
  double arithmetic_fraction(double limit) const { return cost.operations / median_seconds() / limit; }
};

double median(std::vector<double> values);

/// Decodes `steps` tokens of each of `batch` sequences that already hold `depth` positions (filled with random
/// latents), `repeats` times.
Measurement measure_decode(const LoadedModel& model, int64_t batch, int64_t depth, int64_t steps, int64_t repeats,
                           ThreadTeam& team, ReadBandwidth& bandwidth);

/// Prefills a prompt of `tokens` random tokens on top of `depth` positions in one pass, `repeats` times.
Measurement measure_prefill(const LoadedModel& model, int64_t tokens, int64_t depth, int64_t repeats, ThreadTeam& team,
                            ReadBandwidth& bandwidth);

/// Greatest resident memory of the process so far, and the part of the present one that is not mapped files, in bytes.
struct ResidentMemory {
  uint64_t peak = 0;
  uint64_t anonymous = 0;
};
ResidentMemory resident_memory();

}  // namespace fathom
