#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/train_commands.h"
#include "formats/json.h"
#include "train/pretrain.h"
#include "train/train_cost.h"

#include <nlohmann/json.hpp>

namespace fathom {
namespace {

struct Arguments {
  std::string recipe, run;
  bool resume = false;
  int64_t stop_after = 0;
  int64_t report_every = 10;
  int threads = 0;
};

std::string duration(double seconds) {
  const auto minutes = static_cast<int64_t>(seconds / 60);
  if (minutes >= 60) return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
  return fmt::format("{} min {:02} s", minutes, static_cast<int64_t>(seconds) % 60);
}

std::string plan_text(const Recipe& recipe, const PretrainPlan& plan) {
  std::string text =
      fmt::format("{} steps, {} tokens; {:.2f} M active weights per token (with head and MTP)\nmemory {}\n", plan.steps,
                  recipe.tokens, static_cast<double>(active_weights(recipe.model)) / 1e6,
                  training_memory_text(plan.memory, plan.average_bytes));
  if (plan.start_step > 0) text += fmt::format("goes on after step {}\n", plan.start_step);
  return text;
}

std::string step_text(const StepReport& r) {
  double violation = 0;
  for (double value : r.load_violation) violation = std::max(violation, value);
  std::string mtp;
  for (double value : r.losses.mtp) mtp += fmt::format(" mtp {:.3f}", value);
  return fmt::format(
      "step {}/{}  loss {:.4f}{}  |g| {:.2f}  lr {:.2e}  load +{:.0f} %  {:.0f} tokens/s  {:.0f} % of peak  left {}",
      r.position.step, r.steps, r.losses.main, mtp, r.gradient_norm, r.plan.learning_rate, 100 * violation,
      r.tokens_per_second, 100 * r.fraction_of_peak, duration(r.seconds_left));
}

void run(const Arguments& arguments, int& exit_code) {
  const std::string path = arguments.resume && arguments.recipe.empty()
                               ? (std::filesystem::path(arguments.run) / "recipe.json").string()
                               : arguments.recipe;
  const std::string text = read_file(path, size_t{1} << 20);
  const Recipe recipe = parse_recipe(parse_json(text, path), path);
  ThreadTeam team(arguments.threads);
  // One line that is redrawn on a terminal; elsewhere a line now and then.
  const bool terminal = isatty(STDOUT_FILENO) == 1;
  PretrainEvents events;
  events.on_start = [](const Recipe& of, const PretrainPlan& plan) { write_stdout(plan_text(of, plan)); };
  events.on_step = [&](const StepReport& report) {
    if (terminal) {
      write_stdout("\r\033[K" + step_text(report));
    } else if (report.position.step % arguments.report_every == 0 || report.position.step == report.steps) {
      write_stdout(step_text(report) + "\n");
    }
  };
  const char* fresh_line = terminal ? "\n" : "";
  events.on_validation = [&](const ValidationReport& report) {
    std::string mtp;
    for (double value : report.mtp) mtp += fmt::format(", mtp {:.4f}", value);
    write_stdout(fmt::format("{}step {}: validation loss {:.4f}{} on {} sequences\n", fresh_line, report.step,
                             report.main, mtp, report.sequences));
  };
  events.on_checkpoint = [&](const std::string& directory) {
    write_stdout(fmt::format("{}{}\n", fresh_line, directory));
  };
  PretrainOptions options;
  options.run = arguments.run;
  options.resume = arguments.resume;
  options.stop_after = arguments.stop_after;
  pretrain(recipe, text, options, events, team);
  if (interrupted()) exit_code = 130;
}

}  // namespace

void add_train_pretrain_command(CLI::App& train, int& exit_code) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = train.add_subcommand("pretrain", "Pretrain a model as a config file says");
  command->footer(
      "RUN receives recipe.json, log.jsonl (a line for each step) and checkpoints/step-N, which every command opens.\n"
      "Ctrl-C stops after the present step with a checkpoint; --resume goes on, to the same bits. Paths in the config\n"
      "are relative to the working directory; docs/training.md lists its fields.");
  command->add_option("config", arguments->recipe, "Config file (with --resume: RUN/recipe.json if it is not given)");
  command->add_option("--run", arguments->run, "Directory of the run")->required();
  command->add_flag("--resume", arguments->resume, "Go on from the run's latest checkpoint");
  command
      ->add_option("--stop-after", arguments->stop_after, "Stop after so many steps, with a checkpoint; 0: at the end")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40));
  command->add_option("--report-every", arguments->report_every, "Steps between lines where the output is no terminal")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--threads", arguments->threads, "Threads; 0: all cores")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command->callback([arguments, &exit_code] {
    if (arguments->recipe.empty() && !arguments->resume) throw_bad_input("config: name the run's config file.");
    run(*arguments, exit_code);
  });
}

}  // namespace fathom
