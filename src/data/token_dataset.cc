#include "data/token_dataset.h"

#include <cstring>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/file.h"
#include "data/random.h"
#include "formats/json.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t largest_description = size_t{64} << 20;
constexpr size_t largest_tokenizer = size_t{256} << 20;
/// A longer sequence than any model has positions.
constexpr int64_t longest_sequence = int64_t{1} << 24;
constexpr int64_t most_tokens = int64_t{1} << 24;
constexpr int64_t dataset_version = 1;

const Json& field(const Json& object, const char* name, const std::string& where) {
  if (!object.is_object()) throw_bad_input("{}: expected an object, found {}", where, object.type_name());
  const auto found = object.find(name);
  if (found == object.end()) throw_bad_input("{}: the field \"{}\" is missing", where, name);
  return *found;
}

int64_t number(const Json& object, const char* name, int64_t least, int64_t greatest, const std::string& where) {
  const Json& value = field(object, name, where);
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() ||
                     value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) &&
                    value.get<int64_t>() >= least && value.get<int64_t>() <= greatest;
  if (!fits) {
    throw_bad_input("{}: {}: expected a whole number from {} to {}, found {}", where, name, least, greatest,
                    printable_name(value.dump()));
  }
  return value.get<int64_t>();
}

std::string text(const Json& object, const char* name, const std::string& where) {
  const Json& value = field(object, name, where);
  if (!value.is_string()) throw_bad_input("{}: {}: expected a string, found {}", where, name, value.type_name());
  return value.get<std::string>();
}

Json read_description(const std::string& path) {
  Json json = read_json_file(path, largest_description);
  if (text(json, "format", path) != "fathom-tokens") {
    throw_bad_input("{}: format: expected \"fathom-tokens\", found \"{}\"", path,
                    printable_name(json["format"].get<std::string>()));
  }
  const int64_t version = number(json, "version", 0, std::numeric_limits<int64_t>::max(), path);
  if (version != dataset_version) {
    throw_bad_input("{}: version: expected {}, found {}; pack the data again", path, dataset_version, version);
  }
  return json;
}

}  // namespace

std::string tokenizer_fingerprint(const std::string& directory) {
  const std::string path = (fs::path(directory) / "tokenizer.json").string();
  return fmt::format("fnv1a64:{:016x}", hash_text(read_file(path, largest_tokenizer)));
}

bool TokenDataset::has_split(const std::string& directory, std::string_view split) {
  const std::string path = (fs::path(directory) / dataset_file_name).string();
  const Json json = read_description(path);
  const Json& splits = field(json, "splits", path);
  return splits.is_object() && splits.contains(std::string(split));
}

TokenDataset::TokenDataset(const std::string& directory, std::string_view split) : directory_(directory) {
  const std::string path = (fs::path(directory) / dataset_file_name).string();
  const Json json = read_description(path);
  sequence_length_ = number(json, "sequence_length", 1, longest_sequence, path);
  vocab_size_ = number(json, "vocab_size", 1, most_tokens, path);
  pad_token_id_ = static_cast<int32_t>(number(json, "pad_token_id", 0, vocab_size_ - 1, path));
  fingerprint_ = text(json, "tokenizer", path);
  const Json& splits = field(json, "splits", path);
  if (!splits.is_object() || !splits.contains(std::string(split))) {
    throw_bad_input("{}: expected sequences of the split \"{}\", found none", path, split);
  }
  const Json& description = splits[std::string(split)];
  const std::string where = fmt::format("{}: splits.{}", path, split);
  padding_ = number(description, "padding", 0, std::numeric_limits<int64_t>::max(), where);
  const Json& shards = field(description, "shards", where);
  if (!shards.is_array()) throw_bad_input("{}.shards: expected a list, found {}", where, shards.type_name());
  for (const Json& shard : shards) {
    const std::string name = text(shard, "file", where + ".shards");
    // A description from elsewhere must not open files outside its directory.
    if (name.empty() || name.find('/') != std::string::npos) {
      throw_bad_input("{}.shards: expected the name of a file in this directory, found \"{}\"", where,
                      printable_name(name));
    }
    open_shard((fs::path(directory) / name).string(),
               number(shard, "sequences", 1, std::numeric_limits<uint32_t>::max(), where + ".shards"));
  }
  if (sequences_ == 0) throw_bad_input("{}: expected at least one sequence, found none", where);
  if (sequences_ > std::numeric_limits<uint32_t>::max()) {
    throw_bad_input("{}: expected fewer than 2^32 sequences, found {}", where, sequences_);
  }
}

