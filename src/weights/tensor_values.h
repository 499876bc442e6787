#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "weights/rewrite.h"

namespace fathom {

/// Values of floating-point bytes; `dtype` is f32, f16 or bf16.
void floats_of(DType dtype, const std::byte* from, size_t count, float* to);

/// The name of the scales of an FP8 matrix.
std::string scale_name_of(const std::string& weight);
/// Whether a tensor is the scales of another one in the checkpoint.
bool is_scale_of_another(const Checkpoint& checkpoint, const std::string& name);

/// The scales of an FP8 matrix of the checkpoint: float32, one per block of its config. `bad_input` if they are missing
/// or other than that.
const SafetensorsEntry& scales_of(const Checkpoint& checkpoint, const SafetensorsEntry& matrix);

/// Reads a tensor of a checkpoint as the numbers that it means: FP8 matrices times their scales, everything else as it
/// is. Any number of threads at once.
class ValueReader {
 public:
  /// `bad_input` if the tensor has a type that has no numbers here, or is FP8 without scales that fit. `checkpoint` and
  /// `reader` outlive it.
  ValueReader(const Checkpoint& checkpoint, const TensorReader& reader, const std::string& name);

  const SafetensorsEntry& entry() const { return *entry_; }
  int64_t rows() const { return row_count(entry_->shape); }
  int64_t cols() const { return cols_; }
  /// Pieces begin at multiples of so many rows.
  int64_t row_step() const { return step_; }
  /// The bytes of rows [first, first + count).
  void read_bytes(int64_t first, int64_t count, std::byte* to) const;
  /// The numbers in these bytes. Shapes: values [count, cols].
  void values(int64_t first, int64_t count, const std::byte* bytes, float* values) const;

 private:
  const TensorReader& reader_;
  const SafetensorsEntry* entry_;
  int64_t cols_ = 1;
  int64_t step_ = 1;
  int64_t block_cols_ = 0;
  int64_t scale_cols_ = 0;
  std::vector<float> scales_;  // of an FP8 matrix
};

}  // namespace fathom
