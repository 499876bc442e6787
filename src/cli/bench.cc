// fathom bench: the machine's ceilings, kernels and a model against them. A server under load: bench_serve.cc.

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/progress.h"
#include "cli/bench_serve.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "engine/kernel_measure.h"
#include "engine/measure.h"
#include "kernels/cpu/isa.h"
#include "train/measure_training.h"
#include "train/train_cost.h"

namespace fathom {
namespace {

struct Arguments {
  std::string model, depth = "0", batch = "1";
  WeightArguments weights;
  int threads = 0;
  int64_t prefill = 256;
  int64_t decode = 32;
  int64_t repeat = 5;
  int64_t read_mib = 1024;
  bool kernels = false, no_kernels = false;
  std::string only;
  bool no_first_token = false, cold = false;
  bool train = false;
  std::string train_config;
  LoadArguments load;
  bool json = false;
};

nlohmann::ordered_json limits_json(const MachineLimits& limits) {
  return {{"read_bytes_per_second", limits.read_bytes_per_s},
          {"f32_operations_per_second", limits.f32_ops_per_s},
          {"bf16_operations_per_second", limits.bf16_ops_per_s},
          {"int8_operations_per_second", limits.int8_ops_per_s}};
}

nlohmann::ordered_json spread_json(const Spread& spread) {
  return {{"least", spread.least}, {"median", spread.median}, {"greatest", spread.greatest}};
}

nlohmann::ordered_json operations_json(const Operations& operations) {
  return {{"f32", operations.f32}, {"bf16", operations.bf16}, {"int8", operations.int8}};
}

template <typename Repeats>
void add_repeats(nlohmann::ordered_json& json, const Repeats& repeats) {
  for (const auto& repeat : repeats) {
    json["seconds_per_pass"].push_back(repeat.seconds);
    json["limits"].push_back(limits_json(repeat.limits));
  }
}

nlohmann::ordered_json kernel_json(const KernelMeasurement& row) {
  const double seconds = row.seconds();
  nlohmann::ordered_json json = {{"kernel", row.kernel},
                                 {"variant", row.variant},
                                 {"tokens_per_pass", row.tokens},
                                 {"bytes", row.bytes},
                                 {"operations", operations_json(row.operations)},
                                 {"bytes_per_second", row.bytes / seconds},
                                 {"operations_per_second", row.operations.total() / seconds},
                                 {"bound", row.bound()},
                                 {"ceiling_fraction", spread_json(row.ceiling_fraction())}};
  add_repeats(json, row.repeats);
  return json;
}

nlohmann::ordered_json measurement_json(const Measurement& m) {
  const PassCost cost = m.mean_cost();
  nlohmann::ordered_json json = {{"name", m.name},
                                 {"tokens_per_pass", m.tokens},
                                 {"tokens_per_second", m.tokens_per_s()},
                                 {"weight_bytes", cost.weight_bytes},
                                 {"cache_bytes", cost.cache_bytes},
                                 {"product_operations", operations_json(cost.products)},
                                 {"attention_operations", operations_json(cost.attention)},
                                 {"ceiling_fraction", spread_json(m.ceiling_fraction())},
                                 {"read_fraction", spread_json(m.read_fraction())},
                                 {"peak_fraction", spread_json(m.peak_fraction())}};
  add_repeats(json, m.repeats);
  return json;
}

// "75 % (71..78)".
std::string percent(const Spread& spread) {
  return fmt::format("{:.0f} % ({:.0f}..{:.0f})", 100 * spread.median, 100 * spread.least, 100 * spread.greatest);
}

class BenchCommand {
 public:
  explicit BenchCommand(const Arguments& arguments)
      : arguments_(arguments),
        depths_(parse_numbers(arguments.depth, "--depth", 0, int64_t{1} << 24)),
        batches_(parse_numbers(arguments.batch, "--batch", 1, 4096)),
        kernels_(arguments.kernels || (arguments.model.empty() && !arguments.no_kernels && !arguments.train)),
        team_(arguments.threads) {
    if (arguments_.model.empty() && arguments_.cold) throw_bad_input("--cold needs --model");
    if (arguments_.no_first_token && arguments_.cold)
      throw_bad_input("--cold is about the first token, which --no-first-token leaves out");
    if (!kernels_ && !arguments_.only.empty())
      throw_bad_input("--only chooses among the kernels, and none are measured; add --kernels");
    if (!arguments_.model.empty()) check_model();
    if (!arguments_.train_config.empty()) train_model_ = read_model_config(arguments_.train_config);
  }