void TokenDataset::open_shard(const std::string& name, int64_t sequences) {
  Shard shard;
  shard.file = std::make_unique<SafetensorsFile>(name);
  const SafetensorsEntry* entry = shard.file->find("tokens");
  if (entry == nullptr) throw_bad_input("{}: expected a tensor \"tokens\", found none", name);
  const Shape expected = {sequences, sequence_length_ + 1};
  if (entry->shape != expected) {
    throw_bad_input("{}: tokens: expected the shape {} that data.json says, found {}", name, shape_text(expected),
                    shape_text(entry->shape));
  }
  if (entry->dtype != DType::u16 && entry->dtype != DType::i32) {
    throw_bad_input("{}: tokens: expected U16 or I32, found {}", name, dtype_name(entry->dtype));
  }
  shard.first = sequences_;
  shard.sequences = sequences;
  shard.tokens = shard.file->view(*entry);
  sequences_ += sequences;
  shards_.push_back(std::move(shard));
}

void TokenDataset::check_tokenizer(const std::string& tokenizer_directory) const {
  const std::string found = tokenizer_fingerprint(tokenizer_directory);
  if (found == fingerprint_) return;
  throw_bad_input("{}: the shards were made with another tokenizer ({}) than that of {} ({})", directory_, fingerprint_,
                  tokenizer_directory, found);
}

void TokenDataset::sequence(int64_t index, std::span<int32_t> out) const {
  const int64_t length = sequence_length_ + 1;
  if (index < 0 || index >= sequences_ || static_cast<int64_t>(out.size()) != length) {
    throw_failure("{}: sequence {} of {} into room for {} tokens, expected {}", directory_, index, sequences_,
                  out.size(), length);
  }
  auto shard = shards_.begin();
  while (index >= shard->first + shard->sequences) ++shard;
  const size_t bytes = dtype_bytes(shard->tokens.dtype);
  const std::byte* row = shard->tokens.data + static_cast<size_t>((index - shard->first) * length) * bytes;
  for (size_t place = 0; place < out.size(); ++place) {
    if (bytes == 2) {
      uint16_t id = 0;
      std::memcpy(&id, row + place * 2, 2);
      out[place] = id;
    } else {
      std::memcpy(&out[place], row + place * 4, 4);
    }
    if (out[place] < 0 || out[place] >= vocab_size_) {
      throw_bad_input("{}: sequence {}, token {}: expected an id below {}, found {}", shard->file->path(),
                      index - shard->first, place, vocab_size_, out[place]);
    }
  }
}

std::vector<uint32_t> epoch_order(int64_t sequences, uint64_t seed, uint64_t epoch) {
  std::vector<uint32_t> order(static_cast<size_t>(sequences));
  std::iota(order.begin(), order.end(), uint32_t{0});
  Random random(seed, epoch);
  random.shuffle(order);
  return order;
}

void ShuffledSequences::read(uint64_t position, std::span<int32_t> out) {
  const uint64_t epoch = epoch_of(position);
  if (order_.empty() || epoch != epoch_) {
    order_ = epoch_order(dataset_.sequences(), seed_, epoch);
    epoch_ = epoch;
  }
  dataset_.sequence(order_[position % order_.size()], out);
}

}  // namespace fathom
