// fathom evaluate loss: cross-entropy on token shards, by position.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/evaluate.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "evaluate/dataset_loss.h"

namespace fathom {
namespace {

using ordered_json = nlohmann::ordered_json;

struct Arguments {
  std::string directory, data, split = "validation";
  WeightArguments weights;
  int threads = 0;
  int64_t sequences = 0;
  int64_t width = 0;
  bool json = false;
};

/// JSON has no infinity: a loss that is none is null.
ordered_json number(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

ordered_json sum_json(const LossSum& sum) {
  return {{"tokens", sum.tokens}, {"loss", number(sum.mean())}, {"perplexity", number(sum.perplexity())}};
}

void run(const Arguments& arguments) {
  const TokenDataset dataset(arguments.data, arguments.split);
  const int64_t sequences = arguments.sequences > 0 ? arguments.sequences : dataset.sequences();
  const ModelConfig config = read_model_config(arguments.directory);
  if (file_exists(arguments.directory + "/tokenizer.json")) dataset.check_tokenizer(arguments.directory);
  const int64_t length = dataset.sequence_length();
  if (config.max_position_embeddings > 0 && length > config.max_position_embeddings) {
    fmt::print(stderr,
               "fathom: the sequences have {} tokens, {} has {} positions (max_position_embeddings); those behind are "
               "computed all the same\n",
               length, arguments.directory, config.max_position_embeddings);
  }
  ThreadTeam team(arguments.threads);
  std::vector<LossSum> positions;
  {
    LoadDisplay display;
    const std::unique_ptr<LoadedModel> model =
        open_model(arguments.directory, arguments.weights.open_options(display), team);
    Progress progress("loss", static_cast<uint64_t>(sequences * length), "tokens");
    positions = loss_by_position(*model, dataset, sequences, team,
                                 [&](int64_t tokens) { progress.advance(static_cast<uint64_t>(tokens)); });
  }
  const LossSum all = by_width(positions, length).front();
  const std::vector<LossSum> parts =
      arguments.width > 0 ? by_width(positions, arguments.width) : std::vector<LossSum>();
  const auto bounds = [&](size_t part) {
    const int64_t first = static_cast<int64_t>(part) * arguments.width;
    return std::pair{first, std::min(first + arguments.width, length) - 1};
  };
  if (arguments.json) {
    ordered_json json = {{"model", arguments.directory},
                         {"data", arguments.data},
                         {"split", arguments.split},
                         {"sequences", sequences},
                         {"sequence_length", length}};
    json.update(sum_json(all));
    for (size_t i = 0; i < parts.size(); ++i) {
      ordered_json part = {{"first_position", bounds(i).first}, {"last_position", bounds(i).second}};
      part.update(sum_json(parts[i]));
      json["by_position"].push_back(std::move(part));
    }
    write_stdout(json.dump(2) + "\n");
    return;
  }
  std::string out = fmt::format("{:<16} {:>10} {:>10} {:>12}\n", "positions", "tokens", "loss", "perplexity");
  const auto row = [](const std::string& name, const LossSum& sum) {
    return fmt::format("{:<16} {:>10} {:>10.4f} {:>12.3f}\n", name, sum.tokens, sum.mean(), sum.perplexity());
  };
  for (size_t i = 0; i < parts.size(); ++i) {
    out += row(fmt::format("{} to {}", bounds(i).first, bounds(i).second), parts[i]);
  }
  write_stdout(out + row("all", all));
}

}  // namespace

void add_evaluate_loss_command(CLI::App& evaluate, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *evaluate.add_subcommand("loss", "Cross-entropy on token shards, in nats per token");
  command.add_option("--model,-m", arguments->directory, "Directory of a checkpoint in the Hugging Face layout")
      ->required()
      ->type_name("DIR");
  command.add_option("--data", arguments->data, "Directory that `fathom data pack` wrote")
      ->required()
      ->type_name("DIR");
  command.add_option("--split", arguments->split, "Its held-out documents, or those for training")
      ->check(CLI::IsMember({"validation", "train"}))
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--sequences", arguments->sequences, "Only the first N sequences; they lie in random order")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  command.add_option("--by-position", arguments->width, "Also a line for each WIDTH positions of a sequence")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("WIDTH");
  arguments->weights.add_to(command);
  command.add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--json", arguments->json, "Print one JSON object");
  command.footer(
      "Examples:\n"
      "  fathom evaluate loss --model DIR --data shards\n"
      "  fathom evaluate loss --model DIR --data shards-4096 --by-position 256 --sequences 50\n"
      "\n"
      "Every sequence starts from an empty cache; padding is not predicted. Sequences longer than the model's "
      "positions "
      "are\n"
      "computed with a warning: that is the state before its context is extended.");
  command.callback([arguments] { run(*arguments); });
}

}  // namespace fathom
