// fathom quantize: a checkpoint with its matrices in integers of 8 or 4 bits.

#include "weights/quantize.h"

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
#include "cli/rewriting.h"
#include "engine/compare.h"
#include "weights/partial_output.h"

namespace fathom {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kContext = 512;
constexpr size_t kShownTensors = 10;
/// A text with fewer tokens is not cut in two: neither half would say anything.
constexpr size_t kFewestTokens = 256;

struct Arguments {
  std::string in, to, scales = "search", head = "int8", text;
  QuantizeOptions options;
  int64_t group = 0;
  int64_t tokens = 4096;
  int threads = 0;
  bool json = false;
};

/// The text's tokens: those that scales are chosen by, and those that the result is judged by.
struct TextParts {
  std::vector<int32_t> calibration, judgement;
  std::optional<int32_t> bos;
  bool apart = false;  ///< no token is in both
};

TextParts read_text(const Arguments& arguments, const ModelConfig& config) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer_if_present(arguments.in);
  if (!tokenizer) throw_bad_input("{}: --calibrate needs a tokenizer.json, and there is none", arguments.in);
  const std::vector<int32_t> ids = text_ids(arguments.text, *tokenizer);
  check_ids(ids, config.vocab_size, arguments.text);
  const auto most = static_cast<size_t>(arguments.tokens);
  const auto part = [&](size_t begin, size_t end) {
    return std::vector<int32_t>(ids.begin() + static_cast<int64_t>(begin), ids.begin() + static_cast<int64_t>(end));
  };
  TextParts parts;
  parts.bos = window_bos(arguments.in, *tokenizer);
  if (arguments.options.scales == ScaleChoice::nearest) {  // nothing is chosen by it
    parts.judgement = part(0, std::min(most, ids.size()));
    parts.apart = true;
    return parts;
  }
  parts.apart = ids.size() >= kFewestTokens;
  const size_t middle = parts.apart ? std::min(most, ids.size() / 2) : std::min(most, ids.size());
  parts.calibration = part(0, middle);
  parts.judgement = parts.apart ? part(middle, std::min(middle + most, ids.size())) : parts.calibration;
  return parts;
}

std::unique_ptr<LoadedModel> open(const std::string& directory, ThreadTeam& team) {
  LoadDisplay display;
  OpenOptions options;
  options.on_plan = [&](const LoadedModel&, const WeightPlan& plan) { display.plan(plan, std::nullopt); };
  options.on_progress = [&](uint64_t done, uint64_t total) { display.progress(done, total); };
  return open_model(directory, options, team);
}

int64_t window_of(const ModelConfig& config) {
  return config.max_position_embeddings > 0 ? std::min(kContext, config.max_position_embeddings) : kContext;
}

Calibration run_calibration(const std::string& directory, const TextParts& parts, ThreadTeam& team) {
  const std::unique_ptr<LoadedModel> model = open(directory, team);
  Progress progress("calibrate", parts.calibration.size(), "tokens");
  return calibrate(*model, parts.calibration, window_of(model->config), parts.bos, team,
                   [&](int64_t tokens) { progress.advance(static_cast<uint64_t>(tokens)); });
}

struct Judgement {
  Comparison comparison;
  std::string compute_in, compute_out;
};

Judgement judge(const Arguments& arguments, const TextParts& parts, ThreadTeam& team) {
  const std::unique_ptr<LoadedModel> a = open(arguments.in, team);
  const std::unique_ptr<LoadedModel> b = open(arguments.options.out, team);
  Progress progress("compare", parts.judgement.size(), "tokens");
  CompareOptions options;
  options.context = window_of(a->config);
  options.bos = parts.bos;
  return {compare_models(*a, *b, parts.judgement, options, team,
                         [&](int64_t positions) { progress.advance(static_cast<uint64_t>(positions)); }),
          std::string(compute_mode_name(a->compute)), std::string(compute_mode_name(b->compute))};
}

// ---- The report ----

