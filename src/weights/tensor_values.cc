#include "weights/tensor_values.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "base/number_formats.h"
#include "formats/packed_matrix.h"
#include "formats/tensor_table.h"

namespace fathom {
namespace {

constexpr std::string_view kScaleSuffix = "_scale_inv";

const std::array<float, 256>& e4m3_values() {
  static const std::array<float, 256> values = [] {
    std::array<float, 256> table{};
    for (size_t code = 0; code < table.size(); ++code) table[code] = e4m3_to_f32(static_cast<uint8_t>(code));
    return table;
  }();
  return values;
}

}  // namespace

void floats_of(DType dtype, const std::byte* from, size_t count, float* to) {
  if (dtype == DType::f32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  for (size_t i = 0; i < count; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, 2);
    to[i] = dtype == DType::bf16 ? bf16_to_f32(bits) : f16_to_f32(bits);
  }
}

std::string scale_name_of(const std::string& weight) {
  return weight + std::string(kScaleSuffix);
}

bool is_scale_of_another(const Checkpoint& checkpoint, const std::string& name) {
  return name.ends_with(kScaleSuffix) && checkpoint.has(name.substr(0, name.size() - kScaleSuffix.size()));
}

bool is_part_of_another(const Checkpoint& checkpoint, const std::string& name) {
  if (is_scale_of_another(checkpoint, name)) return true;
  const std::optional<std::string> weight = packed_weight_of(checkpoint, name);
  return weight && name != PackedNames(*weight).words;
}

std::string value_name_of(const Checkpoint& checkpoint, const std::string& name) {
  const std::optional<std::string> weight = packed_weight_of(checkpoint, name);
  return weight && name == PackedNames(*weight).words ? *weight : name;
}

bool has_values(const Checkpoint& checkpoint, const std::string& name) {
  return checkpoint.has(name) || is_packed(checkpoint, name);
}

const SafetensorsEntry& scales_of(const Checkpoint& checkpoint, const SafetensorsEntry& matrix) {
  const std::string name = scale_name_of(matrix.name);
  if (!checkpoint.has(name)) {
    throw_bad_input("{}: {} is FP8, and its scales {} are missing", checkpoint.directory(), printable_name(matrix.name),
                    printable_name(name));
  }
  const SafetensorsEntry& scales = *checkpoint.place(name).entry;
  const Shape expected = scale_shape(matrix.shape, checkpoint.config().fp8.value_or(Fp8Config{}));
  if (scales.dtype != DType::f32 || scales.shape != expected) {
    throw_bad_input("{}: {}: expected float32 scales {}, found {} {}", checkpoint.directory(), printable_name(name),
                    shape_text(expected), dtype_name(scales.dtype), shape_text(scales.shape));
  }
  return scales;
}

ValueReader::ValueReader(const Checkpoint& checkpoint, const TensorReader& reader, const std::string& name)
    : reader_(reader),
      entry_(checkpoint.place(is_packed(checkpoint, name) ? PackedNames(name).words : name).entry),
      packed_(name) {
  if (is_packed(checkpoint, name)) {
    const PackedMatrix matrix = packed_matrix(checkpoint, name);
    shape_ = matrix.shape;
    cols_ = shape_[1];
    integers_ = matrix.format;
    return;
  }
  shape_ = entry_->shape;
  const Shape& shape = shape_;
  for (size_t axis = 1; axis < shape.size(); ++axis) cols_ *= shape[axis];
  const DType dtype = entry_->dtype;
  if (dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16) return;
  if (dtype != DType::f8_e4m3 || shape.size() != 2) {
    throw_bad_input("{}: {}: expected floating-point numbers or a matrix in F8_E4M3, found {} {}",
                    checkpoint.directory(), printable_name(name), dtype_name(dtype), shape_text(shape));
  }
  const SafetensorsEntry& scale = scales_of(checkpoint, *entry_);
  const Fp8Config fp8 = checkpoint.config().fp8.value_or(Fp8Config{});
  step_ = fp8.block_rows;
  block_cols_ = fp8.block_cols;
  scale_cols_ = scale.shape[1];
  scales_.resize(static_cast<size_t>(element_count(scale.shape)));
  reader.read(scale.name, 0, scale.shape[0], reinterpret_cast<std::byte*>(scales_.data()));
}

void ValueReader::read_bytes(int64_t first, int64_t count, std::byte* to) const {
  reader_.read(entry_->name, first, count, to);
}

void ValueReader::values(int64_t first, int64_t count, const std::byte* bytes, float* values) const {
  if (integers_) {
    const int64_t groups = packed_groups(*integers_, cols_);
    const int64_t per_word = rows_per_zero_word(*integers_);
    std::vector<std::byte> scales(static_cast<size_t>(count * groups) * sizeof(uint16_t));
    reader_.read(packed_.scales, first, count, scales.data());
    const int64_t first_word = first / per_word;
    const int64_t words = integers_->zero_point ? packed_zero_words(*integers_, first + count) - first_word : 0;
    std::vector<std::byte> zeros(static_cast<size_t>(words * groups) * sizeof(uint32_t));
    if (words > 0) reader_.read(packed_.zeros, first_word, words, zeros.data());
    return unpack_packed_rows({bytes, scales.data(), zeros.data()}, count, cols_, *integers_, first % per_word, values);
  }
  if (scales_.empty()) return floats_of(entry_->dtype, bytes, static_cast<size_t>(count * cols_), values);
  const std::array<float, 256>& table = e4m3_values();
  for (int64_t row = 0; row < count; ++row) {
    const float* scales = scales_.data() + (first + row) / step_ * scale_cols_;
    const auto* codes = reinterpret_cast<const uint8_t*>(bytes) + row * cols_;
    float* out = values + row * cols_;
    for (int64_t block = 0; block < scale_cols_; ++block) {
      const int64_t end = std::min(cols_, (block + 1) * block_cols_);
      for (int64_t col = block * block_cols_; col < end; ++col) out[col] = table[codes[col]] * scales[block];
    }
  }
}

}  // namespace fathom
