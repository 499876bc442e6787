#include "text/chat_template.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "formats/json.h"
#include "text/control_tokens.h"
#include "text/tool_calls.h"

namespace fathom {
namespace {

using Json = nlohmann::json;

using namespace control_tokens;

constexpr size_t largest_config = size_t{16} << 20;

/// The content of a message where the template needs text; Jinja fails there too ("can only concatenate str").
const std::string& text_of(const ChatMessage& message, size_t index) {
  if (!message.content) {
    throw_bad_input("messages[{}].content: expected text for the role \"{}\", found null.", index, message.role);
  }
  return *message.content;
}

std::string system_prompt(const std::vector<ChatMessage>& messages, bool last_only) {
  std::string prompt;
  bool first = true;
  for (size_t index = 0; index < messages.size(); ++index) {
    if (messages[index].role != "system") continue;
    const std::string& text = text_of(messages[index], index);
    if (last_only) {
      prompt = text;
    } else {
      if (!first) prompt += "\n\n";
      prompt += text;
      first = false;
    }
  }
  return prompt;
}

/// What stands before the first turn. No published template renders tools: their section is ours.
std::string opening(ChatFormat format, const std::string& bos_token, const std::vector<ChatMessage>& messages,
                    bool last_system_only, const ChatOptions& options) {
  std::string prompt = system_prompt(messages, last_system_only);
  if (!options.tools.empty()) {
    if (!prompt.empty()) prompt += "\n\n";
    prompt += tool_section(format, options.tools);
  }
  return bos_token + prompt;
}

/// An assistant's turn without text. An empty one beside calls counts as none: clients write it for null.
bool only_calls(const ChatMessage& message) {
  return !message.content || (message.content->empty() && !message.tool_calls.empty());
}

/// A call as the templates of the V3 and R1 family write it.
std::string v3_call(const ToolCall& call) {
  std::string out(call_begin);
  out.append(call.type).append(tool_sep).append(call.name);
  out.append("\n```json\n").append(call.arguments).append("\n```").append(call_end);
  return out;
}

/// How the templates of the V3 and R1 family differ from each other.
struct FamilyTraits {
  bool last_system_only;               // a later system message replaces the earlier ones instead of joining them
  bool drops_thinking;                 // what an earlier answer says up to </think> is left out
  std::string_view generation_suffix;  // after <｜Assistant｜> in the generation prompt
};

/// The templates of V3 and R1 have one loop and three differences. Their oddities are kept, since the models are asked
/// in these words: `is_first` and `is_output_first` are never reset, so only the first tool call and the first tool
/// output of a whole conversation open their block; and the block of calls is closed after each call but the first.
///
/// Where an answer has both text and calls, the templates leave the calls out. Here they follow the text as a whole
/// block, which leaves the oddities of other turns as they are.
std::string render_v3_family(ChatFormat format, const FamilyTraits& traits, const std::string& bos_token,
                             const std::vector<ChatMessage>& messages, const ChatOptions& options) {
  std::string out = opening(format, bos_token, messages, traits.last_system_only, options);
  bool after_first_call = false;
  bool after_first_output = false;
  bool is_tool = false;
  for (size_t index = 0; index < messages.size(); ++index) {
    const ChatMessage& message = messages[index];
    if (message.role == "user") {
      is_tool = false;
      out.append(user_mark).append(text_of(message, index));
    } else if (message.role == "assistant" && only_calls(message)) {
      is_tool = false;
      for (const ToolCall& call : message.tool_calls) {
        if (after_first_call) {
          out += '\n';
        } else {
          out.append(assistant_mark).append(calls_begin);
        }
        out += v3_call(call);
        if (after_first_call) out.append(calls_end).append(end_of_sentence);
        after_first_call = true;
      }
    } else if (message.role == "assistant") {
      std::string_view text = *message.content;
      if (is_tool) {
        out.append(outputs_end);
        is_tool = false;
      } else {
        if (traits.drops_thinking) {
          const size_t thought = text.rfind(think_end);
          if (thought != std::string_view::npos) text.remove_prefix(thought + think_end.size());
        }
        out.append(assistant_mark);
      }
      out.append(text);
      for (const ToolCall& call : message.tool_calls) {
        out.append(&call == message.tool_calls.data() ? calls_begin : std::string_view("\n")).append(v3_call(call));
      }
      if (!message.tool_calls.empty()) out.append(calls_end);
      out.append(end_of_sentence);
    } else if (message.role == "tool") {
      is_tool = true;
      out.append(after_first_output ? std::string_view("\n") : outputs_begin);
      after_first_output = true;
      out.append(output_begin).append(text_of(message, index)).append(output_end);
    }
  }
  if (is_tool) {
    out.append(outputs_end);
  } else if (options.add_generation_prompt) {
    out.append(assistant_mark).append(traits.generation_suffix);
  }
  return out;
}

std::string render_v31(const std::string& bos_token, const std::vector<ChatMessage>& messages,
                       const ChatOptions& options) {
  std::string out = opening(ChatFormat::deepseek_v31, bos_token, messages, false, options);
  bool is_tool = false;
  bool is_last_user = false;
  for (size_t index = 0; index < messages.size(); ++index) {
    const ChatMessage& message = messages[index];
    if (message.role == "user") {
      is_tool = false;
      is_last_user = true;
      out.append(user_mark).append(text_of(message, index));
    } else if (message.role == "assistant" && !message.tool_calls.empty()) {
      if (is_last_user) out.append(assistant_mark).append(think_end);
      is_last_user = false;
      is_tool = false;
      if (message.content) out.append(*message.content);
      out.append(calls_begin);
      for (const ToolCall& call : message.tool_calls) {
        out.append(call_begin).append(call.name).append(tool_sep).append(call.arguments).append(call_end);
      }
      out.append(calls_end).append(end_of_sentence);
    } else if (message.role == "assistant") {
      if (is_last_user) {
        out.append(assistant_mark).append(message.prefix && options.thinking ? think_begin : think_end);
      }
      is_last_user = false;
      std::string_view text = text_of(message, index);
      if (is_tool) {
        is_tool = false;
      } else {
        const size_t thought = text.find(think_end);
        if (thought != std::string_view::npos) text.remove_prefix(thought + think_end.size());
      }
      out.append(text).append(end_of_sentence);
    } else if (message.role == "tool") {
      is_last_user = false;
      is_tool = true;
      out.append(output_begin).append(text_of(message, index)).append(output_end);
    }
  }
  if (options.add_generation_prompt && is_last_user && !is_tool) {
    out.append(assistant_mark).append(options.thinking ? think_begin : think_end);
  }
  return out;
}

bool is_blank(char character) {
  return character == ' ' || character == '\t' || character == '\n' || character == '\r' || character == '\f' ||
         character == '\v';
}

bool is_name(char character) {
  return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
         (character >= '0' && character <= '9') || character == '_' || (static_cast<unsigned char>(character) & 0x80);
}

/// A Jinja text in a form that is equal for two texts that differ only in layout: blanks inside tags dropped, string
/// literals unescaped, text between tags trimmed as transformers sets Jinja up (trim_blocks, lstrip_blocks). Text that
/// would be printed is kept. Nothing if a tag or a string does not end.
class JinjaNormalizer {
 public:
  explicit JinjaNormalizer(std::string_view text) : text_(text) {
    if (!text_.empty() && text_.back() == '\n') text_.remove_suffix(1);  // Jinja drops one
  }

