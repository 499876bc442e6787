#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "model/transformer.h"

namespace fathom {

/// How two models' distributions of the next token differ at one position.
struct TokenDifference {
  double kl = 0;                ///< Σ p_a (ln p_a − ln p_b): what b loses on text that a writes; nats
  double logit_difference = 0;  ///< greatest |a − b| of a logit
  bool same_top = false;        ///< the same token is likeliest; ties to the lower id
  double logprob_a = 0;         ///< of the token that follows, if there is one
  double logprob_b = 0;
};

/// Compares logits [V] of a with those of b, in float64 from log-softmax. `next` is the token that follows, −1 for
/// none. `failure` if a logit is NaN or +∞, or all of a model's are −∞.
TokenDifference compare_logits(std::span<const float> a, std::span<const float> b, int32_t next);

/// How two models differ over a text.
struct Comparison {
  int64_t positions = 0;    ///< distributions compared
  int64_t predictions = 0;  ///< those with a token that follows in the same window: what the perplexities count
  double kl_mean = 0, kl_median = 0, kl_99 = 0, kl_greatest = 0;  ///< nats; 99: of every hundred 99 are not above it
  double top1_agreement = 0;                                      ///< share of positions
  double perplexity_a = 0, perplexity_b = 0;  ///< e^(−mean log-probability); 1 without predictions
  double greatest_logit_difference = 0;
};

/// Sums up differences; those with `has_next` count for the perplexities. Shapes: both the same length.
Comparison summarize(const std::vector<TokenDifference>& differences, const std::vector<bool>& has_next);

struct CompareOptions {
  int64_t context = 512;       ///< positions of a window
  std::optional<int32_t> bos;  ///< stands at the beginning of each window, as one of its positions
};

/// Runs both models over the tokens in windows of `context` positions, each from an empty cache, and compares what they
/// say at every position. Memory besides the models: two caches of a window, and logits of 64 positions of each.
///
/// Errors: `bad_input` for other vocabularies, ids outside them, no tokens, or a context below 2 or above either
/// model's
///         positions; `failure` if logits are not numbers.
Comparison compare_models(const LoadedModel& a, const LoadedModel& b, std::span<const int32_t> tokens,
                          const CompareOptions& options, ThreadTeam& team,
                          const std::function<void(int64_t positions)>& progress = {});

}  // namespace fathom
