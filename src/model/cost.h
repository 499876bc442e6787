#pragma once
#include "kernels/machine_limits.h"
#include "model/transformer.h"

namespace fathom {

/// Multiplications and additions, by the arithmetic that carries them out.
struct Operations {
  double f32 = 0;
  double bf16 = 0;
  double int8 = 0;

  double total() const { return f32 + bf16 + int8; }
  void add(Arithmetic kind, double count);
  /// The least time that they take on a machine with these ceilings, one kind after the other.
  double seconds(const MachineLimits& limits) const;
};

/// What a forward pass has to read and to compute, counted from the shapes.
struct PassCost {
  double weight_bytes = 0;  ///< each weight that some token uses, once
  double cache_bytes = 0;   ///< latents read by attention, once per span and layer
  Operations products;      ///< 2 per weight and token: projections, feed-forward, router, head
  Operations attention;     ///< scores, mixing, and kv_b_proj, which is part of attention in both its forms

  double operations() const { return products.total() + attention.total(); }
  PassCost& operator+=(const PassCost& other);
  /// Of one of so many passes.
  PassCost divided_by(double passes) const;
};

/// The least time that a pass can take on a machine: its products are limited by the reading of their weights or by
/// their arithmetic, whichever is longer; attention is taken as the reading of its latents and its arithmetic, one
/// after the other.
struct PassCeiling {
  double weights_s = 0;    ///< weight bytes at the rate of the streaming read
  double products_s = 0;   ///< operations of the products at the rates of their arithmetic
  double cache_s = 0;      ///< cache bytes at the rate of the streaming read
  double attention_s = 0;  ///< operations of attention

  double seconds() const;
};
PassCeiling pass_ceiling(const PassCost& cost, const MachineLimits& limits);

/// The arithmetic of a product of activations, rounded as asked, with such a weight, where the instruction set has it:
/// BF16 for BF16, FP8 and integer weights with BF16 activations and for FP8 weights with FP8 activations (whose codes
/// are exact in BF16), INT8 for int8 activations, else float32.
Arithmetic product_arithmetic(const Weight& weight, OperandRounding rounding);

/// Bytes of a stored matrix with its scales; of integers also the zeros and the padding of panels.
double weight_bytes(const Weight& weight);

/// Bytes of one routed expert of the main layers; 0 without any.
double routed_expert_bytes(const LoadedModel& model);

/// Cost of the main layers over a batch plus the head for `logits_rows` rows. `distinct_experts` is the number of
/// (layer, expert) pairs that at least one token chose: what a batch shares is read once.
PassCost forward_cost(const LoadedModel& model, std::span<const Span> spans, int64_t logits_rows,
                      int64_t distinct_experts);

}  // namespace fathom
