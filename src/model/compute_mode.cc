#include "model/compute_mode.h"

namespace fathom {

std::string_view compute_mode_name(ComputeMode mode) {
  switch (mode) {
    case ComputeMode::fp32:
      return "fp32";
    case ComputeMode::bf16:
      return "bf16";
    case ComputeMode::int8:
      return "int8";
    case ComputeMode::w8a8:
      return "w8a8";
  }
  return "?";
}

std::optional<ComputeMode> compute_mode_from_name(std::string_view name) {
  for (ComputeMode mode : {ComputeMode::fp32, ComputeMode::bf16, ComputeMode::int8, ComputeMode::w8a8}) {
    if (compute_mode_name(mode) == name) return mode;
  }
  return std::nullopt;
}

}  // namespace fathom
