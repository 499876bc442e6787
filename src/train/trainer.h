#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "model/transformer.h"
#include "train/adamw.h"
#include "train/parameters.h"

namespace fathom {

struct TrainWorkspace;

/// Token sequences of equal length. `labels` are the next tokens; −1: the position has no loss.
struct TrainingBatch {
  int64_t sequences = 0;            ///< B
  int64_t length = 0;               ///< T
  std::span<const int32_t> inputs;  ///< [B, T]
  std::span<const int32_t> labels;  ///< [B, T]
};

/// Labels that are not −1.
int64_t label_count(const TrainingBatch& batch);

/// What the loss consists of; the report's values (spec §3.2).
struct LossOptions {
  double mtp_loss_weight = 0.3;      ///< λ; depth D counts λ / D each
  double balance_loss_alpha = 1e-4;  ///< α of the sequence-wise balance loss
  /// Gradients are those of scale · total: 1 / n for n micro-batches of one step.
  double scale = 1;
  /// What the sums of the cross-entropies are divided by; 0: the number of labels that are not −1.
  int64_t loss_positions = 0;
};

/// Unscaled losses of a batch.
struct Losses {
  double main = 0;  ///< mean cross-entropy
  std::vector<double>
      mtp;             ///< of each depth: Σ of its cross-entropies / the same count as the main loss (report eq. 24)
  double balance = 0;  ///< Σ over MoE layers, MTP layers included; mean over sequences (report eq. 17–20)
  double total = 0;    ///< main + λ / D · Σ mtp + balance
  std::vector<double> balance_by_layer;                 ///< [layers], 0 for dense ones
  std::vector<std::vector<int64_t>> tokens_per_expert;  ///< [layers][E] as routed; empty for dense layers
};

/// How a model is trained.
struct TrainOptions {
  ComputeMode compute = ComputeMode::bf16;  ///< fp32, bf16 or w8a8
  DType moments = DType::bf16;              ///< AdamW moments: bf16 as the report, or f32
  int64_t sequences = 1;                    ///< most sequences of a batch
  int64_t length = 0;                       ///< most positions of a sequence
};

/// Bytes that training takes, by use.
struct TrainingMemory {
  uint64_t masters = 0, gradients = 0, moments = 0;
  uint64_t compute_copies = 0;  ///< BF16 or FP8 copies, and the transposed ones of the input gradients
  uint64_t tape = 0;            ///< kept activations of one batch
  uint64_t workspace = 0;       ///< of forward and backward, caches included
  uint64_t total() const { return masters + gradients + moments + compute_copies + tape + workspace; }
};

/// Counted from the shapes alone, before anything is taken.
TrainingMemory training_memory(const ModelConfig& config, const TrainOptions& options, int threads);

/// A model in training. `model` is an ordinary model whose weights are views on `parameters`.
struct TrainState {
  TrainOptions options;
  Parameters parameters;
  ComputeCopies copies;
  AdamwMoments moments;
  int64_t step = 0;  ///< optimizer steps done
  std::unique_ptr<LoadedModel> model;
  std::unique_ptr<TrainWorkspace> workspace;

  TrainState();
  TrainState(TrainState&&) noexcept;
  TrainState& operator=(TrainState&&) noexcept;
  ~TrainState();
};

/// Starts from `parameters` (see load_parameters, initial_parameters): takes all memory and makes the compute copies.
/// `bad_input` if the mode cannot be trained in or a tied head is asked for.
TrainState start_training(Parameters parameters, const TrainOptions& options, ThreadTeam& team);

/// Forward and backward of one (micro-)batch: adds the gradients of scale · total to `state.parameters.gradients`.
/// `bad_input`: sizes beyond the options, a token or label outside the vocabulary, no label at all. `failure` if router
/// logits are not numbers.
Losses forward_backward(TrainState& state, const TrainingBatch& batch, const LossOptions& options, ThreadTeam& team);

/// The losses alone: validation. Nothing in `state` but its workspace changes.
Losses forward_loss(TrainState& state, const TrainingBatch& batch, const LossOptions& options, ThreadTeam& team);

void zero_gradients(TrainState& state, ThreadTeam& team);

/// Norm of the whole gradient, each parameter counted once. In float64, in an order that does not depend on threads.
double gradient_norm(const TrainState& state, ThreadTeam& team);

/// The factor min(1, greatest_norm / (norm + 1e-6)), for `adamw_step`; gradients stay as they are. 1 if `greatest_norm`
/// is 0: no clipping.
double clip_factor(double norm, double greatest_norm);

/// One AdamW step on the masters with gradients times `gradient_factor`, then new compute copies.
void adamw_step(TrainState& state, const AdamwOptions& options, double gradient_factor, ThreadTeam& team);

/// b_e += speed · sign(mean(c) − c_e) in each MoE layer, MTP layers included; counts are those of the whole step's
/// batches (see add_counts). Source: report §2.1.2, auxiliary-loss-free balancing.
void update_balance_bias(TrainState& state, const std::vector<std::vector<int64_t>>& tokens_per_expert, double speed);

/// Adds the counts of a micro-batch to those of the step (`sum` empty at first).
void add_counts(const std::vector<std::vector<int64_t>>& counts, std::vector<std::vector<int64_t>>& sum);

/// New compute copies after masters were changed by hand (loading, EMA).
void refresh_compute_copies(TrainState& state, ThreadTeam& team);

}  // namespace fathom