  void run() {
    // A cold start comes before anything of the model is in memory.
    if (!arguments_.model.empty() && !arguments_.no_first_token) measure_start();
    ReadBandwidth bandwidth(team_, static_cast<size_t>(arguments_.read_mib) << 20);
    MomentaryLimits limits(team_, bandwidth);
    report_machine(bandwidth);
    if (kernels_) run_kernels(limits);
    if (!arguments_.model.empty()) run_model(bandwidth, limits);
    if (arguments_.train) run_training();
    if (arguments_.json) write_stdout(report_.dump(2) + "\n");
  }

 private:
  // Mistakes about the model are told before minutes of measuring.
  void check_model() {
    const WeightOptions weights = arguments_.weights.options();
    const ModelConfig config = read_model_config(arguments_.model);
    options_for(config, weights, arguments_.weights.compute_mode().value_or(default_compute(weights.storage, &config)),
                arguments_.model);
    const int64_t most = config.max_position_embeddings;
    const int64_t needed = *std::max_element(depths_.begin(), depths_.end()) +
                           std::max({arguments_.prefill, arguments_.decode, int64_t{1}});
    if (most > 0 && needed > most) {
      throw_bad_input(
          "{}: --depth with --prefill or --decode needs {} positions; the model has {} "
          "(max_position_embeddings)",
          arguments_.model, needed, most);
    }
  }

  void print(const std::string& text) const {
    if (!arguments_.json) write_stdout(text);
  }

  // A line that grows on the terminal would run into the rows that appear there; without rows, the line shows itself.
  std::unique_ptr<Progress> progress(const char* label, size_t total) const {
    if (!arguments_.json && ::isatty(STDOUT_FILENO) == 1) return nullptr;
    return std::make_unique<Progress>(label, total, "measurements");
  }

  void measure_start() {
    std::vector<std::string> files;
    {
      const Checkpoint checkpoint(arguments_.model);
      for (const auto& file : checkpoint.files()) files.push_back(file->path());
    }
    std::vector<std::string> child = {
        "generate",         "--model", arguments_.model, "--threads", std::to_string(arguments_.threads), "--ids", "0",
        "--max-new-tokens", "1",       "--ignore-eos",   "--weights", arguments_.weights.weights};
    if (!arguments_.weights.compute.empty()) child.insert(child.end(), {"--compute", arguments_.weights.compute});
    if (arguments_.weights.group != 0) {
      child.insert(child.end(), {"--weights-group", std::to_string(arguments_.weights.group)});
    }
    if (arguments_.weights.zero_point) child.emplace_back("--weights-zero-point");
    if (arguments_.weights.experts_in_memory != 0) {
      child.insert(child.end(), {"--experts-in-memory", std::to_string(arguments_.weights.experts_in_memory)});
    }
    const std::string program = std::filesystem::read_symlink("/proc/self/exe").string();
    first_token_ = measure_first_token(program, child, files, arguments_.cold);
  }

