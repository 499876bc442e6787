#pragma once
#include <cstdint>
#include <random>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fathom {

/// How a token is drawn from logits. The defaults leave the model's distribution as it is.
struct SamplingOptions {
  double temperature = 1;         ///< 0: the greatest logit wins, ties to the lower id
  double top_p = 1;               ///< least set of likeliest tokens whose probability reaches this
  int64_t top_k = 0;              ///< 0: off
  double min_p = 0;               ///< drops tokens less likely than this share of the likeliest
  double repetition_penalty = 1;  ///< logits of seen tokens are divided (if positive) or multiplied by it
  double presence_penalty = 0;    ///< subtracted once from generated tokens' logits
  double frequency_penalty = 0;   ///< subtracted per occurrence among generated tokens
  std::vector<std::pair<int32_t, double>> logit_bias;  ///< (token, added to its logit); −100 and 100 decide alone
  uint64_t seed = 0;
  int64_t logprobs = -1;  ///< −1: none; n ≥ 0: of the chosen token and of the n likeliest
};

struct TokenLogprob {
  int32_t token = 0;
  double logprob = 0;
};

struct SampledToken {
  int32_t token = 0;
  double logprob = 0;                      ///< of the model's own distribution; only if asked for
  std::vector<TokenLogprob> top_logprobs;  ///< likeliest first; only if asked for
};

/// Draws tokens for one sequence; reproducible from the seed.
class Sampler {
 public:
  /// `bad_input` names an option outside its range.
  explicit Sampler(const SamplingOptions& options);
  /// Counts prompt tokens for `repetition_penalty`.
  void observe_prompt(std::span<const int32_t> prompt);
  /// One token from logits [V]; also counts it. No full sort of V. `allowed`, if not empty, has a bit for each token
  /// that may come: [ceil(V / 64)]; `failure` if none may.
  SampledToken sample(std::span<const float> logits, std::span<const uint64_t> allowed = {});

 private:
  /// A random token among those that top_k, then top_p (of what top_k left), then min_p keep; `best` is the likeliest.
  int32_t draw(std::span<const float> logits, int32_t best);
  /// In `scratch_`: the logits after penalties, biases and the mask.
  void adjust(std::span<const float> logits, std::span<const uint64_t> allowed);
  void add_logprobs(std::span<const float> logits, SampledToken& sampled);

  SamplingOptions options_;
  std::mt19937_64 random_;
  std::unordered_map<int32_t, int64_t> generated_;
  std::unordered_map<int32_t, int64_t> prompt_;
  std::vector<float> scratch_;
  std::vector<float> weights_;        // of the whole vocabulary
  std::vector<uint64_t> candidates_;  // logit and id in one number, see sampling.cc
};

}  // namespace fathom
