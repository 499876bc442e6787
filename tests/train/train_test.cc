// Training against itself: its forward is the serving forward, its gradients are those of its loss, BF16 and FP8 stay
// near float32, and threads and neighbours change no bit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "engine/trace.h"
#include "support/errors.h"
#include "support/golden.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "train/trainer.h"

namespace fathom {
namespace {

// All of V3 in small: query compression, groups, a dense layer, shared experts, one MTP layer.
ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 96;
  c.hidden_size = 64;
  c.intermediate_size = 160;
  c.moe_intermediate_size = 48;
  c.num_hidden_layers = 2;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 2;
  c.q_lora_rank = 40;
  c.kv_lora_rank = 32;
  c.qk_nope_head_dim = 16;
  c.qk_rope_head_dim = 8;
  c.v_head_dim = 24;
  c.n_routed_experts = 8;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 256;
  return c;
}

struct Data {
  int64_t sequences, length;
  std::vector<int32_t> inputs, labels;
  TrainingBatch batch() const { return {sequences, length, inputs, labels}; }
};

Data random_data(const ModelConfig& config, int64_t sequences, int64_t length, uint32_t seed) {
  std::mt19937 random(seed);
  Data data{sequences, length, {}, {}};
  for (int64_t b = 0; b < sequences; ++b) {
    std::vector<int32_t> tokens(static_cast<size_t>(length) + 1);
    for (int32_t& token : tokens) token = static_cast<int32_t>(random() % static_cast<uint32_t>(config.vocab_size));
    data.inputs.insert(data.inputs.end(), tokens.begin(), tokens.end() - 1);
    data.labels.insert(data.labels.end(), tokens.begin() + 1, tokens.end());
  }
  return data;
}

Parameters random_parameters(const ModelConfig& config, uint64_t seed) {
  Parameters parameters = initial_parameters(config, seed, 0.15);
  // Norms that differ from 1 and biases that matter.
  for (const Parameter& parameter : parameters.list) {
    for (int64_t i = 0; i < parameter.elements() && !parameter.matrix(); ++i) {
      parameters.master(parameter)[i] = 1 + 0.1f * static_cast<float>(i % 7 - 3);
    }
  }
  for (RouterBias& bias : parameters.biases) {
    for (size_t e = 0; e < bias.values.size(); ++e) bias.values[e] = 0.02f * static_cast<float>(e % 3);
  }
  return parameters;
}

TrainState start(const ModelConfig& config, const Data& data, ComputeMode compute, ThreadTeam& team) {
  return start_training(random_parameters(config, 3), {compute, DType::f32, data.sequences, data.length}, team);
}

std::vector<float> gradient_values(const TrainState& state) {
  const auto* values = state.parameters.gradients.as<float>();
  return {values, values + state.parameters.size};
}

double relative_error(const float* a, const float* b, int64_t n) {
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return norm == 0 ? difference : std::sqrt(difference / norm);
}

const TracedTensor& find(const std::vector<TracedTensor>& tensors, const std::string& name) {
  for (const TracedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

// A batch with a tape on the model in training, against each of its sequences on the exported checkpoint as every other
// command opens it: logits bit for bit, the same experts.
TEST(Training, ForwardIsTheServingForward) {
  const ModelConfig config = small_config();
  const Data data = random_data(config, 3, 70, 5);
  ThreadTeam team(2);
  for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16, ComputeMode::w8a8}) {
    SCOPED_TRACE(compute_mode_name(compute));
    TrainState state = start(config, data, compute, team);
    const LoadedModel& model = *state.model;
    std::vector<std::unique_ptr<LatentCache>> caches;
    std::vector<Span> spans;
    for (int64_t b = 0; b < data.sequences; ++b) {
      caches.push_back(std::make_unique<LatentCache>(config, model.cache_dtype(), data.length));
      spans.push_back({caches.back().get(), 0, b * data.length, data.length, choose_attention(config, data.length, 0)});
    }
    const int64_t rows = data.sequences * data.length;
    Workspace workspace(model, rows, team.size());
    Tape tape;
    tape.dtype = compute == ComputeMode::bf16 ? DType::bf16 : DType::f32;
    forward(model, {data.inputs, spans}, workspace, team, nullptr, &tape);
    std::vector<float> logits(static_cast<size_t>(rows * config.vocab_size));
    compute_logits(model, model.weights.lm_head, workspace.all_rows(rows), workspace, team, logits.data());

    const TemporaryDirectory directory;
    const std::string out = directory.file("checkpoint");
    write_checkpoint(state.parameters, compute == ComputeMode::fp32 ? DType::f32 : DType::bf16,
                     compute == ComputeMode::w8a8, out);
    const auto served = open_model(out, compute);
    TraceOptions options;
    options.router = true;
    for (int64_t b = 0; b < data.sequences; ++b) {
      SCOPED_TRACE(b);
      const auto begin = data.inputs.begin() + b * data.length;
      const auto traced = trace_forward(*served, {begin, begin + data.length}, options, team);
      const std::vector<float>& expected = find(traced, "logits").values;
      ASSERT_EQ(std::memcmp(expected.data(), logits.data() + b * data.length * config.vocab_size,
                            expected.size() * sizeof(float)),
                0);
      const std::vector<int32_t>& experts = find(traced, "layer.1.router.index").indices;
      const int32_t* own = tape.layers[1].index.data() + b * data.length * config.num_experts_per_tok;
      EXPECT_TRUE(std::equal(experts.begin(), experts.end(), own));
    }
  }
}

// For every tensor the loss's slope along its gradient is the gradient's norm: central differences in float32.
void expect_gradients_of_loss(const ModelConfig& config) {
  const Data data = random_data(config, 2, 24, 7);
  ThreadTeam team(2);
  TrainState state = start(config, data, ComputeMode::fp32, team);
  LossOptions options;
  options.balance_loss_alpha = 0.05;
  forward_backward(state, data.batch(), options, team);
  const auto loss_at = [&](const Parameter& parameter, const std::vector<float>& master,
                           const std::vector<float>& direction, double step) {
    for (size_t i = 0; i < master.size(); ++i) {
      state.parameters.master(parameter)[i] = master[i] + static_cast<float>(step) * direction[i];
    }
    refresh_compute_copies(state, team);
    return forward_loss(state, data.batch(), options, team).total;
  };
  for (const Parameter& parameter : state.parameters.list) {
    const auto n = static_cast<size_t>(parameter.elements());
    const std::vector<float> master(state.parameters.master(parameter), state.parameters.master(parameter) + n);
    std::vector<float> direction(state.parameters.gradient(parameter), state.parameters.gradient(parameter) + n);
    double norm = 0;
    for (float value : direction) norm += static_cast<double>(value) * value;
    norm = std::sqrt(norm);
    if (norm < 1e-4) continue;  // an expert that few tokens chose: lost in the rounding of the loss
    for (float& value : direction) value = static_cast<float>(value / norm);
    // The step changes the loss by about 2e-3: far above its rounding, mostly below a change of experts. Where one
    // happens a smaller step finds the slope.
    double error = 1;
    double slope = 0;
    for (double change : {2e-3, 5e-4, 1.5e-4}) {
      const double step = change / norm;
      slope = (loss_at(parameter, master, direction, step) - loss_at(parameter, master, direction, -step)) / (2 * step);
      error = std::min(error, std::fabs(slope / norm - 1));
      if (error < 0.01) break;
    }
    EXPECT_LT(error, 0.02) << parameter.name << ": slope " << slope << ", gradient " << norm;
    loss_at(parameter, master, direction, 0);
  }
}

TEST(Training, GradientsAreThoseOfTheLoss) {
  expect_gradients_of_loss(small_config());
}

TEST(Training, GradientsWithSoftmaxRouterAndPlainQueries) {
  ModelConfig config = small_config();
  config.q_lora_rank.reset();
  config.topk_method = TopkMethod::greedy;
  config.scoring_func = ScoringFunc::softmax;
  config.norm_topk_prob = false;
  config.n_group = config.topk_group = 1;
  config.n_shared_experts = 2;
  config.tie_word_embeddings = true;
  config.num_nextn_predict_layers = 0;
  expect_gradients_of_loss(config);
}

TEST(Training, GradientsOfTwoMtpDepthsWithYarn) {
  ModelConfig config = small_config();
  config.num_nextn_predict_layers = 2;
  config.n_shared_experts = 0;
  config.yarn = YarnConfig{4, 16, 32, 1, 0.9, 0.7};
  expect_gradients_of_loss(config);
}

// Rounded arithmetic on every instruction set: near the float32 gradients. Every expert takes every token: a token that
// changes its experts would hide all else.
TEST(Training, Bf16AndFp8StayNearFloat32) {
  ModelConfig config = small_config();
  config.n_routed_experts = config.num_experts_per_tok = 4;
  config.n_group = config.topk_group = 1;
  const Data data = random_data(config, 2, 150, 9);  // two query blocks, two groups of 128 tokens
  ThreadTeam team(2);
  LossOptions options;
  TrainState exact = start(config, data, ComputeMode::fp32, team);
  const Losses expected = forward_backward(exact, data.batch(), options, team);
  const std::vector<float> reference = gradient_values(exact);
  for (Isa isa : isas_here()) {
    const IsaGuard guard(isa);
    for (const auto& [compute, loss_bound, gradient_bound] :
         {std::tuple{ComputeMode::bf16, 0.0005, 0.03}, std::tuple{ComputeMode::w8a8, 0.002, 0.3}}) {
      SCOPED_TRACE(testing::Message() << isa_name(isa) << " " << compute_mode_name(compute));
      TrainState state = start(config, data, compute, team);
      const Losses losses = forward_backward(state, data.batch(), options, team);
      EXPECT_NEAR(losses.total, expected.total, loss_bound * expected.total);
      const std::vector<float> found = gradient_values(state);
      EXPECT_LT(relative_error(found.data(), reference.data(), state.parameters.size), gradient_bound);
      for (const Parameter& parameter : state.parameters.list) {
        EXPECT_LT(
            relative_error(found.data() + parameter.offset, reference.data() + parameter.offset, parameter.elements()),
            3 * gradient_bound)
            << parameter.name;
      }
    }
  }
}

TEST(Training, ThreadsChangeNoBit) {
  const ModelConfig config = small_config();
  const Data data = random_data(config, 2, 140, 11);
  for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16, ComputeMode::w8a8}) {
    SCOPED_TRACE(compute_mode_name(compute));
    std::vector<float> one;
    for (int threads : {1, 3}) {
      ThreadTeam team(threads);
      TrainState state = start(config, data, compute, team);
      const Losses losses = forward_backward(state, data.batch(), {}, team);
      adamw_step(state, {}, clip_factor(gradient_norm(state, team), 1.0), team);
      update_balance_bias(state, losses.tokens_per_expert, 0.001);
      std::vector<float> values = gradient_values(state);
      const auto* masters = state.parameters.masters.as<float>();
      values.insert(values.end(), masters, masters + state.parameters.size);
      values.push_back(static_cast<float>(losses.total));
      if (one.empty()) {
        one = values;
      } else {
        EXPECT_EQ(std::memcmp(one.data(), values.data(), one.size() * sizeof(float)), 0);
      }
    }
  }
}