  std::optional<std::string> run() {
    while (at_ < text_.size()) {
      const size_t tag = next_tag();
      data(text_.substr(at_, tag - at_), tag);
      if (tag >= text_.size()) break;
      if (!inside(tag)) return std::nullopt;
    }
    return std::move(out_);
  }

 private:
  size_t next_tag() const {
    for (size_t place = at_; place + 1 < text_.size(); ++place) {
      if (text_[place] == '{' && (text_[place + 1] == '{' || text_[place + 1] == '%' || text_[place + 1] == '#')) {
        return place;
      }
    }
    return text_.size();
  }

  /// Text between two tags; `tag` is where the next one starts.
  void data(std::string_view part, size_t tag) {
    if (trim_all_) {
      while (!part.empty() && is_blank(part.front())) part.remove_prefix(1);
    } else if (trim_newline_ && !part.empty() && part.front() == '\n') {
      part.remove_prefix(1);
    }
    if (tag + 2 < text_.size()) {
      if (text_[tag + 2] == '-') {
        while (!part.empty() && is_blank(part.back())) part.remove_suffix(1);
      } else if (text_[tag + 2] != '+' && text_[tag + 1] != '{') {
        std::string_view trimmed = part;
        while (!trimmed.empty() && (trimmed.back() == ' ' || trimmed.back() == '\t')) trimmed.remove_suffix(1);
        // Only blanks that start their line go.
        const size_t line = static_cast<size_t>(trimmed.data() - text_.data()) + trimmed.size();
        if (line == 0 || text_[line - 1] == '\n') part = trimmed;
      }
    }
    if (part.empty()) return;
    out_.append("\x01").append(part).append("\x01");
  }

