#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "kernels/gradients.h"
#include "kernels/norm.h"
#include "train/layer_gradient.h"
#include "train/loss.h"

namespace fathom {

/// Working memory of forward and backward of one batch.
struct TrainWorkspace {
  TrainWorkspace(const LoadedModel& model, const TrainOptions& options, int threads)
      : forward(model, options.sequences * options.length, threads) {
    for (int64_t i = 0; i < options.sequences; ++i) {
      caches.push_back(std::make_unique<LatentCache>(model.config, model.cache_dtype(), options.length));
    }
  }

  Workspace forward;
  std::vector<std::unique_ptr<LatentCache>> caches;
  Tape tape;
  LayerGradients gradients;
  LayerGradientWorkspace layers;
  HeadLossWorkspace head;
  // Of the main layers (0) and of each MTP depth (1 + depth).
  std::vector<Buffer> hidden;              // [rows, hidden] after the final norm
  std::vector<Buffer> d_hidden;            // [rows, hidden] its gradient
  Buffer dx;                               // [T, hidden] gradient of the residual stream
  Buffer mtp_input;                        // [T, 2 hidden] of eh_proj, again
  Buffer d_mtp_input;                      // [T, 2 hidden]
  Buffer d_embedding_half, d_hidden_half;  // [T, hidden]
  Buffer embedding;                        // [T, hidden]
  Buffer d_rows;                           // [T, hidden]
  std::vector<BalanceTerm> balance;        // [layers]
};

namespace {

constexpr int64_t kPiece = int64_t{1} << 16;

// One forward pass of a batch: its spans and tokens, of the main layers or of an MTP depth.
struct Pass {
  std::vector<int32_t> tokens;  // embedded
  std::vector<int32_t> labels;
  std::vector<Span> spans;
  int64_t rows() const { return static_cast<int64_t>(tokens.size()); }
};

// Position i of depth d (0 = main layers) embeds token i + d and predicts token i + d + 1; the last d positions have
// none.
Pass make_pass(const TrainState& state, const TrainingBatch& batch, int64_t depth) {
  Pass pass;
  const int64_t length = batch.length - depth;
  const AttentionForm form = choose_attention(state.model->config, length, 0);
  for (int64_t b = 0; b < batch.sequences; ++b) {
    const auto row = static_cast<size_t>(b * batch.length);
    for (int64_t i = 0; i < length; ++i) {
      const size_t at = row + static_cast<size_t>(i + depth);
      // A label says which token comes next; where it is left out, the next input does.
      const int32_t known = depth > 0 ? batch.labels[at - 1] : -1;
      pass.tokens.push_back(known >= 0 ? known : batch.inputs[at]);
      pass.labels.push_back(batch.labels[at]);
    }
    pass.spans.push_back({state.workspace->caches[static_cast<size_t>(b)].get(), 0, b * length, length, form});
  }
  return pass;
}

void check_batch(const TrainState& state, const TrainingBatch& batch) {
  const int64_t vocab = state.model->config.vocab_size;
  const int64_t depths = state.model->config.num_nextn_predict_layers;
  if (batch.sequences < 1 || batch.sequences > state.options.sequences || batch.length <= depths ||
      batch.length > state.options.length) {
    throw_bad_input("A batch of {} sequences of {} tokens does not fit a training of up to {} sequences of {} to {}.",
                    batch.sequences, batch.length, state.options.sequences, depths + 1, state.options.length);
  }
  const auto count = static_cast<size_t>(batch.sequences * batch.length);
  if (batch.inputs.size() != count || batch.labels.size() != count) {
    throw_bad_input("A batch of {} tokens has {} inputs and {} labels.", count, batch.inputs.size(),
                    batch.labels.size());
  }
  check_tokens(state.model->config, batch.inputs);
  for (int32_t label : batch.labels) {
    if (label < -1 || label >= vocab) {
      throw_bad_input("Label {} is neither -1 nor a token of the vocabulary of {}.", label, vocab);
    }
  }
}

// Adds what came back through an MTP layer's hidden half to the gradient of the pass before it, whose sequences are one
// position longer.
void add_previous(const float* d_previous, int64_t sequences, int64_t length, int64_t hidden, float* d_hidden,
                  ThreadTeam& team) {
  team.parallel_for(sequences * length, [&](int64_t t, int) {
    add_scaled(d_previous + t * hidden, 1.0f, hidden, d_hidden + (t + t / length) * hidden);
  });
}

struct Run {
  TrainState& state;
  const TrainingBatch& batch;
  const LossOptions& options;
  ThreadTeam& team;
  const bool backward;

