#include "formats/synth.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/number_formats.h"
#include "base/output_directory.h"
#include "base/progress.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/tensor_table.h"
#include "formats/tokenizer_json.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using ordered_json = nlohmann::ordered_json;

// ---- Random numbers: word i of a tensor is a function of (seed, name, i), so no order of writing matters. ----

uint64_t tensor_key(uint64_t seed, std::string_view name) {
  return mix64(hash_text(name) ^ mix64(seed + 0x9e3779b97f4a7c15u));
}

uint64_t random_word(uint64_t key, uint64_t index) {
  return mix64(key + (index + 1) * 0x9e3779b97f4a7c15u);
}

/// The value below which a share p of a normal distribution lies. Acklam's rational approximation and one step of
/// Newton's method.
double normal_quantile(double p) {
  if (p > 0.5) return -normal_quantile(1 - p);
  double x = 0;
  if (p < 0.02425) {
    const double q = std::sqrt(-2 * std::log(p));
    x = (((((-7.784894002430293e-03 * q - 3.223964580411365e-01) * q - 2.400758277161838e+00) * q -
           2.549732539343734e+00) *
              q +
          4.374664141464968e+00) *
             q +
         2.938163982698783e+00) /
        ((((7.784695709041462e-03 * q + 3.224671290700398e-01) * q + 2.445134137142996e+00) * q +
          3.754408661907416e+00) *
             q +
         1);
  } else {
    const double q = p - 0.5, r = q * q;
    x = (((((-3.969683028665376e+01 * r + 2.209460984245205e+02) * r - 2.759285104469687e+02) * r +
           1.383577518672690e+02) *
              r -
          3.066479806614716e+01) *
             r +
         2.506628277459239e+00) *
        q /
        (((((-5.447609879822406e+01 * r + 1.615858368580409e+02) * r - 1.556989798598866e+02) * r +
           6.680131188771972e+01) *
              r -
          1.328068155288572e+01) *
             r +
         1);
  }
  const double error = 0.5 * std::erfc(-x / std::sqrt(2.0)) - p;
  return x - error * std::sqrt(2 * M_PI) * std::exp(x * x / 2);
}

// A normal value is one look-up: 16 random bits choose one of 65536 quantiles. Tables hold the finished codes, so
// that an element costs a quarter of a random word and a load.
constexpr size_t kQuantiles = 65536;
constexpr double kGreatestQuantile = 4.2;  // the last one is 4.17

const std::vector<float>& normal_quantiles() {
  static const std::vector<float> table = [] {
    std::vector<float> values(kQuantiles);
    for (size_t i = 0; i < kQuantiles; ++i) {
      values[i] = static_cast<float>(normal_quantile((static_cast<double>(i) + 0.5) / kQuantiles));
    }
    return values;
  }();
  return table;
}

// ---- What the values of a tensor look like ----

// Blocks come in four sizes: without that all scales of a tensor would be equal, and a mistake in their order
// invisible.
constexpr std::array<double, 4> kBlockSizes = {0.8, 0.93, 1.07, 1.2};

size_t block_class(uint64_t key, uint64_t block) {
  return random_word(~key, block) % kBlockSizes.size();
}

struct Fp8Tables {
  std::array<float, kBlockSizes.size()> scale;
  std::array<std::vector<uint8_t>, kBlockSizes.size()> codes;
};

/// Tables by what they depend on; few tensors of a model differ in that.
class ValueTables {
 public:
  const std::vector<uint16_t>& bf16(double mean, double deviation) {
    std::vector<uint16_t>& table = bf16_[{mean, deviation}];
    if (table.empty()) {
      table.resize(kQuantiles);
      for (size_t i = 0; i < kQuantiles; ++i) {
        table[i] = f32_to_bf16(static_cast<float>(mean + deviation * normal_quantiles()[i]));
      }
    }
    return table;
  }

  /// Codes and scale of each block size: values of `deviation` × size, quantized so that the greatest meets 448.
  const Fp8Tables& fp8(double deviation, bool ue8m0) {
    auto [place, is_new] = fp8_.try_emplace(deviation);
    Fp8Tables& tables = place->second;
    if (!is_new) return tables;
    for (size_t size = 0; size < kBlockSizes.size(); ++size) {
      const double spread = deviation * kBlockSizes[size];
      auto scale = static_cast<float>(spread * kGreatestQuantile / 448);
      if (ue8m0) scale = next_power_of_two(scale);
      tables.scale[size] = scale;
      tables.codes[size].resize(kQuantiles);
      for (size_t i = 0; i < kQuantiles; ++i) {
        tables.codes[size][i] = f32_to_e4m3(static_cast<float>(spread * normal_quantiles()[i]) / scale);
      }
    }
    return tables;
  }

