#include "train/measure_training.h"

#include <chrono>

#include "base/interrupt.h"
#include "data/random.h"
#include "train/pretrain.h"
#include "train/train_cost.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

double TrainingMeasurement::seconds() const {
  std::vector<double> values;
  for (const TrainingRepeat& repeat : repeats) values.push_back(repeat.seconds());
  return median(values);
}

double TrainingMeasurement::optimizer_seconds() const {
  std::vector<double> values;
  for (const TrainingRepeat& repeat : repeats) values.push_back(repeat.optimizer_seconds);
  return median(values);
}

Spread TrainingMeasurement::peak_fraction() const {
  std::vector<double> values;
  for (const TrainingRepeat& repeat : repeats) {
    values.push_back(operations / repeat.seconds() / repeat.peak_ops_per_s);
  }
  return spread(values);
}

ModelConfig training_bench_model() {
  ModelConfig c;
  c.vocab_size = 4096;
  c.hidden_size = 512;
  c.intermediate_size = 1408;
  c.moe_intermediate_size = 256;
  c.num_hidden_layers = 4;
  c.num_nextn_predict_layers = 1;
  c.num_attention_heads = 8;
  c.q_lora_rank = 256;
  c.kv_lora_rank = 128;
  c.qk_nope_head_dim = 64;
  c.qk_rope_head_dim = 32;
  c.v_head_dim = 64;
  c.n_routed_experts = 16;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 4;
  c.n_group = 4;
  c.topk_group = 2;
  c.routed_scaling_factor = 2.5;
  c.first_k_dense_replace = 1;
  c.max_position_embeddings = 4096;
  return c;
}

TrainingMeasurement measure_training(const ModelConfig& config, const TrainOptions& options, int64_t repeats,
                                     ThreadTeam& team, const std::function<void(const TrainingMemory&)>& on_plan) {
  PretrainPlan plan;
  plan.memory = training_memory(config, options, team.size());
  check_training_memory(plan, system_memory());
  on_plan(plan.memory);
  TrainState state = start_training(initial_parameters(config, 1, 0.02), options, team);

  TrainingMeasurement result;
  result.tokens = options.sequences * options.length;
  result.operations = training_operations(config, options.sequences, options.length);
  Random random(1);
  std::vector<int32_t> inputs(static_cast<size_t>(result.tokens));
  std::vector<int32_t> labels(inputs.size());
  double before = 0;
  for (int64_t i = 0; i <= repeats; ++i) {
    check_interrupt();
    for (size_t at = 0; at < inputs.size(); ++at) {
      inputs[at] = static_cast<int32_t>(random.below(static_cast<size_t>(config.vocab_size)));
      labels[at] = static_cast<int32_t>(random.below(static_cast<size_t>(config.vocab_size)));
    }
    TrainingRepeat repeat;
    const Clock::time_point begin = Clock::now();
    forward_backward(state, {options.sequences, options.length, inputs, labels}, {}, team);
    repeat.forward_backward_seconds = seconds_since(begin);
    adamw_step(state, {}, clip_factor(gradient_norm(state, team), 1.0), team);
    zero_gradients(state, team);
    repeat.optimizer_seconds = seconds_since(begin) - repeat.forward_backward_seconds;
    const double after = measure_ceiling(team, Arithmetic::bf16);
    repeat.peak_ops_per_s = (before + after) / 2;
    before = after;
    if (i > 0) result.repeats.push_back(repeat);  // the first one touches the memory
  }
  return result;
}

}  // namespace fathom