  TrainWorkspace& ws = *state.workspace;
  const LoadedModel& model = *state.model;
  const ModelConfig& config = model.config;
  const BackwardContext context{model, state.parameters, state.copies};
  const int64_t hidden = config.hidden_size;
  const int64_t depths = config.num_nextn_predict_layers;
  std::vector<Pass> passes;
  Losses losses;

  const LayerTape& tape(int64_t layer) const { return ws.tape.layers[static_cast<size_t>(layer)]; }
  const MtpWeights& mtp(int64_t depth) const { return *context.layer(config.num_hidden_layers + depth - 1).mtp; }
  float eps() const { return static_cast<float>(config.rms_norm_eps); }

  Losses run() {
    int64_t positions = options.loss_positions;
    if (positions == 0) {
      positions = label_count(batch);
    }
    if (positions == 0) throw_bad_input("The batch has no label: nothing to learn from.");
    ws.tape.dtype = model.compute == ComputeMode::bf16 ? DType::bf16 : DType::f32;
    ws.hidden.resize(static_cast<size_t>(depths) + 1);
    ws.d_hidden.resize(static_cast<size_t>(depths) + 1);
    for (int64_t depth = 0; depth <= depths; ++depth) {
      passes.push_back(make_pass(state, batch, depth));
      const double loss = forward_pass(depth, static_cast<double>(positions));
      if (depth == 0) {
        losses.main = loss;
      } else {
        losses.mtp.push_back(loss);
      }
    }
    balance();
    double mtp_sum = 0;
    for (double loss : losses.mtp) mtp_sum += loss;
    losses.total = losses.main + losses.balance;
    if (depths > 0) losses.total += options.mtp_loss_weight / static_cast<double>(depths) * mtp_sum;
    if (backward) {
      for (int64_t depth = depths; depth > 0; --depth) mtp_backward(depth);
      main_backward();
    }
    return std::move(losses);
  }

  double forward_pass(int64_t depth, double positions) {
    const Pass& pass = passes.back();
    const Batch tokens{pass.tokens, pass.spans};
    const Weight* head = &model.weights.lm_head;
    double weight = 1;
    if (depth == 0) {
      forward(model, tokens, ws.forward, team, nullptr, &ws.tape);
    } else {
      // The rows of the pass before without the last position of each sequence.
      const int64_t length = batch.length - depth;
      float* previous = reserve<float>(ws.d_rows, pass.rows() * hidden);
      const auto* from = ws.hidden[static_cast<size_t>(depth) - 1].as<float>();
      for (int64_t b = 0; b < batch.sequences; ++b) {
        copy_rows(from + b * (length + 1) * hidden, length, hidden, previous + b * length * hidden, team);
      }
      mtp_forward(model, depth - 1, tokens, previous, ws.forward, team, nullptr, &ws.tape);
      head = &mtp(depth).shared_head;
      weight = options.mtp_loss_weight / static_cast<double>(depths);
    }
    const auto index = static_cast<size_t>(depth);
    copy_rows(ws.forward.normed.as<float>(), pass.rows(), hidden,
              reserve<float>(ws.hidden[index], pass.rows() * hidden), team);
    float* d_hidden = backward ? reserve<float>(ws.d_hidden[index], pass.rows() * hidden) : nullptr;
    const auto factor = static_cast<float>(options.scale * weight / positions);
    return head_loss(context, *head, pass.labels, factor, ws.forward, d_hidden, ws.head, ws.layers.products, team) /
           positions;
  }

  void balance() {
    const auto layers = static_cast<size_t>(config.total_layers());
    ws.balance.assign(layers, {});
    losses.balance_by_layer.assign(layers, 0.0);
    losses.tokens_per_expert.assign(layers, {});
    for (size_t layer = 0; layer < layers; ++layer) {
      const LayerTape& kept = ws.tape.layers[layer];
      if (!model.weights.layers[layer].moe) continue;
      std::vector<int64_t>& counts = losses.tokens_per_expert[layer];
      counts.assign(static_cast<size_t>(config.n_routed_experts), 0);
      for (int32_t expert : kept.index) ++counts[static_cast<size_t>(expert)];
      BalanceTerm& term = ws.balance[layer];
      const double loss = options.balance_loss_alpha * balance_loss(config, kept, batch.sequences, term);
      term.factor = options.balance_loss_alpha * options.scale / static_cast<double>(batch.sequences);
      losses.balance_by_layer[layer] = loss;
      losses.balance += loss;
    }
  }

