#include "formats/inspect.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "formats/packed_matrix.h"
#include "formats/tensor_table.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxContext = int64_t{1} << 30;

/// Findings of one kind: a broken checkpoint can lack 45 000 tensors, and nobody reads that many lines.
class Findings {
 public:
  explicit Findings(std::vector<std::string>& list) : list_(list) {}

  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    if (++count_ <= kListed) list_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  /// `what` completes "and 12 more …".
  void finish(const char* what) {
    if (count_ > kListed) list_.push_back(fmt::format("… and {} more {}", count_ - kListed, what));
  }

 private:
  static constexpr int64_t kListed = 10;
  std::vector<std::string>& list_;
  int64_t count_ = 0;
};

bool is_plain_float(DType dtype) {
  return dtype == DType::bf16 || dtype == DType::f32 || dtype == DType::f16;
}

/// An MTP layer that is missing as a whole has one cause and deserves one sentence.
bool lacks_layer(const Checkpoint& checkpoint, const std::vector<TensorSpec>& table, int64_t layer) {
  return std::none_of(table.begin(), table.end(), [&](const TensorSpec& spec) {
    return spec.layer == layer && (checkpoint.has(spec.name) || is_packed(checkpoint, spec.name));
  });
}

void check_tensors(const Checkpoint& checkpoint, const std::vector<TensorSpec>& table, CheckpointProblems& problems) {
  const ModelConfig& config = checkpoint.config();
  std::unordered_set<int64_t> lacking_layers;
  for (int64_t layer = config.num_hidden_layers; layer < config.total_layers(); ++layer) {
    if (!lacks_layer(checkpoint, table, layer)) continue;
    lacking_layers.insert(layer);
    problems.fatal.push_back(
        fmt::format("the config says num_nextn_predict_layers {}, but no tensor of the MTP layer {} is there "
                    "(num_nextn_predict_layers 0 would fit)",
                    config.num_nextn_predict_layers, layer));
  }

  std::vector<std::string> shapes, dtypes, scales, integers;
  Findings missing(problems.fatal), wrong_shape(shapes), wrong_dtype(dtypes), wrong_scale(scales),
      wrong_integers(integers);
  for (const TensorSpec& spec : table) {
    if (may_be_packed(spec) && is_packed(checkpoint, spec.name)) {
      try {
        packed_matrix(checkpoint, spec.name, spec.shape);
      } catch (const Error& error) {
        wrong_integers.add("{}", error.what());
      }
      continue;
    }
    if (!checkpoint.has(spec.name)) {
      if (!spec.optional && !lacking_layers.contains(spec.layer)) missing.add("tensor \"{}\" is missing", spec.name);
      continue;
    }
    const TensorView view = checkpoint.tensor(spec.name);
    if (view.shape != spec.shape) {
      wrong_shape.add("tensor \"{}\": expected the shape {}, found {}", spec.name, shape_text(spec.shape),
                      shape_text(view.shape));
      continue;
    }
    if (is_plain_float(view.dtype)) continue;
    if (!spec.quantizable || view.dtype != DType::f8_e4m3) {
      wrong_dtype.add("tensor \"{}\": expected {}, found {}", spec.name,
                      spec.quantizable ? "F8_E4M3, BF16, F16 or F32" : "BF16, F16 or F32", dtype_name(view.dtype));
      continue;
    }
    if (!config.fp8) {
      wrong_scale.add("tensor \"{}\" is F8_E4M3, but the config has no quantization_config with its block size",
                      spec.name);
      continue;
    }
    const std::string scale_name = spec.name + "_scale_inv";
    if (!checkpoint.has(scale_name)) {
      wrong_scale.add("tensor \"{}\" is missing, the scales of \"{}\"", scale_name, spec.name);
      continue;
    }
    const TensorView scale = checkpoint.tensor(scale_name);
    const Shape expected = scale_shape(spec.shape, *config.fp8);
    if (scale.shape != expected) {
      wrong_scale.add("tensor \"{}\": expected the shape {}, found {}", scale_name, shape_text(expected),
                      shape_text(scale.shape));
    } else if (scale.dtype != DType::f32 && scale.dtype != DType::bf16 && scale.dtype != DType::f16 &&
               scale.dtype != DType::f8_e8m0) {
      wrong_scale.add("tensor \"{}\": expected F32, BF16, F16 or F8_E8M0, found {}", scale_name,
                      dtype_name(scale.dtype));
    }
  }
  missing.finish("tensors are missing");
  wrong_shape.finish("tensors have the wrong shape");
  wrong_dtype.finish("tensors have a dtype that cannot be used");
  wrong_scale.finish("FP8 tensors lack fitting scales");
  wrong_integers.finish("matrices in integers cannot be used");
  for (const auto* list : {&shapes, &dtypes, &scales, &integers}) {
    problems.fatal.insert(problems.fatal.end(), list->begin(), list->end());
  }
}

