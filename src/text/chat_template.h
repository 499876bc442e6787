#pragma once
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// The chat formats that Fathom renders: the templates that DeepSeek published, each exactly.
enum class ChatFormat {
  deepseek_v3,
  deepseek_r1,
  deepseek_v31,
  deepseek_v3_first,  ///< V3's first template: a later system message replaces the earlier ones
  deepseek_r1_first,  ///< R1's first template: the generation prompt does not open <think>
};
/// "deepseek-v3", "deepseek-r1", "deepseek-v3.1", "deepseek-v3-first", "deepseek-r1-first".
std::string_view chat_format_name(ChatFormat format);

struct ToolCall {
  std::string type = "function";
  std::string name;
  std::string arguments;  ///< JSON text, as it is written into the prompt
};

/// A function that the model may call.
struct ToolDefinition {
  std::string name;
  std::string description;  ///< empty: none
  /// JSON text of the schema of its arguments, an object's; that of an object without members where none is given.
  std::string parameters = R"({"type": "object", "properties": {}, "additionalProperties": false})";
  bool strict = false;  ///< the arguments follow the schema, not only JSON
};

struct ChatMessage {
  std::string role;                    ///< system, user, assistant or tool
  std::optional<std::string> content;  ///< null for an assistant turn that only calls tools
  std::vector<ToolCall> tool_calls;
  bool prefix = false;  ///< V3.1 only: the answer is a start that is to be continued; opens <think> when thinking
};

struct ChatOptions {
  bool add_generation_prompt = true;
  bool thinking = false;  ///< V3.1 only
  /// Described at the end of the system prompt (`tool_section`), so that the same tools give the same beginning.
  std::vector<ToolDefinition> tools;
};

/// What `tokenizer_config.json` says that matters here.
struct TokenizerConfig {
  std::string bos_token, eos_token;
  bool add_bos_token = false;
  std::optional<ChatFormat> chat_format;  ///< nothing: no template, or one that is none of ours
  bool has_chat_template = false;
};

/// `DIR/tokenizer_config.json` (and `chat_template.jinja`, where newer libraries put the template). A missing file
/// gives the defaults.
TokenizerConfig read_tokenizer_config(const std::string& directory);

/// Which of the known templates a Jinja text is, whatever its layout (blanks and line breaks that do not print,
/// quotes); nothing if it is none of them, or one of them changed in any other way.
std::optional<ChatFormat> recognise_chat_template(std::string_view jinja);

/// Messages from their JSON form (OpenAI's: role, content, tool_calls). `bad_input` names the message and the field.
std::vector<ChatMessage> chat_messages_from_json(const nlohmann::json& messages, std::string_view source);

/// The prompt text, BOS included, exactly as the published Jinja template renders it, and with what it leaves out: the
/// tools (`ChatOptions::tools`), and in the V3 and R1 formats the calls of an answer that has text too.
std::string render_chat(ChatFormat format, const std::string& bos_token, const std::vector<ChatMessage>& messages,
                        const ChatOptions& options);

}  // namespace fathom
