#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "engine/measure.h"
#include "kernels/cpu/isa.h"

namespace fathom {
namespace {

struct Arguments {
  std::string model, depth = "0", batch = "1";
  WeightArguments weights;
  int threads = 0;
  int64_t prefill = 256;
  int64_t decode = 16;
  int64_t repeat = 5;
  bool json = false;
};

nlohmann::json measurement_json(const Measurement& m, const MachineLimits& limits) {
  nlohmann::json json = {{"name", m.name},
                         {"tokens_per_pass", m.tokens},
                         {"seconds_per_pass", m.seconds},
                         {"tokens_per_second", m.tokens_per_s()},
                         {"weight_bytes", m.cost.weight_bytes},
                         {"cache_bytes", m.cost.cache_bytes},
                         {"operations", m.cost.operations},
                         {"read_bytes_per_second", m.read_limit},
                         {"read_fraction", m.read_fraction()}};
  if (limits.bf16_ops_per_s > 0) json["bf16_fraction"] = m.arithmetic_fraction(limits.bf16_ops_per_s);
  json["f32_fraction"] = m.arithmetic_fraction(limits.f32_ops_per_s);
  return json;
}

void print_row(const Measurement& m, const MachineLimits& limits) {
  const double seconds = m.median_seconds();
  const double ceiling = limits.bf16_ops_per_s > 0 ? limits.bf16_ops_per_s : limits.f32_ops_per_s;
  fmt::print("{:<28} {:>9.2f} {:>10.1f} {:>8.2f} {:>8.0f}% {:>10.1f} {:>8.0f}%\n", m.name, m.tokens_per_s(),
             seconds * 1e3, (m.cost.weight_bytes + m.cost.cache_bytes) / seconds / 1e9, 100 * m.read_fraction(),
             m.cost.operations / seconds / 1e9, 100 * m.arithmetic_fraction(ceiling));
}

std::unique_ptr<LoadedModel> open(const Arguments& arguments, ThreadTeam& team) {
  LoadDisplay display;
  return open_model(arguments.model, arguments.weights.open_options(display), team);
}

void run(const Arguments& arguments) {
  ThreadTeam team(arguments.threads);
  const auto start = std::chrono::steady_clock::now();
  const std::unique_ptr<LoadedModel> model = arguments.model.empty() ? nullptr : open(arguments, team);
  const double open_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  // What is measured is the steady state: every page of the weights mapped.
  if (model != nullptr && model->held.storage == WeightStorage::mapped) {
    for (const auto& file : model->checkpoint->files()) file->populate();
  }
  ReadBandwidth bandwidth(team);
  MachineLimits limits = measure_arithmetic(team);
  std::vector<double> reads;
  for (int i = 0; i < 5; ++i) reads.push_back(bandwidth.measure());
  limits.read_bytes_per_s = median(reads);
  nlohmann::json report = {{"isa", std::string(isa_name(active_isa()))},
                           {"threads", team.size()},
                           {"limits",
                            {{"read_bytes_per_second", limits.read_bytes_per_s},
                             {"f32_operations_per_second", limits.f32_ops_per_s},
                             {"bf16_operations_per_second", limits.bf16_ops_per_s},
                             {"int8_operations_per_second", limits.int8_ops_per_s}}}};
  if (!arguments.json) {
    fmt::print("{} threads, {}\n", team.size(), isa_name(active_isa()));
    fmt::print("  streaming read     {:>10.1f} GB/s\n", limits.read_bytes_per_s / 1e9);
    fmt::print("  float32 FMA        {:>10.1f} Gop/s\n", limits.f32_ops_per_s / 1e9);
    if (limits.bf16_ops_per_s > 0) fmt::print("  BF16 dot products  {:>10.1f} Gop/s\n", limits.bf16_ops_per_s / 1e9);
    if (limits.int8_ops_per_s > 0) fmt::print("  INT8 dot products  {:>10.1f} Gop/s\n", limits.int8_ops_per_s / 1e9);
  }
  if (model != nullptr) {
    if (!arguments.json) {
      fmt::print("\n{}, {}, weights {}; opened in {:.2f} s\n", arguments.model, compute_mode_name(model->compute),
                 arguments.weights.weights, open_seconds);
      fmt::print("{:<28} {:>9} {:>10} {:>8} {:>9} {:>10} {:>9}\n", "", "tokens/s", "ms/pass", "GB/s", "of read",
                 "Gop/s", limits.bf16_ops_per_s > 0 ? "of BF16" : "of FMA");
    }
    std::vector<Measurement> rows;
    const auto add = [&](Measurement measurement) {
      if (!arguments.json) print_row(measurement, limits);
      rows.push_back(std::move(measurement));
    };
    for (int32_t depth : parse_ids(arguments.depth, "--depth")) {
      if (arguments.prefill > 0)
        add(measure_prefill(*model, arguments.prefill, depth, arguments.repeat, team, bandwidth));
      for (int32_t batch : parse_ids(arguments.batch, "--batch")) {
        if (batch < 1) throw_bad_input("--batch: {} sequences cannot be decoded.", batch);
        if (arguments.decode > 0) {
          add(measure_decode(*model, batch, depth, arguments.decode, arguments.repeat, team, bandwidth));
        }
      }
    }
    const ResidentMemory memory = resident_memory();
    report["model"] = arguments.model;
    report["compute"] = std::string(compute_mode_name(model->compute));
    report["weights"] = arguments.weights.weights;
    report["open_seconds"] = open_seconds;
    report["peak_resident_bytes"] = memory.peak;
    report["anonymous_resident_bytes"] = memory.anonymous;
    for (const Measurement& row : rows) report["measurements"].push_back(measurement_json(row, limits));
    if (!arguments.json) {
      fmt::print(
          "peak resident memory {:.2f} GB (mapped weights included), {:.2f} GB of it not mapped files (1.07 GB are the "
          "measuring buffer)\n",
          static_cast<double>(memory.peak) / 1e9, static_cast<double>(memory.anonymous) / 1e9);
    }
  }
  if (arguments.json) fmt::print("{}\n", report.dump(2));
}

}  // namespace

void add_bench_command(CLI::App& app, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("bench", "Measure this machine's ceilings and a model against them");
  command->footer(
      "Bytes and operations are counted from the shapes (experts: those that the router really chose). The fraction "
      "of\n"
      "the streaming read is the median over the repeats, each beside a streaming read made just before it.");
  command->add_option("--model", arguments->model, "Checkpoint directory; without it only the ceilings are measured");
  arguments->weights.add_to(*command);
  command->add_option("--prefill", arguments->prefill, "Tokens of a prompt in one pass; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--decode", arguments->decode, "Tokens decoded per sequence and repeat; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16))
      ->capture_default_str();
  command->add_option("--depth", arguments->depth, "Positions already in the cache: a list, 0,4096")
      ->capture_default_str();
  command->add_option("--batch", arguments->batch, "Sequences decoded together: a list, 1,4,16")->capture_default_str();
  command->add_option("--repeat", arguments->repeat, "Repeats of each measurement")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print one JSON object instead of a table");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace fathom
