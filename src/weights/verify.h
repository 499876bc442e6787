#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "formats/checkpoint.h"

namespace fathom {

/// How far a tensor is from the one of the same name in another checkpoint, as numbers: FP8 times its scales.
struct TensorDifference {
  bool same_bytes = false;
  double greatest = 0;  ///< of the absolute differences
  /// Root of the mean square difference over that of the other's values; infinite if those are all zero and these not.
  double relative = 0;
};

struct TensorReport {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::string checksum;                        ///< XXH3-128 of its bytes, in hexadecimal digits
  double least = 0, greatest = 0;              ///< of its finite numbers, scales included
  double root_mean_square = 0;                 ///< likewise
  std::vector<std::string> problems;           ///< sentences
  std::optional<TensorDifference> difference;  ///< from the other checkpoint, where that has it
};

struct VerifyReport {
  std::vector<TensorReport> tensors;
  std::vector<std::string> problems;  ///< of the checkpoint: what is missing, what the config does not know
  uint64_t bytes = 0;
  int64_t problem_count() const;
};

/// Reads every tensor of a checkpoint once. Problems are: a tensor that the config asks for and that is missing, or has
/// another shape; one that it does not know; numbers that are not finite; all numbers zero in a matrix or a norm;
/// scales that are not positive and finite, or no powers of two where the config says ue8m0; FP8 without scales; and,
/// against another checkpoint, a tensor that only one of them has. Memory does not depend on the sizes of tensors.
///
/// Errors: those of opening. `on_progress` hears bytes read and may throw to stop.
VerifyReport verify_checkpoint(const Checkpoint& checkpoint, const Checkpoint* against, ThreadTeam& team,
                               const std::function<void(uint64_t done, uint64_t total)>& on_progress = {});

}  // namespace fathom
