#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/isa.h"
#include "kernels/norm.h"

namespace fathom {
namespace {

// Pages of a run of the absorbed form that is summed apart: 1,024 positions. Small enough that one long sequence keeps
// many threads busy; its 64 sums are moved and joined in about 1 % of the time that they took.
constexpr int64_t kSplitPages = 16;
constexpr int64_t kSplitPositions = kSplitPages * kPagePositions;

// Slots for partial sums per thread: a round of items ends with a join, where threads wait.
constexpr int64_t kSlotsPerThread = 16;

// Heads of an item of the expanded form where they share the preparation of a page of latents.
constexpr int64_t kExpandedHeads = 4;

// Heads of an item of the absorbed form's way into the latent space: each asks for the next one's weights.
constexpr int64_t kAbsorbedHeads = 16;

constexpr SoftmaxState kNothing = {-std::numeric_limits<float>::infinity(), 0};

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t cache_lines(int64_t bytes) {
  return ceil_div(bytes, 64) * 64;
}

// Few enough that every thread has some items.
int64_t heads_per_item(int64_t heads, int threads, int64_t most) {
  return std::clamp<int64_t>(heads / (4 * threads), 1, most);
}

int64_t mixed_bytes(const AttentionShape& shape) {
  return ceil_div(shape.value_width, 16) * 16 * kBlockRows * static_cast<int64_t>(sizeof(float));
}

int64_t block_bytes(const AttentionShape& shape) {
  return cache_lines(attention_kernels().query_bytes(shape)) + mixed_bytes(shape) +
         2 * kBlockRows * static_cast<int64_t>(sizeof(float));
}

// A block in `memory` [block_bytes].
QueryBlock block_at(const AttentionShape& shape, int64_t rows, std::byte* memory) {
  QueryBlock block;
  block.rows = rows;
  block.lanes = ceil_div(rows, 16) * 16;
  block.queries = memory;
  block.mixed = reinterpret_cast<float*>(memory + cache_lines(attention_kernels().query_bytes(shape)));
  block.greatest = block.mixed + mixed_bytes(shape) / static_cast<int64_t>(sizeof(float));
  block.sum = block.greatest + kBlockRows;
  return block;
}

// The state of a block that has seen nothing yet.
void clear_sums(const QueryBlock& block) {
  std::fill(block.mixed, block.greatest, 0.0f);
  std::fill(block.greatest, block.sum, kNothing.greatest);
  std::fill(block.sum, block.sum + kBlockRows, kNothing.sum);
}

// How many of a page's positions each row sees, where they do not all see `count`. `seen(r)` counts from the page's
// beginning and never decreases with r.
template <typename Seen>
const int32_t* visible_positions(const QueryBlock& block, int64_t count, Seen seen, int32_t* visible) {
  if (seen(0) >= count) return nullptr;
  for (int64_t r = 0; r < block.lanes; ++r) {
    visible[r] = static_cast<int32_t>(std::clamp<int64_t>(seen(std::min(r, block.rows - 1)), 0, count));
  }
  return visible;
}

void scale_row(float* row, int64_t n, float factor) {
  for (int64_t k = 0; k < n; ++k) row[k] *= factor;
}

// Joins what a row's next run of positions summed up to what came before.
void join(const SoftmaxState& next, const float* mixed, int64_t n, SoftmaxState& total, float* total_mixed) {
  if (next.sum == 0) return;  // a row that sees nothing of the run
  if (total.sum == 0) {
    total = next;
    std::copy(mixed, mixed + n, total_mixed);
    return;
  }
  const float greatest = std::max(total.greatest, next.greatest);
  const float old_factor = std::exp(total.greatest - greatest);
  const float new_factor = std::exp(next.greatest - greatest);
  total = {greatest, total.sum * old_factor + next.sum * new_factor};
  for (int64_t k = 0; k < n; ++k) total_mixed[k] = total_mixed[k] * old_factor + mixed[k] * new_factor;
}

// BF16 rows [count, latent + rope] of the page that begins at `position`: where they lie, or expanded into `memory`.
const uint16_t* page_rows(const LatentDims& dims, const LatentSpan& span, int64_t position, int64_t count,
                          Buffer& memory) {
  const std::byte* page = span.page_at(position);
  if (span.dtype == DType::bf16) return reinterpret_cast<const uint16_t*>(page);
  auto* rows = reserve<uint16_t>(memory, kPagePositions * dims.width());
  expand_fp8_latents(page, count, dims.width(), rows);
  return rows;
}

AttentionShape absorbed_shape(const LatentDims& dims) {
  return {dims.width(), dims.latent, dims.scale};
}

// First token of each span in the workspace's buffers; the result is their number.
int64_t place_spans(std::span<const LatentSpan> spans, AttentionWorkspace& ws) {
  ws.at.clear();
  int64_t tokens = 0;
  for (const LatentSpan& span : spans) {
    ws.at.push_back(tokens);
    tokens += span.length;
  }
  return tokens;
}

// Positions up to the last token that has a row in this block of the absorbed form.
int64_t block_end(const LatentDims& dims, const LatentSpan& span, int64_t block) {
  const int64_t last_row = std::min(span.length * dims.heads, (block + 1) * kBlockRows) - 1;
  return span.position + last_row / dims.heads + 1;
}

// One block of query rows with one run of pages.
void attend_item(const LatentDims& dims, const LatentSpan& span, const AttentionWorkspace::Item& item,
                 AttentionWorkspace& ws, AttentionWorkspace::Thread& thread) {
  const AttentionKernels& kernels = attention_kernels();
  const AttentionShape shape = absorbed_shape(dims);
  const int64_t first_row = item.block * kBlockRows;
  const int64_t rows = std::min(kBlockRows, span.length * dims.heads - first_row);
  const int64_t placed = ws.at[static_cast<size_t>(item.span)] * dims.heads + first_row;
  const QueryBlock block = block_at(shape, rows, reserve<std::byte>(thread.blocks, block_bytes(shape)));
  clear_sums(block);
  auto* page_memory = reserve<std::byte>(thread.page, kernels.page_bytes(shape));
  kernels.pack_queries(shape, ws.queries.as<uint16_t>() + placed * dims.width(), dims.width(), block);
  const int64_t end = std::min((item.split + 1) * kSplitPositions, block_end(dims, span, item.block));
  int32_t visible[kBlockRows];
  for (int64_t begin = item.split * kSplitPositions; begin < end; begin += kPagePositions) {
    const int64_t count = std::min(kPagePositions, end - begin);
    const uint16_t* rows_of_page = page_rows(dims, span, begin, count, thread.expanded);
    PackedPage page =
        kernels.pack_page(shape, rows_of_page, dims.width(), rows_of_page, dims.width(), count, page_memory);
    if (begin + kPagePositions < end) {
      const int64_t next_count = std::min(kPagePositions, end - begin - kPagePositions);
      page.next = span.page_at(begin + kPagePositions);
      page.next_bytes = next_count * dims.width() * static_cast<int64_t>(dtype_bytes(span.dtype));
    }
    const auto seen = [&](int64_t r) { return span.position + (first_row + r) / dims.heads + 1 - begin; };
    kernels.attend(shape, block, page, count, visible_positions(block, count, seen, visible));
  }
  const bool only = item.slot < 0;
  float* mixed = only ? ws.mixed.as<float>() + placed * dims.latent
                      : ws.partial.as<float>() + item.slot * kBlockRows * dims.latent;
  SoftmaxState* states =
      only ? ws.states.as<SoftmaxState>() + placed : ws.partial_states.as<SoftmaxState>() + item.slot * kBlockRows;
  kernels.unpack(shape, block, mixed, dims.latent);
  for (int64_t r = 0; r < rows; ++r) {
    states[r] = {block.greatest[r], block.sum[r]};
    if (only) scale_row(mixed + r * dims.latent, dims.latent, 1.0f / states[r].sum);
  }
}

// Joins the partial sums of a round's items, in the order of their positions.
void join_items(const LatentDims& dims, std::span<const LatentSpan> spans,
                std::span<const AttentionWorkspace::Item> items, AttentionWorkspace& ws, ThreadTeam& team) {
  // An item of this loop is a few rows of all blocks: no two meet in a row.
  constexpr int64_t kRows = 4;
  team.parallel_for(kBlockRows / kRows, [&](int64_t part, int) {
    for (const AttentionWorkspace::Item& item : items) {
      if (item.slot < 0) continue;
      const int64_t first_row = item.block * kBlockRows;
      const int64_t rows = std::min(kBlockRows, spans[static_cast<size_t>(item.span)].length * dims.heads - first_row);
      const int64_t placed = ws.at[static_cast<size_t>(item.span)] * dims.heads + first_row;
      for (int64_t r = part * kRows; r < std::min(rows, (part + 1) * kRows); ++r) {
        const int64_t slot_row = item.slot * kBlockRows + r;
        SoftmaxState& total = ws.states.as<SoftmaxState>()[placed + r];
        float* mixed = ws.mixed.as<float>() + (placed + r) * dims.latent;
        join(ws.partial_states.as<SoftmaxState>()[slot_row], ws.partial.as<float>() + slot_row * dims.latent,
             dims.latent, total, mixed);
        if (item.last) scale_row(mixed, dims.latent, 1.0f / total.sum);
      }
    }
  });
}

// One head's rows of kv_b_proj as lanes, the keys' and then the values' in blocks of up to 64.
struct PackedHead {
  std::byte* memory;
  int64_t bytes;  // of a block
  int64_t nope, v, latent;

