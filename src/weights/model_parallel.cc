#include "weights/model_parallel.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "formats/json.h"
#include "formats/model_config.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using Part = DemoTensor::Part;

constexpr size_t kLargestConfig = size_t{16} << 20;

struct Component {
  std::string_view hugging_face;
  std::string_view demo;
  Part part;
};

constexpr std::array<Component, 21> kComponents = {{
    {"embed_tokens", "embed", Part::rows},
    {"input_layernorm", "attn_norm", Part::whole},
    {"post_attention_layernorm", "ffn_norm", Part::whole},
    {"q_proj", "wq", Part::rows},
    {"q_a_proj", "wq_a", Part::whole},
    {"q_a_layernorm", "q_norm", Part::whole},
    {"q_b_proj", "wq_b", Part::rows},
    {"kv_a_proj_with_mqa", "wkv_a", Part::whole},
    {"kv_a_layernorm", "kv_norm", Part::whole},
    {"kv_b_proj", "wkv_b", Part::rows},
    {"o_proj", "wo", Part::cols},
    {"gate", "gate", Part::whole},
    {"gate_proj", "w1", Part::rows},
    {"down_proj", "w2", Part::cols},
    {"up_proj", "w3", Part::rows},
    {"norm", "norm", Part::whole},
    {"lm_head", "head", Part::rows},
    // The MTP layer's own.
    {"enorm", "enorm", Part::whole},
    {"hnorm", "hnorm", Part::whole},
    {"eh_proj", "eh_proj", Part::whole},
    {"head", "mtp_head", Part::rows},
}};

/// Words that stand before the component or behind it.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kWords = {
    {{"self_attn", "attn"}, {"mlp", "ffn"}, {"weight_scale_inv", "scale"}, {"e_score_correction_bias", "bias"}}};

std::vector<std::string> words_of(const std::string& name) {
  std::vector<std::string> words;
  for (size_t at = 0; at <= name.size();) {
    const size_t dot = std::min(name.find('.', at), name.size());
    words.push_back(name.substr(at, dot - at));
    at = dot + 1;
  }
  return words;
}

std::string joined(const std::vector<std::string>& words) {
  return fmt::format("{}", fmt::join(words, "."));
}

bool is_number(const std::string& word) {
  return !word.empty() && std::all_of(word.begin(), word.end(), [](char c) { return c >= '0' && c <= '9'; });
}

/// The number behind `word` in a name, −1 without.
int64_t number_behind(const std::vector<std::string>& words, std::string_view word) {
  for (size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == word && is_number(words[i + 1])) return std::stoll(words[i + 1]);
  }
  return -1;
}

/// Columns [first, first + count) of rows of `all` columns, `bytes` each.
void take_columns(const std::byte* rows, int64_t row_total, int64_t all, int64_t first, int64_t count, size_t bytes,
                  std::byte* out) {
  for (int64_t row = 0; row < row_total; ++row) {
    std::memcpy(out + static_cast<size_t>(row * count) * bytes, rows + static_cast<size_t>(row * all + first) * bytes,
                static_cast<size_t>(count) * bytes);
  }
}

int64_t divided(int64_t size, int64_t ranks, const std::string& name, int axis) {
  if (size % ranks != 0) {
    throw_bad_input("{}: axis {} has {} elements, which {} ranks cannot share evenly", printable_name(name), axis, size,
                    ranks);
  }
  return size / ranks;
}

