#include "kernels/linear.h"

#include <algorithm>
#include <cstring>

#include "base/number_formats.h"
#include "kernels/cpu/integer_kernels.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"

namespace fathom {
namespace {

// Rows of activations are padded to whole steps of the widest kernel; the padding is zero.
constexpr int64_t kPadding = 64;

int64_t padded(int64_t K) {
  return (K + kPadding - 1) / kPadding * kPadding;
}

// From so many tokens on, work is cut for arithmetic rather than for streaming.
constexpr int64_t kManyTokens = 48;
// Tokens of a work item.
constexpr int64_t kItemTokens = 512;

constexpr int64_t kGroupsOfBlock = kOperandBlock / kActivationGroup;

size_t element_bytes(OperandForm form) {
  return form == OperandForm::bf16 ? sizeof(uint16_t) : sizeof(float);
}

}  // namespace

const LinearKernels& linear_kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return linear_kernels_avx512bf16();
    case Isa::avx512:
      return linear_kernels_avx512();
    case Isa::avx2:
      return linear_kernels_avx2();
    case Isa::portable:
      break;
  }
  return linear_kernels_portable();
}

Weight dense_weight(DType dtype, const void* data, int64_t rows, int64_t cols, int64_t row_stride) {
  Weight weight;
  weight.dtype = dtype;
  weight.rows = rows;
  weight.cols = cols;
  weight.row_stride = row_stride;
  weight.data = static_cast<const std::byte*>(data);
  return weight;
}

OperandForm operand_form_for(const Weight& weight, OperandRounding rounding) {
  return rounding == OperandRounding::int8 ? OperandForm::int8 : linear_kernels().operand_form(weight, rounding);
}

void order_row(OperandForm form, float* row, int64_t n) {
  if (form != OperandForm::f32_pairs) return;
  for (int64_t begin = 0; begin < n; begin += 32) {
    float values[32];
    std::copy_n(row + begin, 32, values);
    for (int64_t i = 0; i < 32; ++i) row[begin + i] = values[paired_column(i)];
  }
}

bool same_operand_form(const Weight& a, const Weight& b, OperandRounding rounding) {
  if (rounding == OperandRounding::int8) return true;
  const LinearKernels& kernels = linear_kernels();
  return a.dtype == b.dtype && kernels.operand_form(a, rounding) == kernels.operand_form(b, rounding);
}

OperandView OperandView::from_row(int64_t t) const {
  OperandView view = *this;
  if (form == OperandForm::int8) {
    view.data = int8_columns(t, 0);
    view.scales = scales + t;
    view.sums = sums + t;
    return view;
  }
  view.data = static_cast<const std::byte*>(data) + static_cast<size_t>(t * stride) * element_bytes(form);
  view.scales = row_scales(t);
  if (wide != nullptr) view.wide = wide_row(t);
  return view;
}

OperandView Operand::view(int64_t first_row) const {
  OperandView view;
  view.form = form_;
  view.rounding = rounding_;
  view.data = data_.as<std::byte>();
  view.scales = has_scales_ ? scales_.as<float>() : nullptr;
  view.stride = stride_;
  view.scale_stride = scale_stride_;
  view.wide = wide_stride_ != 0 ? wide_.as<float>() : nullptr;
  view.wide_stride = wide_stride_;
  if (form_ == OperandForm::int8) {
    view.block_rows = block_rows_;
    view.groups = groups_;
    view.sums = sums_.as<int32_t>();
  }
  return view.from_row(first_row);
}

