#include "train/products.h"

#include <algorithm>

#include "base/number_formats.h"
#include "kernels/gradients.h"
#include "kernels/norm.h"
#include "kernels/paired_product.h"
#include "kernels/quantize.h"

namespace fathom {
namespace {

// Tokens of a tile of an input gradient that is added to what is there.
constexpr int64_t kTokenBlock = 96;
// Tokens of an item of an input gradient.
constexpr int64_t kInputTokens = 512;
// Tile of a weight gradient. Its left side passes in runs of 96 rows (see bf16_product_avx512.cc).
constexpr int64_t kTileRows = 192;
constexpr int64_t kTileCols = 128;
// Columns of a matrix that an item turns around, and pairs of rows that it pairs: a group that shares FP8 scales.
constexpr int64_t kTurnCols = 64;
static_assert(2 * kTurnCols == kActivationGroup);

int64_t padded(int64_t n) {
  return (n + 63) / 64 * 64;
}

int64_t groups(int64_t n) {
  return (n + kActivationGroup - 1) / kActivationGroup;
}

DType weight_type(ProductForm form) {
  if (form == ProductForm::fp8) return DType::f8_e4m3;
  return form == ProductForm::bf16 ? DType::bf16 : DType::f32;
}

OperandRounding rounding_of(ProductForm form) {
  if (form == ProductForm::fp8) return OperandRounding::fp8;
  return form == ProductForm::bf16 ? OperandRounding::bf16 : OperandRounding::none;
}

// A matrix of token rows turned around: [cols, tokens], as the left or the right side of a product.
struct Slab {
  const TokenRows* rows;
  int64_t tokens;
  ProductForm form;
  bool left;
  bool paired;                        // [tokens / 2, cols, 2] for kernels/paired_product.h; then either side. In FP8
                                      // values of codes, scales [groups, cols]
  OperandForm as = OperandForm::f32;  // how the product reads a left side
  bool wide = false;                  // elements are float32
  int64_t bytes = 0;                  // of an element
  size_t at = 0;                      // bytes into the slabs
  size_t scale = 0;                   // floats into the scales