void check_unknown_tensors(const Checkpoint& checkpoint, const std::vector<TensorSpec>& table,
                           CheckpointProblems& problems) {
  std::unordered_set<std::string> known;
  for (const TensorSpec& spec : table) {
    known.insert(spec.name);
    if (may_be_packed(spec) && is_packed(checkpoint, spec.name)) {
      const PackedNames parts(spec.name);
      known.insert({parts.words, parts.scales, parts.zeros, parts.shape});
    }
    // Scales without an FP8 weight have no use, and are named as unknown.
    if (spec.quantizable && checkpoint.has(spec.name) && checkpoint.tensor(spec.name).dtype == DType::f8_e4m3) {
      known.insert(spec.name + "_scale_inv");
    }
  }
  Findings unknown(problems.notes);
  for (const auto& file : checkpoint.files()) {
    for (const SafetensorsEntry& entry : file->entries()) {
      if (!known.contains(entry.name)) {
        unknown.add("tensor \"{}\" {} {} is not part of this model", printable_name(entry.name),
                    dtype_name(entry.dtype), shape_text(entry.shape));
      }
    }
  }
  unknown.finish("tensors are not part of this model");
}

void check_files(const Checkpoint& checkpoint, CheckpointProblems& problems) {
  uint64_t tensor_bytes = 0, file_bytes = 0;
  std::unordered_set<std::string> used;
  for (const auto& file : checkpoint.files()) {
    used.insert(fs::path(file->path()).filename().string());
    file_bytes += file->bytes();
    for (const SafetensorsEntry& entry : file->entries()) tensor_bytes += entry.end - entry.begin;
  }
  // Writers disagree: the Hugging Face library counts the tensors, the index of DeepSeek-V3 counts whole files.
  const std::optional<uint64_t> total = checkpoint.index_total_size();
  if (total && *total != tensor_bytes && *total != file_bytes) {
    problems.notes.push_back(fmt::format("the index says total_size {}, but the tensors take {} bytes (the files {})",
                                         *total, tensor_bytes, file_bytes));
  }
  std::vector<std::string> strangers;
  std::error_code error;
  for (fs::directory_iterator entry(checkpoint.directory(), error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".safetensors") && !used.contains(name)) strangers.push_back(name);
  }
  std::sort(strangers.begin(), strangers.end());
  Findings unused(problems.notes);
  for (const std::string& name : strangers)
    unused.add("the file {} is not part of the checkpoint", printable_name(name));
  unused.finish("safetensors files are not part of the checkpoint");
}

bool directory_has_weights(const std::string& directory) {
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.ends_with(".safetensors") || name == "model.safetensors.index.json") return true;
  }
  return false;
}

