#include "cli/options.h"

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <filesystem>

#include "base/error.h"
#include "base/file.h"

namespace fathom {

void WeightArguments::add_to(CLI::App& command) {
  CLI::Option* mode =
      command
          .add_option(
              "--compute", compute,
              "Arithmetic: fp32 (the reference), bf16 (activations rounded to BF16), int8 (activations and "
              "weights as integers), w8a8 (FP8 weights times FP8 activations, as the official kernels)" +
                  std::string(compute.empty() ? ". Without it bf16, or int8 where --weights is int8 or int4" : ""))
          ->check(CLI::IsMember({"fp32", "bf16", "int8", "w8a8"}))
          ->type_name("MODE");
  if (!compute.empty()) mode->capture_default_str();
  command
      .add_option(
          "--weights", weights,
          "How weights are held: mapped (in the file, nothing is loaded), memory (the same, copied into huge "
          "pages), int8 or int4 (brought to integers while loading). A checkpoint of `fathom quantize` is held in its "
          "own integers")
      ->check(CLI::IsMember({"mapped", "memory", "int8", "int4"}))
      ->type_name("HOW")
      ->capture_default_str();
  command
      .add_option("--weights-group", group,
                  "Integer weights: columns that share a scale, 128 or 32. Without it 128 for int8, 32 for int4")
      ->check(CLI::IsMember({128, 32}))
      ->type_name("N");
  command.add_flag("--weights-zero-point", zero_point, "Integer weights: each group has a zero point beside its scale");
  command
      .add_option("--cache-type", cache_type,
                  "How latents are cached: bf16, or fp8 with a scale per 64 values, in half the memory (--compute bf16 "
                  "and int8; the other two cache float32)")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->type_name("TYPE");
  command
      .add_option(
          "--experts-in-memory", experts_in_memory,
          "Keep the most used experts in so much memory (6GB, 6GiB) and read the others from the files when the "
          "router has chosen them: for models larger than the memory")
      ->transform(CLI::AsSizeValue(true))
      ->check([](const std::string& bytes) { return bytes == "0" ? "expected a size, found 0" : ""; })
      ->type_name("SIZE");
}

WeightOptions WeightArguments::options() const {
  return {*weight_storage_from_name(weights), group, zero_point, experts_in_memory};
}

std::optional<ComputeMode> WeightArguments::compute_mode() const {
  if (compute.empty()) return std::nullopt;
  return compute_mode_from_name(compute);
}

bool WeightArguments::fp8_cache() const {
  const ComputeMode mode = compute_mode().value_or(default_compute(options().storage, nullptr));
  if (cache_type == "bf16" && mode != ComputeMode::bf16 && mode != ComputeMode::int8) {
    throw_bad_input("--cache-type bf16 goes with compute bf16 or int8; the cache of {} is float32.",
                    compute_mode_name(mode));
  }
  return cache_type == "fp8";
}

OpenOptions WeightArguments::open_options(LoadDisplay& display) const {
  OpenOptions open;
  open.compute = compute_mode();
  open.weights = options();
  open.fp8_cache = fp8_cache();
  open.on_plan = [&display](const LoadedModel&, const WeightPlan& plan) { display.plan(plan, std::nullopt); };
  open.on_progress = [&display](uint64_t done, uint64_t total) { display.progress(done, total); };
  return open;
}

LoadDisplay::LoadDisplay() = default;
LoadDisplay::~LoadDisplay() = default;

void LoadDisplay::plan(const WeightPlan& plan, std::optional<uint64_t> cache_bytes) {
  if (plan.memory_bytes == 0 || ::isatty(STDERR_FILENO) != 1) return;
  fmt::print(stderr, "{}\n", plan_text(plan, cache_bytes));
}

void LoadDisplay::progress(uint64_t done, uint64_t total) {
  if (!bar_) bar_ = std::make_unique<Progress>("load weights", total, "B");
  bar_->advance(done - done_);
  done_ = done;
}

std::string plan_text(const WeightPlan& plan, std::optional<uint64_t> cache_bytes) {
  const auto amount = [](uint64_t bytes) {
    const auto value = static_cast<double>(bytes);
    return value < 1e8 ? fmt::format("{:.1f} MB", value / 1e6) : fmt::format("{:.1f} GB", value / 1e9);
  };
  std::string text = "weights ";
  if (plan.memory_bytes > 0) {
    const std::string as =
        plan.options.integer() ? fmt::format(" as {}", weight_storage_name(plan.options.storage)) : std::string();
    text += fmt::format("{}{} in memory (huge pages), ", amount(plan.memory_bytes), as);
  }
  text += fmt::format("{} mapped", amount(plan.mapped_bytes));
  if (cache_bytes) text += fmt::format("; cache up to {}", amount(*cache_bytes));
  return text;
}

void ModelArguments::add_to(CLI::App& command) {
  command.add_option("--model,-m", directory, "Directory of a checkpoint in the Hugging Face layout")
      ->required()
      ->type_name("DIR");
  weights.add_to(command);
  command.add_option("--threads", threads, "Threads to compute with; 0 is one per hardware thread")
      ->check(CLI::Range(0, 4096))
      ->type_name("N")
      ->capture_default_str();
  command.add_option("--context", context, "Most tokens of prompt and answer together")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  command
      .add_option("--drafts", drafts,
                  "Tokens that the model's MTP layer drafts in each step, to be verified in the next: the answer stays "
                  "the same. Without it 1 where there is such a layer (0 with --experts-in-memory); drafts that cost "
                  "more than they save are left off")
      ->check(CLI::Range(0, 16))
      ->type_name("N");
  CLI::Option* cache = command
                           .add_option("--cache-dir", cache_directory,
                                       "Keep what was computed of prompts in this directory, for the next time that "
                                       "one begins alike. Who can read it can read the prompts")
                           ->type_name("DIR");
  command
      .add_option("--cache-dir-size", cache_directory_bytes,
                  "Most bytes in it; what was used longest ago goes first (default 10GiB)")
      ->transform(CLI::AsSizeValue(true))
      ->needs(cache)
      ->type_name("SIZE");
}

std::unique_ptr<Session> ModelArguments::open(int64_t default_context) const {
  SessionOptions options;
  options.compute = weights.compute_mode();
  options.weights = weights.options();
  options.fp8_cache = weights.fp8_cache();
  options.threads = threads;
  options.context = context ? *context : default_context;
  const ModelConfig config = read_model_config(directory);
  const bool has_mtp = config.num_nextn_predict_layers > 0;
  if (drafts && *drafts > 0 && !has_mtp) {
    throw_bad_input("{}: --drafts needs an MTP layer, and the model has none (num_nextn_predict_layers is 0).",
                    directory);
  }
  options.store_directory = cache_directory;
  options.store_bytes = cache_directory_bytes;
  options.drafts = drafts.value_or(has_mtp && weights.experts_in_memory == 0 ? 1 : 0);
  if (!context) {
    if (config.max_position_embeddings > 0) {
      options.context = std::min(options.context, config.max_position_embeddings);
    }
  }
  LoadDisplay display;
  options.on_plan = [&display](const WeightPlan& plan, uint64_t cache_bytes) { display.plan(plan, cache_bytes); };
  options.on_progress = [&display](uint64_t done, uint64_t total) { display.progress(done, total); };
  return std::make_unique<Session>(directory, options);
}

void SamplingArguments::add_to(CLI::App& command) {
  const char* group = "Sampling";
  command
      .add_option("--temperature", temperature,
                  "0 takes the likeliest token; 1 leaves the model's distribution as it is. Without it, what "
                  "generation_config.json says if it has do_sample, else 0")
      ->type_name("X")
      ->group(group);
  command.add_option("--top-p", top_p, "Draw among the least set of tokens with this probability together")
      ->type_name("X")
      ->group(group);
  command.add_option("--top-k", top_k, "Draw among the N likeliest tokens; 0 is off")->type_name("N")->group(group);
  command.add_option("--min-p", min_p, "Drop tokens less likely than this share of the likeliest")
      ->type_name("X")
      ->group(group);
  command
      .add_option("--repetition-penalty", repetition_penalty,
                  "Divide (if negative: multiply) the logits of tokens that occur in prompt or answer; 1 is off")
      ->type_name("X")
      ->group(group);
  command
      .add_option("--presence-penalty", presence_penalty, "Subtract from the logits of tokens that occur in the answer")
      ->type_name("X")
      ->group(group);
  command.add_option("--frequency-penalty", frequency_penalty, "The same, once per occurrence")
      ->type_name("X")
      ->group(group);
  command
      .add_option("--logit-bias", logit_bias,
                  "Add BIAS (−100 to 100) to the logit of token ID: 198=-100 forbids it; may be given several times")
      ->type_name("ID=BIAS")
      ->allow_extra_args(false)
      ->group(group);
  command.add_option("--seed", seed, "Seed of the random draws")->type_name("N")->group(group);
}

SamplingOptions SamplingArguments::resolve(const std::string& directory, uint64_t default_seed) const {
  if (!std::filesystem::is_directory(directory)) {
    throw_bad_input("{}: no such directory, a checkpoint was expected", directory);
  }
  SamplingOptions options = default_sampling(directory);
  if (temperature) options.temperature = *temperature;
  if (top_p) options.top_p = *top_p;
  if (top_k) options.top_k = *top_k;
  if (min_p) options.min_p = *min_p;
  if (repetition_penalty) options.repetition_penalty = *repetition_penalty;
  if (presence_penalty) options.presence_penalty = *presence_penalty;
  if (frequency_penalty) options.frequency_penalty = *frequency_penalty;
  for (const std::string& text : logit_bias) {
    std::pair<int32_t, double> bias;
    const char* end = text.data() + text.size();
    const auto [equals, id_error] = std::from_chars(text.data(), end, bias.first);
    const bool has_id = id_error == std::errc() && equals != end && *equals == '=';
    const auto value = has_id ? std::from_chars(equals + 1, end, bias.second) : std::from_chars_result{};
    if (!has_id || value.ec != std::errc() || value.ptr != end) {
      throw_bad_input("--logit-bias: expected ID=BIAS, found \"{}\"", text);
    }
    options.logit_bias.push_back(bias);
  }
  options.seed = seed.value_or(default_seed);
  const Sampler checked(options);  // says now, before a model is opened, what is out of range
  return options;
}

std::vector<int32_t> text_ids(const std::string& path, const Tokenizer& tokenizer) {
  constexpr size_t kLongestText = size_t{1} << 30;
  const std::string text = read_file(path, kLongestText);
  try {
    std::vector<int32_t> ids = tokenizer.encode_plain(text);
    if (ids.empty()) throw_bad_input("there is no text in it");
    return ids;
  } catch (const Error& error) {
    throw Error(error.kind(), path + ": " + error.what());
  }
}

std::optional<int32_t> window_bos(const std::string& directory, const Tokenizer& tokenizer) {
  const TokenizerConfig config = read_tokenizer_config(directory);
  if (!config.add_bos_token) return std::nullopt;
  return tokenizer.added_token(config.bos_token);
}

std::unique_ptr<Tokenizer> load_tokenizer_if_present(const std::string& directory) {
  if (!file_exists(directory + "/tokenizer.json")) return nullptr;
  return Tokenizer::load(directory);
}

ChatFormat chat_format(const std::string& directory, const TokenizerConfig& config, const std::string& name) {
  if (name == "v3") return ChatFormat::deepseek_v3;
  if (name == "r1") return ChatFormat::deepseek_r1;
  if (name == "v31") return ChatFormat::deepseek_v31;
  if (config.chat_format) return *config.chat_format;
  throw_bad_input(
      "{}: the checkpoint has {}; name one of Fathom's with --format v3, r1 or v31, or use `fathom generate` for plain "
      "completion",
      directory,
      config.has_chat_template ? "a chat template that is none of those Fathom knows (DeepSeek-V3, R1, V3.1)"
                               : "no chat template");
}

void check_chat_tokens(const std::string& directory, const Tokenizer& tokenizer, const TokenizerConfig& config) {
  for (const std::string& token : {config.bos_token, std::string("<｜User｜>"), std::string("<｜Assistant｜>")}) {
    if (!token.empty() && !tokenizer.added_token(token)) {
      throw_bad_input(
          "{}/tokenizer.json: no token {}, which the chat template needs; use `fathom generate` for plain "
          "completion",
          directory, token);
    }
  }
}

std::vector<int32_t> parse_ids(const std::string& text, const std::string& source) {
  std::vector<int32_t> ids;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    size_t first = begin;
    size_t last = comma;
    while (first < last && text[first] == ' ') ++first;
    while (last > first && text[last - 1] == ' ') --last;
    int32_t id = 0;
    const auto parsed = std::from_chars(text.data() + first, text.data() + last, id);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + last) {
      throw_bad_input("{}: expected token ids like 1,2,3; found \"{}\"", source, text.substr(first, last - first));
    }
    ids.push_back(id);
    begin = comma + 1;
  }
  return ids;
}

std::vector<int64_t> parse_numbers(const std::string& text, const char* option, int64_t least, int64_t most) {
  std::vector<int64_t> numbers;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t comma = std::min(text.find(',', begin), text.size());
    int64_t number = 0;
    const auto parsed = std::from_chars(text.data() + begin, text.data() + comma, number);
    if (parsed.ec != std::errc() || parsed.ptr != text.data() + comma || number < least || number > most) {
      throw_bad_input("{}: expected whole numbers from {} to {} with commas between them; found \"{}\"", option, least,
                      most, text.substr(begin, comma - begin));
    }
    numbers.push_back(number);
    begin = comma + 1;
  }
  return numbers;
}

void check_ids(const std::vector<int32_t>& ids, int64_t vocab_size, const std::string& source) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      throw_bad_input("{}: token {} at position {} is outside the model's vocabulary of {}", source, ids[i], i,
                      vocab_size);
    }
  }
}

}  // namespace fathom
