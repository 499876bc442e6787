#pragma once
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/tensor_table.h"
#include "kernels/packed_integers.h"

namespace fathom {

/// Whether a tensor may be stored in integers: the projections of the attention but kv_b_proj (attention uses that one
/// from both sides), feed-forwards, experts, eh_proj and heads.
bool may_be_packed(const TensorSpec& spec);

/// The parts of a matrix X.weight in integers: X.weight_packed, X.weight_scale, X.weight_zero_point, X.weight_shape.
struct PackedNames {
  explicit PackedNames(const std::string& weight)
      : words(weight + "_packed"), scales(weight + "_scale"), zeros(weight + "_zero_point"), shape(weight + "_shape") {}
  std::string words, scales, zeros, shape;
};

/// Such a matrix in a checkpoint, checked.
///
///   weight_packed      I32 [rows, ceil(cols · bits / 32)]
///   weight_scale       BF16 [rows, ceil(cols / group)]
///   weight_zero_point  I32 [ceil(rows · bits / 32), ceil(cols / group)], only where the config says symmetric: false
///   weight_shape       I64 or I32 [2]: rows, cols
struct PackedMatrix {
  IntegerFormat format;
  Shape shape;
  const SafetensorsEntry* words = nullptr;
  const SafetensorsEntry* scales = nullptr;
  const SafetensorsEntry* zeros = nullptr;  ///< null without zero points
  const SafetensorsEntry* stored_shape = nullptr;
};

/// Whether `weight` ("….weight") is there in integers, and not as itself.
bool is_packed(const Checkpoint& checkpoint, const std::string& weight);

/// Looks the parts up. Which of the config's groups holds follows from the shapes: bits, group size and zero points
/// leave one answer. `bad_input` names the part that is missing, has another type, or shapes that fit no group of the
/// config, and a weight_shape that says something else.
PackedMatrix packed_matrix(const Checkpoint& checkpoint, const std::string& weight);
/// The same, and `bad_input` if the matrix has another shape.
PackedMatrix packed_matrix(const Checkpoint& checkpoint, const std::string& weight, const Shape& expected);

/// The matrix whose part `name` is ("….weight"), if that is there in integers; else nothing.
std::optional<std::string> packed_weight_of(const Checkpoint& checkpoint, const std::string& name);

}  // namespace fathom
