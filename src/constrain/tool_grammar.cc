#include "constrain/tool_grammar.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/utf8.h"
#include "constrain/automaton.h"
#include "constrain/json_grammar.h"
#include "constrain/json_parts.h"
#include "constrain/token_trie.h"
#include "formats/json.h"
#include "text/control_tokens.h"
#include "text/tokenizer.h"
#include "text/tool_calls.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;
using Node = ByteGrammar::Node;

/// In the order of their control bytes.
constexpr std::array control_names = {control_tokens::calls_begin, control_tokens::calls_end,
                                      control_tokens::call_begin, control_tokens::call_end, control_tokens::tool_sep};

std::string control(std::string_view name) {
  const auto place = std::find(control_names.begin(), control_names.end(), name) - control_names.begin();
  return {static_cast<char>(TokenTrie::control_byte(static_cast<size_t>(place)))};
}

std::string shown(const std::string& text) {
  return Json(text.substr(0, 80)).dump(-1, ' ', true, Json::error_handler_t::replace);
}

bool is_tool_name(std::string_view name) {
  return !name.empty() && name.size() <= 64 && std::all_of(name.begin(), name.end(), [](char character) {
    return (character >= 'a' && character <= 'z') || (character >= 'A' && character <= 'Z') ||
           (character >= '0' && character <= '9') || character == '_' || character == '-';
  });
}

std::string place_of(size_t index, const ToolDefinition& tool) {
  return fmt::format("tools[{}] ({})", index, tool.name);
}

Json parameters_of(const ToolDefinition& tool, const std::string& place) {
  Json schema = parse_ordered_json(tool.parameters, place + ".parameters");
  if (!schema.is_object()) {
    throw_bad_input("{}.parameters: expected an object, found {}.", place, schema.type_name());
  }
  return schema;
}

bool describes_object(const Json& schema) {
  const auto type = schema.find("type");
  return type != schema.end() &&
         (*type == "object" || (type->is_array() && std::find(type->begin(), type->end(), "object") != type->end()));
}

/// The rules of strict mode for objects, everywhere in a schema. Only nested as deeply as its JSON may be.
void check_strict_objects(const Json& schema, const std::string& path, const std::string& place) {
  if (!schema.is_object()) return;
  if (describes_object(schema)) {
    const auto others = schema.find("additionalProperties");
    if (others == schema.end() || *others != false) {
      throw_bad_input("{}.parameters at \"{}\": a strict tool needs \"additionalProperties\": false in every object.",
                      place, path);
    }
    std::set<std::string> required;
    if (const auto list = schema.find("required"); list != schema.end() && list->is_array()) {
      for (const Json& name : *list) required.insert(name.is_string() ? name.get<std::string>() : std::string());
    }
    const auto properties = schema.find("properties");
    if (properties != schema.end() && properties->is_object()) {
      for (const auto& property : properties->items()) {
        if (required.count(property.key()) > 0) continue;
        throw_bad_input("{}.parameters at \"{}\": a strict tool needs every property in \"required\", which lacks {}.",
                        place, path, shown(property.key()));
      }
    }
  }
  for (const char* keyword : {"properties", "$defs", "definitions"}) {
    const auto members = schema.find(keyword);
    if (members == schema.end() || !members->is_object()) continue;
    for (const auto& member : members->items()) {
      check_strict_objects(member.value(), path + "/" + keyword + "/" + member.key().substr(0, 200), place);
    }
  }
  if (const auto items = schema.find("items"); items != schema.end()) {
    check_strict_objects(*items, path + "/items", place);
  }
  if (const auto list = schema.find("anyOf"); list != schema.end() && list->is_array()) {
    for (size_t index = 0; index < list->size(); ++index) {
      check_strict_objects((*list)[index], fmt::format("{}/anyOf/{}", path, index), place);
    }
  }
}

