#include "engine/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

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
  for (const auto& [token, bias] : options.logit_bias) {
    check(token >= 0, "a token of logit_bias", "an id of the vocabulary", token);
    check(std::abs(bias) <= 100, "a bias of logit_bias", "between -100 and 100", bias);
  }
  check(options.logprobs >= -1, "logprobs", "-1 (none) or more", static_cast<double>(options.logprobs));
}

// Four numbers in a vector of the plain instruction set; the compiler's own types, so that no set is asked for.
using Floats = float __attribute__((vector_size(16)));
using Integers = int32_t __attribute__((vector_size(16)));

Floats load(const float* x) {
  Floats v;
  std::memcpy(&v, x, sizeof(v));
  return v;
}

/// Index of the greatest logit, the lower id on ties. `failure` for logits that are no numbers to choose from: a NaN
/// never compares as greater, so it is looked for by itself.
size_t greatest(std::span<const float> logits) {
  // A block at a time, in four vectors that stay in registers (an array of sums would not, and takes four times as
  // long): this reads as fast as one thread can. Only the block that first reached the maximum is looked at again.
  constexpr size_t kBlock = 1024;
  const float* x = logits.data();
  const size_t n = logits.size();
  const Floats lowest = Floats{} - std::numeric_limits<float>::infinity();
  float best = lowest[0];
  size_t best_block = 0;
  bool nan = false;
  for (size_t begin = 0; begin < n; begin += kBlock) {
    const size_t end = std::min(begin + kBlock, n);
    Floats a = lowest, b = lowest, c = lowest, d = lowest;
    Integers unordered = {};
    size_t i = begin;
    for (; i + 16 <= end; i += 16) {
      const Floats p = load(x + i), q = load(x + i + 4), r = load(x + i + 8), s = load(x + i + 12);
      a = p > a ? p : a;
      b = q > b ? q : b;
      c = r > c ? r : c;
      d = s > d ? s : d;
      unordered |= (p != p) | (q != q) | (r != r) | (s != s);
    }
    a = a > b ? a : b;
    c = c > d ? c : d;
    a = a > c ? a : c;
    float here = std::max(std::max(a[0], a[1]), std::max(a[2], a[3]));
    nan = nan || (unordered[0] | unordered[1] | unordered[2] | unordered[3]) != 0;
    for (; i < end; ++i) {
      here = std::max(here, x[i]);
      nan = nan || std::isnan(x[i]);
    }
    if (here > best) {
      best = here;
      best_block = begin;
    }
  }
  if (nan || std::isinf(best)) {
    const auto wrong = std::find_if(logits.begin(), logits.end(), [](float value) { return !std::isfinite(value); });
    throw_failure("the model's logits are not usable: token {} has {}; the weights or the arithmetic are broken",
                  wrong - logits.begin(), *wrong);
  }
  return static_cast<size_t>(std::find(x + best_block, x + n, best) - x);
}

// Exponents below this count as a probability of nothing: e^−87 is 1.6e-38, and a float32 ends there.
constexpr float kLeastExponent = -87.0f;

/// e^x for −87 ≤ x ≤ 0 within 2e-7 of itself, and 0 for −87. Written without branches or library calls, so that a loop
/// over a vocabulary becomes vector instructions and every machine draws the same token.
float exp_of_negative(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: what is added to it is rounded to a whole number
  const float shifted = x * 1.44269504f + kRound;
  const float whole = shifted - kRound;
  const float f = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.0f / 720;
  p = p * f + 1.0f / 120;
  p = p * f + 1.0f / 24;
  p = p * f + 1.0f / 6;
  p = p * f + 0.5f;
  p = p * f + 1.0f;
  p = p * f + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const int32_t keep = x > kLeastExponent ? -1 : 0;
  return std::bit_cast<float>(std::bit_cast<int32_t>(p * std::bit_cast<float>((exponent + 127) << 23)) & keep);
}

