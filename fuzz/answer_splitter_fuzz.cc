// An answer of any tokens in any order: its parts are valid text, calls begin and end in turn, and nothing is thrown.
#include "text/answer_splitter.h"

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "../tests/engine/byte_tokenizer.h"
#include "base/utf8.h"
#include "text/control_tokens.h"

namespace {

using fathom::AnswerEvent;

const fathom::Tokenizer& tokenizer() {
  namespace names = fathom::control_tokens;
  static const auto made = fathom::byte_tokenizer(
      {std::string(names::calls_begin), std::string(names::calls_end), std::string(names::call_begin),
       std::string(names::call_end), std::string(names::tool_sep), std::string(names::think_begin),
       std::string(names::think_end), std::string(names::end_of_sentence), std::string(names::user_mark)});
  return *made;
}

/// Bytes stand for themselves, but for the nine from 0xf5 on, which are the added tokens.
int32_t token_of(uint8_t byte) {
  constexpr int32_t first_added = 257;
  return byte >= 0xf5 && byte < 0xfe ? first_added + byte - 0xf5 : byte;
}

/// Puts the parts together and checks their order.
class Listener {
 public:
  void take(const std::vector<AnswerEvent>& events) {
    for (const AnswerEvent& event : events) {
      using Kind = AnswerEvent::Kind;
      if (fathom::utf8_valid_prefix(event.text) != event.text.size()) std::abort();
      const bool of_call = event.kind == Kind::call_arguments || event.kind == Kind::call_end;
      if (of_call != in_call_) std::abort();
      in_call_ = event.kind == Kind::call_begin || event.kind == Kind::call_arguments;
      if (event.kind == Kind::reasoning && (!parts.content.empty() || !parts.calls.empty())) std::abort();
      parts.add(event);
      const bool any_call = of_call || event.kind == Kind::call_begin;
      if (any_call && event.call != static_cast<int>(parts.calls.size()) - 1) std::abort();
    }
  }
  bool in_call() const { return in_call_; }
  fathom::AnswerParts parts;

 private:
  bool in_call_ = false;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // The first byte says how the answer is split, the others are its tokens.
  if (size == 0) return 0;
  fathom::AnswerSplitOptions options;
  options.format = static_cast<fathom::ChatFormat>(data[0] % 5);
  options.begins_thinking = (data[0] & 0x20) != 0;
  options.parse_tools = (data[0] & 0x40) == 0;
  if ((data[0] & 0x80) != 0) options.stop = {"ab\n", "}"};
  fathom::AnswerSplitter splitter(tokenizer(), options);
  Listener listener;
  std::vector<int32_t> ids;
  for (size_t at = 1; at < size; ++at) {
    ids.push_back(token_of(data[at]));
    listener.take(splitter.push(ids.back()));
    if (splitter.reasoning_tokens() < 0 || splitter.reasoning_tokens() > static_cast<int64_t>(ids.size())) std::abort();
  }
  listener.take(splitter.finish());
  if (listener.in_call() || splitter.calls() != static_cast<int>(listener.parts.calls.size())) std::abort();
  if (!listener.parts.reasoning.empty() && listener.parts.reasoning.front() == '\n') std::abort();

  const bool plain = options.format == fathom::ChatFormat::deepseek_v3 && !options.begins_thinking &&
                     !options.parse_tools && options.stop.empty();
  if (plain && listener.parts.content != tokenizer().decode(ids, true)) std::abort();
  return 0;
}
