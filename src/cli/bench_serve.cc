// fathom bench --serve: a server under load.

#include "cli/bench_serve.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/gnuplot.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/lines.h"
#include "cli/options.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kMostStreams = 10'000;

// ---------------------------------------------------------------------------------------------------- JSON

Json durations_json(const Durations& durations) {
  const std::vector<double> sorted = durations.sorted();
  Json json = {{"samples", sorted.size()}};
  if (sorted.empty()) return json;
  for (const int percent : {50, 90, 99}) json["p" + std::to_string(percent)] = percentile(sorted, percent);
  json["max"] = sorted.back();
  return json;
}

Json refused_json(const std::map<int, int64_t>& refused) {
  Json json = Json::object();
  for (const auto& [status, count] : refused) json[std::to_string(status)] = count;
  return json;
}

Json level_json(const LoadLevel& level) {
  Json broken = Json::object();
  for (const auto& [why, count] : level.broken) broken[why] = count;
  Json json = {{"concurrent", level.concurrent},
               {"seconds", level.seconds},
               {"completed", level.completed},
               {"slow", level.slow},
               {"cancelled", level.cancelled},
               {"cut", level.cut},
               {"refused", refused_json(level.refused)},
               {"broken", std::move(broken)},
               {"malformed", {{"sent", level.malformed.sent}, {"refused", refused_json(level.malformed.refused)}}},
               {"oversized", {{"sent", level.oversized.sent}, {"refused", refused_json(level.oversized.refused)}}}};
  if (level.completed > 0) {
    json["output_tokens"] = level.output_tokens;
    json["prompt_tokens"] = level.prompt_tokens;
    if (level.hit_tokens) json["hit_tokens"] = *level.hit_tokens;
    json["output_tokens_per_second"] = static_cast<double>(level.output_tokens) / level.seconds;
    json["prompt_tokens_per_second"] = static_cast<double>(level.prompt_tokens) / level.seconds;
  }
  json["first_token_seconds"] = durations_json(level.first_token);
  json["between_tokens_seconds"] = durations_json(level.between_tokens);
  json["request_seconds"] = durations_json(level.request);
  json["health_seconds"] = durations_json(level.health);
  json["health_failed"] = level.health_failed;
  if (!level.memory.empty()) {
    json["resident_bytes"] = {{"begin", level.memory.front().bytes},
                              {"end", level.memory.back().bytes},
                              {"greatest_per_minute", level.memory_per_minute()}};
  }
  json["client_cpu_seconds"] = level.client_cpu_seconds;
  return json;
}

Json report_json(const LoadOptions& options, const LoadReport& report) {
  const LoadShares& shares = options.shares;
  Json json = {{"server", options.url},
               {"model", report.model},
               {"prompt_tokens", options.prompt_tokens},
               {"max_tokens", options.max_tokens},
               {"temperature", options.temperature},
               {"seed", options.seed},
               {"shares",
                {{"cancel", shares.cancel},
                 {"slow", shares.slow},
                 {"malformed", shares.malformed},
                 {"oversized", shares.oversized}}},
               {"interrupted", report.interrupted},
               {"levels", Json::array()}};
  for (const LoadLevel& level : report.levels) json["levels"].push_back(level_json(level));
  if (options.verify > 0) {
    json["verify"] = {{"asked_again", report.asked_again},
                      {"mismatches", report.mismatches},
                      {"not_compared", report.not_compared},
                      {"unanswered", report.unanswered}};
    if (!report.example.empty()) json["verify"]["example"] = report.example;
  }
  return json;
}

// ---------------------------------------------------------------------------------------------------- the table

/// Rows of measures with a column for each level. A row that says nothing of any level is left out.
class Table {
 public:
  explicit Table(const std::vector<LoadLevel>& levels) : levels_(levels) {}