OutputTensor slice(const SafetensorsEntry& entry, const DemoTensor& demo, const TensorReader& reader, int64_t rank,
                   int64_t ranks) {
  OutputTensor tensor{demo.name, entry.dtype, entry.shape, {}};
  if (demo.part == Part::rows) {
    const int64_t rows = divided(row_count(entry.shape), ranks, entry.name, 0);
    tensor.shape[0] = rows;
    tensor.make = [&reader, name = entry.name, begin = rank * rows](int64_t first, int64_t count, std::byte* out) {
      reader.read(name, begin + first, count, out);
    };
  } else if (demo.part == Part::cols) {
    if (entry.shape.size() != 2) {
      throw_bad_input("{}: expected a matrix, found {}", printable_name(entry.name), shape_text(entry.shape));
    }
    const int64_t all = entry.shape[1];
    const int64_t cols = divided(all, ranks, entry.name, 1);
    tensor.shape[1] = cols;
    tensor.make = [&reader, name = entry.name, all, cols, begin = rank * cols, bytes = dtype_bytes(entry.dtype)](
                      int64_t first, int64_t count, std::byte* out) {
      std::vector<std::byte> rows(static_cast<size_t>(count * all) * bytes);
      reader.read(name, first, count, rows.data());
      take_columns(rows.data(), count, all, begin, cols, bytes, out);
    };
  } else {
    tensor.make = [&reader, name = entry.name](int64_t first, int64_t count, std::byte* out) {
      reader.read(name, first, count, out);
    };
  }
  return tensor;
}

std::string rank_file(int64_t rank, int64_t ranks) {
  return fmt::format("model{}-mp{}.safetensors", rank, ranks);
}

/// A tensor of every rank that has it, by the demo's name.
struct Slices {
  DemoTensor demo;
  std::string name;
  std::vector<std::pair<int64_t, const SafetensorsEntry*>> parts;  // by rank
};

OutputTensor whole_tensor(const SplitCheckpoint& split, const Slices& slices) {
  const SafetensorsEntry& first = *slices.parts[0].second;
  const auto fail = [&](const char* what) {
    throw_bad_input("{}: {}: {}", split.directory, printable_name(slices.demo.name), what);
  };
  if (slices.demo.part == Part::expert) {
    if (slices.parts.size() != 1) fail("an expert is on one rank; this one is on several");
  } else if (std::ssize(slices.parts) != split.ranks) {
    fail("a rank lacks it");
  }
  for (const auto& [rank, entry] : slices.parts) {
    if (entry->dtype != first.dtype || entry->shape != first.shape) fail("ranks have it in other shapes or types");
  }
  OutputTensor tensor{slices.name, first.dtype, first.shape, {}};
  const size_t bytes = dtype_bytes(first.dtype);
  if (slices.demo.part == Part::rows) {
    const int64_t rows = row_count(first.shape);
    tensor.shape[0] = rows * split.ranks;
    tensor.make = [&split, slices, rows](int64_t begin, int64_t count, std::byte* out) {
      const SafetensorsEntry& one = *slices.parts[0].second;
      const uint64_t row = row_bytes(one.dtype, one.shape);
      for (int64_t at = begin; at < begin + count;) {
        const auto& [rank, entry] = slices.parts[static_cast<size_t>(at / rows)];
        const int64_t take = std::min(begin + count - at, rows - at % rows);
        split.readers[static_cast<size_t>(rank)]->read(*entry, at % rows, take,
                                                       out + static_cast<uint64_t>(at - begin) * row);
        at += take;
      }
    };
  } else if (slices.demo.part == Part::cols) {
    if (first.shape.size() != 2) fail("expected a matrix");
    const int64_t cols = first.shape[1];
    tensor.shape[1] = cols * split.ranks;
    tensor.make = [&split, slices, cols, bytes](int64_t begin, int64_t count, std::byte* out) {
      std::vector<std::byte> part(static_cast<size_t>(count * cols) * bytes);
      const size_t whole = static_cast<size_t>(cols * split.ranks) * bytes;
      for (const auto& [rank, entry] : slices.parts) {
        split.readers[static_cast<size_t>(rank)]->read(*entry, begin, count, part.data());
        for (int64_t row = 0; row < count; ++row) {
          std::memcpy(out + static_cast<size_t>(row) * whole + static_cast<size_t>(rank * cols) * bytes,
                      part.data() + static_cast<size_t>(row * cols) * bytes, static_cast<size_t>(cols) * bytes);
        }
      }
    };
  } else {
    tensor.make = [&split, slices](int64_t begin, int64_t count, std::byte* out) {
      const uint64_t size =
          static_cast<uint64_t>(count) * row_bytes(slices.parts[0].second->dtype, slices.parts[0].second->shape);
      split.readers[static_cast<size_t>(slices.parts[0].first)]->read(*slices.parts[0].second, begin, count, out);
      std::vector<std::byte> other(size);
      for (size_t i = 1; i < slices.parts.size(); ++i) {
        const auto& [rank, entry] = slices.parts[i];
        split.readers[static_cast<size_t>(rank)]->read(*entry, begin, count, other.data());
        if (std::memcmp(out, other.data(), size) != 0) {
          throw_bad_input("{}: {}: ranks 0 and {} have other values, and both should have all of it", split.directory,
                          printable_name(slices.demo.name), rank);
        }
      }
    };
  }
  return tensor;
}

}  // namespace