  int64_t stride() const { return padded(tokens); }
  int64_t pairs() const { return (tokens + 1) / 2; }
  size_t size() const { return static_cast<size_t>(rows->cols * stride() * bytes + 63) / 64 * 64; }
};

Slab make_slab(const TokenRows& rows, int64_t tokens, ProductForm form, bool left) {
  Slab slab{&rows, tokens, form, left, form != ProductForm::f32 && has_paired_product()};
  if (slab.paired) {
    slab.bytes = 2;
  } else if (left) {
    Weight like = dense_weight(weight_type(form), nullptr, 1, tokens, tokens);
    like.block_rows = 1;
    like.block_cols = kActivationGroup;
    slab.as = operand_form_for(like, rounding_of(form));
    slab.wide = slab.as != OperandForm::bf16;
    slab.bytes = slab.wide ? 4 : 2;
  } else {
    slab.wide = form == ProductForm::f32;
    slab.bytes = static_cast<int64_t>(dtype_bytes(weight_type(form)));
  }
  return slab;
}

bool same_slab(const Slab& a, const Slab& b) {
  return a.rows->data == b.rows->data && a.rows->index == b.rows->index && a.rows->cols == b.rows->cols &&
         a.rows->ue8m0 == b.rows->ue8m0 && a.tokens == b.tokens && a.form == b.form && a.paired == b.paired &&
         (a.paired || a.left == b.left);
}

// One row of a slab to E4M3: codes on the right, their values on the left.
void quantize_row(const Slab& slab, const float* values, int64_t c, std::byte* out, float* scales,
                  std::vector<uint8_t>& codes) {
  codes.resize(static_cast<size_t>(slab.tokens));
  quantize_activation(values, slab.tokens, slab.rows->ue8m0, codes.data(), scales + c * groups(slab.tokens),
                      kLeastGradientAmax);
  if (!slab.left) {
    std::copy(codes.begin(), codes.end(), reinterpret_cast<uint8_t*>(out) + c * slab.stride());
    return;
  }
  for (int64_t t = 0; t < slab.stride(); ++t) {
    const float value = t < slab.tokens ? e4m3_to_f32(codes[static_cast<size_t>(t)]) : 0.0f;
    if (slab.wide) {
      reinterpret_cast<float*>(out)[c * slab.stride() + t] = value;
    } else {
      reinterpret_cast<uint16_t*>(out)[c * slab.stride() + t] = f32_to_bf16(value);
    }
  }
}

uint16_t* paired_slab(const Slab& slab, ProductWorkspace& ws) {
  return reinterpret_cast<uint16_t*>(ws.slabs.as<std::byte>() + slab.at);
}

// Pairs [begin, end); in FP8 whole groups.
void pair_piece(const Slab& slab, int64_t begin, int64_t end, ProductWorkspace& ws) {
  const TokenRows& rows = *slab.rows;
  if (slab.form == ProductForm::bf16) {
    pair_rows(rows.dtype, rows.data, rows.stride, rows.index, slab.tokens, rows.cols, begin, end,
              paired_slab(slab, ws));
    return;
  }
  const int64_t first = 2 * begin;
  const int32_t* index = rows.index != nullptr ? rows.index + first : nullptr;
  const std::byte* data = static_cast<const std::byte*>(rows.data);
  if (index == nullptr) data += static_cast<size_t>(first * rows.stride) * dtype_bytes(rows.dtype);
  quantize_pairs(rows.dtype, data, rows.stride, index, std::min(2 * end, slab.tokens) - first, rows.cols, rows.ue8m0,
                 kLeastGradientAmax, paired_slab(slab, ws) + first * rows.cols,
                 ws.slab_scales.as<float>() + slab.scale + first / kActivationGroup * rows.cols);
}

void turn_piece(const Slab& slab, int64_t c_begin, int64_t c_end, ProductWorkspace& ws, Buffer& scratch) {
  const TokenRows& rows = *slab.rows;
  const std::byte* from =
      static_cast<const std::byte*>(rows.data) + static_cast<size_t>(c_begin) * dtype_bytes(rows.dtype);
  std::byte* out = ws.slabs.as<std::byte>() + slab.at;
  const int64_t stride = slab.stride();
  if (slab.form != ProductForm::fp8) {
    const TurnedForm bf16 = slab.wide ? TurnedForm::f32_rounded : TurnedForm::bf16;
    turn(rows.dtype, from, rows.stride, rows.index, slab.tokens, c_end - c_begin,
         slab.form == ProductForm::f32 ? TurnedForm::f32 : bf16, out + c_begin * stride * slab.bytes, stride, stride);
    for (int64_t c = c_begin; slab.left && slab.wide && c < c_end; ++c) {
      order_row(slab.as, reinterpret_cast<float*>(out) + c * stride, stride);
    }
    return;
  }
  scratch.reserve(static_cast<size_t>(kTurnCols * stride) * sizeof(float));
  turn(rows.dtype, from, rows.stride, rows.index, slab.tokens, c_end - c_begin, TurnedForm::f32, scratch.as<float>(),
       stride, stride);
  std::vector<uint8_t> codes;
  for (int64_t c = c_begin; c < c_end; ++c) {
    quantize_row(slab, scratch.as<float>() + (c - c_begin) * stride, c, out, ws.slab_scales.as<float>() + slab.scale,
                 codes);
  }
}

OperandView left_view(const Slab& slab, const ProductWorkspace& ws, int64_t row) {
  OperandView view;
  view.form = slab.as;
  view.rounding = rounding_of(slab.form);
  view.stride = slab.stride();
  view.data = ws.slabs.as<std::byte>() + slab.at + row * view.stride * slab.bytes;
  if (slab.form == ProductForm::fp8) {
    view.scale_stride = groups(slab.tokens);
    view.scales = ws.slab_scales.as<float>() + slab.scale + row * view.scale_stride;
  }
  return view;
}

Weight right_view(const Slab& slab, const ProductWorkspace& ws) {
  Weight weight = dense_weight(weight_type(slab.form), ws.slabs.as<std::byte>() + slab.at, slab.rows->cols, slab.tokens,
                               slab.stride());
  if (slab.form == ProductForm::fp8) {
    weight.block_rows = 1;
    weight.block_cols = kActivationGroup;
    weight.scale_inv = ws.slab_scales.as<float>() + slab.scale;
  }
  return weight;
}

}  // namespace

void input_gradient_rows(const OperandView& dy, const int32_t* index, int64_t T, const TurnedWeight& weight,
                         int64_t begin, int64_t end, bool accumulate, float* dx, int64_t dx_stride,
                         const int32_t* dx_index, Buffer& scratch) {
  if (weight.pairs != nullptr) {
    const PairedLeft left{dy.bf16_row(0), dy.stride, 2, index};
    const int64_t cols = weight.turned.rows;
    const int64_t pairs = weight.turned.cols / 2;
    if (dy.scales != nullptr) {
      const int64_t block = weight.turned.block_rows;
      const PairedScales scales{dy.scales, dy.scale_stride, 1, weight.scales, (cols + block - 1) / block, block};
      scaled_paired_product(left, scales, T, weight.pairs, cols, pairs, begin, end, dx, dx_stride, dx_index,
                            accumulate);
    } else {
      paired_product(left, T, weight.pairs, cols, pairs, begin, end, dx, dx_stride, dx_index, accumulate);
    }
    return;
  }
  if (!accumulate && dx_index == nullptr) {
    linear_rows(dy, index, T, weight.turned, begin, end, dx, dx_stride);
    return;
  }
  const int64_t n = end - begin;
  scratch.reserve(static_cast<size_t>(kTokenBlock * n) * sizeof(float));
  auto* tile = scratch.as<float>();
  for (int64_t t0 = 0; t0 < T; t0 += kTokenBlock) {
    const int64_t count = std::min(kTokenBlock, T - t0);
    std::vector<int32_t> own(static_cast<size_t>(count));
    for (int64_t t = 0; t < count; ++t) {
      own[static_cast<size_t>(t)] = index != nullptr ? index[t0 + t] : static_cast<int32_t>(t0 + t);
    }
    linear_rows(dy, own.data(), count, weight.turned, begin, end, tile, n);
    for (int64_t t = 0; t < count; ++t) {
      float* to = dx + (dx_index != nullptr ? dx_index[t0 + t] : t0 + t) * dx_stride;
      if (accumulate) {
        add_scaled(tile + t * n, 1.0f, n, to);
      } else {
        std::copy_n(tile + t * n, n, to);
      }
    }
  }
}

void linear_input_gradient(const float* dy, int64_t T, const TurnedWeight& weight, OperandRounding rounding,
                           bool accumulate, float* dx, ProductWorkspace& ws, ThreadTeam& team) {
  const int64_t N = weight.turned.cols;
  const int64_t K = weight.turned.rows;
  ws.tiles.resize(static_cast<size_t>(team.size()));
  ws.operand.prepare(dy, T, N, N, weight.turned, rounding, &team, kLeastGradientAmax);
  // Runs of tokens by columns: enough items for the team where there are few columns.
  const int64_t step = std::min<int64_t>(K, kTileCols);
  const int64_t across = (K + step - 1) / step;
  const int64_t runs = (T + kInputTokens - 1) / kInputTokens;
  team.parallel_for(across * runs, [&](int64_t item, int thread) {
    const int64_t begin = item % across * step;
    const int64_t t0 = item / across * kInputTokens;
    const int64_t count = std::min(kInputTokens, T - t0);
    input_gradient_rows(ws.operand.view(t0), nullptr, count, weight, begin, std::min(begin + step, K), accumulate,
                        dx + t0 * K + begin, K, nullptr, ws.tiles[static_cast<size_t>(thread)]);
  });
}

void linear_weight_gradients(std::span<const WeightGradientJob> jobs, ProductWorkspace& ws, ThreadTeam& team) {
  ws.tiles.resize(static_cast<size_t>(team.size()));
  // Slabs, each once; the last few are enough to look at: what jobs share lies side by side.
  constexpr size_t kLookBack = 6;
  std::vector<Slab> slabs;
  struct Tiles {
    const WeightGradientJob* job;
    size_t left, right;
    int64_t first, across;
  };
  std::vector<Tiles> tiles;
  size_t bytes = 0;
  size_t scales = 0;
  int64_t items = 0;
  const auto slab_of = [&](const TokenRows& rows, const WeightGradientJob& job, bool left) {
    Slab slab = make_slab(rows, job.tokens, job.form, left);
    for (size_t i = slabs.size(); i > 0 && i + kLookBack > slabs.size(); --i) {
      if (same_slab(slabs[i - 1], slab)) return i - 1;
    }
    slab.at = bytes;
    slab.scale = scales;
    bytes += slab.size();
    if (job.form == ProductForm::fp8) scales += static_cast<size_t>(rows.cols * groups(job.tokens));
    slabs.push_back(slab);
    return slabs.size() - 1;
  };
  for (const WeightGradientJob& job : jobs) {
    if (job.tokens == 0) continue;
    const size_t left = slab_of(job.dy, job, true);
    const size_t right = slab_of(job.x, job, false);
    const int64_t across = (job.x.cols + kTileCols - 1) / kTileCols;
    tiles.push_back({&job, left, right, items, across});
    items += across * ((job.dy.cols + kTileRows - 1) / kTileRows);
  }
  ws.slabs.reserve(bytes);
  ws.slab_scales.reserve(scales * sizeof(float));

  std::vector<std::pair<size_t, int64_t>> pieces;
  for (size_t i = 0; i < slabs.size(); ++i) {
    const int64_t end = slabs[i].paired ? slabs[i].pairs() : slabs[i].rows->cols;
    for (int64_t c = 0; c < end; c += kTurnCols) pieces.emplace_back(i, c);
  }
  team.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t item, int thread) {
    const auto [slab, c] = pieces[static_cast<size_t>(item)];
    if (slabs[slab].paired) {
      pair_piece(slabs[slab], c, std::min(c + kTurnCols, slabs[slab].pairs()), ws);
      return;
    }
    turn_piece(slabs[slab], c, std::min(c + kTurnCols, slabs[slab].rows->cols), ws,
               ws.tiles[static_cast<size_t>(thread)]);
  });

  team.parallel_for(items, [&](int64_t item, int thread) {
    const auto after = std::upper_bound(tiles.begin(), tiles.end(), item,
                                        [](int64_t value, const Tiles& entry) { return value < entry.first; });
    const Tiles& own = *(after - 1);
    const WeightGradientJob& job = *own.job;
    const int64_t n0 = (item - own.first) / own.across * kTileRows;
    const int64_t k0 = (item - own.first) % own.across * kTileCols;
    const int64_t rows = std::min(kTileRows, job.dy.cols - n0);
    const int64_t k1 = std::min(k0 + kTileCols, job.x.cols);
    if (slabs[own.left].paired) {
      const PairedLeft left{paired_slab(slabs[own.left], ws) + 2 * n0, 2, 2 * job.dy.cols};
      const Slab& right = slabs[own.right];
      float* out = job.gradient + n0 * job.x.cols + k0;
      if (right.form == ProductForm::fp8) {
        const auto* factors = ws.slab_scales.as<float>();
        const PairedScales both{factors + slabs[own.left].scale + n0, 1, job.dy.cols, factors + right.scale,
                                job.x.cols};
        scaled_paired_product(left, both, rows, paired_slab(right, ws), job.x.cols, right.pairs(), k0, k1, out,
                              job.x.cols, nullptr, true);
      } else {
        paired_product(left, rows, paired_slab(right, ws), job.x.cols, right.pairs(), k0, k1, out, job.x.cols, nullptr,
                       true);
      }
      return;
    }
    Buffer& tile = ws.tiles[static_cast<size_t>(thread)];
    tile.reserve(static_cast<size_t>(kTileRows * kTileCols) * sizeof(float));
    linear_rows(left_view(slabs[own.left], ws, n0), nullptr, rows, right_view(slabs[own.right], ws), k0, k1,
                tile.as<float>(), k1 - k0);
    for (int64_t n = 0; n < rows; ++n) {
      add_scaled(tile.as<float>() + n * (k1 - k0), 1.0f, k1 - k0, job.gradient + (n0 + n) * job.x.cols + k0);
    }
  });
}

}  // namespace fathom
