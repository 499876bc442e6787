#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "data/token_dataset.h"
#include "train/recipe.h"
#include "train/trainer.h"

namespace fathom {

/// Where a run stands, beside what TrainState holds.
struct RunPosition {
  int64_t step = 0;       ///< optimizer steps done
  int64_t tokens = 0;     ///< trained on
  int64_t sequences = 0;  ///< taken from the shuffled data
  /// Tokens per [layer][expert] since the log's last line of counts; empty: none yet.
  std::vector<std::vector<int64_t>> expert_load;
};

/// What must be the same when a run goes on: {"recipe": recipe_identity, "data": tokenizer's fingerprint, sequences,
/// their length and a hash of some of them}. Data may be moved, not exchanged.
nlohmann::json run_identity(const Recipe& recipe, const TokenDataset& data);

/// Writes RUN/checkpoints/step-NNNNNNNN: a checkpoint in the Hugging Face layout with the tokenizer's files, which
/// every command opens, and training_state.safetensors and training_state.json, from which the run goes on bit for bit.
///
/// Written beside under a name that begins with a dot and renamed when whole; removed under such a name too. So at any
/// moment a directory step-N is whole, whatever ends the process. `ema` may be null. `failure` if the disk has too
/// little room, before anything is written, or turns out to have; the earlier checkpoints stay. Returns the directory.
std::string save_checkpoint(const std::string& run, const Recipe& recipe, const nlohmann::json& identity,
                            const TrainState& state, const Buffer* ema, const RunPosition& position);

/// Writes RUN/checkpoints/ema, a checkpoint without training state whose matrices and norms are the averages (router
/// biases: those of `state`); replaces one that is there. `state` and `ema` are as before afterwards.
void save_average(const std::string& run, const Recipe& recipe, TrainState& state, Buffer& ema);

/// The directory of the latest whole checkpoint of a run, or nothing.
std::optional<std::string> latest_checkpoint(const std::string& run);

/// Where a checkpoint's run stood. `bad_input` if it is of a run with another identity: names the first field that
/// differs, and both values.
RunPosition read_position(const std::string& directory, const nlohmann::json& identity);

/// Takes masters, moments, biases and averages from a checkpoint after step `step`; refreshes the compute copies.
/// `bad_input` if a tensor is missing or of another shape.
void load_state(const std::string& directory, int64_t step, TrainState& state, Buffer* ema, ThreadTeam& team);

/// The float32 masters of a run's checkpoint instead of what its model files round them to; nothing if `directory`
/// holds a model alone. `bad_input` if they are of another model.
void take_masters(const std::string& directory, Parameters& parameters);

/// Removes all but the latest `keep` checkpoints, and what a killed process left of unfinished ones.
void remove_old_checkpoints(const std::string& run, int64_t keep);

/// Copies tokenizer.json, tokenizer_config.json and generation_config.json, as far as they are there.
void copy_tokenizer(const std::string& from, const std::string& to);

}  // namespace fathom