const char* kind_name(TensorRole role) {
  switch (role) {
    case TensorRole::head:
    case TensorRole::mtp_head:
      return "heads";
    case TensorRole::attention:
      return "attention";
    case TensorRole::dense_mlp:
      return "dense feed-forward";
    case TensorRole::shared_expert:
      return "shared experts";
    case TensorRole::routed_expert:
      return "routed experts";
    default:
      return "MTP projection";
  }
}

double relative(const QuantizationError& error) {
  return error.squares > 0 ? std::sqrt(error.error / error.squares) : 0;
}

struct KindReport {
  std::string name;
  IntegerFormat format;
  int64_t matrices = 0, weights = 0, measured = 0;
  QuantizationError error;
  double worst = 0;
};

/// What was quantised, by kind; `errors` beside each tensor of the plan.
std::vector<KindReport> by_kind(const QuantizePlan& plan, const std::vector<std::optional<QuantizationError>>& errors) {
  std::vector<KindReport> kinds;
  for (size_t i = 0; i < plan.tensors.size(); ++i) {
    const QuantizedTensor& tensor = *plan.tensors[i];
    const std::string name = kind_name(tensor.role);
    auto kind = std::find_if(kinds.begin(), kinds.end(), [&](const KindReport& one) { return one.name == name; });
    if (kind == kinds.end()) kind = kinds.insert(kinds.end(), {name, tensor.format});
    kind->matrices += 1;
    kind->weights += element_count(tensor.shape);
    if (!errors[i]) continue;
    kind->measured += 1;
    kind->error += *errors[i];
    kind->worst = std::max(kind->worst, relative(*errors[i]));
  }
  return kinds;
}

/// How much of the squared error the search took away, in percent.
double gained(const QuantizationError& error) {
  return error.nearest_weighted > 0 ? 100 * (1 - error.weighted / error.nearest_weighted) : 0;
}

std::string format_text(const IntegerFormat& format) {
  return fmt::format("int{} g{}{}", format.bits, format.group, format.zero_point ? " zp" : "");
}

std::string error_text(const Arguments& arguments, const QuantizePlan& plan,
                       const std::vector<std::optional<QuantizationError>>& errors, bool calibrated) {
  std::string text =
      fmt::format("{:<20}{:>9}{:>10}  {:<13}{:>10}{:>10}\n", "", "matrices", "weights", "format", "error", "worst");
  QuantizationError all;
  int64_t lacking = 0;
  for (const KindReport& kind : by_kind(plan, errors)) {
    const std::string measured =
        kind.measured == 0 ? std::string("      —         —")
                           : fmt::format("{:>8.3f} %{:>8.3f} %", 100 * relative(kind.error), 100 * kind.worst);
    text += fmt::format("{:<20}{:>9}{:>8.1f} M  {:<13}{}\n", kind.name, kind.matrices,
                        static_cast<double>(kind.weights) / 1e6, format_text(kind.format), measured);
    all += kind.error;
    lacking += kind.matrices - kind.measured;
  }
  text += "error: root mean square of the difference over that of the weights; worst: of one matrix\n";
  if (arguments.options.scales == ScaleChoice::search) {
    text += fmt::format("squared error{} {:.1f} % below that of the nearest scales\n",
                        calibrated ? " (weighted by the inputs' mean squares)" : "", gained(all));
  }
  if (lacking > 0) {
    text += fmt::format("{} matrices were written by an earlier run, and their errors are not known\n", lacking);
  }
  std::vector<size_t> order;
  for (size_t i = 0; i < errors.size(); ++i) {
    if (errors[i]) order.push_back(i);
  }
  const size_t shown = std::min(order.size(), kShownTensors);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return relative(*errors[a]) > relative(*errors[b]); });
  if (shown > 0) text += fmt::format("the worst{}\n", order.size() > shown ? " (--json has all)" : "");
  for (size_t i = 0; i < shown; ++i) {
    text += fmt::format("  {:>8.3f} %  {}\n", 100 * relative(*errors[order[i]]), plan.tensors[order[i]]->name);
  }
  return text;
}