  bool inside(size_t tag) {
    const char kind = text_[tag + 1];
    const char closing = kind == '{' ? '}' : kind;
    at_ = tag + 2;
    if (at_ < text_.size() && (text_[at_] == '-' || text_[at_] == '+')) ++at_;
    if (kind != '#') out_.append(kind == '{' ? "\x02" : "\x03");
    bool gap = false;
    while (at_ < text_.size()) {
      const char character = text_[at_];
      const size_t end = at_ + (character == '-' || character == '+' ? 1 : 0);
      if (end + 1 < text_.size() && text_[end] == closing && text_[end + 1] == '}') {
        trim_all_ = character == '-';
        trim_newline_ = kind != '{' && character != '+';
        at_ = end + 2;
        return true;
      }
      if (kind == '#') {
        ++at_;
      } else if (is_blank(character)) {
        gap = true;
        ++at_;
      } else if (character == '\'' || character == '"') {
        gap = false;
        if (!literal(character)) return false;
      } else {
        // A blank matters only where it keeps two words apart.
        if (gap && is_name(character) && is_name(out_.back())) out_ += ' ';
        gap = false;
        out_ += character;
        ++at_;
      }
    }
    return false;
  }

  bool literal(char quote) {
    out_ += '\x04';
    for (++at_; at_ < text_.size(); ++at_) {
      char character = text_[at_];
      if (character == quote) {
        out_ += '\x04';
        ++at_;
        return true;
      }
      if (character == '\\') {
        if (++at_ >= text_.size()) return false;
        character = text_[at_];
        if (character == 'n')
          character = '\n';
        else if (character == 't')
          character = '\t';
        else if (character != '\\' && character != '\'' && character != '"')
          out_ += '\\';
      }
      out_ += character;
    }
    return false;
  }

