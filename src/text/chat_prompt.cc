#include "text/chat_prompt.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "text/control_tokens.h"
#include "text/tokenizer.h"

namespace fathom {

namespace {

constexpr std::string_view kThinkEnd = control_tokens::think_end;

// Two bytes that occur in no UTF-8 text, so neither in a template nor in a message. The first stands for a '<' that a
// message contains: every control token begins with '<', so one that still has it after rendering was written by the
// template. The second, followed by an index in decimal and a second one, stands for the tokens of an answer.
constexpr char kQuotedLess = '\xfe';
constexpr char kTokensMark = '\xff';

std::string quoted(std::string text) {
  if (text.find(kQuotedLess) != std::string::npos || text.find(kTokensMark) != std::string::npos) {
    throw_bad_input("a message or a tool is not UTF-8 text: it contains the byte 0xfe or 0xff");
  }
  std::replace(text.begin(), text.end(), '<', kQuotedLess);
  return text;
}

std::string unquoted(std::string_view text) {
  std::string plain(text);
  std::replace(plain.begin(), plain.end(), kQuotedLess, '<');
  return plain;
}

/// Where the template cuts the thoughts off an answer: R1's keeps what follows the last `</think>`, V3.1's what follows
/// the first, V3's everything.
size_t find_cut(ChatFormat format, std::string_view text, std::string_view think_end) {
  switch (format) {
    case ChatFormat::deepseek_v3:
    case ChatFormat::deepseek_v3_first:
      return std::string_view::npos;
    case ChatFormat::deepseek_v31:
      return text.find(think_end);
    case ChatFormat::deepseek_r1:
    case ChatFormat::deepseek_r1_first:
      return text.rfind(think_end);
  }
  return std::string_view::npos;
}

/// The message with '<' quoted everywhere, but for the `</think>` of an answer that the template has to see.
ChatMessage quoted_message(ChatFormat format, ChatMessage message) {
  if (message.content) {
    std::string content = quoted(*std::move(message.content));
    if (message.role == "assistant") {
      const size_t cut = find_cut(format, content, quoted(std::string(kThinkEnd)));
      if (cut != std::string::npos) content[cut] = '<';
    }
    message.content = std::move(content);
  }
  for (ToolCall& call : message.tool_calls) {
    call.type = quoted(std::move(call.type));
    call.name = quoted(std::move(call.name));
    call.arguments = quoted(std::move(call.arguments));
  }
  return message;
}

std::vector<ToolDefinition> quoted_tools(std::vector<ToolDefinition> tools) {
  for (ToolDefinition& tool : tools) {
    tool.name = quoted(std::move(tool.name));
    tool.description = quoted(std::move(tool.description));
    tool.parameters = quoted(std::move(tool.parameters));
  }
  return tools;
}

}  // namespace

std::vector<int32_t> chat_prompt_ids(const Tokenizer& tokenizer, const TokenizerConfig& config, ChatFormat format,
                                     const std::vector<ChatTurn>& turns, const ChatOptions& options) {
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < turns.size(); ++i) {
    messages.push_back(quoted_message(format, turns[i].message));
    if (turns[i].tokens) messages.back().content = kTokensMark + std::to_string(i) + kTokensMark;
  }
  ChatOptions quoted_options = options;
  quoted_options.tools = quoted_tools(options.tools);
  const std::string rendered = render_chat(format, config.bos_token, messages, quoted_options);

  std::vector<int32_t> ids;
  std::string plain;  // text since the last control token; it is encoded in one piece, as it would be in the whole
  const auto flush = [&] {
    if (plain.empty()) return;
    const std::vector<int32_t> piece = tokenizer.encode_plain(unquoted(plain));
    ids.insert(ids.end(), piece.begin(), piece.end());
    plain.clear();
  };
  for (size_t at = 0; at < rendered.size();) {
    if (rendered[at] == kTokensMark) {
      flush();
      const size_t end = rendered.find(kTokensMark, at + 1);
      const size_t turn = std::stoul(rendered.substr(at + 1, end - at - 1));
      ids.insert(ids.end(), turns[turn].tokens->begin(), turns[turn].tokens->end());
      at = end + 1;
      continue;
    }
    if (rendered[at] == '<') {
      const size_t end = rendered.find('>', at);
      if (end != std::string::npos) {
        const auto token = tokenizer.added_token(std::string_view(rendered).substr(at, end + 1 - at));
        if (token) {
          flush();
          ids.push_back(*token);
          at = end + 1;
          continue;
        }
      }
    }
    plain += rendered[at++];
  }
  flush();
  return ids;
}

bool answer_begins_thinking(ChatFormat format, const ChatOptions& options) {
  return format == ChatFormat::deepseek_r1 || (format == ChatFormat::deepseek_v31 && options.thinking);
}

bool answer_begins_thinking(ChatFormat format, const std::vector<ChatTurn>& turns, const ChatOptions& options) {
  const auto last =
      std::find_if(turns.rbegin(), turns.rend(), [](const ChatTurn& turn) { return turn.message.role != "system"; });
  const std::string_view role = last == turns.rend() ? std::string_view() : last->message.role;
  if (format == ChatFormat::deepseek_v31 ? role != "user" : role == "tool") return false;
  return options.add_generation_prompt && answer_begins_thinking(format, options);
}

ChatTurn remembered_answer(const Tokenizer& tokenizer, ChatFormat format, std::vector<int32_t> tokens,
                           bool began_thinking) {
  ChatTurn turn;
  turn.message.role = "assistant";
  std::string text = tokenizer.decode(tokens, true);
  const size_t cut = find_cut(format, text, kThinkEnd);
  if (cut == std::string::npos) {
    if (began_thinking) {
      turn.message.content = "";
      return turn;
    }
    turn.message.content = std::move(text);
    turn.tokens = std::move(tokens);
    return turn;
  }
  turn.message.content = text.substr(cut + kThinkEnd.size());
  const auto end_token = tokenizer.added_token(kThinkEnd);
  if (!end_token) return turn;
  const auto end = format == ChatFormat::deepseek_v31
                       ? std::find_if(tokens.begin(), tokens.end(),
                                      [&, seen = false](int32_t id) mutable {
                                        return std::exchange(seen, seen || id == *end_token);
                                      })
                       : std::find(tokens.rbegin(), tokens.rend(), *end_token).base();
  std::vector<int32_t> after(end, tokens.end());
  // A model can also spell "</think>" with ordinary tokens; then the text is encoded anew.
  if (tokenizer.decode(after, true) == *turn.message.content) turn.tokens = std::move(after);
  return turn;
}

}  // namespace fathom