  /// `cell` gives the text for a level; empty: nothing was measured.
  template <typename Cell>
  void row(const std::string& name, const Cell& cell) {
    std::string line = fmt::format("{:<32}", name);
    bool says = false;
    for (const LoadLevel& level : levels_) {
      const std::string text = cell(level);
      says |= !text.empty();
      line += fmt::format("{:>12}", text.empty() ? "-" : text);
    }
    if (says) text_ += line + "\n";
  }
  /// The same of a count, of which none is not worth a row.
  template <typename Count>
  void count_row(const std::string& name, const Count& count) {
    if (std::all_of(levels_.begin(), levels_.end(), [&](const LoadLevel& level) { return count(level) == 0; })) return;
    row(name, [&](const LoadLevel& level) { return std::to_string(count(level)); });
  }
  void status_rows(const std::string& name, std::map<int, int64_t> LoadLevel::*member) {
    status_rows(name, [&](const LoadLevel& level) -> const std::map<int, int64_t>& { return level.*member; });
  }
  template <typename Get>
  void status_rows(const std::string& name, const Get& get) {
    std::map<int, int64_t> all;
    for (const LoadLevel& level : levels_) all.insert(get(level).begin(), get(level).end());
    for (const auto& [status, ignored] : all) {
      count_row(fmt::format("{}, {}", name, status), [&, code = status](const LoadLevel& level) {
        const auto found = get(level).find(code);
        return found == get(level).end() ? 0 : found->second;
      });
    }
  }
  void duration_rows(const std::string& name, Durations LoadLevel::*member) {
    std::vector<std::vector<double>> sorted;
    for (const LoadLevel& level : levels_) sorted.push_back((level.*member).sorted());
    const auto add = [&](const std::string& row_name, double percent) {
      row(row_name, [&](const LoadLevel& level) {
        const std::vector<double>& values = sorted[static_cast<size_t>(&level - levels_.data())];
        return values.empty() ? std::string() : milliseconds(percentile(values, percent));
      });
    };
    add(fmt::format("{:<26}p50", name + ", ms"), 50);
    for (const int percent : {90, 99}) add(fmt::format("{:<26}p{}", "", percent), percent);
    add(fmt::format("{:<26}max", ""), 100);
  }
  const std::string& text() const { return text_; }

 private:
  static std::string milliseconds(double seconds) {
    const double ms = seconds * 1e3;
    return fmt::format("{:.{}f}", ms, ms < 10 ? 2 : ms < 100 ? 1 : 0);
  }

  const std::vector<LoadLevel>& levels_;
  std::string text_;
};

std::string megabytes(double bytes) {
  return fmt::format("{:.1f}", bytes / 1e6);
}

std::string streams(const LoadLevel& level) {
  return fmt::format("{} stream{}", level.concurrent, level.concurrent == 1 ? "" : "s");
}

