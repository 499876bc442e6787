#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/train_commands.h"
#include "formats/safetensors.h"
#include "train/trainer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Arguments {
  std::string model, batch, out;
  std::string compute = "fp32";
  std::string moments = "f32";
  int64_t steps = 1;
  int threads = 0;
  LossOptions loss;
  AdamwOptions adamw;
  double gradient_clip_norm = 1.0;
  double bias_update_speed = 0.001;
};

// The batches of a file: `input_ids` and `labels`, [steps, B, T] int32.
struct Batches {
  int64_t steps, sequences, length;
  std::vector<int32_t> inputs, labels;

  TrainingBatch step(int64_t i) const {
    const auto count = static_cast<size_t>(sequences * length);
    const size_t begin = static_cast<size_t>(i) * count;
    return {sequences, length, std::span(inputs).subspan(begin, count), std::span(labels).subspan(begin, count)};
  }
};

std::vector<int32_t> read_tokens(const SafetensorsFile& file, const std::string& name, Shape& shape) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw_bad_input("{}: there is no tensor {}.", file.path(), name);
  if (entry->dtype != DType::i32 || entry->shape.size() != 3) {
    throw_bad_input("{}: tensor {} is {} {}; expected I32 [steps, sequences, tokens].", file.path(), name,
                    dtype_name(entry->dtype), shape_text(entry->shape));
  }
  if (!shape.empty() && shape != entry->shape) {
    throw_bad_input("{}: input_ids is {}, but {} is {}.", file.path(), shape_text(shape), name,
                    shape_text(entry->shape));
  }
  shape = entry->shape;
  const TensorView view = file.view(*entry);
  std::vector<int32_t> tokens(static_cast<size_t>(view.elements()));
  if (!tokens.empty()) std::memcpy(tokens.data(), view.data, view.bytes());
  return tokens;
}

Batches read_batches(const std::string& path) {
  const SafetensorsFile file(path);
  Shape shape;
  Batches batches{};
  batches.inputs = read_tokens(file, "input_ids", shape);
  batches.labels = read_tokens(file, "labels", shape);
  batches.steps = shape[0];
  batches.sequences = shape[1];
  batches.length = shape[2];
  if (batches.inputs.empty()) throw_bad_input("{}: the batches {} hold no token.", path, shape_text(shape));
  return batches;
}

// Objects by layer id, as in the golden expected.json: MoE layers only.
ordered_json losses_json(const Losses& losses) {
  ordered_json by_layer = ordered_json::object();
  ordered_json counts = ordered_json::object();
  for (size_t layer = 0; layer < losses.tokens_per_expert.size(); ++layer) {
    if (losses.tokens_per_expert[layer].empty()) continue;
    by_layer[std::to_string(layer)] = losses.balance_by_layer[layer];
    counts[std::to_string(layer)] = losses.tokens_per_expert[layer];
  }
  ordered_json result;
  result["main"] = losses.main;
  if (losses.mtp.size() == 1) result["mtp"] = losses.mtp[0];
  if (losses.mtp.size() > 1) result["mtp_by_depth"] = losses.mtp;
  result["balance"] = losses.balance;
  result["balance_by_layer"] = by_layer;
  result["total"] = losses.total;
  result["tokens_per_expert"] = counts;
  return result;
}

ordered_json hyperparameters_json(const Arguments& a) {
  return {{"mtp_loss_weight", a.loss.mtp_loss_weight}, {"balance_loss_alpha", a.loss.balance_loss_alpha},
          {"learning_rate", a.adamw.learning_rate},    {"adam_beta1", a.adamw.adam_beta1},
          {"adam_beta2", a.adamw.adam_beta2},          {"adam_eps", a.adamw.adam_eps},
          {"weight_decay", a.adamw.weight_decay},      {"gradient_clip_norm", a.gradient_clip_norm},
          {"bias_update_speed", a.bias_update_speed},  {"steps", a.steps}};
}

