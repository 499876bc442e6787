#pragma once
#include <cstdint>
#include <span>

#include "model/tape.h"
#include "train/layer_gradient.h"

namespace fathom {

/// The sequence-wise balance loss of one MoE layer, mean over sequences: Σ_e f_e P_e with f_e = E / (K T) · (tokens
/// whose K largest raw scores hold e) and P_e the mean share of e (report eq. 17–20). Leaves f in `term.fraction` and
/// the number of sequences; T = tape.tokens / sequences. Ties go to the lower expert id.
double balance_loss(const ModelConfig& config, const LayerTape& tape, int64_t sequences, BalanceTerm& term);

/// Working memory of the head and its loss.
struct HeadLossWorkspace {
  Buffer logits;  ///< [rows of a piece, vocab]
  std::vector<double> row_losses;
};

/// Rows of logits that are made at a time.
int64_t head_piece_rows(int64_t vocab_size);

/// Head and cross-entropy of `workspace.normed`, piece by piece: returns Σ of −ln p(label) over rows whose label is not
/// −1. With `d_hidden` (may be null) also both halves of the backward of factor · Σ: d_hidden [rows, hidden] and the
/// head's gradient.
double head_loss(const BackwardContext& context, const Weight& head, std::span<const int32_t> labels, float factor,
                 Workspace& workspace, float* d_hidden, HeadLossWorkspace& memory, ProductWorkspace& products,
                 ThreadTeam& team);

/// Weight half of the embedding: gradient[tokens[t]] += dx[t], tokens in order. Shapes: dx [T, hidden].
void embedding_weight_gradient(std::span<const int32_t> tokens, const float* dx, int64_t hidden, float* gradient,
                               ThreadTeam& team);

}  // namespace fathom
