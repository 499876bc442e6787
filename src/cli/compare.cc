// fathom compare: how far one model's next-token distribution is from another's on a text.

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "engine/compare.h"

namespace fathom {
namespace {

constexpr size_t kLongestText = size_t{1} << 30;

/// One of the two models.
struct Side {
  std::string directory;
  WeightArguments weights;

  void add_to(CLI::App& command, const std::string& name, const char* directory_help) {
    const std::string group = "Model " + name;
    const std::string prefix = "--" + name;
    command.add_option(prefix, directory, directory_help)->type_name("DIR")->group(group);
    command
        .add_option(prefix + "-compute", weights.compute,
                    "Its arithmetic: fp32, bf16, int8 or w8a8. Without it bf16, or int8 for integer weights")
        ->check(CLI::IsMember({"fp32", "bf16", "int8", "w8a8"}))
        ->type_name("MODE")
        ->group(group);
    command
        .add_option(prefix + "-cache-type", weights.cache_type,
                    "How its latents are cached: bf16 or fp8 (with bf16 and int8 arithmetic)")
        ->check(CLI::IsMember({"bf16", "fp8"}))
        ->type_name("TYPE")
        ->group(group);
    command.add_option(prefix + "-weights", weights.weights, "How its weights are held: mapped, memory, int8 or int4")
        ->check(CLI::IsMember({"mapped", "memory", "int8", "int4"}))
        ->type_name("HOW")
        ->capture_default_str()
        ->group(group);
    command
        .add_option(prefix + "-weights-group", weights.group, "Integer weights: columns that share a scale, 128 or 32")
        ->check(CLI::IsMember({128, 32}))
        ->type_name("N")
        ->group(group);
    command
        .add_flag(prefix + "-weights-zero-point", weights.zero_point,
                  "Integer weights: each group has a zero point beside its scale")
        ->group(group);
  }
  // Mistakes are told before a minute of loading.
  void check() const {
    const ModelConfig config = read_model_config(directory);
    const WeightOptions options = weights.options();
    options_for(config, options, weights.compute_mode().value_or(default_compute(options.storage, &config)), directory);
  }
  std::unique_ptr<LoadedModel> open(ThreadTeam& team) const {
    LoadDisplay display;
    return open_model(directory, weights.open_options(display), team);
  }
  nlohmann::ordered_json json(const LoadedModel& model) const {
    nlohmann::ordered_json json = {{"model", directory},
                                   {"compute", compute_mode_name(model.compute)},
                                   {"weights", weight_storage_name(model.held.storage)}};
    if (model.config.integers) json["stored_in_integers"] = true;
    if (weights.fp8_cache()) json["cache_type"] = "fp8";
    if (weights.options().integer()) {
      json["group"] = projection_format(weights.options()).group;
      json["zero_point"] = weights.zero_point;
    }
    return json;
  }
  std::string text(const LoadedModel& model) const {
    std::string text = fmt::format("{}, {}, weights {}", directory, compute_mode_name(model.compute),
                                   weight_storage_name(model.held.storage));
    if (model.config.integers) text += ", stored in integers";
    if (weights.options().integer()) {
      text += fmt::format(" in groups of {}{}", projection_format(weights.options()).group,
                          weights.zero_point ? " with zero points" : "");
    }
    if (weights.fp8_cache()) text += ", FP8 cache";
    return text;
  }
};

struct Arguments {
  Side a, b;
  std::string text, ids;
  int64_t tokens = 4096;
  int64_t context = 512;
  int threads = 0;
  bool json = false;
};

// Numbers with commas, blanks or line ends between them.
std::vector<int32_t> read_ids(const std::string& path) {
  std::string list = read_file(path, kLongestText);
  for (char& c : list) {
    if (c == '\n' || c == '\r' || c == '\t' || c == ',') c = ' ';
  }
  std::string joined;
  for (size_t begin = 0; (begin = list.find_first_not_of(' ', begin)) != std::string::npos;) {
    const size_t end = std::min(list.find(' ', begin), list.size());
    if (!joined.empty()) joined += ',';
    joined.append(list, begin, end - begin);
    begin = end;
  }
  if (joined.empty()) throw_bad_input("{}: there are no token ids in it", path);
  return parse_ids(joined, path);
}

nlohmann::ordered_json result_json(const Arguments& arguments, const LoadedModel& a, const LoadedModel& b,
                                   const Comparison& c) {
  // JSON has no infinity: a divergence that is none is null.
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
  };
  return {{"a", arguments.a.json(a)},
          {"b", arguments.b.json(b)},
          {"context", arguments.context},
          {"positions", c.positions},
          {"predictions", c.predictions},
          {"kl",
           {{"mean", number(c.kl_mean)},
            {"median", number(c.kl_median)},
            {"percentile_99", number(c.kl_99)},
            {"greatest", number(c.kl_greatest)}}},
          {"top1_agreement", c.top1_agreement},
          {"perplexity", {{"a", number(c.perplexity_a)}, {"b", number(c.perplexity_b)}}},
          {"greatest_logit_difference", number(c.greatest_logit_difference)}};
}

std::string result_text(const Arguments& arguments, const LoadedModel& a, const LoadedModel& b, const Comparison& c) {
  return fmt::format(
      "a: {}\n"
      "b: {}\n"
      "{} positions, {} predictions, windows of {}\n"
      "KL divergence of b from a (nats)  mean {:.6f}  median {:.6f}  99 % {:.6f}  greatest {:.6f}\n"
      "top-1 agreement                   {:.2f} %\n"
      "perplexity                        a {:.4f}  b {:.4f}  ({:+.2f} %)\n"
      "greatest logit difference         {:.4f}\n",
      arguments.a.text(a), arguments.b.text(b), c.positions, c.predictions, arguments.context, c.kl_mean, c.kl_median,
      c.kl_99, c.kl_greatest, 100 * c.top1_agreement, c.perplexity_a, c.perplexity_b,
      100 * (c.perplexity_b / c.perplexity_a - 1), c.greatest_logit_difference);
}

void run(Arguments arguments) {
  if (arguments.text.empty() == arguments.ids.empty()) throw_bad_input("give exactly one of --text and --ids");
  if (arguments.b.directory.empty()) arguments.b.directory = arguments.a.directory;
  arguments.a.check();
  arguments.b.check();

  CompareOptions options;
  options.context = arguments.context;
  std::vector<int32_t> ids;
  if (arguments.ids.empty()) {
    const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer_if_present(arguments.a.directory);
    if (!tokenizer) {
      throw_bad_input("{}: --text needs a tokenizer.json, and there is none; give token ids with --ids",
                      arguments.a.directory);
    }
    ids = text_ids(arguments.text, *tokenizer);
    options.bos = window_bos(arguments.a.directory, *tokenizer);
  } else {
    ids = read_ids(arguments.ids);
  }
  if (arguments.tokens > 0) ids.resize(std::min(ids.size(), static_cast<size_t>(arguments.tokens)));

  // Both are held at the same time: mapped weights cost nothing, and no logits have to be kept.
  ThreadTeam team(arguments.threads);
  const std::unique_ptr<LoadedModel> a = arguments.a.open(team);
  check_ids(ids, a->config.vocab_size, arguments.ids.empty() ? arguments.text : arguments.ids);
  const std::unique_ptr<LoadedModel> b = arguments.b.open(team);
  Comparison comparison;
  {
    Progress progress("compare", ids.size(), "tokens");
    comparison = compare_models(*a, *b, ids, options, team,
                                [&](int64_t positions) { progress.advance(static_cast<uint64_t>(positions)); });
  }
  write_stdout(arguments.json ? result_json(arguments, *a, *b, comparison).dump(2) + "\n"
                              : result_text(arguments, *a, *b, comparison));
}

}  // namespace