void Operand::prepare(const float* x, int64_t T, int64_t K, int64_t x_stride, const Weight& weight,
                      OperandRounding rounding, ThreadTeam* team, float least_amax) {
  const bool fp8_rounding = rounding == OperandRounding::fp8 || rounding == OperandRounding::fp8_ue8m0;
  rounding_ = fp8_rounding && weight.dtype != DType::f8_e4m3 ? OperandRounding::none : rounding;
  const bool int8 = rounding == OperandRounding::int8;
  wide_stride_ = 0;
  if (int8) reserve_int8(T, (K + kActivationGroup - 1) / kActivationGroup);
  if (!int8) {
    form_ = linear_kernels().operand_form(weight, rounding_);
    has_scales_ = fp8_rounding && rounding_ == rounding;
    scale_stride_ = (K + kActivationGroup - 1) / kActivationGroup;
    stride_ = padded(K);
    data_.reserve(static_cast<size_t>(T * stride_) * element_bytes(form_));
    if (has_scales_) scales_.reserve(static_cast<size_t>(T * scale_stride_) * sizeof(float));
    if (form_ == OperandForm::bf16 && linear_kernels().widen != nullptr && active_bf16_dot() == Bf16Dot::fma) {
      // Not a multiple of 4 KB, so that rows fall on different sets of the cache.
      wide_stride_ = stride_ + 16;
      reserve<float>(wide_, T * wide_stride_);
    }
  }
  const auto row = [&](int64_t t, int) {
    int8 ? prepare_int8_row(x + t * x_stride, K, t) : prepare_row(x + t * x_stride, K, t, least_amax);
    if (wide_stride_ != 0) widen_row(t);
  };
  if (team != nullptr && T > 1) {
    team->parallel_for(T, row);
  } else {
    for (int64_t t = 0; t < T; ++t) row(t, 0);
  }
}

void Operand::reserve_int8(int64_t rows, int64_t groups) {
  form_ = OperandForm::int8;
  has_scales_ = true;
  block_rows_ = rows;
  groups_ = groups;
  const int64_t blocks = (groups + kGroupsOfBlock - 1) / kGroupsOfBlock;
  reserve<int8_t>(data_, blocks * rows * kOperandBlock);
  reserve<float>(scales_, groups * rows);
  reserve<int32_t>(sums_, 5 * groups * rows);
}

void Operand::prepare_int8_row(const float* x, int64_t K, int64_t t) {
  const int64_t length = groups_ * kActivationGroup;
  thread_local Buffer memory;
  auto* q = reserve<int8_t>(memory, length + groups_ * static_cast<int64_t>(sizeof(float) + 5 * sizeof(int32_t)));
  auto* scales = reinterpret_cast<float*>(q + length);
  auto* sums = reinterpret_cast<int32_t*>(scales + groups_);
  integer_kernels().quantize_activation(x, K, q, scales, sums, sums + groups_);
  for (int64_t k = 0; k < length; k += kOperandBlock) {
    std::memcpy(data_.as<int8_t>() + (k / kOperandBlock * block_rows_ + t) * kOperandBlock, q + k,
                static_cast<size_t>(std::min(kOperandBlock, length - k)));
  }
  for (int64_t g = 0; g < groups_; ++g) scales_.as<float>()[g * block_rows_ + t] = scales[g];
  for (int64_t i = 0; i < 5 * groups_; ++i) sums_.as<int32_t>()[i * block_rows_ + t] = sums[i];
}

void Operand::gather(const OperandView& from, const int32_t* rows, int64_t n, ThreadTeam& team) {
  rounding_ = from.rounding;
  reserve_int8(n, from.groups);
  const int64_t blocks = (groups_ + kGroupsOfBlock - 1) / kGroupsOfBlock;
  team.parallel_for(blocks + 6 * groups_, [&](int64_t item, int) {
    if (item < blocks) {
      auto* to = data_.as<int8_t>() + item * n * kOperandBlock;
      for (int64_t t = 0; t < n; ++t) {
        std::memcpy(to + t * kOperandBlock, from.int8_columns(rows[t], item * kOperandBlock), kOperandBlock);
      }
      return;
    }
    item -= blocks;
    if (item < groups_) {
      for (int64_t t = 0; t < n; ++t) {
        scales_.as<float>()[item * n + t] = from.scales[item * from.block_rows + rows[t]];
      }
      return;
    }
    item -= groups_;
    for (int64_t t = 0; t < n; ++t) {
      sums_.as<int32_t>()[item * n + t] = from.sums[item * from.block_rows + rows[t]];
    }
  });
}

void Operand::widen_row(int64_t t) {
  linear_kernels().widen(data_.as<uint16_t>() + t * stride_, stride_, wide_.as<float>() + t * wide_stride_);
}

