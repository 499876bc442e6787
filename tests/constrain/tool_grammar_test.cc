#include "constrain/tool_grammar.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "constrain/samples.h"
#include "constrain/schema_valid.h"
#include "engine/byte_tokenizer.h"
#include "support/errors.h"
#include "support/golden.h"
#include "text/answer_splitter.h"
#include "text/tool_calls.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

constexpr ChatFormat both_forms[] = {ChatFormat::deepseek_v3, ChatFormat::deepseek_v31};

const char* const weather_schema = R"({"type": "object", "properties": {
  "city": {"type": "string", "maxLength": 20, "description": "A city"},
  "unit": {"enum": ["c", "f"]}, "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14},
  "near": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}},
  "required": ["city", "unit", "days", "near"], "additionalProperties": false,
  "$defs": {"place": {"type": "object", "properties": {"names": {"type": "array", "items": {"type": "string"}},
    "next": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}}, "required": ["names", "next"],
    "additionalProperties": false}}})";
const char* const search_schema = R"({"type": "object", "properties": {"query": {"type": "string"},
  "near": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]}}, "required": ["query", "near"],
  "additionalProperties": false, "$defs": {"place": {"type": "object", "properties": {"zip": {"type": "integer"}},
  "required": ["zip"], "additionalProperties": false}}})";

/// Two strict tools whose schemas use the same name for different things, one that is not strict, one without
/// arguments.
std::vector<ToolDefinition> some_tools() {
  return {{"get_weather", "Weather", weather_schema, true},
          {"get", "A name that begins another one", search_schema, true},
          {"free", "Any object", "{}"},
          {"now"},
          {"none", "", ToolDefinition().parameters, true}};
}

