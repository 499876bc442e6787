#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "formats/model_config.h"
#include "model/compute_mode.h"
#include "train/adamw.h"

namespace fathom {

/// One pretraining run, as its config file describes it. A field's comment is what the file's field of that name means;
/// defaults are the report's (spec §3.2), with boundaries as fractions of the token budget. Fields without default must
/// be there. Paths are relative to the working directory.
struct Recipe {
  ModelConfig model;  ///< "model": the fields of a Hugging Face config.json, or the path of one
  std::string
      start_from;  ///< checkpoint directory (or a run: its latest checkpoint) to start from instead of random weights;
                   ///< its config is the model, changed by "model_changes" (context extension: rope_scaling)
  std::string data;                           ///< directory of `fathom data pack`
  std::string tokenizer;                      ///< directory whose tokenizer files go into the checkpoints
  ComputeMode precision = ComputeMode::bf16;  ///< "bf16", "fp8" or "fp32"
  bool fp8_checkpoints = false;               ///< "checkpoint_format": "bf16" or "fp8"
  uint64_t seed = 0;                          ///< of the initial weights and of the order of sequences
  double initial_deviation = 0.006;           ///< standard deviation of initial matrices

  int64_t tokens = 0;                 ///< budget; the run ends with the first step that reaches it
  int64_t micro_batch_sequences = 1;  ///< sequences of one forward and backward
  int64_t batch_sequences = 0;        ///< sequences of a step after the ramp
  int64_t first_batch_sequences = 0;  ///< of the first step; 0: no ramp
  double batch_ramp_until = 0.0317;   ///< fraction of the budget; linear in tokens, in whole micro-batches

  AdamwOptions adamw;               ///< "learning_rate" is the greatest one; the other fields as in AdamwOptions
  DType moments = DType::bf16;      ///< "moments": "bf16" or "f32"
  double gradient_clip_norm = 1.0;  ///< 0: none
  int64_t warmup_steps = 2000;      ///< linear from 0
  double constant_until = 0.6757;   ///< fraction of the budget; then a cosine
  double cosine_until = 0.9662;     ///< to `cosine_floor` × learning_rate
  double cosine_floor = 0.1;
  double last_from = 0.9887;  ///< from here on `last_floor` × learning_rate
  double last_floor = 0.0331818;

  double bias_update_speed = 0.001;    ///< γ of the auxiliary-loss-free balancing
  double bias_update_until = 0.9662;   ///< fraction of the budget; 0 speed after it
  double balance_loss_alpha = 1e-4;    ///< α of the sequence-wise balance loss
  double mtp_loss_weight = 0.3;        ///< λ of the multi-token prediction loss
  double later_mtp_loss_weight = 0.1;  ///< from `mtp_loss_weight_until` on
  double mtp_loss_weight_until = 0.6757;
  double ema_decay = 0;  ///< of an exponential moving average of the parameters after each step; 0: none is kept

  int64_t validate_every = 0;         ///< steps; 0: never
  int64_t validation_sequences = 64;  ///< at most
  int64_t checkpoint_every = 500;     ///< steps; there is always one at the end
  int64_t keep_checkpoints = 2;       ///< the latest ones
};

/// Reads a config. `bad_input` names `source` and the field that is unknown, missing, of the wrong type, out of range,
/// or contradicts another.
Recipe parse_recipe(const nlohmann::json& json, std::string_view source);
Recipe read_recipe(const std::string& path);

/// The fields that decide what a step computes, in one form whatever the file left to its defaults, for comparing a run
/// with its checkpoints. Not among them: the budget and what only watches or keeps (validation, checkpoints), which may
/// change while a run goes on; paths.
nlohmann::json recipe_identity(const Recipe& recipe);

/// What the schedules say about one step that begins after `tokens` consumed tokens. Source: report §4.2; spec §3.2.
struct StepPlan {
  int64_t sequences = 0;
  double learning_rate = 0;
  double bias_update_speed = 0;
  double mtp_loss_weight = 0;
};

/// `step` is 1 for the first. All schedules but the warm-up run in tokens.
StepPlan plan_step(const Recipe& recipe, int64_t step, int64_t tokens);

/// Steps that the run takes in all, for sequences of this length.
int64_t count_steps(const Recipe& recipe, int64_t sequence_length);

}  // namespace fathom
