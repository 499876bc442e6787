#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace fathom {

class Tokenizer;

/// One message of a conversation on its way into a prompt.
struct ChatTurn {
  ChatMessage message;
  /// For an answer that this program generated: its tokens, put into the prompt in place of `message.content`, so that
  /// the prompt extends the sequence whose cache is held (the same text may have other tokens if it is encoded anew).
  std::optional<std::vector<int32_t>> tokens;
};

/// Ids of a conversation as its template renders it, BOS included.
///
/// Control tokens come from the template only: what a message or a tool contains is encoded as plain text, so nobody
/// can close his turn or open another one's by writing "<｜Assistant｜>". Where none of them contains the text of an
/// added token the ids are those of `tokenizer.encode(render_chat(…))`.
std::vector<int32_t> chat_prompt_ids(const Tokenizer& tokenizer, const TokenizerConfig& config, ChatFormat format,
                                     const std::vector<ChatTurn>& turns, const ChatOptions& options);

/// True if the template begins the answer inside a `<think>` block with these options (R1; V3.1 with thinking).
bool answer_begins_thinking(ChatFormat format, const ChatOptions& options);
/// The same for the answer to a conversation: behind the output of a tool no template opens the block, and V3.1's does
/// so behind a user's message only.
bool answer_begins_thinking(ChatFormat format, const std::vector<ChatTurn>& turns, const ChatOptions& options);

/// The turn of a generated answer as the conversation remembers it. Thoughts, up to `</think>`, are left out as the R1
/// and V3.1 templates leave them out; an answer that was stopped while still thinking is remembered as empty.
ChatTurn remembered_answer(const Tokenizer& tokenizer, ChatFormat format, std::vector<int32_t> tokens,
                           bool began_thinking);

}  // namespace fathom