 private:
  std::map<std::pair<double, double>, std::vector<uint16_t>> bf16_;
  std::map<double, Fp8Tables> fp8_;
};

/// 1/sqrt(inputs) keeps the size of activations through a product. The embedding has deviation 1: the residual stream
/// then starts as large as what the layers add to it, and tokens differ.
double matrix_deviation(const TensorSpec& spec, double wanted) {
  if (wanted > 0) return wanted;
  if (spec.role == TensorRole::embedding || spec.role == TensorRole::mtp_embedding) return 1;
  return 1 / std::sqrt(static_cast<double>(spec.shape[1]));
}

constexpr double kNormDeviation = 0.05;
constexpr double kRouterBiasDeviation = 0.05;

// ---- Writing ----

constexpr size_t kChunk = size_t{1} << 16;  // elements made at a time; a multiple of 4, the elements of a random word

class TensorWriter {
 public:
  TensorWriter(const SynthOptions& options, const std::vector<TensorSpec>& table, uint64_t total_bytes)
      : options_(options), table_(table), progress_("random weights", total_bytes, "B") {}

  void write(SafetensorsWriter& file, const StoredTensor& tensor) {
    const TensorSpec& spec = table_[tensor.row];
    const uint64_t key = tensor_key(options_.seed, spec.name);
    const bool matrix = spec.shape.size() == 2;
    if (tensor.is_scale) {
      write_scales(file, spec, tensor.shape, key);
    } else if (tensor.dtype == DType::f8_e4m3) {
      write_fp8(file, spec, key);
    } else if (tensor.dtype == DType::f32) {
      write_f32(file, spec, key);
    } else if (matrix) {
      write_bf16(file, spec, key, tables_.bf16(0, matrix_deviation(spec, options_.standard_deviation)));
    } else {
      write_bf16(file, spec, key, tables_.bf16(1, kNormDeviation));
    }
  }

 private:
  void put(SafetensorsWriter& file, const void* data, size_t bytes) {
    check_interrupt();
    file.write(data, bytes);
    progress_.advance(bytes);
  }

  /// 16 random bits for each of the elements [first, first + kChunk); `first` is a multiple of 4.
  void draw(uint64_t key, uint64_t first, size_t count) {
    for (size_t i = 0; i < count; i += 4) {
      const uint64_t word = random_word(key, (first + i) / 4);
      std::memcpy(&random_[i], &word, sizeof word);
    }
  }

  void write_bf16(SafetensorsWriter& file, const TensorSpec& spec, uint64_t key, const std::vector<uint16_t>& table) {
    const auto elements = static_cast<uint64_t>(element_count(spec.shape));
    for (uint64_t first = 0; first < elements; first += kChunk) {
      const size_t count = std::min<uint64_t>(kChunk, elements - first);
      draw(key, first, count);
      for (size_t i = 0; i < count; ++i) halves_[i] = table[random_[i]];
      put(file, halves_.data(), count * sizeof(uint16_t));
    }
  }

  /// Router biases: few, so nothing is looked up.
  void write_f32(SafetensorsWriter& file, const TensorSpec& spec, uint64_t key) {
    std::vector<float> values(static_cast<size_t>(element_count(spec.shape)));
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(kRouterBiasDeviation) * normal_quantiles()[random_word(key, i) >> 48];
    }
    put(file, values.data(), values.size() * sizeof(float));
  }

  void write_fp8(SafetensorsWriter& file, const TensorSpec& spec, uint64_t key) {
    const Fp8Config& fp8 = *options_.config.fp8;
    const Fp8Tables& tables = tables_.fp8(matrix_deviation(spec, options_.standard_deviation), fp8.ue8m0);
    const auto elements = static_cast<uint64_t>(element_count(spec.shape));
    const auto cols = static_cast<uint64_t>(spec.shape[1]);
    const auto block_rows = static_cast<uint64_t>(fp8.block_rows), block_cols = static_cast<uint64_t>(fp8.block_cols);
    const auto blocks_across = static_cast<uint64_t>(scale_shape(spec.shape, fp8)[1]);
    for (uint64_t first = 0; first < elements; first += kChunk) {
      const size_t count = std::min<uint64_t>(kChunk, elements - first);
      draw(key, first, count);
      for (size_t i = 0; i < count;) {
        // A stretch of one row inside one block has one table.
        const uint64_t row = (first + i) / cols, col = (first + i) % cols;
        const uint64_t block = row / block_rows * blocks_across + col / block_cols;
        const uint64_t length = std::min({block_cols - col % block_cols, cols - col, uint64_t{count - i}});
        const uint8_t* codes = tables.codes[block_class(key, block)].data();
        for (const size_t end = i + length; i < end; ++i) codes_[i] = codes[random_[i]];
      }
      put(file, codes_.data(), count);
    }
  }

  void write_scales(SafetensorsWriter& file, const TensorSpec& spec, const Shape& shape, uint64_t key) {
    const Fp8Tables& tables =
        tables_.fp8(matrix_deviation(spec, options_.standard_deviation), options_.config.fp8->ue8m0);
    std::vector<float> scales(static_cast<size_t>(element_count(shape)));
    for (size_t block = 0; block < scales.size(); ++block) scales[block] = tables.scale[block_class(key, block)];
    put(file, scales.data(), scales.size() * sizeof(float));
  }

  const SynthOptions& options_;
  const std::vector<TensorSpec>& table_;
  Progress progress_;
  ValueTables tables_;
  std::vector<uint16_t> random_ = std::vector<uint16_t>(kChunk);
  std::vector<uint16_t> halves_ = std::vector<uint16_t>(kChunk);
  std::vector<uint8_t> codes_ = std::vector<uint8_t>(kChunk);
};