  std::string_view text_;
  size_t at_ = 0;
  bool trim_all_ = false;
  bool trim_newline_ = false;
  std::string out_;
};

struct KnownTemplate {
  size_t bytes;   // of the normalised text
  uint64_t hash;  // `hash_text`: a template that is taken for another only chooses one of the renderings of this file
  ChatFormat format;
};

/// The templates in the tokenizer_config.json files that DeepSeek published.
constexpr std::array<KnownTemplate, 5> known_templates = {{
    {1895, 0xd21b053da71d6517u, ChatFormat::deepseek_v3},        // V3
    {1745, 0xf4ecbcf7ea7c2671u, ChatFormat::deepseek_v3_first},  // V3, first revision
    {1844, 0xc0cc36a2f8b23abfu, ChatFormat::deepseek_r1},        // R1
    {1836, 0xd4c9d686a32b67cbu, ChatFormat::deepseek_r1_first},  // R1, first revision
    {2371, 0x7e5784ba04669a22u, ChatFormat::deepseek_v31},       // V3.1
}};

std::string token_text(const Json& config, const char* name, const std::string& path) {
  const auto found = config.find(name);
  if (found == config.end() || found->is_null()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_object()) {
    const auto content = found->find("content");
    if (content != found->end() && content->is_string()) return content->get<std::string>();
  }
  throw_bad_input("{}: {}: expected a string, or an object whose \"content\" is one.", path, name);
}

/// The Jinja text of the configuration; newer files may list several by name, of which "default" is meant.
std::optional<std::string> template_text(const Json& config, const std::string& path) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return std::nullopt;
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) {
    throw_bad_input("{}: chat_template: expected a string or a list, found {}.", path, found->type_name());
  }
  for (const Json& entry : *found) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") ||
        !entry["template"].is_string()) {
      throw_bad_input("{}: chat_template: expected entries with \"name\" and \"template\".", path);
    }
    if (entry["name"] == "default") return entry["template"].get<std::string>();
  }
  return std::nullopt;
}

std::string required_text(const Json& object, const char* name, const std::string& where) {
  const auto found = object.find(name);
  if (found == object.end()) throw_bad_input("{}.{} is missing.", where, name);
  if (!found->is_string()) throw_bad_input("{}.{}: expected a string, found {}.", where, name, found->type_name());
  return found->get<std::string>();
}

std::vector<ToolCall> tool_calls_from_json(const Json& list, const std::string& where) {
  if (!list.is_array()) throw_bad_input("{}: expected a list, found {}.", where, list.type_name());
  // The V3.1 template closes a block of calls that it never opened for an empty list; nobody wants that prompt.
  if (list.empty()) throw_bad_input("{}: expected at least one call, found an empty list.", where);
  std::vector<ToolCall> calls;
  for (size_t index = 0; index < list.size(); ++index) {
    const std::string place = fmt::format("{}[{}]", where, index);
    if (!list[index].is_object()) throw_bad_input("{}: expected an object, found {}.", place, list[index].type_name());
    ToolCall call;
    call.type = required_text(list[index], "type", place);
    const auto function = list[index].find("function");
    if (function == list[index].end()) throw_bad_input("{}.function is missing.", place);
    if (!function->is_object()) {
      throw_bad_input("{}.function: expected an object, found {}.", place, function->type_name());
    }
    call.name = required_text(*function, "name", place + ".function");
    call.arguments = required_text(*function, "arguments", place + ".function");
    calls.push_back(std::move(call));
  }
  return calls;
}

}  // namespace

std::string_view chat_format_name(ChatFormat format) {
  switch (format) {
    case ChatFormat::deepseek_v3:
      return "deepseek-v3";
    case ChatFormat::deepseek_r1:
      return "deepseek-r1";
    case ChatFormat::deepseek_v31:
      return "deepseek-v3.1";
    case ChatFormat::deepseek_v3_first:
      return "deepseek-v3-first";
    case ChatFormat::deepseek_r1_first:
      return "deepseek-r1-first";
  }
  return "unknown";
}

TokenizerConfig read_tokenizer_config(const std::string& directory) {
  TokenizerConfig result;
  const std::filesystem::path base(directory);
  const std::string path = (base / "tokenizer_config.json").string();
  std::optional<std::string> jinja;
  if (file_exists(path)) {
    const Json config = read_json_file(path, largest_config);
    if (!config.is_object()) throw_bad_input("{}: expected an object, found {}.", path, config.type_name());
    result.bos_token = token_text(config, "bos_token", path);
    result.eos_token = token_text(config, "eos_token", path);
    if (const auto add = config.find("add_bos_token"); add != config.end() && !add->is_null()) {
      if (!add->is_boolean()) {
        throw_bad_input("{}: add_bos_token: expected true or false, found {}.", path, add->type_name());
      }
      result.add_bos_token = add->get<bool>();
    }
    jinja = template_text(config, path);
  }
  // Where both are there transformers takes the file.
  const std::string jinja_path = (base / "chat_template.jinja").string();
  if (file_exists(jinja_path)) jinja = read_file(jinja_path, largest_config);
  result.has_chat_template = jinja.has_value();
  if (jinja) result.chat_format = recognise_chat_template(*jinja);
  return result;
}