void run(const Arguments& arguments) {
  const Batches batches = read_batches(arguments.batch);
  if (arguments.steps > batches.steps) {
    throw_bad_input("--steps: {} were asked for, and {} holds {}.", arguments.steps, arguments.batch, batches.steps);
  }
  if (fs::exists(arguments.out) && !fs::is_directory(arguments.out)) {
    throw_bad_input("--out: {} exists and is not a directory.", arguments.out);
  }
  ThreadTeam team(arguments.threads);
  TrainOptions options;
  options.compute = *compute_mode_from_name(arguments.compute);
  options.moments = arguments.moments == "bf16" ? DType::bf16 : DType::f32;
  options.sequences = batches.sequences;
  options.length = batches.length;
  TrainState state = start_training(load_parameters(Checkpoint(arguments.model)), options, team);
  make_directories(arguments.out);
  const fs::path out(arguments.out);

  ordered_json report;
  report["compute"] = arguments.compute;
  report["hyperparameters"] = hyperparameters_json(arguments);
  report["steps"] = ordered_json::array();
  for (int64_t step = 0; step < arguments.steps; ++step) {
    check_interrupt();
    zero_gradients(state, team);
    const Losses losses = forward_backward(state, batches.step(step), arguments.loss, team);
    const double norm = gradient_norm(state, team);
    if (!std::isfinite(losses.total) || !std::isfinite(norm)) {
      throw_failure("Step {}: the loss is {} and the gradient's norm {}; nothing was updated.", step + 1, losses.total,
                    norm);
    }
    if (step == 0) write_parameters(state.parameters, true, (out / "gradients.safetensors").string());
    const double factor = clip_factor(norm, arguments.gradient_clip_norm);
    adamw_step(state, arguments.adamw, factor, team);
    update_balance_bias(state, losses.tokens_per_expert, arguments.bias_update_speed);
    write_parameters(state.parameters, false, (out / fmt::format("after_step_{}.safetensors", step + 1)).string());
    report["steps"].push_back({{"losses_before_update", losses_json(losses)},
                               {"gradient_norm_before_clipping", norm},
                               {"clip_factor", factor}});
    write_stdout(fmt::format("step {}: loss {:.6f}, main {:.6f}, gradient norm {:.4f}\n", step + 1, losses.total,
                             losses.main, norm));
  }
  OutputFile file((out / "losses.json").string());
  file.write(report.dump(2) + "\n");
  file.commit();
}

}  // namespace

void add_train_step_command(CLI::App& train, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = train.add_subcommand(
      "step", "Take a few optimizer steps on given batches and write losses, gradients and parameters");
  command->footer(
      "Writes losses.json, gradients.safetensors (of the first step, before clipping) and after_step_N.safetensors\n"
      "(parameters and router biases), for comparing with any other trainer. Defaults are those of the DeepSeek-V3\n"
      "report; a matrix decays, a norm does not.");
  command->add_option("--model", arguments->model, "Checkpoint directory in the Hugging Face layout")->required();
  command
      ->add_option("--batch", arguments->batch,
                   "Safetensors file with input_ids and labels, I32 [steps, sequences, tokens]; label -1: no loss")
      ->required();
  command->add_option("--steps", arguments->steps, "Steps to take")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--out", arguments->out, "Directory to write to")->required();
  command->add_option("--compute", arguments->compute, "Arithmetic: fp32, bf16 or w8a8 (FP8)")
      ->check(CLI::IsMember({"fp32", "bf16", "w8a8"}))
      ->capture_default_str();
  command->add_option("--moments", arguments->moments, "AdamW moments are kept as f32 or bf16")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->capture_default_str();
  const auto number = [&](const char* name, double& value, const char* help, double least, double greatest) {
    command->add_option(name, value, help)->check(CLI::Range(least, greatest))->capture_default_str()->type_name("X");
  };
  number("--mtp-loss-weight", arguments->loss.mtp_loss_weight, "Weight of the multi-token prediction loss", 0, 100);
  number("--balance-loss-alpha", arguments->loss.balance_loss_alpha, "Weight of the sequence-wise balance loss", 0,
         100);
  number("--learning-rate", arguments->adamw.learning_rate, "Learning rate", 0, 10);
  number("--adam-beta1", arguments->adamw.adam_beta1, "Decay of the first moment", 0, 0.999999);
  number("--adam-beta2", arguments->adamw.adam_beta2, "Decay of the second moment", 0, 0.999999);
  number("--adam-eps", arguments->adamw.adam_eps, "Added to the root of the second moment", 1e-30, 1);
  number("--weight-decay", arguments->adamw.weight_decay, "Decoupled weight decay of matrices", 0, 10);
  number("--gradient-clip-norm", arguments->gradient_clip_norm, "Greatest norm of the gradient; 0: no clipping", 0,
         1e9);
  number("--bias-update-speed", arguments->bias_update_speed, "Step of the router's correction bias", 0, 1);
  command->add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->callback([arguments] { run(*arguments); });
}

}  // namespace fathom
