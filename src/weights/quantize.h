#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "formats/tensor_table.h"
#include "kernels/packed_integers.h"
#include "weights/calibration.h"
#include "weights/rewrite.h"

namespace fathom {

/// What becomes of the heads: lm_head and the MTP layer's copy.
enum class HeadFormat {
  int8,  ///< 8 bits; groups of 128 where the other matrices have 4 bits, else theirs
  same,  ///< as the other matrices
  keep,  ///< as they are
};

struct QuantizeOptions {
  IntegerFormat format;
  HeadFormat head = HeadFormat::int8;
  ScaleChoice scales = ScaleChoice::search;
  std::string out;
  /// Weighs the errors of `search` by what the columns meet; may be null, and may be filled between planning and
  /// writing. Outlives the plan.
  const Calibration* calibration = nullptr;
  std::string calibration_identity;  ///< decides with the other options about the bytes
};

/// A matrix on its way into integers.
class QuantizedTensor {
 public:
  QuantizedTensor(std::string tensor_name, TensorRole tensor_role, Shape tensor_shape, const IntegerFormat& integers)
      : name(std::move(tensor_name)), role(tensor_role), shape(std::move(tensor_shape)), format(integers) {}

  const std::string name;
  const TensorRole role;
  const Shape shape;
  const IntegerFormat format;

  /// Of all rows; nothing where this run did not quantise them all (an earlier one had).
  std::optional<QuantizationError> error() const;
  void add(int64_t first, int64_t count, const QuantizationError& error);

 private:
  struct Piece {
    int64_t rows;
    QuantizationError error;
  };
  mutable std::mutex mutex_;
  std::map<int64_t, Piece> pieces_;  // by first row, so that the sum has one order
};

struct QuantizePlan {
  RewritePlan rewrite;
  std::vector<std::shared_ptr<const QuantizedTensor>> tensors;
};

/// A checkpoint with its matrices in integers, in the format "pack-quantized" of compressed-tensors (docs/weights.md):
/// those of `may_be_packed`, the heads as asked; everything else is taken over, kv_b_proj of an FP8 checkpoint as BF16
/// (code × scale), because a checkpoint has one quantization_config. config.json and index follow.
///
/// Errors: `bad_input` for a checkpoint that has integers already, a matrix that is none of floating-point numbers or
/// has another shape than the config says; while writing, for a weight that is NaN or infinite. `reader` and its
/// checkpoint outlive the plan.
QuantizePlan plan_quantize(const Checkpoint& checkpoint, const TensorReader& reader, const QuantizeOptions& options);

}  // namespace fathom
