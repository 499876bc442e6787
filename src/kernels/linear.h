#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "base/buffer.h"
#include "base/dtype.h"
#include "base/thread_team.h"
#include "kernels/quantize.h"

namespace fathom {

/// A matrix as the checkpoint stores it: W [rows = out, cols = in], row-major, in memory that somebody else owns; or in
/// integers, in the panels of integer_weight.h.
struct Weight {
  DType dtype = DType::f32;  ///< f32, f16, bf16 or f8_e4m3; u8 for panels of integers, i32 for packed ones
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t row_stride = 0;  ///< elements from one row to the next
  const std::byte* data = nullptr;
  /// FP8 only: multipliers [ceil(rows / block_rows), ceil(cols / block_cols)], f32.
  const float* scale_inv = nullptr;
  int64_t block_rows = 0;
  int64_t block_cols = 0;
  /// Integers only (see IntegerFormat): 8 or 4 bits, columns of a group, whether a zero point is stored.
  int bits = 0;
  int64_t group = 0;
  bool zero_point = false;
  /// Integers as a checkpoint stores them, dtype i32 (see PackedRows); `data` are the words, `row_stride` counts them.
  /// Nothing multiplies with those: `take_weights` brings them into panels.
  const std::byte* packed_scales = nullptr;
  const std::byte* packed_zeros = nullptr;

  int64_t scale_cols() const { return (cols + block_cols - 1) / block_cols; }
  const std::byte* row(int64_t r) const { return data + static_cast<size_t>(r * row_stride) * dtype_bytes(dtype); }
};

/// A matrix of float32 or bf16 rows that is used as a weight (keys, latents).
Weight dense_weight(DType dtype, const void* data, int64_t rows, int64_t cols, int64_t row_stride);

/// How the activations of a product are rounded before it.
enum class OperandRounding {
  none,  ///< float32; FP8 weights are dequantised to BF16 first (code × scale, rounded), as the published cast does
  bf16,  ///< rounded to BF16; FP8 weights are dequantised as above
  fp8,   ///< per token and 128 channels to E4M3 with a float32 scale = max(amax, 1e-4) / 448; FP8 weights only
  fp8_ue8m0,  ///< the same with the scale raised to a power of two
  int8,  ///< per token and 128 channels to integers within ±127, scale = amax / 127; any weight (those that are not
         ///< stored in integers are brought to 8 bits on the fly)
};

/// How a kernel reads activations.
enum class OperandForm {
  f32,        ///< float32, natural order (already rounded as asked)
  f32_pairs,  ///< float32, each 32 columns in the order of `paired_column`
  bf16,       ///< BF16, natural order; also the values of FP8 codes
  int8,       ///< signed bytes by blocks of columns, with scales and sums
};

/// Column that stands at `position` (of 32) in the form f32_pairs: eights of even and of odd columns, as they come out
/// where bytes of 32 FP8 codes are interleaved in halves of a register and then taken for pairs of BF16.
constexpr int64_t paired_column(int64_t position) {
  const int64_t eight = position / 8;
  const int64_t lane = position % 8;
  return lane / 4 * 16 + eight / 2 * 8 + lane % 4 * 2 + eight % 2;
}

/// Brings a row of float32 [n] from its natural order into that of `form`; n is a multiple of 32.
void order_row(OperandForm form, float* row, int64_t n);

/// Columns of a block: where activations are int8, so many of a row lie together, and behind them those of the next
/// row.
constexpr int64_t kOperandBlock = 512;

/// Prepared activations, somebody else's memory. Rows are padded with zeros to a multiple of 64 elements (int8: 128).
struct OperandView {
  OperandForm form = OperandForm::f32;
  OperandRounding rounding = OperandRounding::none;
  const void* data = nullptr;     ///< [rows, stride]; int8: [columns / kOperandBlock, block_rows, kOperandBlock]
  const float* scales = nullptr;  ///< [rows, scale_stride], one per 128 channels; null unless rounded to FP8 or int8
  int64_t stride = 0;             ///< elements from one row to the next
  int64_t scale_stride = 0;
  /// int8 only: rows of a block, at least as many as there are. Scales are [groups, block_rows].
  int64_t block_rows = 0;
  int64_t groups = 0;  ///< int8 only: of 128 channels
  /// int8 only, [5 * groups, block_rows]: sums of 128 channels, then those of 32 channels.
  const int32_t* sums = nullptr;

  /// bf16 only, null unless kernels multiply by Bf16Dot::fma: the same values as float32 in the order of
  /// `LinearKernels::widen`, [rows, wide_stride].
  const float* wide = nullptr;
  int64_t wide_stride = 0;