ordered_json error_json(const QuantizePlan& plan, const std::vector<std::optional<QuantizationError>>& errors) {
  const auto number = [](double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); };
  ordered_json tensors = ordered_json::array();
  for (size_t i = 0; i < errors.size(); ++i) {
    const QuantizedTensor& tensor = *plan.tensors[i];
    ordered_json entry = {{"name", tensor.name},          {"kind", kind_name(tensor.role)},
                          {"shape", tensor.shape},        {"bits", tensor.format.bits},
                          {"group", tensor.format.group}, {"zero_point", tensor.format.zero_point}};
    if (errors[i]) {
      entry["relative_error"] = number(relative(*errors[i]));
      entry["weighted_squared_error"] = number(errors[i]->weighted);
      entry["nearest_weighted_squared_error"] = number(errors[i]->nearest_weighted);
    } else {
      entry["relative_error"] = nullptr;  // written by an earlier run
    }
    tensors.push_back(std::move(entry));
  }
  return tensors;
}

std::string text_report(const TextParts& parts, const Calibration& calibration, const Judgement& judgement) {
  std::string text;
  if (calibration.tokens > 0) {
    text += fmt::format("calibrated on {} tokens", calibration.tokens);
    if (calibration.rare_experts > 0) {
      text += fmt::format("; {} of {} routed experts met fewer than {} of them and got their layer's mean",
                          calibration.rare_experts, calibration.experts, kFewestExpertTokens);
    }
    text += "\n";
  }
  const Comparison& c = judgement.comparison;
  text += fmt::format("judged on {} tokens{}, OUT ({}) against IN ({}):\n", parts.judgement.size(),
                      calibration.tokens == 0 ? ""
                      : parts.apart           ? " behind those"
                                              : ", the same ones",
                      judgement.compute_out, judgement.compute_in);
  text += fmt::format(
      "KL divergence (nats)  mean {:.6f}  median {:.6f}  99 % {:.6f}\n"
      "top-1 agreement       {:.2f} %\n"
      "perplexity            IN {:.4f}  OUT {:.4f}\n",
      c.kl_mean, c.kl_median, c.kl_99, 100 * c.top1_agreement, c.perplexity_a, c.perplexity_b);
  return text;
}

ordered_json text_json(const TextParts& parts, const Calibration& calibration, const Judgement& judgement) {
  const auto number = [](double value) { return std::isfinite(value) ? ordered_json(value) : ordered_json(nullptr); };
  const Comparison& c = judgement.comparison;
  return {{"calibration_tokens", calibration.tokens},
          {"routed_experts", calibration.experts},
          {"rare_experts", calibration.rare_experts},
          {"judgement_tokens", parts.judgement.size()},
          {"judged_on_other_tokens", parts.apart},
          {"compute", {{"in", judgement.compute_in}, {"out", judgement.compute_out}}},
          {"kl", {{"mean", number(c.kl_mean)}, {"median", number(c.kl_median)}, {"percentile_99", number(c.kl_99)}}},
          {"top1_agreement", c.top1_agreement},
          {"perplexity", {{"in", number(c.perplexity_a)}, {"out", number(c.perplexity_b)}}}};
}

