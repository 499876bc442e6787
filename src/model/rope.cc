#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/norm.h"

namespace fathom {
namespace {

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

Rope make_rope(const ModelConfig& config) {
  Rope rope;
  const int64_t d = config.qk_rope_head_dim;
  for (int64_t j = 0; j < d / 2; ++j) {
    rope.inverse_frequency.push_back(
        std::pow(config.rope_theta, -2.0 * static_cast<double>(j) / static_cast<double>(d)));
  }
  rope.softmax_scale = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (!config.yarn) return rope;

  const YarnConfig& yarn = *config.yarn;
  // The pair of dimensions that turns `rotations` times over the original length.
  const auto pair_of = [&](double rotations) {
    return static_cast<double>(d) *
           std::log(static_cast<double>(yarn.original_max_position_embeddings) / (2 * std::numbers::pi * rotations)) /
           (2 * std::log(config.rope_theta));
  };
  const double low = std::max(std::floor(pair_of(yarn.beta_fast)), 0.0);
  const double high = std::min(std::ceil(pair_of(yarn.beta_slow)), static_cast<double>(d - 1));
  const double span = high == low ? 0.001 : high - low;
  for (size_t j = 0; j < rope.inverse_frequency.size(); ++j) {
    const double ramp = std::clamp((static_cast<double>(j) - low) / span, 0.0, 1.0);
    double& frequency = rope.inverse_frequency[j];
    frequency = frequency * (1 - ramp) + frequency / yarn.factor * ramp;
  }
  rope.magnitude = yarn_magnitude(yarn.factor, yarn.mscale) / yarn_magnitude(yarn.factor, yarn.mscale_all_dim);
  if (yarn.mscale_all_dim != 0) {
    const double m = yarn_magnitude(yarn.factor, yarn.mscale_all_dim);
    rope.softmax_scale *= m * m;
  }
  return rope;
}

void rope_angles(const Rope& rope, int64_t position, float* cos_sin) {
  // In float64: at position 163,839 a float32 angle would be off by 0.01 of a radian.
  for (size_t j = 0; j < rope.inverse_frequency.size(); ++j) {
    const double angle = static_cast<double>(position) * rope.inverse_frequency[j];
    cos_sin[2 * j] = static_cast<float>(std::cos(angle) * rope.magnitude);
    cos_sin[2 * j + 1] = static_cast<float>(std::sin(angle) * rope.magnitude);
  }
}

void rope_rotate(float* x, const float* cos_sin, int64_t d) {
  rotate_pairs(x, cos_sin, d);
}

}  // namespace fathom
