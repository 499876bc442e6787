// Jinja texts and conversations from outside: recognised or not, rendered or refused with a sentence.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "formats/json.h"
#include "text/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  fathom::recognise_chat_template(input);

  try {
    const std::vector<fathom::ChatMessage> messages =
        fathom::chat_messages_from_json(fathom::parse_json(input, "fuzz"), "fuzz");
    for (const fathom::ChatFormat format :
         {fathom::ChatFormat::deepseek_v3, fathom::ChatFormat::deepseek_r1, fathom::ChatFormat::deepseek_v31,
          fathom::ChatFormat::deepseek_v3_first, fathom::ChatFormat::deepseek_r1_first}) {
      for (const bool thinking : {false, true}) {
        const std::string text = fathom::render_chat(format, "<bos>", messages, {!thinking, thinking});
        if (text.compare(0, 5, "<bos>") != 0) std::abort();
      }
    }
  } catch (const fathom::Error& error) {
    if (error.kind() != fathom::ErrorKind::bad_input) std::abort();
  }
  return 0;
}