uint64_t stored_bytes(const StoredTensor& tensor) {
  return static_cast<uint64_t>(element_count(tensor.shape)) * dtype_bytes(tensor.dtype);
}

/// The tensors of each shard, filled in the order of the table.
std::vector<std::vector<const StoredTensor*>> plan_shards(const std::vector<StoredTensor>& tensors, uint64_t limit) {
  std::vector<std::vector<const StoredTensor*>> shards(1);
  uint64_t filled = 0;
  for (const StoredTensor& tensor : tensors) {
    const uint64_t bytes = stored_bytes(tensor);
    if (filled > 0 && filled + bytes > limit) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&tensor);
    filled += bytes;
  }
  // Inside a file wide types first: then every tensor is aligned to its type, as readers that map files like it.
  for (auto& shard : shards) {
    std::stable_sort(shard.begin(), shard.end(), [](const StoredTensor* a, const StoredTensor* b) {
      return dtype_bytes(a->dtype) > dtype_bytes(b->dtype);
    });
  }
  return shards;
}

void write_text_file(const fs::path& path, const std::string& text) {
  OutputFile file(path.string());
  file.write(text);
  file.commit();
}

// ---- The tokenizer ----

constexpr int64_t kTokenizerTokens = 3 + 256 + static_cast<int64_t>(deepseek_control_tokens.size());

/// A byte-level BPE vocabulary without merges: each byte of a text is a token. Ids of bos and eos are the config's; the
/// others take the lowest free ones.
ordered_json random_model_tokenizer(const ModelConfig& config) {
  const int64_t bos = config.bos_token_id.value_or(0);
  const int64_t eos = config.eos_token_ids.empty() ? (bos == 1 ? 0 : 1) : config.eos_token_ids[0];
  int64_t last = -1;
  const auto next_id = [&] {
    do {
      ++last;
    } while (last == bos || last == eos);
    return last;
  };
  ordered_json vocab = ordered_json::object();
  ordered_json added = ordered_json::array();
  const auto add_special = [&](int64_t id, const char* content) {
    vocab[content] = id;
    added.push_back(added_token_json(id, content, true, false));
  };
  add_special(bos, bos_token_text);
  if (eos != bos) add_special(eos, eos_token_text);
  add_special(next_id(), pad_token_text);
  for (int byte = 0; byte < 256; ++byte) vocab[byte_character(static_cast<uint8_t>(byte))] = next_id();
  for (const char* content : deepseek_control_tokens) {
    added.push_back(added_token_json(next_id(), content, std::string_view(content) == "<|EOT|>", true));
  }

  return byte_level_tokenizer_json(vocab, added, ordered_json::array());
}

ordered_json random_model_tokenizer_config(const ModelConfig& config) {
  const bool one_token = !config.eos_token_ids.empty() && config.bos_token_id == config.eos_token_ids[0];
  return tokenizer_config_json(one_token ? bos_token_text : eos_token_text, config.max_position_embeddings,
                               deepseek_v3_chat_template);
}

constexpr size_t kMaxTokenizerBytes = size_t{256} << 20;
constexpr const char* kTokenizerFiles[] = {"tokenizer.json", "tokenizer_config.json"};

