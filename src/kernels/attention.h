#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "kernels/latent_page.h"
#include "kernels/linear.h"

namespace fathom {

// Latent attention over a BF16 or FP8 cache (spec §1.3); what FP8 holds is expanded to BF16, exactly. Rounded to BF16
// are: the queries of both forms (in the absorbed form after they came to the latent space), the keys and values that
// the expanded form rebuilds, and the probabilities. Scores, maxima, sums and mixes are float32; the sum that a mix is
// divided by runs over the rounded probabilities.
//
// One answer: a query row (token, head) is a lane of the vectors and meets the positions in pages of 64 at fixed
// places; the absorbed form sums runs of 1,024 positions apart and joins them in order. So a row's bits depend on its
// own length and numbers: not on chunks, neighbours, or threads.

/// Query rows of a block, the most that pass a page together.
constexpr int64_t kBlockRows = 64;

/// Widths of the keys and values that a query meets (absorbed: 576 and 512 in DeepSeek-V3, expanded: 192 and 128), and
/// the factor of the scores.
struct AttentionShape {
  int64_t key_width = 0;
  int64_t value_width = 0;
  float scale = 1;
};

/// Dimensions of latent attention, as in the config.
struct LatentDims {
  int64_t heads = 0;   ///< H, num_attention_heads
  int64_t nope = 0;    ///< qk_nope_head_dim
  int64_t rope = 0;    ///< qk_rope_head_dim
  int64_t v = 0;       ///< v_head_dim
  int64_t latent = 0;  ///< kv_lora_rank
  float scale = 1;     ///< of the scores

  int64_t query_width() const { return nope + rope; }
  int64_t width() const { return latent + rope; }
};

/// Some consecutive tokens of one sequence and the pages that hold its latents, those of these tokens included.
struct LatentSpan {
  /// The layer's part of page p starts `offset` bytes behind pages[p]; what is behind the last token is not read.
  const std::byte* const* pages = nullptr;
  size_t offset = 0;
  int64_t position = 0;  ///< of the first token
  int64_t first = 0;     ///< row of the first token in q and attended
  int64_t length = 0;
  DType dtype = DType::bf16;  ///< or f8_e4m3, see latent_page.h

  const std::byte* page_at(int64_t position_in_it) const { return pages[position_in_it / kPagePositions] + offset; }
};

/// What a row's running softmax holds besides its mix.
struct SoftmaxState {
  float greatest;
  float sum;
};

/// Working memory of attention; grows to its greatest use.
struct AttentionWorkspace {
  struct Thread {
    Operand operand;
    Buffer blocks, page, rows, latents, rebuilt, weights, expanded;
  };
  /// Of the absorbed form: 64 rows of a span with a run of pages.
  struct Item {
    int64_t span, block, split;
    int64_t slot;  ///< of its partial sums; −1: it is the only one of its block
    bool last;     ///< of its block
  };
  std::vector<Thread> threads;
  std::vector<Item> items;
  Buffer queries;           ///< [tokens, H, latent + rope] BF16
  Buffer mixed;             ///< [tokens, H, latent] f32
  Buffer states;            ///< [tokens, H] SoftmaxState
  Buffer partial;           ///< [slots, 64, latent] f32
  Buffer partial_states;    ///< [slots, 64] SoftmaxState
  std::vector<int64_t> at;  ///< [spans] first token of each span in the above
};

/// Attention of each token to all positions up to its own, the queries brought into the latent space: cheapest for few
/// tokens.
///
/// Shapes:  q [tokens, H, nope + rope] f32 (rotated); attended [tokens, H, v] f32; kv_b [H (nope + v), latent], per
/// head the key rows, then the value rows; f32, f16, bf16 or f8_e4m3, the latter as the published BF16 cast. Threads:
/// one call at a time on a team and a workspace. Source:  DeepSeek-V3 report §2.1.1, eq. 1–11; absorbed form as in the
/// official demo's `MLA.forward`.
void absorbed_attention(const LatentDims& dims, const Weight& kv_b, std::span<const LatentSpan> spans, const float* q,
                        float* attended, AttentionWorkspace& workspace, ThreadTeam& team);

/// The same with keys and values of each head rebuilt from the latents, page by page: cheapest for many tokens.
void expanded_attention(const LatentDims& dims, const Weight& kv_b, std::span<const LatentSpan> spans, const float* q,
                        float* attended, AttentionWorkspace& workspace, ThreadTeam& team);

/// The middle of the absorbed form alone: `workspace.queries` meet the pages, which leaves the mixes, divided by their
/// sums, in `workspace.mixed`. Both are [all tokens of the spans in order, H, ·].
void attend_latents(const LatentDims& dims, std::span<const LatentSpan> spans, AttentionWorkspace& workspace,
                    ThreadTeam& team);

/// y[t, k] = Σ_r x[t, r] · W[row_begin + r, k], r in [0, row_end − row_begin), on this thread: brings the queries of
/// one head into the latent space. As linear_transposed_rows with `cast_bf16`, faster for bf16 and for f8_e4m3 in
/// blocks of 128 columns.
///
/// Shapes:  x [T, R] rows `x_stride` apart; y [T, cols] rows `y_stride` apart.
void absorb_queries(const float* x, int64_t x_stride, int64_t T, const Weight& weight, int64_t row_begin,
                    int64_t row_end, int64_t next_row, float* y, int64_t y_stride);

}  // namespace fathom
