#include "data/training_chat.h"

#include <string_view>

#include "base/error.h"
#include "formats/tokenizer_json.h"
#include "text/chat_prompt.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

constexpr std::string_view think_begin = "<think>";
constexpr std::string_view think_end = "</think>";

int32_t required_token(const Tokenizer& tokenizer, std::string_view content) {
  const auto id = tokenizer.added_token(content);
  if (!id) throw_bad_input("The tokenizer has no token \"{}\", and a conversation needs it", content);
  return *id;
}

void append_plain(const Tokenizer& tokenizer, std::string_view text, std::vector<int32_t>& ids) {
  const std::vector<int32_t> plain = tokenizer.encode_plain(text);
  ids.insert(ids.end(), plain.begin(), plain.end());
}

}  // namespace

std::vector<int32_t> training_chat_ids(const Tokenizer& tokenizer, const TokenizerConfig& config, ChatFormat format,
                                       const std::vector<ChatMessage>& messages) {
  std::vector<ChatTurn> turns;
  for (const ChatMessage& message : messages) turns.push_back({message, {}});
  const int32_t eos = required_token(tokenizer, eos_token_text);
  const ChatMessage& last = messages.back();
  std::string_view answer = last.content ? std::string_view(*last.content) : std::string_view{};
  const size_t end = answer.find(think_end);
  std::vector<int32_t> ids;
  if (last.role == "assistant" && answer.starts_with(think_begin) && end != std::string_view::npos) {
    turns.pop_back();
    const ChatOptions thinking{true, true};
    ids = chat_prompt_ids(tokenizer, config, format, turns, thinking);
    if (!answer_begins_thinking(format, thinking)) ids.push_back(required_token(tokenizer, think_begin));
    append_plain(tokenizer, answer.substr(think_begin.size(), end - think_begin.size()), ids);
    ids.push_back(required_token(tokenizer, think_end));
    append_plain(tokenizer, answer.substr(end + think_end.size()), ids);
  } else {
    ids = chat_prompt_ids(tokenizer, config, format, turns, {false, false});
  }
  if (ids.back() != eos) ids.push_back(eos);
  return ids;
}

}  // namespace fathom
