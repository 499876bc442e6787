// The header of a safetensors file, from a stranger. What is accepted must hold together.
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>

#include "base/error.h"
#include "formats/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    std::map<std::string, std::string> metadata;
    const auto entries = fathom::parse_safetensors_header(file, size, "input", &metadata);
    uint64_t end = 0;
    for (const fathom::SafetensorsEntry& entry : entries) {
      const auto bytes = static_cast<uint64_t>(fathom::element_count(entry.shape)) * fathom::dtype_bytes(entry.dtype);
      if (entry.end > size || entry.begin > entry.end || entry.end - entry.begin != bytes) std::abort();
      if (end != 0 && entry.begin != end) std::abort();
      end = entry.end;
    }
    if (!entries.empty() && end != size) std::abort();
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
  }
  return 0;
}
