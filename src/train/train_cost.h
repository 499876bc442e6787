#pragma once
#include <cstdint>
#include <string>

#include "formats/model_config.h"
#include "train/trainer.h"

namespace fathom {

/// Weights of matrices that one token passes through: attention, its K experts and the shared ones or the dense
/// feed-forward, router, head, and the MTP layers with their head. Norms and the embedding's look-up do not count.
int64_t active_weights(const ModelConfig& config);

/// Operations (multiplications and additions) of forward, input gradients and weight gradients of `sequences`
/// sequences: 6 per active weight and token, and three times the forward of causal attention. What is computed again in
/// the backward does not count.
double training_operations(const ModelConfig& config, int64_t sequences, int64_t length);

/// "1.2 GB: masters …, gradients …, …": a plan of memory as a person reads it. `average_bytes`: of a moving average.
std::string training_memory_text(const TrainingMemory& memory, uint64_t average_bytes = 0);

}  // namespace fathom