// Two sequences at once, or one after the other with scale ½ and the common count.
TEST(Training, GradientsAccumulateOverMicroBatches) {
  const ModelConfig config = small_config();
  Data data = random_data(config, 2, 40, 13);
  data.labels[5] = data.labels[50] = data.labels[51] = -1;
  ThreadTeam team(2);
  TrainState whole = start(config, data, ComputeMode::fp32, team);
  const Losses expected = forward_backward(whole, data.batch(), {}, team);
  TrainState parts = start(config, data, ComputeMode::fp32, team);
  LossOptions half;
  half.loss_positions = 77;
  double main = 0;
  for (size_t b = 0; b < 2; ++b) {
    const TrainingBatch batch{1, 40, std::span(data.inputs).subspan(b * 40, 40),
                              std::span(data.labels).subspan(b * 40, 40)};
    // The cross-entropies are sums over all labels already, the balance loss is a mean over sequences.
    half.balance_loss_alpha = 1e-4 / 2;
    main += forward_backward(parts, batch, half, team).main;
  }
  EXPECT_NEAR(main, expected.main, 1e-6);
  EXPECT_LT(relative_error(gradient_values(parts).data(), gradient_values(whole).data(), parts.parameters.size), 1e-5);
}

TEST(Training, ACheckpointComesBack) {
  const Parameters parameters = random_parameters(small_config(), 17);
  const TemporaryDirectory directory;
  const std::string out = directory.file("checkpoint");
  write_checkpoint(parameters, DType::f32, false, out);
  const Parameters again = load_parameters(Checkpoint(out));
  ASSERT_EQ(again.size, parameters.size);
  EXPECT_EQ(std::memcmp(again.masters.as<float>(), parameters.masters.as<float>(),
                        static_cast<size_t>(parameters.size) * sizeof(float)),
            0);
  ASSERT_EQ(again.biases.size(), parameters.biases.size());
  for (size_t i = 0; i < again.biases.size(); ++i) EXPECT_EQ(again.biases[i].values, parameters.biases[i].values);
  FATHOM_EXPECT_ERROR(write_checkpoint(parameters, DType::f32, false, out), ErrorKind::bad_input, "checkpoint",
                      "exists already");
}

