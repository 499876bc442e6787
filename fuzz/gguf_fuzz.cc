// The header of a GGUF file, from a stranger. What is accepted must hold together, and come out as it went in.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "formats/gguf.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    fathom::GgufHeader header = fathom::parse_gguf_header(file, size, "input");
    uint64_t end = 0;
    for (const fathom::GgufTensor& tensor : header.tensors) {
      if (tensor.begin < end || tensor.begin > size || tensor.bytes() > size - tensor.begin) std::abort();
      end = tensor.begin + tensor.bytes();
    }
    const fathom::GgufValues values = header.values;
    std::string again = fathom::gguf_header_bytes(header);
    if (!header.tensors.empty()) again.resize(header.tensors.back().begin + header.tensors.back().bytes());
    const fathom::GgufHeader second = fathom::parse_gguf_header(again, again.size(), "again");
    if (second.values.size() != values.size() || second.tensors.size() != header.tensors.size()) std::abort();
    for (size_t i = 0; i < header.tensors.size(); ++i) {
      if (second.tensors[i].name != header.tensors[i].name || second.tensors[i].shape != header.tensors[i].shape) {
        std::abort();
      }
    }
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
  }
  return 0;
}
