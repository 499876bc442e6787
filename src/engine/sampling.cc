#include "engine/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"

namespace fathom {

namespace {

void check_options(const SamplingOptions& options) {
  const auto check = [](bool valid, const char* name, const char* expected, double found) {
    if (!valid) throw_bad_input("{} must be {}; {} was given", name, expected, found);
  };
  constexpr double penalty_limit = 1e6;
  check(options.temperature >= 0 && options.temperature <= 1e6, "temperature", "between 0 and 1000000",
        options.temperature);
  check(options.top_p > 0 && options.top_p <= 1, "top_p", "greater than 0 and at most 1", options.top_p);
  check(options.top_k >= 0, "top_k", "0 (off) or a positive whole number", static_cast<double>(options.top_k));
  check(options.min_p >= 0 && options.min_p <= 1, "min_p", "between 0 and 1", options.min_p);
  check(options.repetition_penalty > 0 && options.repetition_penalty <= penalty_limit, "repetition_penalty",
        "positive and at most 1000000", options.repetition_penalty);
  check(std::abs(options.presence_penalty) <= penalty_limit, "presence_penalty", "between -1000000 and 1000000",
        options.presence_penalty);
  check(std::abs(options.frequency_penalty) <= penalty_limit, "frequency_penalty", "between -1000000 and 1000000",
        options.frequency_penalty);
  check(options.logprobs >= -1, "logprobs", "-1 (none) or more", static_cast<double>(options.logprobs));
}

/// Index of the greatest logit, the lower id on ties. `failure` for logits that are no numbers to choose from: a NaN
/// never compares as greater, so it is looked for by itself.
size_t greatest(std::span<const float> logits) {
  size_t best = 0;
  bool finite = true;
  for (size_t id = 0; id < logits.size(); ++id) {
    finite = finite && !std::isnan(logits[id]);
    if (logits[id] > logits[best]) best = id;
  }
  if (!finite || std::isinf(logits[best])) {
    const auto wrong = std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
    throw_failure("the model's logits are not usable: token {} has {}; the weights or the arithmetic are broken",
                  wrong - logits.begin(), *wrong);
  }
  return best;
}

/// "a comes before b": by decreasing logit, ties to the lower id. Every cut-off is a prefix of this order.
struct LikelierFirst {
  const float* logits;
  bool operator()(int32_t a, int32_t b) const { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; }
};

/// Unnormalised probabilities, 1 for the likeliest token.
struct Weights {
  const float* logits;
  float max;
  double inverse_temperature;
  double of(int32_t id) const {
    return std::exp(static_cast<float>((static_cast<double>(logits[id]) - max) * inverse_temperature));
  }
  double sum(std::span<const int32_t> ids) const {
    double total = 0;
    for (const int32_t id : ids) total += of(id);
    return total;
  }
};

/// Length of the least prefix, in `LikelierFirst` order, whose weights sum to `target`; `ids` are rearranged so that it
/// stands in front. Halves the range by selection instead of sorting it: O(n).
size_t prefix_of_mass(std::span<int32_t> ids, const Weights& weights, double target) {
  const LikelierFirst order{weights.logits};
  constexpr size_t kSmallEnoughToSort = 64;
  size_t low = 0;
  size_t high = ids.size();
  double before = 0;
  while (high - low > kSmallEnoughToSort) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(ids.begin() + low, ids.begin() + middle, ids.begin() + high, order);
    const double half = weights.sum(ids.subspan(low, middle - low));
    if (before + half >= target) {
      high = middle;
    } else {
      before += half;
      low = middle;
    }
  }
  std::sort(ids.begin() + low, ids.begin() + high, order);
  for (size_t i = low; i < high; ++i) {
    before += weights.of(ids[i]);
    if (before >= target) return i + 1;
  }
  return high;
}

}  // namespace

Sampler::Sampler(const SamplingOptions& options) : options_(options), random_(options.seed) {
  check_options(options);
}

void Sampler::observe_prompt(std::span<const int32_t> prompt) {
  for (const int32_t token : prompt) ++prompt_[token];
}