const Tokenizer& tiny() {
  static const auto tokenizer = Tokenizer::load(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json");
  return *tokenizer;
}

std::shared_ptr<const TokenTrie> tool_trie() {
  static const auto trie = std::make_shared<const TokenTrie>(tiny(), tool_control_tokens(tiny()));
  return trie;
}

/// Whether the text, with control tokens as they are spelled, is a sentence.
bool reads(const std::shared_ptr<const Constraint>& constraint, const std::string& text) {
  ConstraintState state(constraint);
  for (const int32_t token : tiny().encode(text)) {
    if (!state.accept(token)) return false;
  }
  return state.may_end();
}

std::shared_ptr<const Constraint> calls_of(ChatFormat format, const CallRules& rules = {}) {
  return constraint_of(tool_call_grammar(format, some_tools(), rules), tool_trie());
}

const std::string v3_none = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>none\n```json\n{}\n```<｜tool▁call▁end｜>";
const std::string v31_none = "<｜tool▁call▁begin｜>none<｜tool▁sep｜>{}<｜tool▁call▁end｜>";
const std::string end = "<｜tool▁calls▁end｜>";
const std::string begin = "<｜tool▁calls▁begin｜>";

TEST(ToolGrammar, ReadsTheCallsOfItsFormat) {
  const auto v3 = calls_of(ChatFormat::deepseek_v3);
  const auto v31 = calls_of(ChatFormat::deepseek_v31);
  EXPECT_TRUE(reads(v3, v3_none + end));
  EXPECT_TRUE(reads(v3, v3_none + "\n" + v3_none + end));
  EXPECT_TRUE(reads(v31, v31_none + end));
  EXPECT_TRUE(reads(v31, v31_none + v31_none + v31_none + end));
  const std::string free = "<｜tool▁call▁begin｜>free<｜tool▁sep｜>{\"a\": [1, {}]}<｜tool▁call▁end｜>";
  const std::string weather =
      "<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\", \"unit\": \"c\", "
      "\"days\": 3, \"near\": {\"names\": [], \"next\": null}}<｜tool▁call▁end｜>";
  const std::string get =
      "<｜tool▁call▁begin｜>get<｜tool▁sep｜>{\"query\": \"\", \"near\": {\"zip\": 1}}<｜tool▁call▁end｜>";
  EXPECT_TRUE(reads(v31, free + weather + get + end));
  for (const std::string& text :
       {v3_none, end, std::string(), v3_none + v3_none + end, v3_none + "\n" + end, v31_none + end,
        begin + v3_none + end, std::string("x") + v3_none + end, v3_none + end + end}) {
    EXPECT_FALSE(reads(v3, text)) << text;
  }
  for (const std::string& text :
       {v3_none + end, v31_none + "\n" + v31_none + end, begin + v31_none + end,
        std::string("<｜tool▁call▁begin｜>none<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>") + end,
        std::string("<｜tool▁call▁begin｜>other<｜tool▁sep｜>{}<｜tool▁call▁end｜>") + end,
        std::string("<｜tool▁call▁begin｜>now<｜tool▁sep｜>[]<｜tool▁call▁end｜>") + end,
        std::string("<｜tool▁call▁begin｜>get<｜tool▁sep｜>{\"query\": \"\", \"near\": {\"names\": []}}"
                    "<｜tool▁call▁end｜>") +
            end}) {
    EXPECT_FALSE(reads(v31, text)) << text;
  }
}

TEST(ToolGrammar, ControlTokensCannotBeSpelledAsText) {
  const auto v31 = calls_of(ChatFormat::deepseek_v31);
  ConstraintState state(v31);
  bool accepted = true;
  for (const int32_t token : tiny().encode_plain(v31_none + end)) accepted = accepted && state.accept(token);
  EXPECT_FALSE(accepted);
}

TEST(ToolGrammar, KeepsToItsRules) {
  for (const ChatFormat format : both_forms) {
    const bool fenced = writes_fenced_calls(format);
    const std::string none = fenced ? v3_none : v31_none;
    const std::string between = fenced ? "\n" : "";
    EXPECT_TRUE(reads(calls_of(format, {"none"}), none + between + none + end));
    EXPECT_FALSE(reads(calls_of(format, {"now"}), none + end));
    EXPECT_TRUE(reads(calls_of(format, {"", false}), none + end));
    EXPECT_FALSE(reads(calls_of(format, {"", false}), none + between + none + end));
    const auto opened = calls_of(format, {"", true, true});
    EXPECT_TRUE(reads(opened, begin + none + end));
    EXPECT_TRUE(reads(opened, "\n\n" + begin + none + between + none + end));
    EXPECT_FALSE(reads(opened, "\n\n\n" + begin + none + end));
    EXPECT_FALSE(reads(opened, none + end));
    EXPECT_FALSE(reads(opened, "Let me see. " + begin + none + end));
    FATHOM_EXPECT_ERROR(calls_of(format, {"nobody"}), ErrorKind::bad_input, "tool_choice", "\"nobody\"");
    FATHOM_EXPECT_ERROR(tool_call_grammar(format, {}), ErrorKind::bad_input, "at least one");
  }
}

TEST(ToolGrammar, ShortestCompletionEndsTheBlock) {
  const auto constraint = calls_of(ChatFormat::deepseek_v31, {"now"});
  ConstraintState state(constraint);
  ASSERT_TRUE(state.accept(*tiny().added_token("<｜tool▁call▁begin｜>")));
  std::string spelled;
  for (const char byte : state.shortest_completion()) {
    const int32_t token = byte_tokens(*tool_trie())[static_cast<uint8_t>(byte)];
    ASSERT_TRUE(state.accept(token));
    spelled += tiny().token_bytes(token);
  }
  EXPECT_EQ(spelled, "now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>");
  EXPECT_TRUE(state.must_end());
}

TEST(ToolGrammar, BeginsBehindATokenOfTheAnswer) {
  const std::vector<int32_t> after = {*tiny().added_token(begin)};
  ConstraintState state(calls_of(ChatFormat::deepseek_v3), after);
  for (const int32_t token : tiny().encode("Let me see.\n\n" + begin)) {
    EXPECT_FALSE(state.started());
    EXPECT_TRUE(state.accept(token));
  }
  EXPECT_TRUE(state.started());
  EXPECT_EQ(allowed_tokens(state, *tool_trie()), (std::vector<int32_t>{*tiny().added_token("<｜tool▁call▁begin｜>")}));
  for (const int32_t token : tiny().encode(v3_none + end)) EXPECT_TRUE(state.accept(token));
  EXPECT_TRUE(state.must_end());
}

/// Random answers of the grammar, split again: every call names a tool that is allowed and has arguments for it.
void expect_samples_split(const Tokenizer& tokenizer, const std::shared_ptr<const TokenTrie>& trie, int count) {
  std::mt19937_64 random(7);
  const std::vector<ToolDefinition> tools = some_tools();
  size_t further = 0;
  for (const ChatFormat format : {ChatFormat::deepseek_r1, ChatFormat::deepseek_v31}) {
    for (const CallRules& rules : {CallRules{}, CallRules{"get_weather"}, CallRules{"", false},
                                   CallRules{"", true, true}, CallRules{"free", false, true}}) {
      const auto constraint = constraint_of(tool_call_grammar(format, tools, rules), trie);
      for (int index = 0; index < count; ++index) {
        std::vector<int32_t> ids = sample_tokens(constraint, random, 60);
        // A grammar that reads the begin of the block is for an answer that has thought before.
        if (rules.with_begin) {
          const std::vector<int32_t> thought = tokenizer.encode("hm</think>");
          ids.insert(ids.begin(), thought.begin(), thought.end());
        }
        AnswerSplitter splitter(tokenizer, {format, rules.with_begin, true, {"\n", "{"}});
        AnswerParts parts;
        for (const int32_t id : ids) {
          for (const AnswerEvent& event : splitter.push(id)) parts.add(event);
        }
        for (const AnswerEvent& event : splitter.finish()) parts.add(event);
        SCOPED_TRACE(tokenizer.decode(ids));
        ASSERT_EQ(parts.content, "");
        ASSERT_EQ(parts.reasoning, rules.with_begin ? "hm" : "");
        ASSERT_FALSE(parts.calls.empty());
        ASSERT_TRUE(rules.parallel || parts.calls.size() == 1);
        further += parts.calls.size() - 1;
        for (const AnswerParts::Call& call : parts.calls) {
          const auto tool = std::find_if(tools.begin(), tools.end(),
                                         [&](const ToolDefinition& one) { return one.name == call.name; });
          ASSERT_NE(tool, tools.end()) << call.name;
          ASSERT_TRUE(rules.only.empty() || call.name == rules.only);
          ASSERT_TRUE(call.complete);
          const Json arguments = Json::parse(call.arguments, nullptr, false);
          ASSERT_TRUE(arguments.is_object()) << call.arguments;
          const Json schema = Json::parse(tool->parameters);
          ASSERT_TRUE(!tool->strict || valid_by_schema(arguments, schema, schema)) << call.arguments;
        }
      }
    }
  }
  EXPECT_GT(further, 0u) << "no answer had two calls";
}

TEST(ToolGrammar, SamplesSplitIntoCallsOfTheTools) {
  expect_samples_split(tiny(), tool_trie(), 150);
}

TEST(ToolGrammar, SamplesOfTheRealVocabularySplitToo) {
  FATHOM_GOLDEN_OR_SKIP(directory, "tokenizer");
  static const auto tokenizer = Tokenizer::load(directory);
  static const auto trie = std::make_shared<const TokenTrie>(*tokenizer, tool_control_tokens(*tokenizer));
  expect_samples_split(*tokenizer, trie, 6);
}

TEST(ToolGrammar, MasksAreExact) {
  std::mt19937_64 random(8);
  for (const ChatFormat format : both_forms) {
    const auto constraint = calls_of(format, {"", true, true});
    for (int walk = 0; walk < 3; ++walk) {
      ConstraintState state(constraint);
      std::string text;
      for (int step = 0; step < 24 && !state.must_end(); ++step) {
        if (step % 3 == walk) expect_exact_mask(state, *tool_trie(), text);
        if (HasFatalFailure()) return;
        const std::vector<int32_t> tokens = allowed_tokens(state, *tool_trie());
        const int32_t token = draw(tokens, *tool_trie(), random);
        ASSERT_TRUE(state.accept(token));
        text += tool_trie()->bytes(token);
      }
    }
  }
}

TEST(ToolGrammar, NeedsTheTokensOfCalls) {
  const auto bytes = byte_tokenizer({begin, end});
  EXPECT_TRUE(tool_control_tokens(*bytes).empty());
  EXPECT_EQ(tool_control_tokens(tiny()).size(), 5u);
  const auto trie = std::make_shared<const TokenTrie>(*bytes, tool_control_tokens(*bytes));
  FATHOM_EXPECT_ERROR(constraint_of(tool_call_grammar(ChatFormat::deepseek_v3, some_tools()), trie),
                      ErrorKind::bad_input, "single byte 0xf");
}

void refuse(const std::vector<ToolDefinition>& tools, std::initializer_list<std::string> parts) {
  expect_error([&] { check_tools(tools); }, ErrorKind::bad_input, parts);
}

TEST(CheckTools, LetsGoodOnesPass) {
  EXPECT_NO_THROW(check_tools({}));
  EXPECT_NO_THROW(check_tools(some_tools()));
  EXPECT_NO_THROW(check_tools({{std::string(64, 'a')}, {"A-z_09"}, {"free", "", R"({"oneOf": 1})"}}));
  std::vector<ToolDefinition> many;
  for (int index = 0; index < 128; ++index) many.push_back({"tool_" + std::to_string(index), "", weather_schema, true});
  EXPECT_NO_THROW(check_tools(many));
  const auto constraint = constraint_of(tool_call_grammar(ChatFormat::deepseek_v31, many), tool_trie());
  std::mt19937_64 random(9);
  EXPECT_FALSE(sample(constraint, random, 20).empty());
  many.push_back({"one_more"});
  refuse(many, {"at most 128", "129"});
}

TEST(CheckTools, NamesTheTool) {
  refuse({{"f"}, {""}}, {"tools[1].name", "1 to 64"});
  refuse({{std::string(65, 'a')}}, {"tools[0].name"});
  for (const char* name : {"a b", "a.b", "é", "a\n", "<｜User｜>", "\xff"})
    refuse({{name}}, {"tools[0].name", "1 to 64"});
  refuse({{"f"}, {"g"}, {"f"}}, {"tools[2].name", "\"f\"", "twice"});
  refuse({{"f", "\xc3"}}, {"tools[0] (f).description", "UTF-8"});
  refuse({{"f", "", "[]"}}, {"tools[0] (f).parameters", "array"});
  refuse({{"f", "", "{"}}, {"tools[0] (f).parameters", "not valid JSON"});
  refuse({{"f", "", R"({"a": 1, "a": 2})"}}, {"tools[0] (f).parameters", "twice"});
  refuse({{"f", "", std::string(100, '[')}}, {"tools[0] (f).parameters", "nested"});
}

TEST(CheckTools, HoldsStrictToolsToTheirRules) {
  const auto strict = [](const std::string& schema, std::initializer_list<std::string> parts) {
    SCOPED_TRACE(schema);
    refuse({{"ok"}, {"f", "", schema, true}}, parts);
    EXPECT_NO_THROW(check_tools({{"f", "", schema, false}}));
  };
  const std::string place = "tools[1] (f).parameters";
  strict("{}", {place, "\"type\": \"object\""});
  strict(R"({"type": "array", "items": {"type": "null"}})", {place, "\"type\": \"object\""});
  strict(R"({"anyOf": [{"type": "object"}]})", {place, "\"type\": \"object\""});
  strict(R"({"type": "object", "properties": {}})", {place, "\"#\"", "additionalProperties"});
  strict(R"({"type": "object", "properties": {}, "additionalProperties": true})", {place, "additionalProperties"});
  strict(R"({"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": false})",
         {place, "\"#\"", "required", "\"a\""});
  const auto nested = [](const std::string& inside) {
    return R"({"type": "object", "properties": {"a": )" + inside +
           R"(}, "required": ["a"], "additionalProperties": false})";
  };
  const std::string open = R"({"type": ["object", "null"], "properties": {}})";
  const std::string partial =
      R"({"type": "object", "properties": {"x": {"type": "null"}, "y": {"type": "null"}}, "required": ["x"],
          "additionalProperties": false})";
  strict(nested(open), {place, "\"#/properties/a\"", "additionalProperties"});
  strict(nested(partial), {place, "\"#/properties/a\"", "\"y\""});
  strict(nested(R"({"type": "array", "items": )" + partial + "}"), {place, "\"#/properties/a/items\""});
  strict(nested(R"({"anyOf": [{"type": "null"}, )" + partial + "]}"), {place, "\"#/properties/a/anyOf/1\""});
  strict(R"({"type": "object", "properties": {}, "additionalProperties": false, "$defs": {"d": )" + open + "}}",
         {place, "\"#/$defs/d\""});
  strict(nested(R"({"oneOf": []})"), {place, "#/properties/a", "\"oneOf\"", "not supported"});
  strict(nested(R"({"type": "string", "format": "uri"})"), {place, "#/properties/a", "uri"});
  strict(nested(R"({"type": "strin"})"), {place, "#/properties/a", "strin"});
  strict(nested(R"({"$ref": "#"})"), {place, "no finite sentence"});
  strict(nested(R"({"$ref": "#/$defs/x"})"), {place, "$ref"});
  strict(R"({"type": "object", "properties": [], "additionalProperties": false})", {place, "\"properties\""});
  strict(R"({"type": "object", "properties": {}, "required": ["z"], "additionalProperties": false})", {place, "\"z\""});
}

}  // namespace
}  // namespace fathom
