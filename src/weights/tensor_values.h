#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "formats/packed_matrix.h"
#include "weights/rewrite.h"

namespace fathom {

/// Values of floating-point bytes; `dtype` is f32, f16 or bf16.
void floats_of(DType dtype, const std::byte* from, size_t count, float* to);

/// The name of the scales of an FP8 matrix.
std::string scale_name_of(const std::string& weight);
/// Whether a tensor is the scales of another one in the checkpoint.
bool is_scale_of_another(const Checkpoint& checkpoint, const std::string& name);

/// Whether a tensor is a part of another one: FP8 scales, or of a matrix in integers what is beside the words.
bool is_part_of_another(const Checkpoint& checkpoint, const std::string& name);
/// The tensor that `name` holds the numbers of: itself, or of X.weight_packed X.weight.
std::string value_name_of(const Checkpoint& checkpoint, const std::string& name);
/// Whether a tensor is there, as itself or in integers.
bool has_values(const Checkpoint& checkpoint, const std::string& name);

/// The scales of an FP8 matrix of the checkpoint: float32, one per block of its config. `bad_input` if they are missing
/// or other than that.
const SafetensorsEntry& scales_of(const Checkpoint& checkpoint, const SafetensorsEntry& matrix);

/// Reads a tensor of a checkpoint as the numbers that it means: FP8 matrices times their scales, integers as scale ·
/// (code − zero), everything else as it is. Any number of threads at once.
class ValueReader {
 public:
  /// `bad_input` if the tensor has a type that has no numbers here, or is FP8 without scales that fit, or in integers
  /// whose parts do not fit each other. `checkpoint` and `reader` outlive it.
  ValueReader(const Checkpoint& checkpoint, const TensorReader& reader, const std::string& name);

  /// What is stored: for a matrix in integers the words.
  const SafetensorsEntry& entry() const { return *entry_; }
  const Shape& shape() const { return shape_; }
  int64_t rows() const { return row_count(shape_); }
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
  Shape shape_;
  int64_t cols_ = 1;
  int64_t step_ = 1;
  int64_t block_cols_ = 0;
  int64_t scale_cols_ = 0;
  std::vector<float> scales_;              // of an FP8 matrix
  std::optional<IntegerFormat> integers_;  // of a matrix in integers; its scales are read with its rows
  PackedNames packed_;
};

}  // namespace fathom