  void report_machine(ReadBandwidth& bandwidth) {
    // Five samples: the host's other tenants show in the spread.
    std::vector<double> reads, f32, bf16, int8;
    for (int i = 0; i < 5; ++i) {
      const MachineLimits sample = measure_limits(team_, bandwidth);
      reads.push_back(sample.read_bytes_per_s);
      f32.push_back(sample.f32_ops_per_s);
      bf16.push_back(sample.bf16_ops_per_s);
      int8.push_back(sample.int8_ops_per_s);
    }
    const MachineLimits limits = {median(reads), median(f32), median(bf16), median(int8)};
    report_["isa"] = isa_name(active_isa());
    report_["threads"] = team_.size();
    report_["limits"] = limits_json(limits);
    std::string text =
        fmt::format("Machine: {} threads, {}; median of 5 (least..greatest)\n", team_.size(), isa_name(active_isa()));
    const auto line = [&](const char* name, const std::vector<double>& values, const char* unit) {
      const Spread s = spread(values);
      if (s.greatest == 0) {
        text += fmt::format("  {:<18} {:>9}\n", name, "none");
        return;
      }
      text += fmt::format("  {:<18} {:>9.1f} {:<6} ({:.1f}..{:.1f})\n", name, s.median / 1e9, unit, s.least / 1e9,
                          s.greatest / 1e9);
    };
    line("streaming read", reads, "GB/s");
    line("float32 FMA", f32, "Gop/s");
    line("BF16 dot products", bf16, "Gop/s");
    line("INT8 dot products", int8, "Gop/s");
    print(text);
  }

  void run_kernels(MomentaryLimits& limits) {
    KernelMeasureOptions options;
    options.repeats = std::min<int64_t>(arguments_.repeat, 3);
    print(
        fmt::format("\nKernels: median of {}; the fraction is of the ceilings measured around each repeat\n"
                    "{:<10} {:<42} {:>6} {:>11} {:>8} {:>9} {:>6}  {}\n",
                    options.repeats, "", "", "tokens", "us", "GB/s", "Gop/s", "bound", "of ceiling (range)"));
    options.only = arguments_.only;
    const auto progress_line = progress("kernels", options.only.empty() ? kernel_measurements() : 0);
    report_["kernels"] = nlohmann::ordered_json::array();
    measure_kernels(options, team_, limits, [&](const KernelMeasurement& row) {
      report_["kernels"].push_back(kernel_json(row));
      const double seconds = row.seconds();
      print(fmt::format("{:<10} {:<42} {:>6} {:>11.1f} {:>8.1f} {:>9.1f} {:>6}  {}\n", row.kernel, row.variant,
                        row.tokens, seconds * 1e6, row.bytes / seconds / 1e9, row.operations.total() / seconds / 1e9,
                        row.bound(), percent(row.ceiling_fraction())));
      if (progress_line) progress_line->advance();
    });
  }

