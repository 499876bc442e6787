#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "weights/rewrite.h"

namespace fathom {

enum class CastTo { bf16, fp8 };

struct CastOptions {
  CastTo to = CastTo::bf16;
  bool ue8m0 = false;  ///< FP8: scales are powers of two
  std::string out;
};

/// A checkpoint in the other of the two precisions that DeepSeek publishes, file by file, the MTP layer included.
///
/// To BF16: every E4M3 matrix becomes bf16(code × scale), its `weight_scale_inv` goes; every matrix in integers becomes
/// bf16(scale × (code − zero)); everything else is taken over. Of FP8 the bytes are those of `fp8_cast_bf16.py`. To
/// FP8: the matrices that a published FP8 checkpoint has in FP8 (linear layers but router, head, embedding and eh_proj)
/// become E4M3 with one float32 scale per 128 × 128, stored behind them. config.json and index follow. `bad_input` for
/// a checkpoint that is in the wanted precision already, a matrix without its scales, or scales of another shape.
/// Source: fp8_cast_bf16.py and kernel.py of the official repository (spec §2.2).
///
/// `reader` and its checkpoint outlive the plan.
RewritePlan plan_cast(const Checkpoint& checkpoint, const TensorReader& reader, const CastOptions& options);

/// A tensor that is taken over as it is, and an FP8 matrix as bf16(code × scale), for plans; `bad_input` for scales
/// that do not fit. `reader` and its checkpoint outlive them.
OutputTensor copied_tensor(const SafetensorsEntry& entry, const TensorReader& reader);
OutputTensor tensor_as_bf16(const Checkpoint& checkpoint, const SafetensorsEntry& entry, const TensorReader& reader);

/// DIR/config.json in its order, to be written again with changes.
nlohmann::ordered_json read_config_json(const std::string& directory);

}  // namespace fathom
