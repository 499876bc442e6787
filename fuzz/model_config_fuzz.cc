// A config.json, from a stranger. What is accepted must survive a round trip and give a table of tensors whose sizes
// fit 63 bits.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"
#include "formats/inspect.h"
#include "formats/json.h"
#include "formats/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const auto config = fathom::parse_model_config(fathom::parse_json(text, "input"), "input");
    const nlohmann::json written = fathom::model_config_json(config);
    if (fathom::model_config_json(fathom::parse_model_config(written, "written")) != written) std::abort();
    // Tables of large models are slow to build under sanitizers; their sums are bounded by the same limits.
    if (config.total_layers() * (config.n_routed_experts + 1) < 2000) {
      const fathom::ParameterCounts counts = fathom::count_parameters(config);
      if (counts.main <= 0 || counts.active > counts.main || counts.stored < counts.distinct) std::abort();
    }
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
  }
  return 0;
}