DemoTensor demo_tensor(const std::string& name) {
  DemoTensor demo;
  std::vector<std::string> words = words_of(name);
  if (words.front() == "model") words.erase(words.begin());
  demo.expert = number_behind(words, "experts");
  const bool known = words.size() >= 2;
  const Component* found = nullptr;
  if (known) {
    // The component stands before "weight", "weight_scale_inv" or the bias.
    const std::string& key = words[words.size() - 2];
    for (const Component& component : kComponents) {
      if (component.hugging_face == key) found = &component;
    }
  }
  if (found == nullptr) throw_bad_input("the official demo has no tensor {}", printable_name(name));
  demo.part = demo.expert >= 0 ? Part::expert : found->part;
  words[words.size() - 2] = found->demo;
  for (std::string& word : words) {
    for (const auto& [from, to] : kWords) {
      if (word == from) word = to;
    }
  }
  demo.name = joined(words);
  return demo;
}

std::string hugging_face_name(const std::string& demo_name) {
  std::vector<std::string> words = words_of(demo_name);
  const Component* found = nullptr;
  if (words.size() >= 2) {
    for (const Component& component : kComponents) {
      if (component.demo == words[words.size() - 2]) found = &component;
    }
  }
  if (found == nullptr) throw_bad_input("the official demo has no tensor {}", printable_name(demo_name));
  words[words.size() - 2] = found->hugging_face;
  for (std::string& word : words) {
    for (const auto& [from, to] : kWords) {
      if (word == to) word = from;
    }
  }
  if (words.front() != "lm_head") words.insert(words.begin(), "model");
  return joined(words);
}

RewritePlan plan_split(const Checkpoint& checkpoint, const TensorReader& reader, const SplitOptions& options) {
  const ModelConfig& config = checkpoint.config();
  const int64_t ranks = options.ranks;
  if (config.integers) {
    throw_bad_input(
        "{}: its weights are stored in integers, which the official demo does not read; split the checkpoint that it "
        "was "
        "made of, or cast this one to bf16 first",
        checkpoint.directory());
  }
  if (ranks < 1) throw_bad_input("--model-parallel: expected at least 1 rank, found {}", ranks);
  if (config.n_routed_experts % ranks != 0) {
    throw_bad_input("--model-parallel: {} ranks cannot share {} routed experts evenly", ranks, config.n_routed_experts);
  }
  const int64_t experts = config.n_routed_experts / ranks;
  RewritePlan plan;
  plan.out = options.out;
  plan.identity = fmt::format("split for {} ranks{}\n{}", ranks, options.mtp ? " with MTP" : "",
                              source_identity(checkpoint.directory(), checkpoint.files()));
  for (int64_t rank = 0; rank < ranks; ++rank) {
    OutputShard shard;
    shard.file = rank_file(rank, ranks);
    for (const auto& file : checkpoint.files()) {
      for (const SafetensorsEntry& entry : file->entries()) {
        const int64_t layer = number_behind(words_of(entry.name), "layers");
        if (layer >= config.num_hidden_layers && !options.mtp) continue;
        const DemoTensor demo = demo_tensor(entry.name);
        if (demo.part == Part::expert && demo.expert / std::max<int64_t>(experts, 1) != rank) continue;
        shard.tensors.push_back(slice(entry, demo, reader, rank, ranks));
      }
    }
    plan.shards.push_back(std::move(shard));
  }
  const std::string path = (fs::path(checkpoint.directory()) / "config.json").string();
  plan.texts = {{"config.json", read_file(path, kLargestConfig)}};
  for (const std::string& file : companion_files(checkpoint.directory())) {
    if (fs::path(file).filename().string().find("token") != std::string::npos) plan.copies.push_back(file);
  }
  return plan;
}

