#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "weights/rewrite.h"

namespace fathom {

/// How the official demo names a tensor of a Hugging Face checkpoint, and what its ranks hold of it.
struct DemoTensor {
  enum class Part {
    whole,   ///< every rank has all of it
    rows,    ///< a slice of the first axis
    cols,    ///< a slice of the second axis
    expert,  ///< all of it, on the rank whose experts it belongs to
  };
  std::string name;
  Part part = Part::whole;
  int64_t expert = -1;
};

/// `model.layers.3.mlp.experts.5.down_proj.weight` → `layers.3.ffn.experts.5.w2.weight`, on one rank. `bad_input` names
/// a tensor that the demo does not know. The MTP layer's own tensors, which the demo leaves out, keep their names
/// (enorm, hnorm, eh_proj, shared_head), its embedding and head are sliced like the main ones. Source: convert.py of
/// the official repository (spec §2.4).
DemoTensor demo_tensor(const std::string& name);
/// The other way round; whether a name belongs to a scale, a weight or a bias says its end. `bad_input` likewise.
std::string hugging_face_name(const std::string& demo_name);

struct SplitOptions {
  int64_t ranks = 1;
  bool mtp = false;  ///< the MTP layers too
  std::string out;
};

/// A checkpoint as the official demo reads it on N ranks: `model{i}-mp{N}.safetensors`, the files with "token" in their
/// names, and config.json, from which `plan_join` restores it. `bad_input` if N does not divide the experts, or the
/// sliced axis of a tensor or of its scales (named). `reader` and its checkpoint outlive the plan.
RewritePlan plan_split(const Checkpoint& checkpoint, const TensorReader& reader, const SplitOptions& options);

/// The files of a checkpoint that was split.
struct SplitCheckpoint {
  /// `bad_input`: no `model0-mp{N}.safetensors`, several N, a rank missing, no config.json.
  explicit SplitCheckpoint(const std::string& directory);

  std::string directory;
  int64_t ranks = 0;
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::vector<std::unique_ptr<FileTensorReader>> readers;  ///< by rank
};

/// What was split, in the Hugging Face layout again, in files of about `shard_bytes`. Tensors that every rank has are
/// compared, and `bad_input` names one that differs or that a rank lacks; so is a slice of another shape. Without MTP
/// layers in the files config.json says so. `split` outlives the plan.
RewritePlan plan_join(const SplitCheckpoint& split, const std::string& out, uint64_t shard_bytes);

}  // namespace fathom