  void run_model(const ReadBandwidth& bandwidth, MomentaryLimits& limits) {
    const bool peak_is_the_models = reset_peak_memory();
    const auto start = std::chrono::steady_clock::now();
    const std::unique_ptr<LoadedModel> model = [&] {
      LoadDisplay display;
      return open_model(arguments_.model, arguments_.weights.open_options(display), team_);
    }();
    const double open_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // What is measured is the steady state: every page of the weights mapped (where experts are to be few in memory:
    // those that the warm-up brings in).
    if (model->held.storage == WeightStorage::mapped && arguments_.weights.experts_in_memory == 0) {
      for (const auto& file : model->checkpoint->files()) file->populate();
    }
    const std::string compute(compute_mode_name(model->compute));

    report_["model"] = arguments_.model;
    report_["compute"] = compute;
    report_["weights"] = weight_storage_name(model->held.storage);
    report_["open_seconds"] = open_seconds;
    std::string text = fmt::format("\nModel: {}, {}, weights {}; opened in {:.2f} s", arguments_.model, compute,
                                   weight_storage_name(model->held.storage), open_seconds);
    if (first_token_) {
      report_["first_token"] = {{"seconds", first_token_->seconds},
                                {"cold", arguments_.cold},
                                {"cached_fraction", first_token_->cached_fraction}};
      text += fmt::format(
          "; a new process gave its first token after {:.2f} s ({}: {:.0f} % of the files in the page "
          "cache)",
          first_token_->seconds, arguments_.cold ? "cold" : "warm", 100 * first_token_->cached_fraction);
    }
    print(text + fmt::format("\n{:<28} {:>9} {:>9} {:>7} {:>16} {:>8} {:>16}  {}\n", "", "tokens/s", "ms/pass", "GB/s",
                             "of read", "Gop/s", "of peak", "of ceiling (range)"));

    const size_t per_depth = (arguments_.prefill > 0 ? 1 : 0) + (arguments_.decode > 0 ? batches_.size() : 0);
    const auto progress_line = progress("model", depths_.size() * per_depth);
    report_["measurements"] = nlohmann::ordered_json::array();
    ResidentMemory greatest;
    const auto add = [&](const Measurement& m) {
      greatest.mapped = std::max(greatest.mapped, m.memory.mapped);
      greatest.anonymous = std::max(greatest.anonymous, m.memory.anonymous);
      report_["measurements"].push_back(measurement_json(m));
      const PassCost cost = m.mean_cost();
      const double seconds = m.seconds();
      print(fmt::format("{:<28} {:>9.2f} {:>9.1f} {:>7.1f} {:>16} {:>8.1f} {:>16}  {}\n", m.name, m.tokens_per_s(),
                        seconds * 1e3, (cost.weight_bytes + cost.cache_bytes) / seconds / 1e9,
                        percent(m.read_fraction()), cost.operations() / seconds / 1e9, percent(m.peak_fraction()),
                        percent(m.ceiling_fraction())));
      if (progress_line) progress_line->advance();
    };
    for (const int64_t depth : depths_) {
      if (arguments_.prefill > 0) {
        add(measure_prefill(*model, arguments_.prefill, depth, arguments_.repeat, team_, limits));
      }
      if (arguments_.decode == 0) continue;
      for (const int64_t batch : batches_) {
        add(measure_decode(*model, batch, depth, arguments_.decode, arguments_.repeat, team_, limits));
      }
    }
    greatest.anonymous -= std::min<uint64_t>(greatest.anonymous, bandwidth.bytes());
    greatest.peak =
        peak_is_the_models ? resident_memory().peak - bandwidth.bytes() : greatest.mapped + greatest.anonymous;
    report_["peak_resident_bytes"] = greatest.peak;
    report_["mapped_resident_bytes"] = greatest.mapped;
    report_["anonymous_resident_bytes"] = greatest.anonymous;
    print(
        fmt::format("Peak resident memory {:.2f} GB: mapped files {:.2f} GB, the rest {:.2f} GB (the measuring buffer "
                    "of {:.2f} GB is not counted)\n",
                    static_cast<double>(greatest.peak) / 1e9, static_cast<double>(greatest.mapped) / 1e9,
                    static_cast<double>(greatest.anonymous) / 1e9, static_cast<double>(bandwidth.bytes()) / 1e9));
  }

  void run_training() {
    TrainOptions options;
    options.sequences = 8;
    options.length = std::min<int64_t>(512, train_model_.max_position_embeddings);
    const auto active = static_cast<double>(active_weights(train_model_));
    report_["training"] = {{"active_weights", active_weights(train_model_)},
                           {"sequences", options.sequences},
                           {"length", options.length},
                           {"measurements", nlohmann::ordered_json::array()}};
    print(fmt::format(
        "\nTraining: {}, {:.1f} M active weights, steps of {} sequences of {} tokens; forward, backward and "
        "optimizer\n",
        arguments_.train_config.empty() ? "a model of this program" : arguments_.train_config, active / 1e6,
        options.sequences, options.length));
    for (const ComputeMode mode : {ComputeMode::bf16, ComputeMode::w8a8}) {
      const char* name = mode == ComputeMode::bf16 ? "bf16" : "fp8";
      options.compute = mode;
      nlohmann::ordered_json row = {{"precision", name}};
      const auto m =
          measure_training(train_model_, options, arguments_.repeat, team_, [&](const TrainingMemory& memory) {
            row["memory_bytes"] = memory.total();
            print(fmt::format("{:<5} memory {}\n", name, training_memory_text(memory)));
          });
      const Spread peak = m.peak_fraction();
      row["tokens_per_second"] = m.tokens_per_s();
      row["operations_per_step"] = m.operations;
      row["peak_fraction"] = spread_json(peak);
      for (const TrainingRepeat& repeat : m.repeats) {
        row["forward_backward_seconds"].push_back(repeat.forward_backward_seconds);
        row["optimizer_seconds"].push_back(repeat.optimizer_seconds);
        row["bf16_operations_per_second"].push_back(repeat.peak_ops_per_s);
      }
      report_["training"]["measurements"].push_back(row);
      print(
          fmt::format("{:<5} {:.0f} tokens/s, {:.0f} ms a step ({:.0f} of them the optimizer), {:.1f} Gop/s, {} of the "
                      "BF16 dot products\n",
                      name, m.tokens_per_s(), 1e3 * m.seconds(), 1e3 * m.optimizer_seconds(),
                      m.operations / m.seconds() / 1e9, percent(peak)));
    }
  }

