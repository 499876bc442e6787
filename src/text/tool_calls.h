#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "text/chat_template.h"

namespace fathom {

class Tokenizer;

/// Whether a format writes a call as V3 does (`function`, the name, the arguments in a code fence) or as V3.1 (the name
/// and the arguments, with nothing between calls).
bool writes_fenced_calls(ChatFormat format);

/// The section of the system prompt that describes the tools and how to call them; without a line end behind it.
///
/// V3.1: the words of its model card. V3 and R1, whose cards have none: ours, with their form of calls. Parameters are
/// laid out as Python's `json.dumps` does it, strings and numbers as they are written; so a tool reads the same however
/// its JSON came in. The tools are put in as they are (`check_tools`); `chat_prompt_ids` sees to it that nothing in
/// them becomes a control token.
std::string tool_section(ChatFormat format, const std::vector<ToolDefinition>& tools);

/// What a prompt is extended by so that the answer is a call: `<｜tool▁calls▁begin｜>`, and before it `</think>` if the
/// prompt has opened thoughts. `bad_input` if the vocabulary has no such token.
std::vector<int32_t> forced_call_prefix(const Tokenizer& tokenizer, bool begins_thinking);

}  // namespace fathom
