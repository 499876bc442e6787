#pragma once
#include <optional>
#include <string_view>

namespace fathom {

/// The arithmetic of a run.
enum class ComputeMode {
  fp32,  ///< float32 activations and sums; FP8 weights dequantised to BF16, as the published cast does. The reference.
  bf16,  ///< BF16 operands (activations rounded, weights as stored), float32 sums
  int8,  ///< activations as integers (per token and 128 channels) times integer weights, sums of a group exact; weights
         ///< that are stored otherwise are brought to 8 bits on the fly. Head, router, attention as in bf16
  w8a8,  ///< FP8 weights times FP8 activations (1×128 scales), as the official kernels; everything else as fp32
};

/// "fp32", "bf16", "int8", "w8a8".
std::string_view compute_mode_name(ComputeMode mode);
std::optional<ComputeMode> compute_mode_from_name(std::string_view name);

}  // namespace fathom
