// fathom train plot: pictures of training runs, drawn by gnuplot from their logs.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "cli/lines.h"
#include "cli/train_commands.h"
#include "train/plot.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct Arguments {
  std::vector<std::string> runs, labels;
  std::string out;
  int64_t smooth = 10;
  bool json = false;
};

// The directories of an argument: one, or several separated by commas whose mean is meant.
std::vector<std::string> directories_of(const std::string& argument) {
  if (fs::is_directory(argument)) return {argument};
  std::vector<std::string> directories;
  size_t begin = 0;
  for (size_t end; begin <= argument.size(); begin = end + 1) {
    end = std::min(argument.find(',', begin), argument.size());
    directories.push_back(argument.substr(begin, end - begin));
  }
  return directories;
}

RunLog read_argument(const std::string& argument) {
  std::vector<RunLog> logs;
  for (const std::string& directory : directories_of(argument)) logs.push_back(read_run_log(directory));
  return logs.size() == 1 ? std::move(logs[0]) : mean_log(logs, argument);
}

std::string last_part(const std::string& run) {
  fs::path path = fs::absolute(run).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

// The last part of the path, or the path where two runs share it; twice the same path gets a number.
std::vector<std::string> default_labels(const std::vector<std::string>& runs) {
  std::vector<std::string> labels;
  std::map<std::string, int> uses;
  for (const std::string& run : runs) {
    std::string label;
    for (const std::string& directory : directories_of(run)) label += (label.empty() ? "" : ",") + last_part(directory);
    labels.push_back(label);
    ++uses[label];
  }
  std::map<std::string, int> taken;
  for (size_t i = 0; i < runs.size(); ++i) {
    if (uses[labels[i]] > 1) labels[i] = runs[i];
    if (const int count = ++taken[labels[i]]; count > 1) labels[i] += fmt::format(" ({})", count);
  }
  return labels;
}

// JSON has no NaN: what the log does not say is null.
ordered_json number_json(double value) {
  return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr);
}

std::string number_text(double value, const char* unit = "") {
  return std::isfinite(value) ? fmt::format("{:.4f}{}", value, unit) : "-";
}

std::string table(const std::vector<PlotRun>& runs, const std::vector<RunSummary>& summaries) {
  size_t width = 3;
  for (const PlotRun& run : runs) width = std::max(width, run.label.size());
  std::string text = fmt::format("{:<{}}  {:>8}  {:>13}  {:>9}  {:>10}  {:>14}  {:>18}", "run", width, "steps",
                                 "tokens", "main loss", "validation", "violation mean", "violation greatest");
  text += runs.size() > 1 ? fmt::format("  {:>19}\n", "greatest difference") : "\n";
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunSummary& s = summaries[i];
    text += fmt::format("{:<{}}  {:>8}  {:>13}  {:>9}  {:>10}  {:>14}  {:>18}", terminal_text(runs[i].label), width,
                        s.steps, s.tokens, number_text(s.main_loss), number_text(s.validation_loss),
                        number_text(s.mean_load_violation), number_text(s.greatest_load_violation));
    text += runs.size() > 1 ? fmt::format("  {:>19}\n", number_text(100 * s.greatest_relative_difference, " %")) : "\n";
  }
  return text;
}

ordered_json report_json(const Arguments& arguments, const std::vector<PlotRun>& runs,
                         const std::vector<RunSummary>& summaries, const std::vector<std::string>& files) {
  ordered_json report;
  report["smooth"] = arguments.smooth;
  report["runs"] = ordered_json::array();
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunSummary& s = summaries[i];
    report["runs"].push_back({{"run", arguments.runs[i]},
                              {"label", runs[i].label},
                              {"steps", s.steps},
                              {"tokens", s.tokens},
                              {"main_loss", number_json(s.main_loss)},
                              {"validation_loss", number_json(s.validation_loss)},
                              {"mean_load_violation", number_json(s.mean_load_violation)},
                              {"greatest_load_violation", number_json(s.greatest_load_violation)},
                              {"greatest_relative_difference", number_json(s.greatest_relative_difference)}});
  }
  report["files"] = files;
  return report;
}

