#include "weights/tensor_values.h"

#include <array>
#include <cstring>

#include "base/error.h"
#include "base/number_formats.h"
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
    : reader_(reader), entry_(checkpoint.place(name).entry) {
  const Shape& shape = entry_->shape;
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
