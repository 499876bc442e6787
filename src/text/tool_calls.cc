#include "text/tool_calls.h"

#include "base/error.h"
#include "text/control_tokens.h"
#include "text/tokenizer.h"

namespace fathom {

using namespace control_tokens;

namespace {

/// JSON text with one blank behind each comma and colon, and no other whitespace outside its strings.
std::string spaced_json(std::string_view json) {
  std::string out;
  bool inside = false;  // of a string
  for (size_t at = 0; at < json.size(); ++at) {
    const char character = json[at];
    if (inside) {
      out += character;
      if (character == '\\' && at + 1 < json.size()) out += json[++at];
      if (character == '"') inside = false;
    } else if (character == ' ' || character == '\t' || character == '\n' || character == '\r') {
      continue;
    } else {
      out += character;
      if (character == ',' || character == ':') out += ' ';
      inside = character == '"';
    }
  }
  return out;
}

}  // namespace

bool writes_fenced_calls(ChatFormat format) {
  return format != ChatFormat::deepseek_v31;
}

std::string tool_section(ChatFormat format, const std::vector<ToolDefinition>& tools) {
  std::string out = "## Tools\nYou have access to the following tools:\n";
  for (const ToolDefinition& tool : tools) {
    out.append("\n### ").append(tool.name).append("\nDescription: ").append(tool.description);
    out.append("\n\nParameters: ").append(spaced_json(tool.parameters)).append("\n");
  }
  if (writes_fenced_calls(format)) {
    out.append("\nTo call tools, end your answer with exactly this:\n").append(calls_begin);
    out.append(call_begin).append("function").append(tool_sep).append("TOOL_NAME\n```json\nARGUMENTS\n```");
    out.append(call_end).append("{further calls}").append(calls_end);
    out.append(
        "\n\nWhere:\n\n- `TOOL_NAME` is the name of one of the tools, exactly as it is written above\n- `ARGUMENTS` is "
        "one JSON object that follows the tool's parameters schema\n- Each further call is written in the same way, "
        "behind a line break");
    return out;
  }
  out.append("\nIMPORTANT: ALWAYS adhere to this exact format for tool use:\n").append(calls_begin);
  out.append(call_begin).append("tool_call_name").append(tool_sep).append("tool_call_arguments").append(call_end);
  out.append("{additional_tool_calls}").append(calls_end);
  out.append(
      "\n\nWhere:\n\n- `tool_call_name` must be an exact match to one of the available tools\n- `tool_call_arguments` "
      "must be valid JSON that strictly follows the tool's Parameters Schema\n- For multiple tool calls, chain them "
      "directly without separators or spaces");
  return out;
}

std::vector<int32_t> forced_call_prefix(const Tokenizer& tokenizer, bool begins_thinking) {
  std::vector<int32_t> ids;
  // A vocabulary without </think> spells it with ordinary tokens, as its prompts do.
  if (begins_thinking) ids = tokenizer.encode(think_end);
  const auto begin = tokenizer.added_token(calls_begin);
  if (!begin) throw_bad_input("The model's vocabulary has no token {}: expected it for tool calls.", calls_begin);
  ids.push_back(*begin);
  return ids;
}

}  // namespace fathom