void Operand::prepare_row(const float* x, int64_t K, int64_t t, float least_amax) {
  auto* wide = data_.as<float>() + t * stride_;
  auto* narrow = data_.as<uint16_t>() + t * stride_;
  if (has_scales_) {
    const bool ue8m0 = rounding_ == OperandRounding::fp8_ue8m0;
    float* scales = scales_.as<float>() + t * scale_stride_;
    if (form_ == OperandForm::bf16) {
      quantize_activation_values(x, K, ue8m0, narrow, scales, least_amax);
    } else {
      quantize_activation_values(x, K, ue8m0, wide, scales, least_amax);
    }
    form_ == OperandForm::bf16 ? std::fill(narrow + K, narrow + stride_, uint16_t{0})
                               : std::fill(wide + K, wide + stride_, 0.0f);
    return;
  }
  switch (form_) {
    case OperandForm::bf16:
      convert_f32_to_bf16(x, K, narrow);
      std::fill(narrow + K, narrow + stride_, uint16_t{0});
      break;
    case OperandForm::f32:
    case OperandForm::f32_pairs:
      if (rounding_ == OperandRounding::bf16) {
        for (int64_t k = 0; k < K; ++k) wide[k] = round_to_bf16(x[k]);
      } else {
        std::copy(x, x + K, wide);
      }
      std::fill(wide + K, wide + stride_, 0.0f);
      order_row(form_, wide, stride_);
      break;
    case OperandForm::int8:
      break;
  }
}

void linear_rows(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& weight, int64_t row_begin,
                 int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  if (x.form == OperandForm::int8 || weight.bits != 0) {
    return integer_linear_rows(x, row_index, T, weight, row_begin, row_end, y, y_stride, next);
  }
  linear_kernels().linear_rows(x, row_index, T, weight, row_begin, row_end, y, y_stride, next);
}

void linear_transposed_rows(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                            int64_t row_end, bool cast_bf16, bool accumulate, float* y, int64_t y_stride) {
  linear_kernels().linear_transposed_rows(x, x_stride, T, weight, row_begin, row_end, cast_bf16, accumulate, y,
                                          y_stride);
}

int64_t rows_per_item(int64_t rows, int64_t T, int threads) {
  // Long runs of memory count for few tokens; for many, that the activations come from far for few rows. Powers of two,
  // so that an item's rows share their block scales and the sixteen rows of a panel of integers stay together; about
  // four items a thread even out a busy machine. A router's few rows are shared all the same.
  const int64_t least = T < kManyTokens || rows < 64 * threads ? 16 : 64;
  int64_t step = 128;
  while (step > least && step * 4 * threads > rows) step /= 2;
  return step;
}

void linear(const OperandView& x, int64_t T, std::initializer_list<LinearJob> jobs, ThreadTeam& team) {
  int64_t rows = 0;
  for (const LinearJob& job : jobs) rows += job.weight->rows;
  const int64_t runs = (T + kItemTokens - 1) / kItemTokens;
  const int64_t step = rows_per_item(rows * runs, T, team.size());
  int64_t items = 0;
  for (const LinearJob& job : jobs) items += (job.weight->rows + step - 1) / step;
  // The job and rows of an item; past the last one, none.
  struct Rows {
    const LinearJob* job = nullptr;
    int64_t begin = 0, end = 0;
  };
  const auto rows_of = [&](int64_t item) {
    for (const LinearJob& job : jobs) {
      const int64_t own = (job.weight->rows + step - 1) / step;
      if (item < own) return Rows{&job, item * step, std::min((item + 1) * step, job.weight->rows)};
      item -= own;
    }
    return Rows{};
  };
  team.parallel_for(items * runs, [&](int64_t item, int) {
    // Runs of tokens that share rows come one after the other.
    const int64_t t0 = item % runs * kItemTokens;
    const int64_t count = std::min(kItemTokens, T - t0);
    const Rows own = rows_of(item / runs);
    // The threads take turns.
    const Rows next = rows_of((item + team.size()) / runs);
    linear_rows(x.from_row(t0), nullptr, count, *own.job->weight, own.begin, own.end,
                own.job->y + t0 * own.job->y_stride + own.begin, own.job->y_stride,
                {next.job != nullptr ? next.job->weight : nullptr, next.begin, next.end});
  });
}

}  // namespace fathom