/// Unnormalised probabilities of all tokens, 1 for the likeliest.
void weights_of(std::span<const float> logits, float max, double inverse_temperature, float* weights) {
  // Two loops: in one, the compiler makes the clamp a branch around the whole of the exponential.
  constexpr size_t kBlock = 1024;
  for (size_t begin = 0; begin < logits.size(); begin += kBlock) {
    const size_t end = std::min(begin + kBlock, logits.size());
    for (size_t i = begin; i < end; ++i) {
      const auto x = static_cast<float>((static_cast<double>(logits[i]) - max) * inverse_temperature);
      weights[i] = x > kLeastExponent ? x : kLeastExponent;
    }
    for (size_t i = begin; i < end; ++i) weights[i] = exp_of_negative(weights[i]);
  }
}

double sum_of(std::span<const float> values) {
  double lanes[8] = {};
  size_t i = 0;
  for (; i + 8 <= values.size(); i += 8) {
    for (size_t k = 0; k < 8; ++k) lanes[k] += values[i + k];
  }
  for (; i < values.size(); ++i) lanes[0] += values[i];
  return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

/// A candidate as one number: ascending order is decreasing logit, ties to the lower id. Every cut-off is a prefix of
/// this order.
uint64_t candidate(float logit, size_t id) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);  // −0 is 0
  const uint32_t ascending = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(~ascending) << 32 | id;
}

size_t id_of(uint64_t candidate) {
  return candidate & 0xffffffffu;
}

/// Every token with a logit of at least `limit`, by id, in `memory`, which grows to the vocabulary's size.
std::span<uint64_t> collect_candidates(std::span<const float> logits, float limit, std::vector<uint64_t>& memory) {
  memory.resize(logits.size());
  uint64_t* candidates = memory.data();
  size_t count = 0;
  for (size_t id = 0; id < logits.size(); ++id) {
    if (logits[id] >= limit) candidates[count++] = candidate(logits[id], id);
  }
  return {candidates, count};
}

double mass_of(std::span<const uint64_t> candidates, const float* weights) {
  double total = 0;
  for (const uint64_t c : candidates) total += weights[id_of(c)];
  return total;
}

