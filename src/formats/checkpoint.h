#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "formats/model_config.h"
#include "formats/safetensors.h"

namespace fathom {

/// Where a tensor's bytes lie.
struct TensorPlace {
  const SafetensorsFile* file;
  const SafetensorsEntry* entry;
};

/// A Hugging Face checkpoint directory, opened: headers read, data mapped and untouched.
class Checkpoint {
 public:
  /// With `model.safetensors.index.json`: every shard that it names; else `model.safetensors`, else every
  /// `model*.safetensors`. `bad_input`: no directory, no config, no weights, a missing shard, a broken header, a tensor
  /// that the index puts into a file that lacks it, an index that names a file outside the directory, a tensor in two
  /// files. Tensors that the config does not know are kept.
  explicit Checkpoint(const std::string& directory);

  const std::string& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }
  bool has(std::string_view name) const;
  /// The tensor, or `bad_input` naming it and the directory.
  TensorView tensor(std::string_view name) const;
  /// Where it lies; the same error.
  TensorPlace place(std::string_view name) const;
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  /// `metadata.total_size` of the index: bytes of all tensors as its writer counted them. Nothing without index or
  /// entry.
  std::optional<uint64_t> index_total_size() const { return index_total_size_; }

 private:
  std::string directory_;
  ModelConfig config_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::unordered_map<std::string, TensorPlace> places_;
  std::optional<uint64_t> index_total_size_;
};

}  // namespace fathom
