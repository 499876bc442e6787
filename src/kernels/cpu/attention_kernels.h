#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/attention.h"

namespace fathom {

/// Up to 64 query rows and what their running softmax has summed up. A row is a lane of the vectors: rows never meet,
/// so a row's bits do not depend on which rows share its block.
struct QueryBlock {
  int64_t rows = 0;              ///< 1 to 64
  int64_t lanes = 0;             ///< rows rounded up to 16; the lanes beyond compute on zeros
  std::byte* queries = nullptr;  ///< [query_bytes], as `pack_queries` leaves them
  float* mixed = nullptr;        ///< [value_width rounded up to 16, lanes] Σ p v
  float* greatest = nullptr;     ///< [lanes] greatest scaled score so far, −∞ at first
  float* sum = nullptr;          ///< [lanes] Σ p, of the rounded p
};

/// A page of up to 64 keys and values, ready for any number of query blocks.
struct PackedPage {
  const uint16_t* keys = nullptr;  ///< BF16 rows of an even width
  int64_t key_stride = 0;
  const std::byte* memory = nullptr;
  /// Memory that the next page will be packed from: a kernel may ask for it meanwhile.
  const std::byte* next = nullptr;
  int64_t next_bytes = 0;
};

/// What each instruction set provides for attention over BF16 keys and values.
struct AttentionKernels {
  /// Bytes of the packed queries of a block, and of a packed page.
  int64_t (*query_bytes)(const AttentionShape& shape);
  int64_t (*page_bytes)(const AttentionShape& shape);
  /// Keys [count, key_width] and values [count, value_width] as BF16 rows; later rows are not touched. The keys must
  /// stay where they are while the packed page is used.
  PackedPage (*pack_page)(const AttentionShape& shape, const uint16_t* keys, int64_t key_stride, const uint16_t* values,
                          int64_t value_stride, int64_t count, std::byte* memory);
  /// BF16 query rows [block.rows, key_width] into `block.queries`.
  void (*pack_queries)(const AttentionShape& shape, const uint16_t* queries, int64_t stride, const QueryBlock& block);
  /// Scores, online softmax and mix of a block with the first `count` positions of a page, of which row r sees the
  /// first `visible[r]` ([lanes]; null: all of them).
  void (*attend)(const AttentionShape& shape, const QueryBlock& block, const PackedPage& page, int64_t count,
                 const int32_t* visible);
  /// The sums as float32 rows [block.rows, value_width].
  void (*unpack)(const AttentionShape& shape, const QueryBlock& block, float* out, int64_t stride);
  /// As `absorb_queries` for the formats that this set has a way of its own for: false for the others, or null.
  bool (*absorb)(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin, int64_t row_end,
                 int64_t next_row, float* y, int64_t y_stride);
  /// Whether this set has a way of its own to rebuild keys and values with such a weight (null: for none): its rows, up
  /// to 64 from `row_begin` on, become the lanes of a block (`block.queries` [query_bytes of its columns]; FP8 as the
  /// published cast), and `rebuild` leaves out[j, r] = Σ_k latents[j, k] · W[row_begin + r, k] as BF16.
  bool (*packs_weight)(const Weight& weight);
  void (*pack_weight)(const Weight& weight, int64_t row_begin, const QueryBlock& block);
  void (*rebuild)(const uint16_t* latents, int64_t stride, int64_t count, int64_t width, const QueryBlock& block,
                  uint16_t* out, int64_t out_stride);
};

const AttentionKernels& attention_kernels_portable();
const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_avx512bf16();
const AttentionKernels& attention_kernels();  ///< of the active instruction set

}  // namespace fathom