/// Every id of a tokenizer must be a row of the embedding.
void check_tokenizer_fits(const std::string& directory, int64_t vocab_size) {
  const std::string path = (fs::path(directory) / "tokenizer.json").string();
  const nlohmann::json tokenizer = read_json_file(path);
  int64_t greatest = -1;
  const auto look = [&](const nlohmann::json& id) {
    if (id.is_number_integer()) greatest = std::max(greatest, id.get<int64_t>());
  };
  if (tokenizer.is_object()) {
    if (tokenizer.contains("model") && tokenizer["model"].is_object() && tokenizer["model"].contains("vocab") &&
        tokenizer["model"]["vocab"].is_object()) {
      for (const auto& id : tokenizer["model"]["vocab"]) look(id);
    }
    if (tokenizer.contains("added_tokens") && tokenizer["added_tokens"].is_array()) {
      for (const auto& token : tokenizer["added_tokens"]) {
        if (token.is_object() && token.contains("id")) look(token["id"]);
      }
    }
  }
  if (greatest < 0) throw_bad_input("{}: expected a tokenizer with a vocabulary", path);
  if (greatest >= vocab_size) {
    throw_bad_input("{}: the tokenizer uses ids up to {}, more than the vocab_size {} of the model allows", path,
                    greatest, vocab_size);
  }
}

}  // namespace

SynthResult write_random_checkpoint(const SynthOptions& given) {
  SynthOptions options = given;
  options.config.torch_dtype = "bfloat16";
  if (!options.fp8) options.config.fp8.reset();
  options.config.integers.reset();
  if (options.fp8 && !options.config.fp8) options.config.fp8 = Fp8Config{};
  if (options.tokenizer_directory.empty()) {
    // The tokenizer of bytes numbers its few tokens without holes, or added tokens could not be behind them.
    const std::vector<int64_t>& eos = options.config.eos_token_ids;
    const int64_t first_eos = eos.empty() ? 1 : eos[0];
    if (std::max(options.config.bos_token_id.value_or(0), first_eos) >= kTokenizerTokens) {
      options.config.bos_token_id = 0;
      options.config.eos_token_ids = {1};
    }
  }
  const ModelConfig& config = options.config;

  const fs::path out = require_new_directory(options.out);
  if (!options.tokenizer_directory.empty()) check_tokenizer_fits(options.tokenizer_directory, config.vocab_size);

  const std::vector<TensorSpec> table = tensor_table(config);
  const std::vector<StoredTensor> tensors = stored_tensors(config);
  SynthResult result;
  result.tensors = static_cast<int64_t>(tensors.size());
  for (const StoredTensor& tensor : tensors) result.tensor_bytes += stored_bytes(tensor);

  // Headers, index and tokenizer take a few hundred bytes a tensor; the rest is for the file system's own needs.
  const uint64_t needed = result.tensor_bytes + tensors.size() * 512 + (uint64_t{64} << 20);
  const uint64_t available = free_disk_bytes(out.string());
  if (available < needed) {
    throw_failure("{}: the checkpoint needs {:.2f} GB, the disk has {:.2f} GB free", options.out,
                  static_cast<double>(needed) / 1e9, static_cast<double>(available) / 1e9);
  }

  PartialDirectory partial(out);
  const auto shards = plan_shards(tensors, options.shard_bytes);
  result.shards = static_cast<int64_t>(shards.size());
  std::map<std::string, std::string> places;  // tensor → file
  {
    TensorWriter writer(options, table, result.tensor_bytes);
    for (size_t shard = 0; shard < shards.size(); ++shard) {
      const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards.size());
      std::vector<SafetensorsWriter::Declared> declared;
      for (const StoredTensor* tensor : shards[shard]) {
        declared.push_back({tensor->name, tensor->dtype, tensor->shape});
        places[tensor->name] = name;
      }
      SafetensorsWriter file((partial.path() / name).string(), declared, {{"format", "pt"}});
      for (const StoredTensor* tensor : shards[shard]) writer.write(file, *tensor);
      file.commit();
    }
  }
  const nlohmann::json index = {{"metadata", {{"total_size", result.tensor_bytes}}}, {"weight_map", places}};
  write_text_file(partial.path() / "model.safetensors.index.json", index.dump(2) + "\n");
  write_text_file(partial.path() / "config.json", model_config_json(config).dump(2) + "\n");

  if (!options.tokenizer_directory.empty()) {
    for (const char* name : kTokenizerFiles) {
      const std::string source = (fs::path(options.tokenizer_directory) / name).string();
      write_text_file(partial.path() / name, read_file(source, kMaxTokenizerBytes));
    }
    result.tokenizer = true;
  } else if (config.vocab_size >= kTokenizerTokens) {
    write_text_file(partial.path() / kTokenizerFiles[0], random_model_tokenizer(config).dump(2) + "\n");
    write_text_file(partial.path() / kTokenizerFiles[1], random_model_tokenizer_config(config).dump(2) + "\n");
    result.tokenizer = true;
  }
  check_interrupt();
  partial.commit();
  return result;
}

}  // namespace fathom