  void layer_backward(int64_t layer, const Pass& pass) {
    const BalanceTerm& term = ws.balance[static_cast<size_t>(layer)];
    layer_input_gradient(context, layer, pass.spans, tape(layer), term, ws.dx.as<float>(), ws.gradients, ws.layers,
                         team);
    layer_weight_gradient(context, layer, pass.spans, tape(layer), ws.gradients, ws.layers, team);
  }

  // Both halves of the norm in front of a head; leaves the gradient of the residual stream in ws.dx.
  void final_norm_backward(const KeptRows& x, const TensorView& gain, int64_t depth, int64_t rows) {
    const auto* dy = ws.d_hidden[static_cast<size_t>(depth)].as<float>();
    norm_input_gradient(x.f32_row(0), hidden, gain, dy, rows, hidden, eps(), false,
                        reserve<float>(ws.dx, rows * hidden), hidden, team);
    norm_weight_gradient(x.f32_row(0), hidden, dy, rows, hidden, eps(), context.gradient(gain), ws.layers.factors,
                         team);
  }

  void main_backward() {
    const Pass& pass = passes.front();
    final_norm_backward(tape(config.num_hidden_layers - 1).output, model.weights.norm, 0, pass.rows());
    for (int64_t layer = config.num_hidden_layers - 1; layer >= 0; --layer) layer_backward(layer, pass);
    embedding_weight_gradient(pass.tokens, ws.dx.as<float>(), hidden, context.gradient(model.weights.embed_tokens),
                              team);
  }

