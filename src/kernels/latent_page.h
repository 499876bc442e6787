#pragma once
#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace fathom {

// A page of latents in one layer, 64 positions of `width` values (c_kv, then k_pe), as the cache holds it:
//   f32, bf16   rows [64, width].
//   f8_e4m3     codes [64, width], then ue8m0 scales [64, ceil(width / 64)] (a byte: the power of two plus 127), one
//   per
//               64 values of a position. A code times its scale is a BF16 number, so what reads BF16 reads this too.

/// Positions of a page.
constexpr int64_t kPagePositions = 64;
/// Values of a position that share a scale.
constexpr int64_t kLatentGroup = 64;

/// Bytes of a page in one layer.
size_t latent_page_bytes(DType dtype, int64_t width);
/// Stores one position, rounded: `values` [width].
void store_latent(DType dtype, std::byte* page, int64_t row, int64_t width, const float* values);
/// Reads it back as float32.
void load_latent(DType dtype, const std::byte* page, int64_t row, int64_t width, float* values);
/// The first `rows` positions of an FP8 page as BF16, exactly: `out` [rows, width].
void expand_fp8_latents(const std::byte* page, int64_t rows, int64_t width, uint16_t* out);

}  // namespace fathom