void run(const Arguments& arguments) {
  if (arguments.runs.size() > kMostPlotRuns) {
    throw_bad_input("{} runs do not fit into one picture; give at most {}.", arguments.runs.size(), kMostPlotRuns);
  }
  if (!arguments.labels.empty() && arguments.labels.size() != arguments.runs.size()) {
    throw_bad_input("--label was given {} times for {} runs; give it once for each run, or not at all.",
                    arguments.labels.size(), arguments.runs.size());
  }
  if (arguments.out.empty() && (arguments.runs.size() > 1 || directories_of(arguments.runs[0]).size() > 1)) {
    throw_bad_input("Several runs need --out, the directory for their common pictures.");
  }
  const std::vector<std::string> labels = arguments.labels.empty() ? default_labels(arguments.runs) : arguments.labels;
  std::vector<PlotRun> runs;
  for (size_t i = 0; i < arguments.runs.size(); ++i) runs.push_back({labels[i], read_argument(arguments.runs[i])});

  const std::string out = arguments.out.empty() ? (fs::path(arguments.runs[0]) / "plots").string() : arguments.out;
  if (fs::exists(out) && !fs::is_directory(out)) throw_bad_input("--out: {} exists and is not a directory.", out);
  make_directories(out);
  const std::vector<Picture> pictures = training_pictures(runs, arguments.smooth);
  std::vector<std::string> files;
  for (const Picture& picture : pictures) {
    for (std::string& path : write_picture_source(picture, out)) files.push_back(std::move(path));
  }
  bool drawn = true;
  for (const Picture& picture : pictures) {
    check_interrupt();
    std::vector<std::string> paths = draw_picture(picture, out);
    drawn = drawn && !paths.empty();
    if (!drawn) break;
    files.insert(files.end(), paths.begin(), paths.end());
  }

  std::vector<RunSummary> summaries;
  for (size_t i = 0; i < runs.size(); ++i) summaries.push_back(summarize_run(runs, i, arguments.smooth));
  if (arguments.json) {
    write_stdout(
        report_json(arguments, runs, summaries, files).dump(2, ' ', false, ordered_json::error_handler_t::replace) +
        "\n");
  } else {
    std::string text;
    for (const std::string& file : files) text += file + "\n";
    write_stdout(text + "\n" + table(runs, summaries));
  }
  if (!drawn) {
    throw_failure(
        "No picture was drawn, because gnuplot is not installed (Debian package gnuplot-nox); the data and scripts are "
        "in {}.",
        out);
  }
}

}  // namespace

void add_train_plot_command(CLI::App& train, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = train.add_subcommand("plot", "Draw the curves of a training run, or of several to compare them");
  command
      ->add_option(
          "RUN", arguments->runs,
          "Run directories, with a log.jsonl each; the first is the reference. A,B is the mean of runs A and B, "
          "which differ in their seed")
      ->required()
      ->type_name("");
  command->add_option("--out", arguments->out, "Directory for pictures, scripts and data; for one run, RUN/plots")
      ->type_name("DIR");
  command->add_option("--label", arguments->labels, "Name of a run in the legends; once for each run, in their order")
      ->type_name("TEXT")
      ->allow_extra_args(false);
  command
      ->add_option("--smooth", arguments->smooth,
                   "Steps that losses are averaged over: each weighs 1 - 1/N of the next; 1: no average")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->type_name("N")
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "Print one JSON object");
  command->footer(
      "Draws loss, load, violation, learning-rate, gradient-norm and, for several runs, loss-difference, each as SVG\n"
      "and PNG with gnuplot; NAME.gp and NAME.dat beside them draw them again (gnuplot NAME.gp).\n"
      "\n"
      "Load violation: greatest load / mean load - 1 of a layer; mean and greatest are over all steps and layers.\n"
      "Greatest difference: of the averaged main loss to the first run's, over the second half of the common steps.\n"
      "\n"
      "Examples:\n"
      "  fathom train plot runs/tiny\n"
      "  fathom train plot runs/bf16 runs/fp8 --out compare --label BF16 --label FP8 --smooth 10\n"
      "  fathom train plot runs/bf16-1,runs/bf16-2 runs/fp8-1,runs/fp8-2 --out compare --label BF16 --label FP8");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace fathom