void add_compare_command(CLI::App& app, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("compare", "Measure how far a model is from another on a text");
  arguments->a.add_to(command, "a", "Checkpoint directory of the model that counts as right");
  command.get_option("--a")->required();
  arguments->b.add_to(command, "b", "Checkpoint directory of the model to judge; without it, that of a");
  const char* input = "Input (one of --text and --ids)";
  command.add_option("--text", arguments->text, "UTF-8 text, split by a's tokenizer")->type_name("FILE")->group(input);
  command.add_option("--ids", arguments->ids, "Token ids with commas, blanks or line ends between them")
      ->type_name("FILE")
      ->group(input);
  command.add_option("--tokens", arguments->tokens, "Take at most so many tokens; 0: all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str()
      ->group(input);
  command
      .add_option("--context", arguments->context,
                  "Positions of a window; each begins with an empty cache and the begin-of-text token")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24))
      ->type_name("N")
      ->capture_default_str()
      ->group(input);
  command.add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--json", arguments->json, "Print one JSON object");
  command.footer(
      "Examples:\n"
      "  fathom compare --a DIR --a-compute fp32 --b-compute bf16 --text FILE\n"
      "  fathom compare --a DIR --b-weights int4 --b-weights-group 32 --text FILE --tokens 2000\n"
      "  fathom compare --a DIR --b OTHER --ids FILE --tokens 0 --json\n"
      "\n"
      "The KL divergence is the sum of p_a (ln p_a - ln p_b) over the vocabulary, at every position. The perplexities\n"
      "count the tokens that something before them in their window predicts.");
  command.callback([arguments] { run(*arguments); });
}

}  // namespace fathom
