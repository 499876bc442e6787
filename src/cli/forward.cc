#include <CLI/CLI.hpp>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/trace.h"
#include "formats/safetensors.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

struct Arguments {
  std::string model, ids, attention = "auto", dump = "logits", out;
  WeightArguments weights{.compute = "fp32"};
  std::string positions;
  int threads = 0;
  int64_t chunk = 512;
  int64_t greedy = 0;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

TraceOptions trace_options(const Arguments& arguments) {
  TraceOptions options;
  options.logits = false;
  for (const std::string& part : split(arguments.dump)) {
    if (part == "logits") {
      options.logits = true;
    } else if (part == "hidden") {
      options.hidden = true;
    } else if (part == "router") {
      options.router = true;
    } else if (part == "cache") {
      options.cache = true;
    } else if (part == "mtp") {
      options.mtp = true;
    } else {
      throw_bad_input("--dump: \"{}\" is not one of logits, hidden, router, cache, mtp.", part);
    }
  }
  options.greedy_tokens = arguments.greedy;
  options.chunk = arguments.chunk;
  if (arguments.attention == "expanded") options.attention = AttentionForm::expanded;
  if (arguments.attention == "absorbed") options.attention = AttentionForm::absorbed;
  if (!arguments.positions.empty()) {
    for (int32_t position : parse_ids(arguments.positions, "--positions")) options.positions.push_back(position);
  }
  return options;
}

std::unique_ptr<LoadedModel> open(const Arguments& arguments, ThreadTeam& team) {
  LoadDisplay display;
  return open_model(arguments.model, arguments.weights.open_options(display), team);
}

void run(const Arguments& arguments) {
  const std::vector<int32_t> ids = parse_ids(arguments.ids, "--ids");
  const TraceOptions options = trace_options(arguments);
  ThreadTeam team(arguments.threads);
  const std::unique_ptr<LoadedModel> model = open(arguments, team);
  if (options.mtp && model->config.num_nextn_predict_layers == 0) {
    fmt::print(stderr, "fathom: {} has no MTP layer; the file will hold no mtp tensors.\n", arguments.model);
  }
  const std::vector<TracedTensor> tensors = trace_forward(*model, ids, options, team);
  std::vector<std::pair<std::string, TensorView>> views;
  for (const TracedTensor& tensor : tensors) views.emplace_back(tensor.name, tensor.view());
  write_safetensors(arguments.out, views,
                    {{"compute", arguments.weights.compute},
                     {"weights", std::string(weight_storage_name(model->held.storage))},
                     {"isa", std::string(isa_name(active_isa()))}});
}

}  // namespace

void add_forward_command(CLI::App& app, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("forward", "Run a prompt and write the numbers themselves to a safetensors file");
  command->footer(
      "Tensor names: prompt, embedding, layer.I.hidden, layer.I.c_kv, layer.I.k_pe, layer.I.router.index (ascending),\n"
      "layer.I.router.weight, layer.I.router.score, hidden.final, logits, greedy.tokens, greedy.logits, "
      "mtp.next_tokens,\n"
      "mtp.hidden, mtp.logits, mtp.draft_tokens. With --positions: NAME_at_positions, last_logits, inverse_frequency.");
  command->add_option("--model", arguments->model, "Checkpoint directory in the Hugging Face layout")->required();
  command->add_option("--ids", arguments->ids, "Prompt as token ids: 1,2,3 (nothing is added)")->required();
  arguments->weights.add_to(*command);
  command->add_option("--dump", arguments->dump, "What to write: any of logits,hidden,router,cache,mtp")
      ->capture_default_str();
  command->add_option("--out", arguments->out, "File to write")->required();
  command
      ->add_option("--greedy", arguments->greedy, "Continue greedily by so many tokens (greedy.tokens, greedy.logits)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--chunk", arguments->chunk, "Most tokens of the prompt in one pass")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  command
      ->add_option("--attention", arguments->attention,
                   "Formula of the latent attention: auto (by the lengths), expanded or absorbed")
      ->check(CLI::IsMember({"auto", "expanded", "absorbed"}))
      ->capture_default_str();
  command->add_option("--positions", arguments->positions, "Keep only these positions' rows: 0,100,5999");
  command->add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->callback([arguments] { run(*arguments); });
}

}  // namespace fathom
