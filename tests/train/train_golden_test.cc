// The training case of the golden data: losses, gradients, three AdamW steps with the balance-bias update.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "support/golden.h"
#include "support/isa_guard.h"
#include "support/isa_list.h"
#include "train/trainer.h"

namespace fathom {
namespace {

struct Case {
  std::string directory;
  std::unique_ptr<SafetensorsFile> expected;
  nlohmann::json facts;
  std::vector<int32_t> inputs, labels;  // [3, B, T]
  int64_t sequences, length;

  explicit Case(const std::string& path) : directory(path) {
    expected = std::make_unique<SafetensorsFile>(path + "/expected.safetensors");
    std::ifstream stream(path + "/expected.json");
    facts = nlohmann::json::parse(stream);
    const TensorView view = tensor("input_ids");
    sequences = view.shape[1];
    length = view.shape[2];
    inputs.assign(view.as<int32_t>(), view.as<int32_t>() + view.elements());
    const TensorView label_view = tensor("labels");
    labels.assign(label_view.as<int32_t>(), label_view.as<int32_t>() + label_view.elements());
  }
  TensorView tensor(const std::string& name) const { return expected->view(*expected->find(name)); }
  TrainingBatch batch(size_t step) const {
    const auto count = static_cast<size_t>(sequences * length);
    return {sequences, length, std::span(inputs).subspan(step * count, count),
            std::span(labels).subspan(step * count, count)};
  }
  LossOptions loss_options() const {
    LossOptions options;
    options.mtp_loss_weight = facts["hyperparameters"]["mtp_loss_weight"];
    options.balance_loss_alpha = facts["hyperparameters"]["balance_loss_alpha"];
    return options;
  }
  AdamwOptions adamw_options() const {
    const nlohmann::json& h = facts["hyperparameters"];
    return {h["learning_rate"], h["adam_beta1"], h["adam_beta2"], h["adam_eps"], h["weight_decay"]};
  }
  TrainState start(ThreadTeam& team, ComputeMode compute = ComputeMode::fp32) const {
    return start_training(load_parameters(Checkpoint(directory)), {compute, DType::f32, sequences, length}, team);
  }
};

double relative_error(const float* a, const float* b, int64_t n) {
  double difference = 0;
  double norm = 0;
  for (int64_t i = 0; i < n; ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

void expect_losses(const Losses& losses, const nlohmann::json& expected) {
  EXPECT_NEAR(losses.main, expected["main"], 1e-5);
  ASSERT_EQ(losses.mtp.size(), 1u);
  EXPECT_NEAR(losses.mtp[0], expected["mtp"], 1e-5);
  EXPECT_NEAR(losses.balance, expected["balance"], 1e-5);
  EXPECT_NEAR(losses.total, expected["total"], 1e-5);
  for (const auto& [layer, value] : expected["balance_by_layer"].items()) {
    EXPECT_NEAR(losses.balance_by_layer[std::stoul(layer)], value, 1e-6) << "layer " << layer;
  }
  for (const auto& [layer, counts] : expected["tokens_per_expert"].items()) {
    EXPECT_EQ(losses.tokens_per_expert[std::stoul(layer)], counts.get<std::vector<int64_t>>()) << "layer " << layer;
  }
}

TEST(TrainGolden, LossesAndGradientsOnEveryInstructionSet) {
  FATHOM_GOLDEN_OR_SKIP(directory, "train-tiny");
  const Case golden(directory);
  const std::string shared = shared_golden_dir("train-tiny");
  ThreadTeam team(2);
  for (Isa isa : isas_here()) {
    SCOPED_TRACE(isa_name(isa));
    const IsaGuard guard(isa);
    TrainState state = golden.start(team);
    const Losses losses = forward_backward(state, golden.batch(0), golden.loss_options(), team);
    expect_losses(losses, golden.facts["steps"][0]["losses_before_update"]);
    const double norm = golden.facts["steps"][0]["gradient_norm_before_clipping"];
    EXPECT_NEAR(gradient_norm(state, team), norm, 1e-5 * norm);
    for (const Parameter& parameter : state.parameters.list) {
      double sum = 0;
      for (int64_t i = 0; i < parameter.elements(); ++i) sum += std::pow(state.parameters.gradient(parameter)[i], 2);
      const double own = golden.facts["gradient_norm_by_parameter"][parameter.name];
      EXPECT_NEAR(std::sqrt(sum), own, 1e-3 * own) << parameter.name;  // written with four digits
    }
    if (shared.empty()) continue;
    const SafetensorsFile gradients(shared + "/gradients.safetensors");
    ASSERT_EQ(gradients.entries().size(), state.parameters.list.size());
    for (const Parameter& parameter : state.parameters.list) {
      const TensorView view = gradients.view(*gradients.find(parameter.name));
      ASSERT_EQ(view.shape, parameter.shape);
      EXPECT_LT(relative_error(state.parameters.gradient(parameter), view.as<float>(), view.elements()), 1e-4)
          << parameter.name;
    }
  }
  if (shared.empty()) GTEST_SKIP() << "gradients.safetensors is not here: only the gradients' norms were compared";
}

TEST(TrainGolden, ThreeSteps) {
  FATHOM_GOLDEN_OR_SKIP(directory, "train-tiny");
  const Case golden(directory);
  const std::string shared = shared_golden_dir("train-tiny");
  ThreadTeam team(2);
  TrainState state = golden.start(team);
  for (size_t step = 0; step < 3; ++step) {
    SCOPED_TRACE(step);
    zero_gradients(state, team);
    const Losses losses = forward_backward(state, golden.batch(step), golden.loss_options(), team);
    const nlohmann::json& expected = golden.facts["steps"][step];
    expect_losses(losses, expected["losses_before_update"]);
    const double factor = clip_factor(gradient_norm(state, team), 1.0);
    EXPECT_NEAR(factor, expected["clip_factor"], 1e-6);
    adamw_step(state, golden.adamw_options(), factor, team);
    update_balance_bias(state, losses.tokens_per_expert, 0.001);
    if (shared.empty()) continue;
    const SafetensorsFile after(shared + "/after_step_" + std::to_string(step + 1) + ".safetensors");
    int64_t elements = 0;
    int64_t near = 0;
    double greatest = 0;
    for (const Parameter& parameter : state.parameters.list) {
      const TensorView view = after.view(*after.find(parameter.name));
      for (int64_t i = 0; i < view.elements(); ++i) {
        const double error =
            std::fabs(static_cast<double>(state.parameters.master(parameter)[i]) - view.as<float>()[i]);
        greatest = std::max(greatest, error);
        ++elements;
        if (error <= 2e-6) ++near;
      }
    }
    EXPECT_GE(static_cast<double>(near) / static_cast<double>(elements), 0.999);
    EXPECT_LE(greatest, 2e-4);
    for (const RouterBias& bias : state.parameters.biases) {
      const TensorView view = after.view(*after.find(bias.name));
      for (size_t e = 0; e < bias.values.size(); ++e) EXPECT_NEAR(bias.values[e], view.as<float>()[e], 1e-7);
    }
  }
  const Losses losses = forward_loss(state, golden.batch(0), golden.loss_options(), team);
  EXPECT_NEAR(losses.total, golden.facts["losses_of_first_batch_after_all_steps"]["total"], 1e-4);
  if (shared.empty()) GTEST_SKIP() << "after_step_N.safetensors are not here: only losses were compared";
}

}  // namespace
}  // namespace fathom