void run(Arguments& arguments) {
  QuantizeOptions& options = arguments.options;
  options.format.bits = arguments.to == "int8" ? 8 : 4;
  options.format.group = arguments.group != 0 ? arguments.group : options.format.bits == 8 ? 128 : 32;
  options.scales = arguments.scales == "search" ? ScaleChoice::search : ScaleChoice::nearest;
  options.head = arguments.head == "int8"   ? HeadFormat::int8
                 : arguments.head == "same" ? HeadFormat::same
                                            : HeadFormat::keep;
  const Checkpoint checkpoint(arguments.in);
  const TensorReader reader(checkpoint);
  const bool with_text = !arguments.text.empty();
  const TextParts parts = with_text ? read_text(arguments, checkpoint.config()) : TextParts{};
  Calibration calibration;
  if (!parts.calibration.empty()) {
    options.calibration = &calibration;
    ContentHash hash;
    hash.update(parts.calibration.data(), parts.calibration.size() * sizeof(parts.calibration[0]));
    options.calibration_identity = fmt::format("calibrated on {} tokens {}\n", parts.calibration.size(), hash.take());
  }
  const QuantizePlan plan = plan_quantize(checkpoint, reader, options);
  ThreadTeam team(arguments.threads);
  if (options.calibration != nullptr) {
    check_room(plan.rewrite);  // before minutes of reading the text
    calibration = run_calibration(arguments.in, parts, team);
  }
  const std::string written = rewrite_with_progress(plan.rewrite, team, "quantize");
  std::vector<std::optional<QuantizationError>> errors;
  for (const auto& tensor : plan.tensors) errors.push_back(tensor->error());
  std::optional<Judgement> judgement;
  if (with_text) judgement = judge(arguments, parts, team);
  if (arguments.json) {
    ordered_json json = {{"out", options.out},
                         {"to", arguments.to},
                         {"group", options.format.group},
                         {"zero_point", options.format.zero_point},
                         {"scales", arguments.scales},
                         {"head", arguments.head}};
    if (judgement) json["text"] = text_json(parts, calibration, *judgement);
    json["tensors"] = error_json(plan, errors);
    write_stdout(json.dump(1) + "\n");
    return;
  }
  write_stdout(error_text(arguments, plan, errors, options.calibration != nullptr));
  if (judgement) write_stdout(text_report(parts, calibration, *judgement));
  write_stdout(written);
}

}  // namespace

void add_quantize_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command = *app.add_subcommand("quantize", "Write a checkpoint with its matrices in integers");
  command.add_option("IN", arguments->in, "The checkpoint, in BF16, F16, F32 or FP8")->required()->type_name("DIR");
  command.add_option("OUT", arguments->options.out, "The directory to write, new or empty")
      ->required()
      ->type_name("DIR");
  command
      .add_option("--to", arguments->to,
                  "int8 or int4: projections, feed-forwards, experts. Router, norms, embedding and kv_b_proj stay")
      ->required()
      ->check(CLI::IsMember({"int8", "int4"}))
      ->type_name("NAME");
  command
      .add_option("--group", arguments->group,
                  "Columns that share a scale, 128 or 32. Without it 128 for int8, 32 for int4")
      ->check(CLI::IsMember({128, 32}))
      ->type_name("N");
  command
      .add_option(
          "--scales", arguments->scales,
          "nearest: the greatest weight of a group has the greatest code, as --weights int8 and int4 do. search: "
          "the scale with the least squared error")
      ->check(CLI::IsMember({"nearest", "search"}))
      ->type_name("HOW")
      ->capture_default_str();
  command.add_flag("--zero-point", arguments->options.format.zero_point,
                   "Each group has a zero point beside its scale, for weights that do not lie around zero");
  command
      .add_option(
          "--head", arguments->head,
          "The heads: int8 (in groups of 128 where the others have 4 bits), same (as the others), keep (as they "
          "are)")
      ->check(CLI::IsMember({"int8", "same", "keep"}))
      ->type_name("HOW")
      ->capture_default_str();
  command
      .add_option(
          "--calibrate", arguments->text,
          "A UTF-8 text. The first half tells the search which columns matter, the second how far OUT is from IN")
      ->type_name("FILE");
  command.add_option("--calibrate-tokens", arguments->tokens, "Take at most so many tokens of each half")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 32))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--threads", arguments->threads, "Threads; 0 is one per processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  command.add_flag("--json", arguments->json, "Print one JSON object, with the error of every matrix");
  command.footer(
      "Examples:\n"
      "  fathom quantize --to int8 DeepSeek-V3 DeepSeek-V3-INT8\n"
      "  fathom quantize --to int4 --calibrate text.txt DeepSeek-V3 DeepSeek-V3-INT4\n"
      "  fathom chat --model DeepSeek-V3-INT4\n"
      "\n"
      "The format is \"pack-quantized\" of the library compressed-tensors. Works in less than 1 GB of memory, without\n"
      "--calibrate. A run that was stopped leaves OUT.partial, and the same command goes on from there. Every file is\n"
      "read again and compared before OUT gets its name.");
  command.callback([arguments, &exit_code] {
    run(*arguments);
    exit_code = 0;
  });
}

}  // namespace fathom
