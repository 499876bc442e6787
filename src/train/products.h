#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "kernels/linear.h"
#include "train/parameters.h"

namespace fathom {

// The two halves of the backward of y = x Wᵀ, through the kernels of kernels/linear.h. Bits depend on shapes and
// numbers, not on the number of threads.

/// The arithmetic of a product in the backward: float32, BF16 operands with float32 sums, or E4M3 with scales per 128
/// elements of the contraction and float32 sums per 128 (spec §4.2).
enum class ProductForm { f32, bf16, fp8 };

/// Working memory of products; grows to its greatest use.
struct ProductWorkspace {
  Operand operand;
  Buffer slabs;               ///< matrices turned around
  Buffer slab_scales;         ///< their FP8 scales
  std::vector<Buffer> tiles;  ///< [threads]
};

/// dx[t, k] = or += Σ_n dy[t, n] W[n, k]: the input half.
///
/// Shapes:  dy [T, N], dx [T, K] f32; weight W [N, K], of a type that fits `rounding`.
void linear_input_gradient(const float* dy, int64_t T, const TurnedWeight& weight, OperandRounding rounding,
                           bool accumulate, float* dx, ProductWorkspace& workspace, ThreadTeam& team);

/// The same on this thread, for columns [begin, end) and chosen tokens: row(t) = index ? index[t] : t of `dy`, which
/// `prepare` made ready for `weight.turned`, gives dx_index ? dx_index[t] : t of dx, whose rows of end − begin columns
/// are `dx_stride` floats apart. Every row of dx at most once. `scratch` grows to its greatest use.
void input_gradient_rows(const OperandView& dy, const int32_t* index, int64_t T, const TurnedWeight& weight,
                         int64_t begin, int64_t end, bool accumulate, float* dx, int64_t dx_stride,
                         const int32_t* dx_index, Buffer& scratch);

/// Rows that a product over tokens reads: row t is data[index ? index[t] : t].
struct TokenRows {
  DType dtype;  ///< f32 or bf16
  const void* data;
  int64_t cols;
  int64_t stride;  ///< elements
  const int32_t* index = nullptr;
  bool ue8m0 = false;  ///< in FP8: scales are raised to powers of two
};

/// One product over tokens: gradient[n, k] += Σ_t dy[t, n] x[t, k].
struct WeightGradientJob {
  TokenRows dy;  ///< [tokens, N]
  TokenRows x;   ///< [tokens, K]
  int64_t tokens;
  float* gradient;  ///< [N, K]
  ProductForm form;
};

/// The weight halves of some products. Both sides are turned around once (the same rows of neighbouring jobs once for
/// all), then tiles of all gradients are shared out to the team.
void linear_weight_gradients(std::span<const WeightGradientJob> jobs, ProductWorkspace& workspace, ThreadTeam& team);

}  // namespace fathom