SplitCheckpoint::SplitCheckpoint(const std::string& wanted) : directory(wanted) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw_bad_input("{}: expected the directory of a split checkpoint, found none", directory);
  }
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    constexpr std::string_view begin = "model0-mp";
    constexpr std::string_view tail = ".safetensors";
    if (!name.starts_with(begin) || !name.ends_with(tail)) continue;
    const std::string number = name.substr(begin.size(), name.size() - begin.size() - tail.size());
    if (!is_number(number) || number.size() > 6) continue;
    if (ranks != 0) throw_bad_input("{}: splits for {} and for {} ranks are in it", directory, ranks, number);
    ranks = std::stoll(number);
  }
  if (error) throw_failure("{}: the directory cannot be read, {}", directory, error.message());
  if (ranks == 0) throw_bad_input("{}: there is no model0-mp*.safetensors in it", directory);
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const std::string path = (fs::path(directory) / rank_file(rank, ranks)).string();
    if (!file_exists(path)) throw_bad_input("{}: rank {} is missing", path, rank);
    files.push_back(std::make_unique<SafetensorsFile>(path));
    readers.push_back(std::make_unique<FileTensorReader>(*files.back()));
  }
}

RewritePlan plan_join(const SplitCheckpoint& split, const std::string& out, uint64_t shard_bytes) {
  const ModelConfig config = read_model_config(split.directory);
  std::vector<std::string> order;
  std::map<std::string, Slices> tensors;
  bool mtp = false;
  for (int64_t rank = 0; rank < split.ranks; ++rank) {
    for (const SafetensorsEntry& entry : split.files[static_cast<size_t>(rank)]->entries()) {
      Slices& slices = tensors[entry.name];
      if (slices.parts.empty()) {
        slices.name = hugging_face_name(entry.name);
        slices.demo = demo_tensor(slices.name);
        order.push_back(entry.name);
        mtp = mtp || number_behind(words_of(slices.name), "layers") >= config.num_hidden_layers;
      }
      slices.parts.emplace_back(rank, &entry);
    }
  }
  RewritePlan plan;
  plan.out = out;
  plan.identity = fmt::format("join, {} bytes a file\n{}", shard_bytes, source_identity(split.directory, split.files));
  uint64_t bytes = 0;
  for (const std::string& name : order) {
    OutputTensor tensor = whole_tensor(split, tensors[name]);
    OutputShard one{"", {tensor}};
    const uint64_t size = one.bytes();
    if (plan.shards.empty() || (bytes > 0 && bytes + size > shard_bytes)) {
      plan.shards.emplace_back();
      bytes = 0;
    }
    bytes += size;
    plan.shards.back().tensors.push_back(std::move(tensor));
  }
  for (size_t i = 0; i < plan.shards.size(); ++i) {
    plan.shards[i].file = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, plan.shards.size());
  }
  const std::string path = (fs::path(split.directory) / "config.json").string();
  ordered_json json = parse_ordered_json(read_file(path, kLargestConfig), path);
  if (!mtp && config.num_nextn_predict_layers > 0) json["num_nextn_predict_layers"] = 0;
  plan.texts = {{"config.json", json.dump(2) + "\n"}, {"model.safetensors.index.json", index_json(plan.shards)}};
  plan.copies = companion_files(split.directory);
  return plan;
}

}  // namespace fathom
