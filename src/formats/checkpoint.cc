#include "formats/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "formats/json.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

std::string join(const std::string& directory, const std::string& name) {
  return (fs::path(directory) / name).string();
}

/// tensor name → shard file, as the index says.
using WeightMap = std::vector<std::pair<std::string, std::string>>;

WeightMap read_index(const std::string& path, std::optional<uint64_t>& total_size) {
  const nlohmann::json index = read_json_file(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw_bad_input("{}: expected an object with a \"weight_map\" from tensor names to files", path);
  }
  WeightMap map;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw_bad_input("{}: tensor \"{}\": expected a file name", path, printable_name(name));
    std::string file_name = file.get<std::string>();
    // A plain name in this directory and nothing else: an index from outside must not open other files.
    if (file_name.empty() || file_name == "." || file_name == ".." ||
        file_name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      throw_bad_input("{}: tensor \"{}\": expected the name of a file in this directory, found \"{}\"", path,
                      printable_name(name), printable_name(file_name));
    }
    map.emplace_back(name, std::move(file_name));
  }
  if (map.empty()) throw_bad_input("{}: the weight_map is empty", path);
  const auto metadata = index.find("metadata");
  if (metadata != index.end() && metadata->is_object()) {
    const auto size = metadata->find("total_size");
    if (size != metadata->end() && size->is_number_unsigned()) total_size = size->get<uint64_t>();
  }
  return map;
}

/// The weight files of a directory without index.
std::vector<std::string> weight_files(const std::string& directory) {
  if (file_exists(join(directory, "model.safetensors"))) return {"model.safetensors"};
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.starts_with("model") && name.ends_with(".safetensors")) names.push_back(name);
  }
  if (error) throw_bad_input("{}: the directory cannot be read, {}", directory, error.message());
  std::sort(names.begin(), names.end());
  if (names.empty()) {
    throw_bad_input("{}: no weights, expected {}, model.safetensors or model*.safetensors", directory, kIndexName);
  }
  return names;
}

}  // namespace

Checkpoint::Checkpoint(const std::string& directory) : directory_(directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    throw_bad_input("{}: expected the directory of a checkpoint, found {}", directory,
                    file_exists(directory) ? "a file" : "nothing");
  }
  config_ = read_model_config(directory);

  const std::string index_path = join(directory, kIndexName);
  WeightMap map;
  std::vector<std::string> names;
  if (file_exists(index_path)) {
    map = read_index(index_path, index_total_size_);
    std::set<std::string> distinct;
    for (const auto& [tensor, file] : map) distinct.insert(file);
    names.assign(distinct.begin(), distinct.end());
    for (const std::string& name : names) {
      if (!file_exists(join(directory, name))) {
        throw_bad_input("{}: the shard {} is missing, which {} names", directory, printable_name(name), kIndexName);
      }
    }
  } else {
    names = weight_files(directory);
  }

  std::unordered_map<std::string_view, const SafetensorsFile*> by_name;
  for (const std::string& name : names) {
    files_.push_back(std::make_unique<SafetensorsFile>(join(directory, name)));
    const SafetensorsFile* file = files_.back().get();
    by_name.emplace(name, file);
    for (const SafetensorsEntry& entry : file->entries()) {
      const auto [place, is_new] = places_.emplace(entry.name, TensorPlace{file, &entry});
      if (!is_new) {
        throw_bad_input("tensor \"{}\" is in two files, {} and {}", printable_name(entry.name),
                        place->second.file->path(), file->path());
      }
    }
  }
  for (const auto& [tensor, file] : map) {
    if (by_name.at(file)->find(tensor) == nullptr) {
      throw_bad_input("{}: tensor \"{}\" should be in {}, which does not hold it", index_path, printable_name(tensor),
                      printable_name(file));
    }
  }
}

bool Checkpoint::has(std::string_view name) const {
  return places_.contains(std::string(name));
}

TensorView Checkpoint::tensor(std::string_view name) const {
  const TensorPlace found = place(name);
  return found.file->view(*found.entry);
}

TensorPlace Checkpoint::place(std::string_view name) const {
  const auto place = places_.find(std::string(name));
  if (place == places_.end()) {
    throw_bad_input("{}: the tensor \"{}\" is missing", directory_, printable_name(name));
  }
  return place->second;
}

}  // namespace fathom