/// 671026419200 → "671,026,419,200".
std::string exact(uint64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

/// Three to five significant digits with a decimal prefix: "671.03 B", "688.57 GB".
std::string brief(uint64_t value, const std::vector<const char*>& units) {
  auto scaled = static_cast<double>(value);
  size_t unit = 0;
  while (scaled >= 1000 && unit + 1 < units.size()) {
    scaled /= 1000;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", scaled, unit == 0 ? 0 : 2, units[unit]);
}
std::string brief_count(uint64_t value) {
  return brief(value, {"", "K", "M", "B", "T"});
}
std::string brief_bytes(uint64_t value) {
  return brief(value, {"bytes", "KB", "MB", "GB", "TB", "PB"});
}

void append_count(std::string& text, const char* label, int64_t value) {
  text += fmt::format("  {:<40}{:>19}  {:>9}\n", label, exact(static_cast<uint64_t>(value)),
                      brief_count(static_cast<uint64_t>(value)));
}
void append_bytes(std::string& text, const std::string& label, uint64_t value) {
  text += fmt::format("  {:<40}{:>19}  {:>9}\n", label, exact(value), brief_bytes(value));
}

std::string plural(int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

ParameterCounts count_parameters(const ModelConfig& config) {
  ParameterCounts counts;
  int64_t mtp_copies = 0;
  for (const TensorSpec& spec : tensor_table(config)) {
    const int64_t elements = element_count(spec.shape);
    if (config.is_mtp_layer(spec.layer)) {
      const bool copy = spec.role == TensorRole::mtp_embedding || spec.role == TensorRole::mtp_head;
      (copy ? mtp_copies : counts.mtp_unique) += elements;
      continue;
    }
    switch (spec.role) {
      case TensorRole::embedding:
        counts.embedding += elements;
        break;
      case TensorRole::head:
        if (!config.tie_word_embeddings) counts.head += elements;
        break;
      case TensorRole::norm:
        counts.norms += elements;
        break;
      case TensorRole::attention:
        counts.attention += elements;
        break;
      case TensorRole::dense_mlp:
        counts.dense_mlp += elements;
        break;
      case TensorRole::router:
      case TensorRole::router_bias:
        counts.router += elements;
        break;
      case TensorRole::shared_expert:
        counts.shared_experts += elements;
        break;
      case TensorRole::routed_expert:
        counts.routed_experts += elements;
        break;
      case TensorRole::mtp_projection:
      case TensorRole::mtp_embedding:
      case TensorRole::mtp_head:
        break;  // only in MTP layers
    }
  }
  counts.main = counts.embedding + counts.head + counts.attention + counts.dense_mlp + counts.router +
                counts.shared_experts + counts.routed_experts + counts.norms;
  counts.active = counts.main;
  if (config.n_routed_experts > 0) {
    // All experts have one size, so the division is exact.
    counts.active -=
        counts.routed_experts / config.n_routed_experts * (config.n_routed_experts - config.num_experts_per_tok);
  }
  // A tied embedding is also the head, and as such every row of it is used.
  counts.active_without_embedding = counts.active - (config.tie_word_embeddings ? 0 : counts.embedding);
  counts.active_without_embedding_and_head = counts.active - counts.embedding - counts.head;
  counts.mtp_stored = counts.mtp_unique + mtp_copies;
  counts.stored = counts.main + counts.mtp_stored;
  counts.distinct = counts.main + counts.mtp_unique;
  return counts;
}

CheckpointProblems find_checkpoint_problems(const Checkpoint& checkpoint) {
  CheckpointProblems problems;
  const std::vector<TensorSpec> table = tensor_table(checkpoint.config());
  check_tensors(checkpoint, table, problems);
  check_unknown_tensors(checkpoint, table, problems);
  check_files(checkpoint, problems);
  return problems;
}

std::vector<std::string> check_checkpoint(const Checkpoint& checkpoint) {
  CheckpointProblems problems = find_checkpoint_problems(checkpoint);
  std::vector<std::string> all = std::move(problems.fatal);
  all.insert(all.end(), problems.notes.begin(), problems.notes.end());
  return all;
}

InspectReport inspect(const std::string& path, std::optional<int64_t> context) {
  if (context && (*context < 1 || *context > kMaxContext)) {
    throw_bad_input("--context: expected a number of tokens from 1 to {}, found {}", kMaxContext, *context);
  }
  InspectReport report;
  report.path = path;
  std::error_code error;
  const bool is_directory = fs::is_directory(path, error);
  const std::optional<ModelConfig> preset = model_preset(path);
  report.config = preset && !file_exists(path) ? *preset : read_model_config(path);
  report.parameters = count_parameters(report.config);

  report.has_weights = is_directory && directory_has_weights(path);
  std::unique_ptr<Checkpoint> checkpoint;
  if (report.has_weights) {
    try {
      checkpoint = std::make_unique<Checkpoint>(path);
    } catch (const Error& trouble) {
      if (trouble.kind() != ErrorKind::bad_input) throw;
      report.problems.fatal.emplace_back(trouble.what());
    }
  }
  const auto count = [&](DType dtype, uint64_t bytes) {
    InspectReport::Format& format = report.formats[std::string(dtype_name(dtype))];
    ++format.tensors;
    format.bytes += bytes;
    ++report.tensors;
    report.tensor_bytes += bytes;
  };
  if (checkpoint) {
    for (const auto& file : checkpoint->files()) {
      ++report.files;
      report.file_bytes += file->bytes();
      for (const SafetensorsEntry& entry : file->entries()) count(entry.dtype, entry.end - entry.begin);
    }
    report.problems = find_checkpoint_problems(*checkpoint);
  } else if (!report.has_weights && !report.config.integers) {
    for (const StoredTensor& tensor : stored_tensors(report.config)) {
      count(tensor.dtype, static_cast<uint64_t>(element_count(tensor.shape)) * dtype_bytes(tensor.dtype));
    }
  }

  report.context = context.value_or(std::min<int64_t>(report.config.max_position_embeddings, 32768));
  const int64_t values = report.config.kv_lora_rank + report.config.qk_rope_head_dim;
  report.cache_values_per_token = values * report.config.num_hidden_layers;
  report.mtp_cache_values_per_token = values * report.config.num_nextn_predict_layers;
  return report;
}

std::string inspect_text(const InspectReport& report) {
  const ModelConfig& config = report.config;
  const ParameterCounts& counts = report.parameters;
  int64_t moe_layers = 0;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) moe_layers += config.is_moe_layer(layer) ? 1 : 0;

  std::string text = printable_name(report.path) + "\n";
  text += fmt::format("  {}, {} ({} dense, {} with experts), {}\n", config.model_type,
                      plural(config.num_hidden_layers, "layer"), config.num_hidden_layers - moe_layers, moe_layers,
                      plural(config.num_nextn_predict_layers, "MTP layer"));
  text += fmt::format("  hidden {}, {}, vocabulary {}, context {}\n", config.hidden_size,
                      plural(config.num_attention_heads, "head"), exact(static_cast<uint64_t>(config.vocab_size)),
                      exact(static_cast<uint64_t>(config.max_position_embeddings)));
  if (config.n_routed_experts > 0) {
    text += fmt::format("  {} routed experts in {} ({} kept), {} per token, {} shared\n", config.n_routed_experts,
                        plural(config.n_group, "group"), config.topk_group, config.num_experts_per_tok,
                        config.n_shared_experts);
  }

  text += "\nParameters\n";
  append_count(text, "embedding", counts.embedding);
  append_count(text, config.tie_word_embeddings ? "head (tied to the embedding)" : "head", counts.head);
  append_count(text, "attention", counts.attention);
  append_count(text, "dense feed-forward", counts.dense_mlp);
  append_count(text, "routers", counts.router);
  append_count(text, "shared experts", counts.shared_experts);
  append_count(text, "routed experts", counts.routed_experts);
  append_count(text, "norms", counts.norms);
  append_count(text, "main model, total", counts.main);
  append_count(text, "active per token", counts.active);
  append_count(text, "  without embedding", counts.active_without_embedding);
  append_count(text, "  without embedding and head", counts.active_without_embedding_and_head);
  if (config.num_nextn_predict_layers > 0) {
    append_count(text, "MTP, unique", counts.mtp_unique);
    append_count(text, "MTP, stored with embedding and head", counts.mtp_stored);
    append_count(text, "main and MTP, distinct", counts.distinct);
    append_count(text, "main and MTP, stored", counts.stored);
  }

  if (report.tensors > 0) {
    text += report.has_weights ? "\nWeights in bytes\n"
                               : "\nWeights in bytes (no files here: as they would be published)\n";
    for (const auto& [dtype, format] : report.formats) {
      append_bytes(text, fmt::format("{}, {}", dtype, plural(format.tensors, "tensor")), format.bytes);
    }
    append_bytes(
        text,
        fmt::format("memory for weights{}, {}", config.integers ? "" : " (mapped)", plural(report.tensors, "tensor")),
        report.tensor_bytes);
    if (report.has_weights) {
      append_bytes(text, fmt::format("on disk, {}", plural(report.files, "file")), report.file_bytes);
    }
  }

  text +=
      fmt::format("\nLatent cache in bytes at a context of {} tokens\n", exact(static_cast<uint64_t>(report.context)));
  const auto cache = [&](const char* label, int64_t values_per_token) {
    const auto values = static_cast<uint64_t>(values_per_token) * static_cast<uint64_t>(report.context);
    append_bytes(text,
                 fmt::format("{}, BF16 ({} per token)", label, exact(static_cast<uint64_t>(values_per_token) * 2)),
                 values * 2);
    append_bytes(text, fmt::format("{}, F32 ({} per token)", label, exact(static_cast<uint64_t>(values_per_token) * 4)),
                 values * 4);
  };
  cache("main layers", report.cache_values_per_token);
  if (config.num_nextn_predict_layers > 0) cache("MTP", report.mtp_cache_values_per_token);

  if (!report.problems.fatal.empty()) {
    text += "\nThis checkpoint cannot be used\n";
    for (const std::string& sentence : report.problems.fatal) text += "  " + sentence + "\n";
  }
  if (!report.problems.notes.empty()) {
    text += "\nNotes\n";
    for (const std::string& sentence : report.problems.notes) text += "  " + sentence + "\n";
  }
  return text;
}

nlohmann::ordered_json inspect_json(const InspectReport& report) {
  using ordered_json = nlohmann::ordered_json;
  const ParameterCounts& counts = report.parameters;
  ordered_json formats = ordered_json::object();
  for (const auto& [dtype, format] : report.formats) {
    formats[dtype] = {{"tensors", format.tensors}, {"bytes", format.bytes}};
  }
  const auto cache = [&](int64_t values) {
    return ordered_json{{"values_per_token", values},
                        {"bf16_bytes", values * report.context * 2},
                        {"f32_bytes", values * report.context * 4}};
  };
  return ordered_json{
      {"path", report.path},
      {"model_type", report.config.model_type},
      {"parameters",
       {{"embedding", counts.embedding},
        {"head", counts.head},
        {"attention", counts.attention},
        {"dense_mlp", counts.dense_mlp},
        {"router", counts.router},
        {"shared_experts", counts.shared_experts},
        {"routed_experts", counts.routed_experts},
        {"norms", counts.norms},
        {"main", counts.main},
        {"active", counts.active},
        {"active_without_embedding", counts.active_without_embedding},
        {"active_without_embedding_and_head", counts.active_without_embedding_and_head},
        {"mtp_unique", counts.mtp_unique},
        {"mtp_stored", counts.mtp_stored},
        {"distinct", counts.distinct},
        {"stored", counts.stored}}},
      {"weights",
       {{"present", report.has_weights},
        {"formats", formats},
        {"tensors", report.tensors},
        {"bytes", report.tensor_bytes},
        {"files", report.files},
        {"file_bytes", report.file_bytes}}},
      {"cache",
       {{"context", report.context},
        {"main", cache(report.cache_values_per_token)},
        {"mtp", cache(report.mtp_cache_values_per_token)}}},
      {"fatal", report.problems.fatal},
      {"notes", report.problems.notes},
  };
}

}  // namespace fathom
