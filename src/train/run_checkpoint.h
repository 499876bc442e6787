#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "base/buffer.h"
#include "train/recipe.h"
#include "train/trainer.h"

namespace fathom {

/// Where a run stands, beside what TrainState holds.
struct RunPosition {
  int64_t step = 0;       ///< optimizer steps done
  int64_t tokens = 0;     ///< trained on
  int64_t sequences = 0;  ///< taken from the shuffled data
};

/// Writes RUN/checkpoints/step-NNNNNNNN: a checkpoint in the Hugging Face layout with the tokenizer's files, which
/// every command opens, and training_state.safetensors and training_state.json, from which the run goes on bit for bit.
/// Written beside under a name that begins with a dot and renamed when whole, so that a killed process leaves the
/// earlier ones. `ema` may be null. `failure` before anything is written if the disk has too little room.
/// Returns the directory.
std::string save_checkpoint(const std::string& run, const Recipe& recipe, const TrainState& state, const Buffer* ema,
                            const RunPosition& position);

/// The directory of the latest whole checkpoint of a run, or nothing.
std::optional<std::string> latest_checkpoint(const std::string& run);

/// Takes masters, moments, biases and averages from a checkpoint of the same model; refreshes the compute copies.
/// `bad_input` if it is of another shape or lacks a tensor.
RunPosition load_checkpoint(const std::string& directory, const Recipe& recipe, TrainState& state, Buffer* ema,
                            ThreadTeam& team);

/// Removes all but the latest `keep` checkpoints, and what a killed process left of unfinished ones.
void remove_old_checkpoints(const std::string& run, int64_t keep);

/// Copies tokenizer.json, tokenizer_config.json and generation_config.json, as far as they are there.
void copy_tokenizer(const std::string& from, const std::string& to);

}  // namespace fathom