/// Length of the least prefix, in candidate order, whose weights sum to `target`; the candidates are rearranged so that
/// it stands in front. Halves the range by selection instead of sorting it: O(n).
size_t prefix_of_mass(std::span<uint64_t> candidates, const float* weights, double target) {
  constexpr size_t kSmallEnoughToSort = 64;
  size_t low = 0;
  size_t high = candidates.size();
  double before = 0;
  while (high - low > kSmallEnoughToSort) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(candidates.begin() + low, candidates.begin() + middle, candidates.begin() + high);
    const double half = mass_of(candidates.subspan(low, middle - low), weights);
    if (before + half >= target) {
      high = middle;
    } else {
      before += half;
      low = middle;
    }
  }
  std::sort(candidates.begin() + low, candidates.begin() + high);
  for (size_t i = low; i < high; ++i) {
    before += weights[id_of(candidates[i])];
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

void Sampler::adjust(std::span<const float> logits, std::span<const uint64_t> allowed) {
  scratch_.assign(logits.begin(), logits.end());
  const auto in_range = [&](int32_t token) { return token >= 0 && static_cast<size_t>(token) < scratch_.size(); };
  const auto repeat = [&](int32_t token) {
    if (!in_range(token)) return;
    float& logit = scratch_[token];
    logit = static_cast<float>(logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty);
  };
  if (options_.repetition_penalty != 1) {
    for (const auto& [token, count] : prompt_) repeat(token);
    for (const auto& [token, count] : generated_) {
      if (!prompt_.contains(token)) repeat(token);
    }
  }
  if (options_.presence_penalty != 0 || options_.frequency_penalty != 0) {
    for (const auto& [token, count] : generated_) {
      if (!in_range(token)) continue;
      scratch_[token] -=
          static_cast<float>(options_.presence_penalty + options_.frequency_penalty * static_cast<double>(count));
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    if (!in_range(token)) continue;
    scratch_[token] += static_cast<float>(bias);
  }
  if (allowed.empty()) return;
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  bool any = false;
  for (size_t begin = 0; begin < scratch_.size(); begin += 64) {
    const uint64_t bits = allowed[begin / 64];
    any = any || bits != 0;
    if (bits == ~uint64_t{0}) continue;
    const size_t end = std::min(begin + 64, scratch_.size());
    for (size_t i = begin; i < end; ++i) scratch_[i] = (bits >> (i - begin) & 1) != 0 ? scratch_[i] : kNever;
  }
  if (!any) throw_failure("no token of the vocabulary can continue the answer as its grammar asks");
}

SampledToken Sampler::sample(std::span<const float> logits, std::span<const uint64_t> allowed) {
  if (logits.empty()) throw_failure("the model gave no logits to sample from");
  size_t best = greatest(logits);
  const std::span<const float> model_logits = logits;
  const bool as_they_are = options_.repetition_penalty == 1 && options_.presence_penalty == 0 &&
                           options_.frequency_penalty == 0 && options_.logit_bias.empty() && allowed.empty();
  if (!as_they_are) {
    adjust(logits, allowed);
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
  weights_.resize(logits.size());
  weights_of(logits, logits[static_cast<size_t>(best)], 1.0 / options_.temperature, weights_.data());
  const double all_mass = sum_of(weights_);
  // 53 bits of the generator: the same number on every standard library, which uniform_real_distribution does not
  // promise.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1p-53;

  const auto top_k = options_.top_k > 0 ? std::min(static_cast<size_t>(options_.top_k), logits.size()) : logits.size();
  const bool cut = options_.top_p < 1 || top_k < logits.size() || options_.min_p > 0;
  if (!cut) {
    const double target = uniform * all_mass;
    double reached = 0;
    int32_t chosen = best;
    for (size_t id = 0; id < logits.size(); ++id) {
      if (weights_[id] == 0) continue;
      reached += weights_[id];
      chosen = static_cast<int32_t>(id);
      if (reached > target) break;
    }
    return chosen;
  }

  // Most of a vocabulary of 129,280 is hopeless. If the tokens within 20 (in scaled logits) of the best suffice for
  // the cut-offs, the others need not be ordered; if not, all are.
  const auto near_limit = static_cast<float>(logits[static_cast<size_t>(best)] - 20.0 * options_.temperature);
  std::span<uint64_t> kept = collect_candidates(logits, near_limit, candidates_);
  // min_p alone drops whatever is below exp(-20) = 2e-9.
  const bool min_p_decides = options_.top_p == 1 && options_.min_p >= 1e-8;
  const bool enough =
      top_k < logits.size()
          ? kept.size() >= top_k || min_p_decides
          : (options_.top_p < 1 && mass_of(kept, weights_.data()) >= options_.top_p * all_mass) || min_p_decides;
  if (!enough) kept = collect_candidates(logits, -std::numeric_limits<float>::infinity(), candidates_);
  if (top_k < kept.size()) {
    std::nth_element(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(top_k), kept.end());
    kept = kept.first(top_k);
  }
  if (options_.top_p < 1) {
    const double mass = top_k < logits.size() ? mass_of(kept, weights_.data()) : all_mass;
    kept = kept.first(prefix_of_mass(kept, weights_.data(), options_.top_p * mass));
  }
  if (options_.min_p > 0) {
    const auto end =
        std::partition(kept.begin(), kept.end(), [&](uint64_t c) { return weights_[id_of(c)] >= options_.min_p; });
    kept = kept.first(static_cast<size_t>(end - kept.begin()));
  }

  const double target = uniform * mass_of(kept, weights_.data());
  double reached = 0;
  int32_t chosen = best;
  for (const uint64_t c : kept) {
    const double weight = weights_[id_of(c)];
    if (weight == 0) continue;
    reached += weight;
    chosen = static_cast<int32_t>(id_of(c));
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
  const auto all = collect_candidates(logits, -std::numeric_limits<float>::infinity(), candidates_);
  std::partial_sort(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(wanted), all.end());
  for (size_t i = 0; i < wanted; ++i) {
    sampled.top_logprobs.push_back({static_cast<int32_t>(id_of(all[i])), logits[id_of(all[i])] - log_sum});
  }
}

}  // namespace fathom