  const float* f32_row(int64_t t) const { return static_cast<const float*>(data) + t * stride; }
  const uint16_t* bf16_row(int64_t t) const { return static_cast<const uint16_t*>(data) + t * stride; }
  const float* wide_row(int64_t t) const { return wide + t * wide_stride; }
  const float* row_scales(int64_t t) const { return scales != nullptr ? scales + t * scale_stride : nullptr; }
  /// Row t's columns from `column` on, up to the end of their block.
  const int8_t* int8_columns(int64_t t, int64_t column) const {
    return static_cast<const int8_t*>(data) + (column / kOperandBlock * block_rows + t) * kOperandBlock +
           column % kOperandBlock;
  }
  /// Row t's scale of the first 128 channels; those of the next are `block_rows` further on.
  const float* int8_scales(int64_t t) const { return scales + t; }
  /// Row t's sum of the first `group` channels; those of the next are `block_rows` further on.
  const int32_t* int8_sums(int64_t t, int64_t group) const {
    return sums + (group == 128 ? 0 : groups * block_rows) + t;
  }
  /// The rows from t on.
  OperandView from_row(int64_t t) const;
};

/// Activations made ready for products with weights of one type: rounded, padded, and in the element order that the
/// kernel reads. Memory is reused from call to call.
class Operand {
 public:
  /// Prepares x [T, K] f32 (rows `x_stride` apart) for `weight`-like matrices: the type and the block shape decide the
  /// form. `fp8` rounding falls back to `none` for weights that are not FP8. `team` may be null (then on this thread).
  /// `least_amax` is the floor of FP8 scales (see quantize.h).
  void prepare(const float* x, int64_t T, int64_t K, int64_t x_stride, const Weight& weight, OperandRounding rounding,
               ThreadTeam* team, float least_amax = kLeastActivationAmax);

  /// Copies n rows of an int8 operand, in this order.
  void gather(const OperandView& from, const int32_t* rows, int64_t n, ThreadTeam& team);

  OperandView view(int64_t first_row = 0) const;

 private:
  void reserve_int8(int64_t rows, int64_t groups);
  void prepare_row(const float* x, int64_t K, int64_t t, float least_amax);
  void widen_row(int64_t t);
  void prepare_int8_row(const float* x, int64_t K, int64_t t);

  OperandForm form_ = OperandForm::f32;
  OperandRounding rounding_ = OperandRounding::none;
  int64_t stride_ = 0;
  int64_t scale_stride_ = 0;
  int64_t block_rows_ = 0;
  int64_t groups_ = 0;
  bool has_scales_ = false;
  int64_t wide_stride_ = 0;  // 0: nothing is widened
  Buffer wide_;
  Buffer data_;
  Buffer scales_;
  Buffer sums_;
};

/// The form in which `linear_rows` reads activations for `weight`, on the active instruction set.
OperandForm operand_form_for(const Weight& weight, OperandRounding rounding);

/// An operand prepared for `a` also serves `b`.
bool same_operand_form(const Weight& a, const Weight& b, OperandRounding rounding);

/// Rows [begin, end) of a weight that the same thread is about to multiply with; no weight: that is not known.
struct NextRows {
  const Weight* weight = nullptr;
  int64_t begin = 0;
  int64_t end = 0;
};

/// y[t, r − row_begin] = Σ_k x[t, k] · W[r, k] for rows [row_begin, row_end) of W, on this thread.
///
/// `row_index` (may be null) picks the operand's row of each t: gathered tokens of an expert. Of weights in panels,
/// `row_begin` is a multiple of 16, and `row_end` too or the end. The order of the summation of one (t, r) depends on K
/// and the weight's type alone: not on T, on the rows asked for, or on threads. What is first read of `next` is asked
/// for, so that it is on its way from memory meanwhile.
///
/// Shapes:  x [·, K], T rows of it; y rows `y_stride` floats apart.
/// Source:  block-scaled product as in DeepSeek-V3 report §3.3.2: Σ over blocks of 128 of (exact block sum) × scale_x ×
/// scale_w.
void linear_rows(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight, int64_t row_begin,
                 int64_t row_end, float* y, int64_t y_stride, const NextRows& next = {});

/// y[t, k] = (accumulate ? y[t, k] : 0) + Σ_r x[t, r] · W[row_begin + r, k], r in [0, row_end − row_begin), on this
/// thread: the product with the matrix not transposed. x is float32; FP8 weights are code × scale, rounded to BF16 if
/// `cast_bf16`.
///
/// Shapes:  x [T, R] rows `x_stride` apart; y [T, cols] rows `y_stride` apart.
void linear_transposed_rows(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                            int64_t row_end, bool cast_bf16, bool accumulate, float* y, int64_t y_stride);

/// One product of a group that shares an operand and a parallel loop.
struct LinearJob {
  const Weight* weight;
  float* y;
  int64_t y_stride;
};

/// All rows of each weight of the group on the whole team: y = x Wᵀ.
void linear(const OperandView& x, int64_t T, std::initializer_list<LinearJob> jobs, ThreadTeam& team);

/// Rows of a work item of products of T tokens, where there are `rows` in all: few enough that the team stays balanced,
/// many enough to stream; a power of two and at least the 16 rows of a panel of integers, or, of many tokens, the 64
/// columns that a paired product holds in registers.
int64_t rows_per_item(int64_t rows, int64_t T, int threads);

/// The T of `rows_per_item` where jobs have `count` tokens each.
template <typename Jobs>
int64_t most_tokens(const Jobs& jobs) {
  int64_t most = 0;
  for (const auto& job : jobs) most = std::max(most, job.count);
  return most;
}

}  // namespace fathom