std::optional<ChatFormat> recognise_chat_template(std::string_view jinja) {
  const std::optional<std::string> text = JinjaNormalizer(jinja).run();
  if (!text) return std::nullopt;
  const uint64_t hash = hash_text(*text);
  for (const KnownTemplate& known : known_templates) {
    if (known.hash == hash && known.bytes == text->size()) return known.format;
  }
  return std::nullopt;
}

std::vector<ChatMessage> chat_messages_from_json(const Json& messages, std::string_view source) {
  if (!messages.is_array()) {
    throw_bad_input("{}: messages: expected a list, found {}.", source, messages.type_name());
  }
  std::vector<ChatMessage> result;
  for (size_t index = 0; index < messages.size(); ++index) {
    const Json& json = messages[index];
    const std::string where = fmt::format("{}: messages[{}]", source, index);
    if (!json.is_object()) throw_bad_input("{}: expected an object, found {}.", where, json.type_name());
    ChatMessage message;
    message.role = required_text(json, "role", where);
    constexpr std::array<std::string_view, 4> roles = {"system", "user", "assistant", "tool"};
    if (std::find(roles.begin(), roles.end(), message.role) == roles.end()) {
      // The templates would drop the message in silence.
      throw_bad_input("{}.role: expected system, user, assistant or tool, found \"{}\".", where,
                      message.role.substr(0, 40));
    }
    const auto content = json.find("content");
    if (content == json.end()) throw_bad_input("{}.content is missing.", where);
    if (content->is_string()) {
      message.content = content->get<std::string>();
    } else if (!content->is_null()) {
      throw_bad_input("{}.content: expected a string or null, found {}.", where, content->type_name());
    }
    if (const auto calls = json.find("tool_calls"); calls != json.end() && !calls->is_null()) {
      if (message.role != "assistant") {
        throw_bad_input("{}.tool_calls: only an assistant's message can call tools.", where);
      }
      message.tool_calls = tool_calls_from_json(*calls, where + ".tool_calls");
    }
    if (!message.content && message.tool_calls.empty()) {
      throw_bad_input("{}.content: null is only allowed for an assistant's message with tool_calls.", where);
    }
    if (const auto prefix = json.find("prefix"); prefix != json.end() && !prefix->is_null()) {
      if (!prefix->is_boolean()) {
        throw_bad_input("{}.prefix: expected true or false, found {}.", where, prefix->type_name());
      }
      message.prefix = prefix->get<bool>();
    }
    result.push_back(std::move(message));
  }
  return result;
}

std::string render_chat(ChatFormat format, const std::string& bos_token, const std::vector<ChatMessage>& messages,
                        const ChatOptions& options) {
  switch (format) {
    case ChatFormat::deepseek_v3:
      return render_v3_family(format, {false, false, ""}, bos_token, messages, options);
    case ChatFormat::deepseek_v3_first:
      return render_v3_family(format, {true, false, ""}, bos_token, messages, options);
    case ChatFormat::deepseek_r1:
      return render_v3_family(format, {true, true, "<think>\n"}, bos_token, messages, options);
    case ChatFormat::deepseek_r1_first:
      return render_v3_family(format, {true, true, ""}, bos_token, messages, options);
    case ChatFormat::deepseek_v31:
      return render_v31(bos_token, messages, options);
  }
  throw_bad_input("The chat format {} is not known.", static_cast<int>(format));
}

}  // namespace fathom