TEST(Training, InitialParametersAreNormal) {
  const ModelConfig config = small_config();
  const Parameters parameters = initial_parameters(config, 1);
  const Parameters other = initial_parameters(config, 2);
  const Parameter& embedding = parameters.list.front();
  double sum = 0;
  double squares = 0;
  const auto n = static_cast<double>(embedding.elements());
  for (int64_t i = 0; i < embedding.elements(); ++i) {
    sum += parameters.master(embedding)[i];
    squares += std::pow(parameters.master(embedding)[i], 2);
  }
  EXPECT_NEAR(sum / n, 0, 4 * 0.006 / std::sqrt(n));
  EXPECT_NEAR(std::sqrt(squares / n), 0.006, 0.006 * 4 / std::sqrt(2 * n));
  EXPECT_NE(parameters.master(embedding)[0], other.master(embedding)[0]);
  for (const Parameter& parameter : parameters.list) {
    if (!parameter.matrix()) {
      EXPECT_EQ(parameters.master(parameter)[0], 1) << parameter.name;
    }
  }
}

// The plan's parts as the buffers have them.
TEST(Training, MemoryIsPlannedFromShapes) {
  const ModelConfig config = small_config();
  const Data data = random_data(config, 2, 64, 3);
  ThreadTeam team(1);
  for (ComputeMode compute : {ComputeMode::fp32, ComputeMode::bf16, ComputeMode::w8a8}) {
    SCOPED_TRACE(compute_mode_name(compute));
    const TrainOptions options{compute, DType::bf16, 2, 64};
    const TrainingMemory memory = training_memory(config, options, 1);
    const TrainState state = start_training(random_parameters(config, 3), options, team);
    const ComputeCopies& copies = state.copies;
    EXPECT_EQ(memory.masters, state.parameters.masters.bytes());
    EXPECT_EQ(memory.gradients, state.parameters.gradients.bytes());
    EXPECT_EQ(memory.moments, state.moments.first.bytes() + state.moments.second.bytes());
    EXPECT_EQ(memory.compute_copies, copies.plain.bytes() + copies.turned.bytes() + copies.codes.bytes() +
                                         copies.codes_turned.bytes() + copies.scale.bytes() +
                                         copies.scale_turned.bytes());
    EXPECT_GT(memory.workspace, 0u);
    EXPECT_EQ(memory.tape, tape_bytes(config, 128, compute == ComputeMode::bf16 ? DType::bf16 : DType::f32));
  }
}