  PackedHead(const LatentDims& dims, Buffer& buffer)
      : bytes(cache_lines(attention_kernels().query_bytes({dims.latent, 0, 1}))),
        nope(dims.nope),
        v(dims.v),
        latent(dims.latent) {
    memory = reserve<std::byte>(buffer, (ceil_div(nope, kBlockRows) + ceil_div(v, kBlockRows)) * bytes);
  }
  // Calls `use(block, values, first)` for each block: whether it is of the values, and its first row among its kind.
  template <typename Use>
  void for_blocks(Use use) const {
    std::byte* at = memory;
    for (bool values : {false, true}) {
      const int64_t rows = values ? v : nope;
      for (int64_t first = 0; first < rows; first += kBlockRows, at += bytes) {
        QueryBlock block;
        block.rows = std::min(kBlockRows, rows - first);
        block.lanes = ceil_div(block.rows, 16) * 16;
        block.queries = at;
        use(block, values, first);
      }
    }
  }
};

bool packs_weight(const Weight& kv_b) {
  const AttentionKernels& kernels = attention_kernels();
  return kernels.packs_weight != nullptr && kernels.packs_weight(kv_b);
}

// Keys [n, nope] (rows `key_stride` apart) and values [n, v] of a head from the latents of a page, as BF16, by the
// products of linear.h. `operand` holds the latents.
void rebuild_by_linear(const LatentDims& dims, const Weight& kv_b, int64_t h, const Operand& operand, int64_t n,
                       Buffer& buffer, uint16_t* keys, int64_t key_stride, uint16_t* values) {
  const int64_t head_rows = dims.nope + dims.v;
  auto* rebuilt = reserve<float>(buffer, kPagePositions * head_rows);
  linear_rows(operand.view(), nullptr, n, kv_b, h * head_rows, (h + 1) * head_rows, rebuilt, head_rows);
  for (int64_t j = 0; j < n; ++j) {
    convert_f32_to_bf16(rebuilt + j * head_rows, dims.nope, keys + j * key_stride);
    convert_f32_to_bf16(rebuilt + j * head_rows + dims.nope, dims.v, values + j * dims.v);
  }
}

// Heads [h_begin, h_end) of a span in the expanded form; one head where this set packs the weight.
void expand_heads(const LatentDims& dims, const Weight& kv_b, const LatentSpan& span, int64_t h_begin, int64_t h_end,
                  const float* q, float* attended, AttentionWorkspace::Thread& thread) {
  const AttentionKernels& kernels = attention_kernels();
  const AttentionShape shape{dims.query_width(), dims.v, dims.scale};
  const int64_t blocks = ceil_div(span.length, kBlockRows);
  const int64_t bytes = block_bytes(shape);
  auto* memory = reserve<std::byte>(thread.blocks, (h_end - h_begin) * blocks * bytes);
  auto* page_memory = reserve<std::byte>(thread.page, kernels.page_bytes(shape));
  auto* rows = reserve<uint16_t>(thread.rows, kPagePositions * (shape.key_width + shape.value_width));
  // Block b of head h; the last one of a head may be smaller.
  const auto block_of = [&](int64_t h, int64_t b) {
    return block_at(shape, std::min(kBlockRows, span.length - b * kBlockRows),
                    memory + ((h - h_begin) * blocks + b) * bytes);
  };
  for (int64_t h = h_begin; h < h_end; ++h) {
    for (int64_t b = 0; b < blocks; ++b) {
      const QueryBlock block = block_of(h, b);
      clear_sums(block);
      for (int64_t t = 0; t < block.rows; ++t) {
        const int64_t token = span.first + b * kBlockRows + t;
        convert_f32_to_bf16(q + (token * dims.heads + h) * shape.key_width, shape.key_width,
                            rows + t * shape.key_width);
      }
      kernels.pack_queries(shape, rows, shape.key_width, block);
    }
  }

  const bool packed = packs_weight(kv_b);
  const PackedHead head(dims, thread.weights);
  if (packed) {
    head.for_blocks([&](const QueryBlock& block, bool of_values, int64_t first) {
      kernels.pack_weight(kv_b, h_begin * (dims.nope + dims.v) + (of_values ? dims.nope : 0) + first, block);
    });
  }
  uint16_t* keys = rows;
  uint16_t* values = rows + kPagePositions * shape.key_width;
  int32_t visible[kBlockRows];
  const int64_t end = span.position + span.length;
  for (int64_t begin = 0; begin < end; begin += kPagePositions) {
    const int64_t n = std::min(kPagePositions, end - begin);
    const uint16_t* latents_of_page = page_rows(dims, span, begin, n, thread.expanded);
    for (int64_t j = 0; j < n; ++j) {
      std::memcpy(keys + j * shape.key_width + dims.nope, latents_of_page + j * dims.width() + dims.latent,
                  static_cast<size_t>(dims.rope) * sizeof(uint16_t));
    }
    if (!packed) {
      auto* latents = reserve<float>(thread.latents, kPagePositions * dims.width());
      convert_bf16_to_f32(latents_of_page, n * dims.width(), latents);
      thread.operand.prepare(latents, n, dims.latent, dims.width(), kv_b, OperandRounding::bf16, nullptr);
    }
    for (int64_t h = h_begin; h < h_end; ++h) {
      if (packed) {
        head.for_blocks([&](const QueryBlock& block, bool of_values, int64_t first) {
          uint16_t* out = (of_values ? values : keys) + first;
          kernels.rebuild(latents_of_page, dims.width(), n, dims.latent, block, out,
                          of_values ? dims.v : shape.key_width);
        });
      } else {
        rebuild_by_linear(dims, kv_b, h, thread.operand, n, thread.rebuilt, keys, shape.key_width, values);
      }
      const PackedPage page = kernels.pack_page(shape, keys, shape.key_width, values, dims.v, n, page_memory);
      // Blocks from the first with a token that sees this page.
      for (int64_t b = std::max<int64_t>(0, begin - span.position) / kBlockRows; b < blocks; ++b) {
        const QueryBlock block = block_of(h, b);
        const int64_t first = span.position + b * kBlockRows;
        const int64_t count = std::min(n, first + block.rows - begin);
        const auto seen = [&](int64_t r) { return first + r + 1 - begin; };
        kernels.attend(shape, block, page, count, visible_positions(block, count, seen, visible));
      }
    }
  }
  for (int64_t h = h_begin; h < h_end; ++h) {
    for (int64_t b = 0; b < blocks; ++b) {
      const QueryBlock block = block_of(h, b);
      float* out = attended + ((span.first + b * kBlockRows) * dims.heads + h) * dims.v;
      kernels.unpack(shape, block, out, dims.heads * dims.v);
      for (int64_t t = 0; t < block.rows; ++t) scale_row(out + t * dims.heads * dims.v, dims.v, 1.0f / block.sum[t]);
    }
  }
}

}  // namespace

const AttentionKernels& attention_kernels() {
  switch (active_isa()) {
    case Isa::avx512bf16:
      return attention_kernels_avx512bf16();
    case Isa::avx512:
      return attention_kernels_avx512();
    case Isa::avx2:
      return attention_kernels_avx2();
    case Isa::portable:
      break;
  }
  return attention_kernels_portable();
}

void absorb_queries(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                    int64_t row_end, int64_t next_row, float* y, int64_t y_stride) {
  const AttentionKernels& kernels = attention_kernels();
  if (kernels.absorb != nullptr && kernels.absorb(x, x_stride, T, weight, row_begin, row_end, next_row, y, y_stride)) {
    return;
  }
  linear_transposed_rows(x, x_stride, T, weight, row_begin, row_end, true, false, y, y_stride);
}

void attend_latents(const LatentDims& dims, std::span<const LatentSpan> spans, AttentionWorkspace& ws,
                    ThreadTeam& team) {
  ws.threads.resize(static_cast<size_t>(team.size()));
  const int64_t rows = place_spans(spans, ws) * dims.heads;
  reserve<float>(ws.mixed, rows * dims.latent);
  std::fill_n(reserve<SoftmaxState>(ws.states, rows), rows, kNothing);
  const int64_t slots = kSlotsPerThread * team.size();

  // Items in the order of span, block, run; rounds of them that fit the slots.
  ws.items.clear();
  const auto finish_round = [&] {
    std::span<const AttentionWorkspace::Item> items = ws.items;
    team.parallel_for(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
      const AttentionWorkspace::Item& item = items[static_cast<size_t>(i)];
      attend_item(dims, spans[static_cast<size_t>(item.span)], item, ws, ws.threads[static_cast<size_t>(thread)]);
    });
    if (std::any_of(items.begin(), items.end(), [](const auto& item) { return item.slot >= 0; })) {
      join_items(dims, spans, items, ws, team);
    }
    ws.items.clear();
  };
  for (size_t s = 0; s < spans.size(); ++s) {
    const int64_t blocks = ceil_div(spans[s].length * dims.heads, kBlockRows);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t splits = ceil_div(block_end(dims, spans[s], block), kSplitPositions);
      for (int64_t split = 0; split < splits; ++split) {
        const auto slot = static_cast<int64_t>(ws.items.size());
        if (splits > 1) {
          reserve<float>(ws.partial, slots * kBlockRows * dims.latent);
          reserve<SoftmaxState>(ws.partial_states, slots * kBlockRows);
        }
        ws.items.push_back({static_cast<int64_t>(s), block, split, splits > 1 ? slot : -1, split + 1 == splits});
        if (slot + 1 == slots) finish_round();
      }
    }
  }
  finish_round();
}