  Arguments arguments_;
  ModelConfig train_model_ = training_bench_model();
  std::vector<int64_t> depths_, batches_;
  bool kernels_;
  ThreadTeam team_;
  std::optional<FirstToken> first_token_;
  nlohmann::ordered_json report_;
};

}  // namespace

void add_bench_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("bench", "Measure this machine's ceilings, the kernels and a model, or load a server");
  command->add_option("--model,-m", arguments->model, "Checkpoint directory; without it, machine and kernels")
      ->type_name("DIR");
  arguments->weights.add_to(*command);
  CLI::Option* kernels = command->add_flag("--kernels", arguments->kernels,
                                           "With --model: measure each kernel against its ceiling as well");
  command->add_flag("--no-kernels", arguments->no_kernels, "Without --model: measure the machine alone")
      ->excludes(kernels);
  command
      ->add_option("--only", arguments->only,
                   "Of the kernels, only rows that contain this: \"linear FP8\", router, sampling")
      ->type_name("WORDS");
  command->add_option("--prefill", arguments->prefill, "Tokens of a prompt in one pass; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--decode", arguments->decode, "Tokens decoded per sequence and repeat; 0: none")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 16))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--depth", arguments->depth, "Positions already in the cache: a list, 0,4096")
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--batch", arguments->batch, "Sequences decoded together: a list, 1,4,16")
      ->type_name("LIST")
      ->capture_default_str();
  command->add_option("--repeat", arguments->repeat, "Repeats of each measurement (of a kernel at most 3)")
      ->check(CLI::Range(int64_t{1}, int64_t{1000}))
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--no-first-token", arguments->no_first_token,
                    "Do not start a new process to time its first token");
  command->add_flag("--cold", arguments->cold,
                    "Drop the checkpoint from the page cache before that process starts; reading it again takes long");
  CLI::Option* train = command->add_flag("--train", arguments->train,
                                         "Measure training steps in BF16 and FP8 (kernels then only with --kernels)");
  command
      ->add_option("--train-config", arguments->train_config,
                   "config.json of the model to train; without it one of about 20 M active weights")
      ->needs(train)
      ->type_name("FILE");
  command->add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--read-mib", arguments->read_mib, "Memory that a streaming read runs over; far more than caches")
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 20))
      ->type_name("MIB")
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print one JSON object instead of tables");
  arguments->load.add_to(*command);
  command->footer(
      "Examples:\n"
      "  fathom bench\n"
      "  fathom bench --only 'linear INT4 g128'\n"
      "  fathom bench --model DIR --prefill 256 --decode 32 --depth 0,4096 --batch 1,4,16\n"
      "  fathom bench --model DIR --prefill 0 --decode 1 --repeat 1 --cold --json\n"
      "  fathom bench --train\n"
      "  fathom bench --serve http://127.0.0.1:8080 --concurrent 1,16,200 --cancel 0.1 --verify --plot load.svg\n"
      "\n"
      "Bytes and operations are counted from the shapes (experts: those that the router chose). The ceilings are\n"
      "measured again around each repeat, and a fraction is the median over the repeats with its range.\n"
      "of read: weight bytes at the streaming read. of peak: operations at the rates of their arithmetic. of ceiling:\n"
      "the longer of reading the weights and multiplying by them, plus the cache's bytes and attention's operations.\n"
      "Training: the operations of the model (what the backward computes again does not count) at the rate of BF16 "
      "dot\n"
      "products, in FP8 too.");
  command->callback([arguments, &exit_code] {
    if (arguments->load.wanted) return bench_server(arguments->load, arguments->json, exit_code);
    BenchCommand(*arguments).run();
  });
}

}  // namespace fathom