TEST(Training, RefusesBatches) {
  const ModelConfig config = small_config();
  const Data data = random_data(config, 1, 20, 3);
  ThreadTeam team(1);
  TrainState state = start(config, data, ComputeMode::fp32, team);
  const auto with = [&](auto change) {
    Data own = data;
    change(own);
    forward_backward(state, own.batch(), {}, team);
  };
  FATHOM_EXPECT_ERROR(with([](Data& d) { d.labels[3] = 96; }), ErrorKind::bad_input, "Label 96", "96");
  FATHOM_EXPECT_ERROR(with([](Data& d) { d.inputs[3] = -1; }), ErrorKind::bad_input, "Token id -1");
  FATHOM_EXPECT_ERROR(with([](Data& d) { d.labels.assign(20, -1); }), ErrorKind::bad_input, "no label");
  FATHOM_EXPECT_ERROR(with([](Data& d) { d.length = 21; }), ErrorKind::bad_input, "of 21 tokens does not fit");
  FATHOM_EXPECT_ERROR(with([](Data& d) { d.labels.pop_back(); }), ErrorKind::bad_input, "19 labels");
  FATHOM_EXPECT_ERROR(start(config, data, ComputeMode::int8, team), ErrorKind::bad_input, "int8");
}

}  // namespace
}  // namespace fathom
