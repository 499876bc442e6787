#include "formats/synth.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/commands.h"
#include "cli/lines.h"

namespace fathom {
namespace {

struct SynthArguments {
  std::string config;
  std::string format = "bf16";
  int64_t layers = 0;
  SynthOptions options;
};

ModelConfig read_config(const std::string& file_or_preset) {
  if (!file_exists(file_or_preset)) {
    if (std::optional<ModelConfig> preset = model_preset(file_or_preset)) return *preset;
    std::string names;
    for (const std::string& name : model_preset_names()) names += (names.empty() ? "" : ", ") + name;
    throw_bad_input("--config: expected a file or one of {}, found \"{}\"", names, file_or_preset);
  }
  return read_model_config(file_or_preset);
}

void run(const SynthArguments& arguments) {
  SynthOptions options = arguments.options;
  options.config = read_config(arguments.config);
  options.fp8 = arguments.format == "fp8";
  if (arguments.layers > 0) {
    options.config.num_hidden_layers = arguments.layers;
    options.config.first_k_dense_replace = std::min(options.config.first_k_dense_replace, arguments.layers);
  }
  const auto start = std::chrono::steady_clock::now();
  const SynthResult result = write_random_checkpoint(options);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double megabytes = static_cast<double>(result.tensor_bytes) / 1e6;
  if (!result.tokenizer) {
    fmt::print(stderr, "fathom: no tokenizer was written, a vocab_size of {} has no room for one\n",
               options.config.vocab_size);
  }
  write_stdout(fmt::format("{}: {} tensors in {} file{}, {:.1f} MB, {:.1f} s, {:.0f} MB/s\n", options.out,
                           result.tensors, result.shards, result.shards == 1 ? "" : "s", megabytes, seconds,
                           megabytes / std::max(seconds, 1e-9)));
}

}  // namespace

void add_synth_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<SynthArguments>();
  SynthOptions& options = arguments->options;
  CLI::App& command = *app.add_subcommand("synth", "Write a random checkpoint in the Hugging Face layout");
  command
      .add_option("--config", arguments->config,
                  "A config.json, its directory, or a preset: deepseek-v3, moonlight-16b-a3b, deepseek-v2-lite, "
                  "v3-slice, tiny")
      ->required()
      ->type_name("FILE|PRESET");
  command.add_option("--out,-o", options.out, "The directory to write, new or empty")->required()->type_name("DIR");
  command.add_option("--format", arguments->format, "bf16 (default), or fp8 with block scales")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->type_name("NAME");
  command.add_option("--seed", options.seed, "The same seed gives the same weights (default 0)")->type_name("N");
  command.add_option("--layers", arguments->layers, "This many main layers instead of the config's")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command.add_option("--std", options.standard_deviation, "Deviation of all matrices (default: 1/sqrt(inputs) each)")
      ->check(CLI::Range(1e-6, 10.0))
      ->type_name("X");
  command.add_option("--shard-size", options.shard_bytes, "Greatest size of a file (default 4GB)")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  command
      .add_option("--tokenizer", options.tokenizer_directory,
                  "Copy tokenizer.json and tokenizer_config.json from there instead of writing one token per byte")
      ->type_name("DIR");
  command.footer(
      "Example: a model with the widths of DeepSeek-V3 that fits on a laptop's disk\n"
      "  fathom synth --config v3-slice --format fp8 --out v3-slice");
  command.callback([arguments, &exit_code] {
    run(*arguments);
    exit_code = 0;
  });
}

}  // namespace fathom