std::string report_text(const LoadOptions& options, const LoadReport& report) {
  std::string text =
      fmt::format("{}, {}: prompts of about {} tokens, answers of at most {}, temperature {}, seed {}{}\n\n",
                  terminal_text(options.url), terminal_text(report.model), options.prompt_tokens, options.max_tokens,
                  options.temperature, options.seed, report.interrupted ? "; interrupted" : "");
  Table table(report.levels);
  const auto if_completed = [](const auto& cell) {
    return [cell](const LoadLevel& level) { return level.completed == 0 ? std::string() : cell(level); };
  };
  const auto rate = [](int64_t tokens, const LoadLevel& level) {
    return fmt::format("{:.1f}", static_cast<double>(tokens) / level.seconds);
  };
  table.row("streams at once", [](const LoadLevel& level) { return std::to_string(level.concurrent); });
  table.row("seconds", [](const LoadLevel& level) { return fmt::format("{:.1f}", level.seconds); });
  table.row("completed", [](const LoadLevel& level) { return std::to_string(level.completed); });
  table.count_row("  of these read slowly", [](const LoadLevel& level) { return level.slow; });
  table.count_row("cancelled", [](const LoadLevel& level) { return level.cancelled; });
  table.count_row("cut off by the interruption", [](const LoadLevel& level) { return level.cut; });
  table.status_rows("refused", &LoadLevel::refused);
  table.status_rows(
      "malformed, refused", [](const LoadLevel& level) -> const auto& { return level.malformed.refused; });
  table.status_rows(
      "oversized, refused", [](const LoadLevel& level) -> const auto& { return level.oversized.refused; });
  table.count_row("broken", [](const LoadLevel& level) { return level.broken_count(); });
  table.row("output tokens/s", if_completed([&](const LoadLevel& level) { return rate(level.output_tokens, level); }));
  table.row("prompt tokens/s", if_completed([&](const LoadLevel& level) { return rate(level.prompt_tokens, level); }));
  table.row("  of these found in the cache", if_completed([](const LoadLevel& level) {
              if (!level.hit_tokens || level.prompt_tokens == 0) return std::string();
              return fmt::format("{:.1f} %", 100.0 * static_cast<double>(*level.hit_tokens) /
                                                 static_cast<double>(level.prompt_tokens));
            }));
  table.duration_rows("first token", &LoadLevel::first_token);
  table.duration_rows("next token", &LoadLevel::between_tokens);
  table.duration_rows("request", &LoadLevel::request);
  table.duration_rows("/health", &LoadLevel::health);
  table.count_row("/health failed", [](const LoadLevel& level) { return level.health_failed; });
  const auto memory = [](double (*pick)(const LoadLevel&)) {
    return [pick](const LoadLevel& level) { return level.memory.empty() ? std::string() : megabytes(pick(level)); };
  };
  table.row(fmt::format("{:<26}begin", "server's memory, MB"),
            memory([](const LoadLevel& level) { return level.memory.front().bytes; }));
  table.row(fmt::format("{:<26}end", ""), memory([](const LoadLevel& level) { return level.memory.back().bytes; }));
  table.row(fmt::format("{:<26}most", ""), memory([](const LoadLevel& level) {
              const std::vector<double> minutes = level.memory_per_minute();
              return *std::max_element(minutes.begin(), minutes.end());
            }));
  table.row("this client's CPU, of a core", [](const LoadLevel& level) {
    if (level.seconds == 0) return std::string();
    return fmt::format("{:.1f} %", 100 * level.client_cpu_seconds / level.seconds);
  });
  text += table.text();

  // Whether it grows is seen in a run of minutes.
  for (const LoadLevel& level : report.levels) {
    const std::vector<double> minutes = level.memory_per_minute();
    if (minutes.size() < 2) continue;
    text += fmt::format("\nMost memory in each minute, {}, MB:", streams(level));
    for (const double bytes : minutes) text += " " + megabytes(bytes);
    text += "\n";
  }
  for (const LoadLevel& level : report.levels) {
    for (const auto& [why, count] : level.broken) {
      text += fmt::format("\nBroken, {}: {} times {}\n", streams(level), count, terminal_text(why));
    }
  }
  if (options.verify > 0) {
    text += fmt::format("\nAsked again alone: {} prompts; mismatches: {}", report.asked_again, report.mismatches);
    if (report.not_compared > 0) text += fmt::format("; not compared, being in the cache: {}", report.not_compared);
    if (report.unanswered > 0) text += fmt::format("; not answered alone: {}", report.unanswered);
    text += "\n";
    if (!report.example.empty()) text += terminal_text(report.example) + "\n";
  }
  return text;
}

// ---------------------------------------------------------------------------------------------------- the picture

