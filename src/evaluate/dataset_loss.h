#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "data/token_dataset.h"
#include "model/transformer.h"

namespace fathom {

/// Cross-entropy over some predictions.
struct LossSum {
  int64_t tokens = 0;  ///< predictions that count
  double nats = 0;     ///< Σ of −ln p(target)

  double mean() const;        ///< nats per token; 0 without tokens
  double perplexity() const;  ///< e^mean
  LossSum& operator+=(const LossSum& other);
};

/// −ln softmax(logits)[target], in float64. NaN if the logits are not numbers.
double cross_entropy(std::span<const float> logits, int32_t target);

/// The main model's loss at every position of the first `sequences` sequences of a dataset, each from an empty cache.
/// Targets that are padding do not count. Sequences may be longer than the model's max_position_embeddings: the rotary
/// angles then go on as they are, which is what a model looks like before its context is extended.
///
/// Shapes: the result [sequence_length].
/// Errors: `bad_input` if the dataset has fewer sequences, or a greater vocabulary than the model; `failure` if logits
///         are not numbers (names sequence and position).
std::vector<LossSum> loss_by_position(const LoadedModel& model, const TokenDataset& dataset, int64_t sequences,
                                      ThreadTeam& team, const std::function<void(int64_t tokens)>& progress = {});

/// Sums of `width` neighbours each; the last may have fewer.
std::vector<LossSum> by_width(const std::vector<LossSum>& positions, int64_t width);

}  // namespace fathom
