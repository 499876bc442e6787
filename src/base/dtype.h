#pragma once
#include <cstddef>
#include <optional>
#include <string_view>

namespace fathom {

/// Element types of tensors, as safetensors names them.
enum class DType { f64, f32, f16, bf16, f8_e4m3, f8_e5m2, f8_e8m0, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

/// Bytes of one element.
size_t dtype_bytes(DType dtype);

/// The safetensors spelling ("F32", "BF16", "F8_E4M3", "BOOL", …).
std::string_view dtype_name(DType dtype);

/// The type with that safetensors spelling, or nothing.
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace fathom
