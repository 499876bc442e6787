#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// How a GGUF file holds a tensor's values: one by one, or in blocks of 32 or 256 neighbours of a row with shared
/// scales. The numbers are those of the files.
enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  bf16 = 30,
};

/// The type with that number, or nothing if it is none of the above.
std::optional<GgmlType> ggml_type_from_number(uint32_t number);
/// "q4_k"; of a number that is none of the above the name that its users know ("iq2_xxs"), or "type 99".
std::string ggml_type_name(uint32_t number);
inline std::string ggml_type_name(GgmlType type) {
  return ggml_type_name(static_cast<uint32_t>(type));
}

/// Values of a block (1 for f32, f16, bf16) and its bytes.
int64_t ggml_block_values(GgmlType type);
int64_t ggml_block_bytes(GgmlType type);
/// Bytes of a row; `values` is a multiple of the block.
inline int64_t ggml_row_bytes(GgmlType type, int64_t values) {
  return values / ggml_block_values(type) * ggml_block_bytes(type);
}

/// Values of whole blocks as float32, in the order of multiplications and additions that ggml has, so that the bits are
/// its own. `values` is a multiple of the block. Source: the block structs of ggml-common.h and what dequantize_row_*
/// of ggml-quants.c says they mean.
void ggml_dequantize(GgmlType type, const std::byte* from, int64_t values, float* to);

/// The types that `ggml_quantize` writes.
bool ggml_can_quantize(GgmlType type);

/// Rounds values to a type, whole blocks of a row. The values are finite and not beyond ±65504, the greatest float16,
/// except for f32 and bf16.
///
/// q8_0, q4_0, q5_0: one scale from the value that is greatest by size. q4_k: scale and minimum of each 32 values by a
/// search over 21 first guesses, each followed by weighted least squares (weight: the root mean square of the 32 plus
/// the value's size), then 6 bits for each of both. q6_k: scale of each 16 values by a search over 19 guesses that
/// minimises the squared error weighted by the squared value, then 8 bits. These are the criteria of ggml's reference
/// quantisers (quantize_row_*_ref), without an importance matrix.
void ggml_quantize(GgmlType type, const float* from, int64_t values, std::byte* to);

}  // namespace fathom
