#pragma once
#include <functional>
#include <string>
#include <vector>

#include "engine/measure.h"

namespace fathom {

/// One measured kernel at one size: what a pass over its data has to read and compute, and what it took.
struct KernelMeasurement {
  std::string kernel;   ///< "linear", "attention", "router", "rms_norm", "sampling"
  std::string variant;  ///< format and arithmetic, or what else distinguishes rows of one kernel
  int64_t tokens = 1;   ///< of a pass
  double bytes = 0;     ///< that a pass reads (and writes, where that is as much)
  Operations operations;
  struct Repeat {
    double seconds = 0;  ///< of one pass
    MachineLimits limits;
  };
  std::vector<Repeat> repeats;

  double seconds() const;  ///< median of a pass
  /// The longer of reading the bytes and computing the operations, at these ceilings.
  double least_seconds(const MachineLimits& limits) const;
  /// Least time ÷ time, per repeat at the ceilings of its moment.
  Spread ceiling_fraction() const;
  /// What makes up the least time: "read", "f32", "bf16" or "int8".
  std::string_view bound() const;
};

struct KernelMeasureOptions {
  int64_t repeats = 3;
  /// Bytes of a weight that products of few tokens read: far more than any cache holds. Tests use less.
  size_t weight_bytes = size_t{256} << 20;
  /// Only rows whose "kernel variant" contains this, as "linear FP8" or "router"; empty: all.
  std::string only;
};

/// Measures each kernel of a forward pass with all threads (router of one token, norm of one row and sampling on one
/// thread, as a decode step runs them) at the sizes of DeepSeek-V3, and hands the rows out as they are done:
/// products of 1, 4, 16, 64 and 512 tokens with every format of weights in `bf16` and in `int8` arithmetic; latent
/// attention; router; RMSNorm; sampling. `failure` when interrupted.
void measure_kernels(const KernelMeasureOptions& options, ThreadTeam& team, MomentaryLimits& limits,
                     const std::function<void(const KernelMeasurement&)>& done);

/// How many rows `measure_kernels` hands out without `only`.
size_t kernel_measurements();

}  // namespace fathom
