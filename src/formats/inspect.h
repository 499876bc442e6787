#pragma once
#include <cstdint>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/model_config.h"

namespace fathom {

/// Parameters of a model, from its config. Scales of quantized weights are no parameters.
struct ParameterCounts {
  // The main model by part; the parts sum to `main`.
  int64_t embedding = 0;
  int64_t head = 0;  ///< 0 if tied to the embedding
  int64_t attention = 0;
  int64_t dense_mlp = 0;
  int64_t router = 0;  ///< gates and correction biases
  int64_t shared_experts = 0;
  int64_t routed_experts = 0;
  int64_t norms = 0;
  int64_t main = 0;
  // What one token passes through: `num_experts_per_tok` of the routed experts of each layer, and all else.
  int64_t active = 0;
  int64_t active_without_embedding = 0;  ///< the embedding is a look-up of one row
  int64_t active_without_embedding_and_head = 0;
  // The MTP layers.
  int64_t mtp_unique = 0;  ///< without the copies of embedding and head
  int64_t mtp_stored = 0;  ///< with them
  int64_t stored = 0;      ///< main + mtp_stored: what the published checkpoint holds
  int64_t distinct = 0;    ///< main + mtp_unique
};
ParameterCounts count_parameters(const ModelConfig& config);

/// What does not fit between a checkpoint's tensors and its config, as sentences. Each kind of finding lists its first
/// cases and counts the rest.
struct CheckpointProblems {
  std::vector<std::string>
      fatal;  ///< the model cannot be run: missing tensors or scales, wrong shapes, unusable dtypes
  std::vector<std::string> notes;  ///< it can: unknown tensors, a wrong total_size, files that the index does not name
};
/// Reads headers only, and of matrices in integers their shapes.
CheckpointProblems find_checkpoint_problems(const Checkpoint& checkpoint);

/// The same as one list, fatal findings first.
std::vector<std::string> check_checkpoint(const Checkpoint& checkpoint);

/// What `fathom inspect` knows about a path.
struct InspectReport {
  std::string path;
  ModelConfig config;
  ParameterCounts parameters;

  bool has_weights =
      false;  ///< false: a config alone; formats and bytes are then what its published checkpoint would hold
  struct Format {
    int64_t tensors = 0;
    uint64_t bytes = 0;
  };
  std::map<std::string, Format> formats;  ///< by dtype
  int64_t tensors = 0;
  uint64_t tensor_bytes = 0;  ///< what the weights take in memory when all of them are touched
  int64_t files = 0;
  uint64_t file_bytes = 0;

  // The latent cache: kv_lora_rank + qk_rope_head_dim values per token and layer.
  int64_t context = 0;                 ///< tokens
  int64_t cache_values_per_token = 0;  ///< of the main layers
  int64_t mtp_cache_values_per_token = 0;

  CheckpointProblems problems;
};

/// `path`: a checkpoint directory, a directory with a config.json only, a config file, or the name of a preset.
/// `context`: tokens for the size of the cache; nothing: max_position_embeddings, at most 32768.
/// A broken or incomplete set of weights is a fatal finding of the report; `bad_input` only where there is no usable
/// config.
InspectReport inspect(const std::string& path, std::optional<int64_t> context = std::nullopt);

std::string inspect_text(const InspectReport& report);
nlohmann::ordered_json inspect_json(const InspectReport& report);

}  // namespace fathom