struct PercentileStyle {
  double percent;
  const char* name;
  const char* style;
};
constexpr std::array<PercentileStyle, 4> kPercentiles = {{
    {100, "max", "linespoints lc rgb '#909090' lw 1 pt 7 ps 0.4"},
    {99, "p99", "linespoints lc rgb '#D55E00' lw 2 pt 7 ps 0.6"},
    {90, "p90", "linespoints lc rgb '#009E73' lw 2 pt 7 ps 0.6"},
    {50, "p50", "linespoints lc rgb '#0072B2' lw 2 pt 7 ps 0.6"},
}};
constexpr const char* kOutputStyle = "linespoints lc rgb '#0072B2' lw 2 pt 7 ps 0.6";
constexpr const char* kPromptStyle = "linespoints lc rgb '#E69F00' lw 2 pt 7 ps 0.6";

/// A curve's points: `value` of each place x, where it is one.
using Points = std::vector<std::array<double, 2>>;

Panel latency_panel(const std::string& title) {
  Panel panel;
  panel.title = title;
  panel.y_label = "ms";
  panel.height = 220;
  panel.settings = {"set logscale y", "set format y '%g'"};
  for (const PercentileStyle& one : kPercentiles) panel.curves.push_back({one.name, one.style, false, {}});
  return panel;
}

void add_percentiles(Panel& panel, double x, const std::vector<double>& sorted) {
  for (size_t i = 0; i < kPercentiles.size() && !sorted.empty(); ++i) {
    panel.curves[i].points.push_back({x, 1e3 * percentile(sorted, kPercentiles[i].percent)});
  }
}

struct Latency {
  const char* title;
  Durations LoadLevel::*member;
};
constexpr std::array<Latency, 4> kLatencies = {{{"Time to the first token", &LoadLevel::first_token},
                                                {"Time between tokens", &LoadLevel::between_tokens},
                                                {"Time of a whole request", &LoadLevel::request},
                                                {"GET /health, asked every 100 ms", &LoadLevel::health}}};

/// Over the streams that were open at once.
Picture levels_picture(std::vector<const LoadLevel*> levels) {
  std::sort(levels.begin(), levels.end(), [](const auto* a, const auto* b) { return a->concurrent < b->concurrent; });
  Picture picture;
  picture.x_label = "streams at once";
  picture.x_end = 1.1 * static_cast<double>(levels.back()->concurrent);
  Panel rate;
  rate.title = "Throughput";
  rate.y_label = "tokens/s";
  rate.height = 220;
  rate.settings = {"set yrange [0:*]"};
  rate.curves = {{"output", kOutputStyle, false, {}}, {"prompts", kPromptStyle, false, {}}};
  for (const LoadLevel* level : levels) {
    if (level->completed == 0) continue;
    const auto x = static_cast<double>(level->concurrent);
    rate.curves[0].points.push_back({x, static_cast<double>(level->output_tokens) / level->seconds});
    rate.curves[1].points.push_back({x, static_cast<double>(level->prompt_tokens) / level->seconds});
  }
  picture.panels.push_back(std::move(rate));
  for (const Latency& latency : kLatencies) {
    Panel panel = latency_panel(latency.title);
    for (const LoadLevel* level : levels) {
      add_percentiles(panel, static_cast<double>(level->concurrent), (level->*latency.member).sorted());
    }
    picture.panels.push_back(std::move(panel));
  }
  // Levels are chosen as 1, 16, 200 rather than 1, 2, 3.
  std::string tics;
  for (const LoadLevel* level : levels) tics += fmt::format("{}{}", tics.empty() ? "" : ",", level->concurrent);
  for (Panel& panel : picture.panels) {
    panel.settings.emplace_back("set logscale x");
    panel.settings.push_back(fmt::format("set xrange [{}:{}]", 0.8 * static_cast<double>(levels.front()->concurrent),
                                         1.25 * static_cast<double>(levels.back()->concurrent)));
    panel.settings.push_back(fmt::format("set xtics ({})", tics));
  }
  return picture;
}

