#pragma once
#include "model/transformer.h"

namespace fathom {

/// What a forward pass has to read and to compute, counted from the shapes.
struct PassCost {
  double weight_bytes = 0;  ///< each weight that some token uses, once
  double cache_bytes = 0;   ///< latents read by attention, once per span and layer
  double operations = 0;    ///< multiplications and additions of the products (2 per weight and token) and of attention
};

/// Bytes of a stored matrix with its scales; of integers also the zeros and the padding of panels.
double weight_bytes(const Weight& weight);

/// Cost of the main layers over a batch plus the head for `logits_rows` rows. `distinct_experts` is the number of
/// (layer, expert) pairs that at least one token chose: what a batch shares is read once.
PassCost forward_cost(const LoadedModel& model, std::span<const Span> spans, int64_t logits_rows,
                      int64_t distinct_experts);

}  // namespace fathom