  void mtp_backward(int64_t depth) {
    const int64_t layer = config.num_hidden_layers + depth - 1;
    const Pass& pass = passes[static_cast<size_t>(depth)];
    const int64_t rows = pass.rows();
    const MtpWeights& weights = mtp(depth);
    const LayerTape& kept = tape(layer);
    final_norm_backward(kept.output, weights.shared_head_norm, depth, rows);
    layer_backward(layer, pass);

    // eh_proj on [enorm(embedding); hnorm(previous)].
    float* input = reserve<float>(ws.mtp_input, rows * 2 * hidden);
    float* embedding = reserve<float>(ws.embedding, rows * hidden);
    team.parallel_for(rows, [&](int64_t t, int) {
      convert_row_to_f32(weights.embed_tokens, pass.tokens[static_cast<size_t>(t)], embedding + t * hidden);
      rms_norm(embedding + t * hidden, hidden, weights.enorm, eps(), input + t * 2 * hidden);
      rms_norm(kept.previous.f32_row(t), hidden, weights.hnorm, eps(), input + (t * 2 + 1) * hidden);
    });
    float* d_input = reserve<float>(ws.d_mtp_input, rows * 2 * hidden);
    linear_input_gradient(ws.dx.as<float>(), rows, context.turned(weights.eh_proj), context.other_rounding(), false,
                          d_input, ws.layers.products, team);
    const WeightGradientJob job{{DType::f32, ws.dx.as<float>(), hidden, hidden},
                                {DType::f32, input, 2 * hidden, 2 * hidden},
                                rows,
                                context.gradient(weights.eh_proj),
                                context.other_form()};
    linear_weight_gradients({&job, 1}, ws.layers.products, team);

    float* d_embedding = reserve<float>(ws.d_embedding_half, rows * hidden);
    float* d_previous = reserve<float>(ws.d_hidden_half, rows * hidden);
    team.parallel_for(rows, [&](int64_t t, int) {
      std::copy_n(d_input + t * 2 * hidden, hidden, d_embedding + t * hidden);
      std::copy_n(d_input + (t * 2 + 1) * hidden, hidden, d_previous + t * hidden);
    });
    float* d_rows = reserve<float>(ws.d_rows, rows * hidden);
    const auto both_halves = [&](const float* x, const TensorView& gain, const float* dy) {
      norm_input_gradient(x, hidden, gain, dy, rows, hidden, eps(), false, d_rows, hidden, team);
      norm_weight_gradient(x, hidden, dy, rows, hidden, eps(), context.gradient(gain), ws.layers.factors, team);
    };
    both_halves(embedding, weights.enorm, d_embedding);
    embedding_weight_gradient(pass.tokens, d_rows, hidden, context.gradient(weights.embed_tokens), team);
    both_halves(kept.previous.f32_row(0), weights.hnorm, d_previous);
    add_previous(d_rows, batch.sequences, batch.length - depth, hidden,
                 ws.d_hidden[static_cast<size_t>(depth) - 1].as<float>(), team);
  }
};

Losses run_batch(TrainState& state, const TrainingBatch& batch, const LossOptions& options, bool backward,
                 ThreadTeam& team) {
  check_batch(state, batch);
  Run run{state, batch, options, team, backward};
  return run.run();
}

}  // namespace

TrainState::TrainState() = default;
TrainState::TrainState(TrainState&&) noexcept = default;
TrainState& TrainState::operator=(TrainState&&) noexcept = default;
TrainState::~TrainState() = default;

int64_t label_count(const TrainingBatch& batch) {
  return std::count_if(batch.labels.begin(), batch.labels.end(), [](int32_t label) { return label >= 0; });
}

TrainState start_training(Parameters parameters, const TrainOptions& options, ThreadTeam& team) {
  if (options.compute == ComputeMode::int8) {
    throw_bad_input("Training computes in fp32, bf16 or w8a8, not in int8.");
  }
  if (options.moments != DType::f32 && options.moments != DType::bf16) {
    throw_bad_input("AdamW moments are F32 or BF16, not {}.", dtype_name(options.moments));
  }
  if (options.sequences < 1 || options.length < 1) {
    throw_bad_input("Training needs batches of at least one sequence of one token, not {} of {}.", options.sequences,
                    options.length);
  }
  TrainState state;
  state.options = options;
  state.parameters = std::move(parameters);
  state.moments = make_moments(state.parameters, options.moments);
  reserve_copies(state.parameters, options.compute, state.copies);
  state.model = std::make_unique<LoadedModel>();
  state.model->config = state.parameters.config;
  state.model->config.fp8.reset();
  if (options.compute == ComputeMode::w8a8) state.model->config.fp8 = Fp8Config{};
  state.model->compute = options.compute;
  state.model->rope = make_rope(state.model->config);
  state.model->weights = weights_of(state.parameters, state.copies);
  refresh_compute_copies(state, team);
  state.workspace = std::make_unique<TrainWorkspace>(*state.model, options, team.size());
  return state;
}

TrainingMemory training_memory(const ModelConfig& config, const TrainOptions& options, int threads) {
  const Parameters plan = plan_parameters(config);
  const auto size = static_cast<uint64_t>(plan.size);
  const bool narrow = options.compute == ComputeMode::bf16;
  TrainingMemory memory;
  memory.masters = memory.gradients = size * sizeof(float);
  memory.moments = 2 * size * dtype_bytes(options.moments);
  memory.compute_copies = compute_copy_bytes(plan, options.compute);
  const int64_t T = options.sequences * options.length;
  memory.tape = tape_bytes(config, T, narrow ? DType::bf16 : DType::f32);

  // Floats of one token in the named buffers: of the forward (transformer.h), of one layer's gradients, of operands and
  // turned matrices (layer_gradient.h, products.h), of the passes (above).
  const ModelConfig& c = config;
  const int64_t H = c.num_attention_heads;
  const int64_t hidden = c.hidden_size;
  const int64_t rank = c.q_lora_rank.value_or(0);
  const int64_t width = c.kv_lora_rank + c.qk_rope_head_dim;
  const int64_t K = c.num_experts_per_tok;
  const int64_t dq = H * c.qk_head_dim();
  const int64_t dv = H * c.v_head_dim;
  const int64_t kv_up = H * (c.qk_nope_head_dim + c.v_head_dim);
  const int64_t inner = std::max(c.intermediate_size, (K + c.n_shared_experts) * c.moe_intermediate_size);
  const int64_t depths = c.num_nextn_predict_layers;
  const int64_t forward = 3 * hidden + (depths > 0 ? 2 * hidden : 0) + rank + dq + width + dv + c.qk_rope_head_dim +
                          2 * c.n_routed_experts + 4 * K + 2 * inner + hidden;
  const int64_t gradients = 4 * hidden + 3 * inner + c.n_routed_experts + dv + dq + 2 * rank + kv_up +
                            H * c.qk_rope_head_dim + c.kv_lora_rank + width;
  const int64_t work = 2 * hidden + 2 * inner + width + 2 * hidden + rank;
  // Both sides of the largest group of weight gradients lie there turned around at once.
  const int64_t feed_forward = 2 * (K + c.n_shared_experts + 1) * hidden + 3 * inner + c.n_routed_experts;
  const int64_t attention = 2 * hidden + dv + kv_up + 2 * width + 2 * rank + dq;
  const int64_t slab_bytes = narrow ? 2 : 4;
  const int64_t passes = 2 * (depths + 1) * hidden + (depths > 0 ? 9 : 2) * hidden;
  memory.workspace = static_cast<uint64_t>(T * (forward + gradients + work + passes)) * sizeof(float) +
                     static_cast<uint64_t>(T * std::max(feed_forward, attention) * slab_bytes);
  memory.workspace += static_cast<uint64_t>(std::min(T, head_piece_rows(c.vocab_size)) * c.vocab_size) *
                      (sizeof(float) + 2 * slab_bytes);
  memory.workspace += static_cast<uint64_t>(options.sequences) *
                      LatentCache::bytes_for(config, narrow ? DType::bf16 : DType::f32, options.length);
  // A thread's share of the attention: blocks of scores, a head's rows in all their forms.
  memory.workspace += static_cast<uint64_t>(threads) * static_cast<uint64_t>(options.length) * sizeof(float) *
                      static_cast<uint64_t>(4 * 128 + 9 * (c.qk_head_dim() + c.v_head_dim));
  return memory;
}

Losses forward_backward(TrainState& state, const TrainingBatch& batch, const LossOptions& options, ThreadTeam& team) {
  return run_batch(state, batch, options, true, team);
}

Losses forward_loss(TrainState& state, const TrainingBatch& batch, const LossOptions& options, ThreadTeam& team) {
  return run_batch(state, batch, options, false, team);
}

void zero_gradients(TrainState& state, ThreadTeam& team) {
  const int64_t size = state.parameters.size;
  auto* gradients = state.parameters.gradients.as<float>();
  team.parallel_for((size + kPiece - 1) / kPiece, [&](int64_t item, int) {
    std::fill(gradients + item * kPiece, gradients + std::min(size, (item + 1) * kPiece), 0.0f);
  });
}

double gradient_norm(const TrainState& state, ThreadTeam& team) {
  // Gaps between tensors are 0.
  const int64_t size = state.parameters.size;
  const auto* gradients = state.parameters.gradients.as<float>();
  std::vector<double> sums(static_cast<size_t>((size + kPiece - 1) / kPiece));
  team.parallel_for(static_cast<int64_t>(sums.size()), [&](int64_t item, int) {
    constexpr int64_t kLanes = 8;  // size is a multiple
    double lanes[kLanes] = {};
    for (int64_t i = item * kPiece; i < std::min(size, (item + 1) * kPiece); i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        lanes[lane] += static_cast<double>(gradients[i + lane]) * gradients[i + lane];
      }
    }
    double sum = 0;
    for (double lane : lanes) sum += lane;
    sums[static_cast<size_t>(item)] = sum;
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return std::sqrt(total);
}

double clip_factor(double norm, double greatest_norm) {
  return greatest_norm == 0 ? 1.0 : std::min(1.0, greatest_norm / (norm + 1e-6));
}

void adamw_step(TrainState& state, const AdamwOptions& options, double gradient_factor, ThreadTeam& team) {
  ++state.step;
  adamw_update(state.parameters, state.moments, options, state.step, gradient_factor, team);
  refresh_compute_copies(state, team);
}

void update_balance_bias(TrainState& state, const std::vector<std::vector<int64_t>>& tokens_per_expert, double speed) {
  for (RouterBias& bias : state.parameters.biases) {
    const std::vector<int64_t>& counts = tokens_per_expert[static_cast<size_t>(bias.layer)];
    const auto experts = static_cast<int64_t>(counts.size());
    int64_t sum = 0;
    for (int64_t count : counts) sum += count;
    for (size_t e = 0; e < counts.size(); ++e) {
      // sign(mean − count) without rounding.
      const int64_t difference = sum - counts[e] * experts;
      if (difference > 0) bias.values[e] += static_cast<float>(speed);
      if (difference < 0) bias.values[e] -= static_cast<float>(speed);
    }
    state.model->weights.layers[static_cast<size_t>(bias.layer)].moe->e_score_correction_bias = bias.values;
  }
}

void add_counts(const std::vector<std::vector<int64_t>>& counts, std::vector<std::vector<int64_t>>& sum) {
  if (sum.empty()) {
    sum = counts;
    return;
  }
  for (size_t layer = 0; layer < counts.size(); ++layer) {
    for (size_t e = 0; e < counts[layer].size(); ++e) sum[layer][e] += counts[layer][e];
  }
}

void refresh_compute_copies(TrainState& state, ThreadTeam& team) {
  make_copies(state.parameters, state.copies, team);
  for (const RouterBias& bias : state.parameters.biases) {
    state.model->weights.layers[static_cast<size_t>(bias.layer)].moe->e_score_correction_bias = bias.values;
  }
}

}  // namespace fathom