/// Over the time of one level.
Picture time_picture(const LoadLevel& level) {
  constexpr double kMostBins = 120;
  const double step = std::max(1.0, std::ceil(level.seconds / kMostBins));
  Picture picture;
  picture.x_label = fmt::format("seconds, {} at once", streams(level));
  picture.x_end = level.seconds;
  Panel rate;
  rate.title = fmt::format("Pieces of text that came in each {}", step == 1 ? "second" : fmt::format("{} s", step));
  rate.y_label = "pieces/s";
  rate.height = 220;
  rate.settings = {"set yrange [0:*]"};
  rate.curves = {{"", kOutputStyle, false, {}}};
  std::vector<Panel> latencies;
  for (const Latency& latency : kLatencies) latencies.push_back(latency_panel(latency.title));
  for (double begin = 0; begin < level.seconds; begin += step) {
    const double end = std::min(begin + step, level.seconds);
    const double x = (begin + end) / 2;
    const size_t pieces =
        level.first_token.sorted(begin, begin + step).size() + level.between_tokens.sorted(begin, begin + step).size();
    rate.curves[0].points.push_back({x, static_cast<double>(pieces) / (end - begin)});
    for (size_t i = 0; i < kLatencies.size(); ++i) {
      add_percentiles(latencies[i], x, (level.*kLatencies[i].member).sorted(begin, begin + step));
    }
  }
  picture.panels.push_back(std::move(rate));
  for (Panel& panel : latencies) picture.panels.push_back(std::move(panel));
  Panel memory;
  memory.title = "Resident memory of the server";
  memory.y_label = "MB";
  memory.height = 160;
  memory.curves = {{"", "lines lc rgb '#0072B2' lw 2", false, {}}};
  for (const LoadLevel::Memory& sample : level.memory) {
    memory.curves[0].points.push_back({sample.at_seconds, sample.bytes / 1e6});
  }
  if (!level.memory.empty()) picture.panels.push_back(std::move(memory));
  return picture;
}

struct PlotPlace {
  std::string directory, name;
};

PlotPlace plot_place(const std::string& file) {
  const fs::path path(file);
  const std::string extension = path.extension().string();
  if (extension != ".svg" && extension != ".png") {
    throw_bad_input("--plot: expected a file that ends in .svg or .png, found {}", terminal_text(file));
  }
  PlotPlace place;
  place.name = path.stem().string();
  place.directory = path.has_parent_path() ? path.parent_path().string() : ".";
  // The name stands in gnuplot's script.
  for (const char character : place.name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '.' ||
                       character == '_' || character == '-';
    if (!plain) {
      throw_bad_input("--plot: expected a name of letters, digits, '.', '_' and '-', found {}",
                      terminal_text(place.name));
    }
  }
  if (!fs::is_directory(place.directory)) {
    throw_bad_input("--plot: there is no directory {}", terminal_text(place.directory));
  }
  return place;
}

void draw(const PlotPlace& place, const LoadReport& report) {
  std::vector<const LoadLevel*> levels;
  for (const LoadLevel& level : report.levels) levels.push_back(&level);
  Picture picture = levels.size() == 1 ? time_picture(*levels.front()) : levels_picture(levels);
  picture.name = place.name;
  write_picture_source(picture, place.directory);
  if (!draw_picture(picture, place.directory).empty()) return;
  throw_failure(
      "No picture was drawn, because gnuplot is not installed (Debian package gnuplot-nox); {}.gp and {}.dat are in "
      "{}.",
      place.name, place.name, place.directory);
}

}  // namespace

