#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/transformer.h"

namespace fathom {

/// What a model's linear weights meet while it reads a text.
struct Calibration {
  /// Mean square of each column of a weight's input, by the weight's name on the hub ("model.layers.0.….weight").
  /// Weights that met nothing (MTP layers) have none.
  std::map<std::string, std::vector<float>> mean_squares;
  int64_t tokens = 0;
  int64_t experts = 0;       ///< routed experts of all layers
  int64_t rare_experts = 0;  ///< of them those that met too few tokens, and got the mean of their layer's experts

  /// [cols], or null.
  const float* importance(const std::string& weight) const;
};

/// Fewest tokens of a routed expert whose own means are believed.
inline constexpr int64_t kFewestExpertTokens = 32;

/// Runs the model over the tokens in windows of `context` positions, each from an empty cache and, with `bos`, behind
/// that token. Errors: `bad_input` for ids outside the vocabulary, or a context above the model's positions.
Calibration calibrate(const LoadedModel& model, std::span<const int32_t> tokens, int64_t context,
                      std::optional<int32_t> bos, ThreadTeam& team,
                      const std::function<void(int64_t tokens)>& progress = {});

}  // namespace fathom