void absorbed_attention(const LatentDims& dims, const Weight& kv_b, std::span<const LatentSpan> spans, const float* q,
                        float* attended, AttentionWorkspace& ws, ThreadTeam& team) {
  ws.threads.resize(static_cast<size_t>(team.size()));
  const int64_t tokens = place_spans(spans, ws);
  const int64_t head_rows = dims.nope + dims.v;
  const int64_t query_stride = dims.heads * dims.query_width();
  auto* queries = reserve<uint16_t>(ws.queries, tokens * dims.heads * dims.width());
  const int64_t group = heads_per_item(dims.heads, team.size(), kAbsorbedHeads);
  team.parallel_for(ceil_div(dims.heads, group), [&](int64_t item, int thread) {
    Buffer& buffer = ws.threads[static_cast<size_t>(thread)].latents;
    const int64_t h_end = std::min(dims.heads, (item + 1) * group);
    for (int64_t h = item * group; h < h_end; ++h) {
      const int64_t next_row = h + 1 < h_end ? (h + 1) * head_rows : -1;
      for (size_t s = 0; s < spans.size(); ++s) {
        const int64_t count = spans[s].length;
        auto* absorbed = reserve<float>(buffer, count * dims.latent);
        const float* head = q + spans[s].first * query_stride + h * dims.query_width();
        absorb_queries(head, query_stride, count, kv_b, h * head_rows, h * head_rows + dims.nope,
                       s == 0 ? next_row : -1, absorbed, dims.latent);
        for (int64_t t = 0; t < count; ++t) {
          uint16_t* out = queries + ((ws.at[s] + t) * dims.heads + h) * dims.width();
          convert_f32_to_bf16(absorbed + t * dims.latent, dims.latent, out);
          convert_f32_to_bf16(head + t * query_stride + dims.nope, dims.rope, out + dims.latent);
        }
      }
    }
  });
  attend_latents(dims, spans, ws, team);
  team.parallel_for(dims.heads, [&](int64_t h, int thread) {
    Operand& operand = ws.threads[static_cast<size_t>(thread)].operand;
    auto* mixed = ws.mixed.as<float>() + h * dims.latent;
    operand.prepare(mixed, tokens, dims.latent, dims.heads * dims.latent, kv_b, OperandRounding::bf16, nullptr);
    const int64_t value_rows = h * head_rows + dims.nope;
    // Spans whose tokens follow each other are one product: the head's weights pass once.
    for (size_t s = 0; s < spans.size();) {
      int64_t count = spans[s].length;
      size_t next = s + 1;
      for (; next < spans.size() && spans[next].first == spans[s].first + count; ++next) count += spans[next].length;
      linear_rows(operand.view(ws.at[s]), nullptr, count, kv_b, value_rows, value_rows + dims.v,
                  attended + (spans[s].first * dims.heads + h) * dims.v, dims.heads * dims.v);
      s = next;
    }
  });
}

void expanded_attention(const LatentDims& dims, const Weight& kv_b, std::span<const LatentSpan> spans, const float* q,
                        float* attended, AttentionWorkspace& ws, ThreadTeam& team) {
  ws.threads.resize(static_cast<size_t>(team.size()));
  const int64_t heads = packs_weight(kv_b) ? 1 : heads_per_item(dims.heads, team.size(), kExpandedHeads);
  const int64_t items = ceil_div(dims.heads, heads);
  team.parallel_for(static_cast<int64_t>(spans.size()) * items, [&](int64_t item, int thread) {
    const int64_t h_begin = item % items * heads;
    expand_heads(dims, kv_b, spans[static_cast<size_t>(item / items)], h_begin, std::min(dims.heads, h_begin + heads),
                 q, attended, ws.threads[static_cast<size_t>(thread)]);
  });
}

}  // namespace fathom
