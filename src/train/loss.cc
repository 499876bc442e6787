#include "train/loss.h"

#include <algorithm>

#include "kernels/gradients.h"

namespace fathom {
namespace {

// Logits of a piece: larger ones leave the caches, smaller ones make short sums of the head's gradient.
constexpr int64_t kLogitBytes = int64_t{32} << 20;
constexpr int64_t kLeastPieceRows = 64;
// Columns of the embedding's gradient that an item adds to.
constexpr int64_t kEmbeddingCols = 64;

}  // namespace

double balance_loss(const ModelConfig& config, const LayerTape& tape, int64_t sequences, BalanceTerm& term) {
  const auto E = static_cast<size_t>(config.n_routed_experts);
  const auto K = static_cast<size_t>(config.num_experts_per_tok);
  const int64_t T = tape.tokens / sequences;
  term.sequences = sequences;
  term.fraction.assign(static_cast<size_t>(sequences) * E, 0.0);
  std::vector<int32_t> order(E);
  std::vector<double> share(E);
  double loss = 0;
  for (int64_t b = 0; b < sequences; ++b) {
    double* fraction = term.fraction.data() + static_cast<size_t>(b) * E;
    std::fill(share.begin(), share.end(), 0.0);
    for (int64_t t = b * T; t < (b + 1) * T; ++t) {
      const float* score = tape.score.f32_row(t);
      double sum = 0;
      for (size_t e = 0; e < E; ++e) {
        order[e] = static_cast<int32_t>(e);
        sum += score[e];
      }
      std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(K), order.end(),
                        [&](int32_t x, int32_t y) { return score[x] > score[y] || (score[x] == score[y] && x < y); });
      for (size_t k = 0; k < K; ++k) fraction[order[k]] += 1;
      for (size_t e = 0; e < E; ++e) share[e] += score[e] / sum;
    }
    for (size_t e = 0; e < E; ++e) {
      fraction[e] *= static_cast<double>(E) / static_cast<double>(K) / static_cast<double>(T);
      loss += fraction[e] * share[e] / static_cast<double>(T);
    }
  }
  return loss / static_cast<double>(sequences);
}

int64_t head_piece_rows(int64_t vocab_size) {
  return std::max(kLeastPieceRows, kLogitBytes / static_cast<int64_t>(sizeof(float)) / vocab_size);
}

double head_loss(const BackwardContext& context, const Weight& head, std::span<const int32_t> labels, float factor,
                 Workspace& workspace, float* d_hidden, HeadLossWorkspace& memory, ProductWorkspace& products,
                 ThreadTeam& team) {
  const int64_t V = head.rows;
  const int64_t hidden = head.cols;
  const auto rows = static_cast<int64_t>(labels.size());
  const int64_t piece = std::min(rows, head_piece_rows(V));
  memory.logits.reserve(static_cast<size_t>(piece * V) * sizeof(float));
  memory.row_losses.assign(labels.size(), 0.0);
  auto* logits = memory.logits.as<float>();
  for (int64_t begin = 0; begin < rows; begin += piece) {
    const int64_t count = std::min(piece, rows - begin);
    const auto chosen = workspace.all_rows(rows).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    compute_logits(context.model, head, chosen, workspace, team, logits);
    team.parallel_for(count, [&](int64_t i, int) {
      const auto row = static_cast<size_t>(begin + i);
      if (labels[row] < 0) {
        std::fill_n(logits + i * V, V, 0.0f);
      } else {
        memory.row_losses[row] = cross_entropy(logits + i * V, V, labels[row], factor);
      }
    });
    if (d_hidden == nullptr) continue;
    linear_input_gradient(logits, count, context.turned(head), context.other_rounding(), false,
                          d_hidden + begin * hidden, products, team);
    const WeightGradientJob job{{DType::f32, logits, V, V},
                                {DType::f32, workspace.normed.as<float>() + begin * hidden, hidden, hidden},
                                count,
                                context.gradient(head),
                                context.other_form()};
    linear_weight_gradients({&job, 1}, products, team);
  }
  double sum = 0;
  for (double loss : memory.row_losses) sum += loss;
  return sum;
}

void embedding_weight_gradient(std::span<const int32_t> tokens, const float* dx, int64_t hidden, float* gradient,
                               ThreadTeam& team) {
  team.parallel_for((hidden + kEmbeddingCols - 1) / kEmbeddingCols, [&](int64_t item, int) {
    const int64_t begin = item * kEmbeddingCols;
    const int64_t count = std::min(kEmbeddingCols, hidden - begin);
    for (size_t t = 0; t < tokens.size(); ++t) {
      add_scaled(dx + static_cast<int64_t>(t) * hidden + begin, 1.0f, count, gradient + tokens[t] * hidden + begin);
    }
  });
}

}  // namespace fathom