void check_strict(const ToolDefinition& tool, const std::string& place) {
  const Json schema = parameters_of(tool, place);
  const auto type = schema.find("type");
  if (type == schema.end() || *type != "object") {
    throw_bad_input("{}.parameters: a strict tool needs \"type\": \"object\" at the top.", place);
  }
  check_strict_objects(schema, "#", place);
  try {
    compile_automaton(json_schema_grammar(schema));
  } catch (const Error& error) {
    throw_bad_input("{}.parameters: {}", place, error.what());
  }
}

}  // namespace

void check_tools(const std::vector<ToolDefinition>& tools) {
  if (tools.size() > most_tools) throw_bad_input("tools: expected at most {}, found {}.", most_tools, tools.size());
  std::set<std::string_view> names;
  for (size_t index = 0; index < tools.size(); ++index) {
    const ToolDefinition& tool = tools[index];
    if (!is_tool_name(tool.name)) {
      throw_bad_input("tools[{}].name: expected 1 to 64 letters, digits, \"_\" or \"-\", found {}.", index,
                      shown(tool.name));
    }
    if (!names.insert(tool.name).second) throw_bad_input("tools[{}].name: \"{}\" is there twice.", index, tool.name);
    const std::string place = place_of(index, tool);
    if (utf8_valid_prefix(tool.description) != tool.description.size()) {
      throw_bad_input("{}.description: expected UTF-8 text.", place);
    }
    if (tool.strict) {
      check_strict(tool, place);
    } else {
      parameters_of(tool, place);
    }
  }
}

std::vector<int32_t> tool_control_tokens(const Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const std::string_view name : control_names) {
    const auto id = tokenizer.added_token(name);
    if (!id) return {};
    ids.push_back(*id);
  }
  return ids;
}

ByteGrammar tool_call_grammar(ChatFormat format, const std::vector<ToolDefinition>& tools, const CallRules& rules) {
  ByteGrammar grammar;
  JsonParts parts(grammar, {});
  const bool fenced = writes_fenced_calls(format);
  const Node any_arguments = grammar.shared("arguments", parts.any_object(), true);
  std::vector<Node> alternatives;
  for (size_t index = 0; index < tools.size(); ++index) {
    const ToolDefinition& tool = tools[index];
    if (!rules.only.empty() && tool.name != rules.only) continue;
    const std::string separator = control(control_tokens::tool_sep);
    const Node head =
        grammar.literal(fenced ? "function" + separator + tool.name + "\n```json\n" : tool.name + separator);
    const Node arguments =
        tool.strict ? json_schema_node(parts, parameters_of(tool, place_of(index, tool))) : any_arguments;
    alternatives.push_back(grammar.sequence({head, arguments}));
  }
  if (alternatives.empty()) {
    if (tools.empty()) throw_bad_input("tools: expected at least one for a tool call, found none.");
    throw_bad_input("tool_choice: expected one of the tools, found {}.", shown(rules.only));
  }
  const Node begin = grammar.literal(control(control_tokens::call_begin));
  const Node end = grammar.literal((fenced ? "\n```" : "") + control(control_tokens::call_end));
  const Node call =
      grammar.shared("call", grammar.sequence({begin, grammar.choice(std::move(alternatives)), end}), true);
  const Node next = fenced ? grammar.sequence({grammar.literal("\n"), call}) : call;
  std::vector<Node> sentence;
  if (rules.with_begin) {
    sentence.push_back(grammar.repeat(grammar.literal("\n"), 0, 2));
    sentence.push_back(grammar.literal(control(control_tokens::calls_begin)));
  }
  sentence.push_back(call);
  if (rules.parallel) sentence.push_back(grammar.repeat(next, 0, ByteGrammar::no_limit));
  sentence.push_back(grammar.literal(control(control_tokens::calls_end)));
  grammar.root = grammar.declare("tool calls");
  grammar.define(grammar.root, grammar.sequence(std::move(sentence)));
  return grammar;
}

}  // namespace fathom
