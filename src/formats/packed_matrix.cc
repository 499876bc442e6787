#include "formats/packed_matrix.h"

#include <array>
#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

const SafetensorsEntry& part(const Checkpoint& checkpoint, const std::string& name, const std::string& weight) {
  if (!checkpoint.has(name)) {
    throw_bad_input("{}: {} is missing, a part of {} in integers", checkpoint.directory(), printable_name(name),
                    printable_name(weight));
  }
  return *checkpoint.place(name).entry;
}

template <typename T>
Shape numbers_of(const TensorView& view) {
  std::array<T, 2> values;
  std::memcpy(values.data(), view.data, sizeof(values));
  return {static_cast<int64_t>(values[0]), static_cast<int64_t>(values[1])};
}

Shape stored_shape(const Checkpoint& checkpoint, const SafetensorsEntry& entry) {
  if ((entry.dtype != DType::i64 && entry.dtype != DType::i32) || entry.shape != Shape{2}) {
    throw_bad_input("{}: {}: expected I64 [2], found {} {}", checkpoint.directory(), printable_name(entry.name),
                    dtype_name(entry.dtype), shape_text(entry.shape));
  }
  const TensorView view = checkpoint.tensor(entry.name);
  return entry.dtype == DType::i64 ? numbers_of<int64_t>(view) : numbers_of<int32_t>(view);
}

bool fits(const PackedMatrix& matrix, const IntegerFormat& format) {
  const int64_t rows = matrix.shape[0];
  const int64_t groups = packed_groups(format, matrix.shape[1]);
  if (format.zero_point != (matrix.zeros != nullptr)) return false;
  if (matrix.words->shape != Shape{rows, packed_words(format, matrix.shape[1])}) return false;
  if (matrix.scales->shape != Shape{rows, groups}) return false;
  return matrix.zeros == nullptr || matrix.zeros->shape == Shape{packed_zero_words(format, rows), groups};
}

}  // namespace

bool may_be_packed(const TensorSpec& spec) {
  switch (spec.role) {
    case TensorRole::attention:
      return !spec.name.ends_with(".kv_b_proj.weight");
    case TensorRole::head:
    case TensorRole::dense_mlp:
    case TensorRole::shared_expert:
    case TensorRole::routed_expert:
    case TensorRole::mtp_projection:
    case TensorRole::mtp_head:
      return true;
    case TensorRole::embedding:
    case TensorRole::norm:
    case TensorRole::router:
    case TensorRole::router_bias:
    case TensorRole::mtp_embedding:
      return false;
  }
  return false;
}

bool is_packed(const Checkpoint& checkpoint, const std::string& weight) {
  return checkpoint.config().integers && !checkpoint.has(weight) && checkpoint.has(weight + "_packed");
}

PackedMatrix packed_matrix(const Checkpoint& checkpoint, const std::string& weight) {
  const PackedNames names(weight);
  PackedMatrix matrix;
  matrix.words = &part(checkpoint, names.words, weight);
  matrix.scales = &part(checkpoint, names.scales, weight);
  matrix.stored_shape = &part(checkpoint, names.shape, weight);
  if (checkpoint.has(names.zeros)) matrix.zeros = checkpoint.place(names.zeros).entry;
  if (checkpoint.has(weight + "_g_idx")) {
    throw_bad_input("{}: {}_g_idx: expected none (columns stay in their order)", checkpoint.directory(),
                    printable_name(weight));
  }
  const auto expect_type = [&](const SafetensorsEntry* entry, DType expected) {
    if (entry == nullptr || entry->dtype == expected) return;
    throw_bad_input("{}: {}: expected {}, found {}", checkpoint.directory(), printable_name(entry->name),
                    dtype_name(expected), dtype_name(entry->dtype));
  };
  expect_type(matrix.words, DType::i32);
  expect_type(matrix.scales, DType::bf16);
  expect_type(matrix.zeros, DType::i32);
  matrix.shape = stored_shape(checkpoint, *matrix.stored_shape);
  // Before anything is computed from these two numbers: a row of codes takes at most a word for each.
  const Shape& words = matrix.words->shape;
  constexpr int64_t kMostWords = int64_t{1} << 40;
  const bool sane = words.size() == 2 && matrix.shape[0] == words[0] && words[0] <= kMostWords &&
                    words[1] <= kMostWords && matrix.shape[1] > 0 && matrix.shape[1] <= words[1] * 8;
  const IntegerFormat* found = nullptr;
  if (sane) {
    for (const IntegerConfig::Group& group : checkpoint.config().integers->groups) {
      if (!fits(matrix, group.format)) continue;
      // Two groups that both fit differ in what they call a group of few columns, or, of four columns and fewer, in
      // what the words mean.
      if (found != nullptr && found->bits != group.format.bits) {
        throw_bad_input("{}: {} {} could have {} or {} bits", checkpoint.directory(), printable_name(names.words),
                        shape_text(words), found->bits, group.format.bits);
      }
      if (found == nullptr) found = &group.format;
    }
  }
  if (found == nullptr) {
    throw_bad_input(
        "{}: {}: words {}, scales {}, {} for a matrix of {} fit none of the groups in "
        "quantization_config.config_groups",
        checkpoint.directory(), printable_name(weight), shape_text(words), shape_text(matrix.scales->shape),
        matrix.zeros != nullptr ? "zero points " + shape_text(matrix.zeros->shape) : std::string("no zero points"),
        shape_text(matrix.shape));
  }
  matrix.format = *found;
  return matrix;
}

PackedMatrix packed_matrix(const Checkpoint& checkpoint, const std::string& weight, const Shape& expected) {
  PackedMatrix matrix = packed_matrix(checkpoint, weight);
  if (matrix.shape != expected) {
    throw_bad_input("{}: {}: expected the shape {}, found {}", checkpoint.directory(), printable_name(weight),
                    shape_text(expected), shape_text(matrix.shape));
  }
  return matrix;
}

std::optional<std::string> packed_weight_of(const Checkpoint& checkpoint, const std::string& name) {
  for (const std::string_view suffix : {"_packed", "_scale", "_zero_point", "_shape"}) {
    if (!name.ends_with(suffix)) continue;
    std::string weight = name.substr(0, name.size() - suffix.size());
    if (is_packed(checkpoint, weight)) return weight;
  }
  return std::nullopt;
}

}  // namespace fathom
