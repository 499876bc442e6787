// A tokenizer.json from outside: either a sentence or a tokenizer whose encode and decode hold together.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "text/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The part before the first NUL byte is the file, the rest a text to encode and, byte by byte, ids to decode.
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  const std::string_view rest = input.substr(std::min(end + 1, size));
  std::unique_ptr<fathom::Tokenizer> tokenizer;
  try {
    tokenizer = fathom::Tokenizer::from_json(input.substr(0, end), "fuzz");
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
    return 0;
  }

  const std::string_view text = rest.substr(0, fathom::utf8_valid_prefix(rest));
  for (const int32_t id : tokenizer->encode(text)) {
    if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
  }
  for (const int32_t id : tokenizer->encode_plain(text)) {
    if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
  }

  std::vector<int32_t> ids;
  for (const char byte : rest) ids.push_back(static_cast<int8_t>(byte));
  ids.push_back(tokenizer->vocab_size() - 1);
  for (const bool skip_special : {false, true}) {
    const std::string decoded = tokenizer->decode(ids, skip_special);
    if (fathom::utf8_valid_prefix(decoded) != decoded.size()) std::abort();
    fathom::StreamDecoder stream(*tokenizer, skip_special);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.push(id);
    if (streamed + stream.finish() != decoded) std::abort();
  }
  return 0;
}