SampledToken Sampler::sample(std::span<const float> logits) {
  if (logits.empty()) throw_failure("the model gave no logits to sample from");
  size_t best = greatest(logits);
  const std::span<const float> model_logits = logits;

  const bool repetition = options_.repetition_penalty != 1;
  const bool counts = options_.presence_penalty != 0 || options_.frequency_penalty != 0;
  if (repetition || counts) {
    scratch_.assign(logits.begin(), logits.end());
    const auto in_range = [&](int32_t token) { return token >= 0 && static_cast<size_t>(token) < scratch_.size(); };
    const auto repeat = [&](int32_t token) {
      if (!in_range(token)) return;
      float& logit = scratch_[token];
      logit = static_cast<float>(logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty);
    };
    if (repetition) {
      for (const auto& [token, count] : prompt_) repeat(token);
      for (const auto& [token, count] : generated_) {
        if (!prompt_.contains(token)) repeat(token);
      }
    }
    if (counts) {
      for (const auto& [token, count] : generated_) {
        if (!in_range(token)) continue;
        scratch_[token] -=
            static_cast<float>(options_.presence_penalty + options_.frequency_penalty * static_cast<double>(count));
      }
    }
    logits = scratch_;
    best = greatest(logits);
  }

  int32_t token = static_cast<int32_t>(best);
  if (options_.temperature > 0) token = draw(logits, token);
  ++generated_[token];

  SampledToken sampled;
  sampled.token = token;
  if (options_.logprobs >= 0) add_logprobs(model_logits, sampled);
  return sampled;
}

int32_t Sampler::draw(std::span<const float> logits, int32_t best) {
  const Weights weights{logits.data(), logits[best], 1.0 / options_.temperature};
  const auto vocabulary = static_cast<int32_t>(logits.size());
  const auto top_k = static_cast<size_t>(options_.top_k > 0 ? options_.top_k : vocabulary);
  const bool cut = options_.top_p < 1 || top_k < logits.size() || options_.min_p > 0;

  candidates_.resize(logits.size());
  std::iota(candidates_.begin(), candidates_.end(), 0);
  std::span<int32_t> kept(candidates_);

  if (cut) {
    // Most of a vocabulary of 129,280 is hopeless. If the tokens within 20 (in scaled logits) of the best suffice for
    // the cut-offs, the others need not be ordered; if not, all are.
    const double all_mass = top_k < logits.size() ? 0 : weights.sum(kept);
    const auto near_limit = static_cast<float>(logits[best] - 20.0 * options_.temperature);
    candidates_.clear();
    for (int32_t id = 0; id < vocabulary; ++id) {
      if (logits[id] >= near_limit) candidates_.push_back(id);
    }
    // min_p alone drops whatever is below exp(-20) = 2e-9.
    const bool min_p_decides = options_.top_p == 1 && options_.min_p >= 1e-8;
    const bool enough =
        top_k < logits.size()
            ? candidates_.size() >= top_k || min_p_decides
            : (options_.top_p < 1 && weights.sum(candidates_) >= options_.top_p * all_mass) || min_p_decides;
    if (!enough) {
      candidates_.resize(logits.size());
      std::iota(candidates_.begin(), candidates_.end(), 0);
    }
    kept = candidates_;
    if (top_k < kept.size()) {
      std::nth_element(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(top_k), kept.end(),
                       LikelierFirst{logits.data()});
      kept = kept.first(top_k);
    }
    if (options_.top_p < 1) {
      const double mass = top_k < logits.size() ? weights.sum(kept) : all_mass;
      kept = kept.first(prefix_of_mass(kept, weights, options_.top_p * mass));
    }
    if (options_.min_p > 0) {
      const auto end =
          std::partition(kept.begin(), kept.end(), [&](int32_t id) { return weights.of(id) >= options_.min_p; });
      kept = kept.first(static_cast<size_t>(end - kept.begin()));
    }
  }

  // 53 bits of the generator: the same number on every standard library, which uniform_real_distribution does not
  // promise.
  const double target = static_cast<double>(random_() >> 11) * 0x1p-53 * weights.sum(kept);
  double reached = 0;
  int32_t chosen = best;
  for (const int32_t id : kept) {
    const double weight = weights.of(id);
    if (weight == 0) continue;
    reached += weight;
    chosen = id;
    if (reached > target) break;
  }
  return chosen;
}

void Sampler::add_logprobs(std::span<const float> logits, SampledToken& sampled) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  const double log_sum = max + std::log(sum);
  sampled.logprob = logits[sampled.token] - log_sum;

  const auto wanted = std::min(static_cast<size_t>(options_.logprobs), logits.size());
  if (wanted == 0) return;
  candidates_.resize(logits.size());
  std::iota(candidates_.begin(), candidates_.end(), 0);
  const LikelierFirst order{logits.data()};
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(wanted), candidates_.end(),
                    order);
  for (size_t i = 0; i < wanted; ++i) {
    sampled.top_logprobs.push_back({candidates_[i], logits[candidates_[i]] - log_sum});
  }
}

}  // namespace fathom