void LoadArguments::add_to(CLI::App& command) {
  const char* group = "Server";
  const std::vector<CLI::Option*> others = command.get_options(
      [&](const CLI::Option* option) { return option != command.get_help_ptr() && option->get_name() != "--json"; });
  CLI::Option* serve =
      command
          .add_option("--serve", options.url,
                      "Put this server under load instead, as http://127.0.0.1:8080; the API key comes from "
                      "FATHOM_API_KEY")
          ->type_name("URL")
          ->group(group);
  for (CLI::Option* other : others) serve->excludes(other);
  const auto add = [&](CLI::Option* option, const char* type) {
    option->needs(serve)->group(group);
    if (*type != '\0') option->type_name(type);
    return option;
  };
  add(command.add_option("--concurrent", concurrent, "Streams that are open at once: a list, one level after another"),
      "LIST")
      ->capture_default_str();
  CLI::Option* seconds =
      add(command.add_option("--seconds", options.seconds, "How long new requests begin at each level"), "N")
          ->check(CLI::Range(0.1, 1e6))
          ->capture_default_str();
  add(command.add_option("--requests", options.requests, "Requests of each level, in place of a time"), "N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->excludes(seconds);
  add(command.add_option("--prompt-tokens", options.prompt_tokens, "Length of the prompts, about"), "N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  add(command.add_option("--max-tokens", options.max_tokens, "Longest answer"), "N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  add(command.add_option("--temperature", options.temperature, "How the answers are drawn; each has a seed"), "X")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  add(command.add_option("--seed", options.seed, "Of the prompts: the server's cache knows those it was asked before"),
      "N")
      ->capture_default_str();
  const auto share = [&](const char* name, double& value, const char* text) {
    add(command.add_option(name, value, text), "SHARE")->check(CLI::Range(0.0, 1.0));
  };
  share("--cancel", options.shares.cancel, "Share of requests, 0 to 1, that are cancelled at a random token");
  share("--slow", options.shares.slow, "Share that is read in small pieces, or not at all for seconds");
  share("--malformed", options.shares.malformed, "Share with a body that cannot be taken");
  share("--oversized", options.shares.oversized, "Share with a body of a gigabyte, or a prompt beyond the context");
  add(command.add_option("--verify", options.verify,
                         "Ask completed prompts again at the end, alone, and compare the answers; N: how many at most"),
      "[N]")
      ->expected(0, 1)
      ->default_str("200")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32));
  add(command.add_option("--plot", plot, "Draw the results: an .svg and a .png with gnuplot, and its script and data"),
      "FILE");
  add(command.add_flag("--insecure", options.insecure, "https: whatever the server's certificate says"), "");
  command.parse_complete_callback([this, serve] { wanted = serve->count() > 0; });
}

void bench_server(LoadArguments arguments, bool json, int& exit_code) {
  LoadOptions& options = arguments.options;
  options.concurrent = parse_numbers(arguments.concurrent, "--concurrent", 1, kMostStreams);
  if (const char* key = std::getenv("FATHOM_API_KEY"); key != nullptr) options.key = key;
  parse_server_url(options.url);
  std::optional<PlotPlace> place;
  if (!arguments.plot.empty()) place = plot_place(arguments.plot);

  std::unique_ptr<Progress> progress;
  std::string shown;
  int64_t shown_done = 0;
  options.on_progress = [&](const std::string& what, const std::string& unit, int64_t done, int64_t of) {
    if (what != shown || !progress) {
      progress.reset();
      progress = std::make_unique<Progress>(what, static_cast<uint64_t>(of), unit);
      shown = what;
      shown_done = 0;
    }
    progress->advance(static_cast<uint64_t>(std::max<int64_t>(done - shown_done, 0)));
    shown_done = done;
  };
  const LoadReport report = run_load_test(options);
  progress.reset();
  write_stdout(json ? report_json(options, report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
                    : report_text(options, report));
  if (report.interrupted) {
    // What is left is short, and another Ctrl-C ends it.
    clear_interrupt();
    exit_code = kInterruptedExitCode;
  }
  if (place) draw(*place, report);
  if (report.interrupted) return;
  if (report.completed() == 0) throw_failure("{}: not one request was completed.", options.url);
  if (report.mismatches > 0) {
    throw_failure("{}: {} answers differ from those to the same prompt and seed alone. {}", options.url,
                  report.mismatches, report.example);
  }
  if (report.broken() > 0 || report.unanswered > 0) {
    throw_failure("{}: {} requests got neither a whole answer nor a refusal.", options.url,
                  report.broken() + report.unanswered);
  }
}

}  // namespace fathom
