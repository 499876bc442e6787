#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "support/golden.h"

namespace fathom {
namespace {

using Json = nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

const std::string bos = "<｜begin▁of▁sentence｜>";

struct GoldenFile {
  const char* name;
  ChatFormat format;
  size_t lines;
};

class ChatGolden : public testing::TestWithParam<GoldenFile> {};

TEST_P(ChatGolden, RendersEveryConversation) {
  std::ifstream file(std::string(FATHOM_SOURCE_DIR "/tests/data/tokenizer/") + GetParam().name);
  ASSERT_TRUE(file.is_open());
  size_t lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    const Json json = Json::parse(line);
    ChatOptions options;
    options.add_generation_prompt = json["add_generation_prompt"];
    options.thinking = json.value("thinking", false);
    const std::vector<ChatMessage> messages = chat_messages_from_json(json["messages"], "request");
    EXPECT_EQ(render_chat(GetParam().format, bos, messages, options), json["text"].get<std::string>()) << line;
  }
  EXPECT_EQ(lines, GetParam().lines);
}

INSTANTIATE_TEST_SUITE_P(All, ChatGolden,
                         testing::Values(GoldenFile{"chat.jsonl", ChatFormat::deepseek_v3, 10},
                                         GoldenFile{"chat_r1.jsonl", ChatFormat::deepseek_r1, 16},
                                         GoldenFile{"chat_v31.jsonl", ChatFormat::deepseek_v31, 32}),
                         [](const testing::TestParamInfo<GoldenFile>& param) {
                           return std::string(param.param.name).substr(0, std::string(param.param.name).find('.'));
                         });

std::string render(ChatFormat format, const char* messages, bool generation = true, bool thinking = false) {
  return render_chat(format, "", chat_messages_from_json(Json::parse(messages), "request"), {generation, thinking});
}

// What follows was rendered with Jinja from the templates.
TEST(ChatTemplate, FirstRevisionsDiffer) {
  const char* messages =
      R"([{"role":"system","content":"A"},{"role":"system","content":"B"},{"role":"user","content":"u"},
    {"role":"assistant","content":"<think>x</think>y</think>z"},{"role":"user","content":"v"}])";
  const std::string end = "<｜end▁of▁sentence｜><｜User｜>v<｜Assistant｜>";
  EXPECT_EQ(render(ChatFormat::deepseek_v3, messages),
            "A\n\nB<｜User｜>u<｜Assistant｜><think>x</think>y</think>z" + end);
  EXPECT_EQ(render(ChatFormat::deepseek_v3_first, messages),
            "B<｜User｜>u<｜Assistant｜><think>x</think>y</think>z" + end);
  EXPECT_EQ(render(ChatFormat::deepseek_r1, messages), "B<｜User｜>u<｜Assistant｜>z" + end + "<think>\n");
  EXPECT_EQ(render(ChatFormat::deepseek_r1_first, messages), "B<｜User｜>u<｜Assistant｜>z" + end);
  EXPECT_EQ(render(ChatFormat::deepseek_v31, messages),
            "A\n\nB<｜User｜>u<｜Assistant｜></think>y</think>z" + end + "</think>");
}

TEST(ChatTemplate, OnlyTheFirstCallOfAConversationOpensTheBlock) {
  const char* messages = R"([{"role":"assistant","content":null,"tool_calls":[
      {"type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"1"},
    {"role":"assistant","content":null,"tool_calls":[{"type":"function","function":{"name":"g","arguments":"{}"}}]},
    {"role":"tool","content":"2"}])";
  const std::string call = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>";
  EXPECT_EQ(render(ChatFormat::deepseek_v3, messages),
            "<｜Assistant｜><｜tool▁calls▁begin｜>" + call + "f\n```json\n{}\n```<｜tool▁call▁end｜>" +
                "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>1<｜tool▁output▁end｜>\n" + call +
                "g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>" +
                "\n<｜tool▁output▁begin｜>2<｜tool▁output▁end｜><｜tool▁outputs▁end｜>");
}

TEST(ChatTemplate, CallsKeepTheirContent) {
  const char* messages = R"([{"role":"user","content":"u"},{"role":"assistant","content":"c","tool_calls":[
      {"type":"function","function":{"name":"f","arguments":"{}"}}]}])";
  EXPECT_EQ(render(ChatFormat::deepseek_v31, messages),
            "<｜User｜>u<｜Assistant｜></think>c<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}"
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>");
  EXPECT_EQ(
      render(ChatFormat::deepseek_v3, messages),
      "<｜User｜>u<｜Assistant｜>c<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```"
      "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜><｜Assistant｜>")
      << "V3's template leaves the calls out where there is content";
}

TEST(ChatTemplate, V31Prefix) {
  const char* messages = R"([{"role":"user","content":"u"},{"role":"assistant","content":"c","prefix":true}])";
  EXPECT_EQ(render(ChatFormat::deepseek_v31, messages, true, true),
            "<｜User｜>u<｜Assistant｜><think>c<｜end▁of▁sentence｜>");
  EXPECT_EQ(render(ChatFormat::deepseek_v31, messages, true, false),
            "<｜User｜>u<｜Assistant｜></think>c<｜end▁of▁sentence｜>");
}

TEST(ChatTemplate, NoMessages) {
  EXPECT_EQ(render(ChatFormat::deepseek_v3, "[]"), "<｜Assistant｜>");
  EXPECT_EQ(render(ChatFormat::deepseek_v31, "[]"), "");
  EXPECT_EQ(render(ChatFormat::deepseek_r1, "[]", false), "");
}

TEST(ChatTemplate, RefusesWhereJinjaFails) {
  ChatMessage message;
  message.role = "user";
  for (const char* role : {"user", "system", "tool"}) {
    message.role = role;
    for (const ChatFormat format : {ChatFormat::deepseek_v3, ChatFormat::deepseek_r1, ChatFormat::deepseek_v31}) {
      try {
        render_chat(format, "", {message}, {});
        ADD_FAILURE() << "accepted " << role;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::bad_input);
        EXPECT_THAT(error.what(), AllOf(HasSubstr("messages[0].content"), HasSubstr(role)));
      }
    }
  }
}

TEST(ChatMessages, NameTheMessageAndTheField) {
  const auto refusal = [](const char* messages) -> std::string {
    try {
      chat_messages_from_json(Json::parse(messages), "request");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(refusal("{}"), HasSubstr("request: messages: expected a list, found object"));
  EXPECT_THAT(refusal("[1]"), HasSubstr("messages[0]: expected an object, found number"));
  EXPECT_THAT(refusal(R"([{"content":"x"}])"), HasSubstr("messages[0].role is missing"));
  EXPECT_THAT(refusal(R"([{"role":"robot","content":"x"}])"), HasSubstr("\"robot\""));
  EXPECT_THAT(refusal(R"([{"role":"user","content":"x"},{"role":"user"}])"),
              HasSubstr("messages[1].content is missing"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":null}])"), HasSubstr("messages[0].content: null"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":[{"type":"text"}]}])"), HasSubstr("found array"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":null}])"), HasSubstr("messages[0].content: null"));
  EXPECT_THAT(refusal(R"([{"role":"user","content":"x","tool_calls":[]}])"), HasSubstr("only an assistant's"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":"x","tool_calls":[]}])"), HasSubstr("at least one call"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":null,"tool_calls":[{"function":{}}]}])"),
              HasSubstr("tool_calls[0].type is missing"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":null,"tool_calls":[{"type":"function"}]}])"),
              HasSubstr("tool_calls[0].function is missing"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":null,
                 "tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]}])"),
              HasSubstr("tool_calls[0].function.arguments: expected a string, found object"));
  EXPECT_THAT(refusal(R"([{"role":"assistant","content":"x","prefix":1}])"), HasSubstr("messages[0].prefix"));
}

/// The V3.1 template, one tag to a line.
constexpr const char* v31_template = R"jinja({% if not add_generation_prompt is defined %}
{% set add_generation_prompt = false %}
{% endif %}
{% if not thinking is defined %}
{% set thinking = false %}
{% endif %}
{% set ns = namespace(is_first=false, is_tool=false, system_prompt='', is_first_sp=true, is_last_user=false) %}
{%- for message in messages %}
{%- if message['role'] == 'system' %}
{%- if ns.is_first_sp %}
{% set ns.system_prompt = ns.system_prompt + message['content'] %}
{% set ns.is_first_sp = false %}
{%- else %}
{% set ns.system_prompt = ns.system_prompt + '\n\n' + message['content'] %}
{%- endif %}
{%- endif %}
{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}
{%- for message in messages %}
{%- if message['role'] == 'user' %}
{%- set ns.is_tool = false -%}
{%- set ns.is_first = false -%}
{%- set ns.is_last_user = true -%}{{'<｜User｜>' + message['content']}}
{%- endif %}
{%- if message['role'] == 'assistant' and message['tool_calls'] is defined and message['tool_calls'] is not none %}
{%- if ns.is_last_user %}{{'<｜Assistant｜></think>'}}
{%- endif %}
{%- set ns.is_last_user = false -%}
{%- set ns.is_first = false %}
{%- set ns.is_tool = false -%}
{%- for tool in message['tool_calls'] %}
{%- if not ns.is_first %}
{%- if message['content'] is none %}{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}
{%- else %}{{message['content'] + '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}
{%- endif %}
{%- set ns.is_first = true -%}
{%- else %}{{'<｜tool▁call▁begin｜>'+ tool['function']['name'] + '<｜tool▁sep｜>' + tool['function']['arguments'] + '<｜tool▁call▁end｜>'}}
{%- endif %}
{%- endfor %}{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}
{%- endif %}
{%- if message['role'] == 'assistant' and (message['tool_calls'] is not defined or message['tool_calls'] is none) %}
{%- if ns.is_last_user %}{{'<｜Assistant｜>'}}
{%- if message['prefix'] is defined and message['prefix'] and thinking %}{{'<think>'}}  
{%- else %}{{'</think>'}}
{%- endif %}
{%- endif %}
{%- set ns.is_last_user = false -%}
{%- if ns.is_tool %}{{message['content'] + '<｜end▁of▁sentence｜>'}}
{%- set ns.is_tool = false -%}
{%- else %}
{%- set content = message['content'] -%}
{%- if '</think>' in content %}
{%- set content = content.split('</think>', 1)[1] -%}
{%- endif %}{{content + '<｜end▁of▁sentence｜>'}}
{%- endif %}
{%- endif %}
{%- if message['role'] == 'tool' %}
{%- set ns.is_last_user = false -%}
{%- set ns.is_tool = true -%}{{'<｜tool▁output▁begin｜>' + message['content'] + '<｜tool▁output▁end｜>'}}
{%- endif %}
{%- endfor -%}
{%- if add_generation_prompt and ns.is_last_user and not ns.is_tool %}{{'<｜Assistant｜>'}}
{%- if not thinking %}{{'</think>'}}
{%- else %}{{'<think>'}}
{%- endif %}
{% endif %})jinja";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  size_t count = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()), ++count) {
    text.replace(at, from.size(), to);
  }
  EXPECT_GT(count, 0u) << from;
  return text;
}

TEST(ChatTemplate, RecognisesV31) {
  const std::string jinja = v31_template;
  EXPECT_EQ(recognise_chat_template(jinja), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "%}\n", "%}")), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "{%- if", "\n  {%- if")), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, " == ", "==")), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "['role']", "[\"role\"]")), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "'\\n\\n'", "'\n\n'")), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template("{# a comment #}" + jinja + "\n"), ChatFormat::deepseek_v31);

  EXPECT_EQ(recognise_chat_template(jinja + "."), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "'</think>', 1", "'</think>', 2")), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "'<think>'", "'<think>\\n'")), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "'<｜User｜>'", "' <｜User｜>'")), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "thinking = false", "thinking = true")), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(jinja, "{{ bos_token }}", "{{ bos_token }}\n")), std::nullopt)
      << "this line break would be printed";
}

TEST(ChatTemplate, KnowsNoOthers) {
  EXPECT_EQ(recognise_chat_template(""), std::nullopt);
  EXPECT_EQ(recognise_chat_template("{{"), std::nullopt);
  EXPECT_EQ(recognise_chat_template("{% if 'a"), std::nullopt);
  EXPECT_EQ(recognise_chat_template("{{ 'a\\"), std::nullopt);
  EXPECT_EQ(recognise_chat_template("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + "
                                    "message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"),
            std::nullopt);
  EXPECT_EQ(recognise_chat_template("{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
                                    "{{ 'User: ' + message['content'] + '\\n\\n' }}{% endif %}{% endfor %}"),
            std::nullopt);
}

class ChatConfig : public testing::Test {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("FATHOM_SHARED");
    golden_ =
        (shared != nullptr ? std::string(shared) : std::string(FATHOM_SOURCE_DIR "/../shared")) + "/golden/tokenizer";
  }
  void write(const std::string& name, const std::string& text) { std::ofstream(directory_ + "/" + name) << text; }

  std::string golden_;
  TemporaryDirectory temporary_;  // ctest runs tests side by side
  std::string directory_ = temporary_.path();
};

TEST_F(ChatConfig, PublishedV3AndWhatIsDerivedFromIt) {
  if (!std::filesystem::exists(golden_ + "/tokenizer_config.json")) {
    GTEST_SKIP() << "The published tokenizer_config.json is not in " << golden_ << ".";
  }
  const TokenizerConfig config = read_tokenizer_config(golden_);
  EXPECT_EQ(config.bos_token, bos);
  EXPECT_EQ(config.eos_token, "<｜end▁of▁sentence｜>");
  EXPECT_TRUE(config.add_bos_token);
  EXPECT_TRUE(config.has_chat_template);
  EXPECT_EQ(config.chat_format, ChatFormat::deepseek_v3);

  std::ifstream file(golden_ + "/tokenizer_config.json");
  const std::string v3 = Json::parse(file)["chat_template"];
  // The earlier and the R1 templates are V3's but for these places.
  std::string first = replaced(v3, ", is_first_sp=true", "");
  const size_t start = first.find("{%- if ns.is_first_sp %}");
  const std::string stop = "{%- endif %}";
  first.replace(start, first.find(stop, start) + stop.size() - start,
                "{% set ns.system_prompt = message['content'] %}");
  EXPECT_EQ(recognise_chat_template(first), ChatFormat::deepseek_v3_first);
  const std::string r1_first =
      replaced(first, "{{'<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}",
               "{% set content = message['content'] %}{% if '</think>' in content %}{% set content = "
               "content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}");
  EXPECT_EQ(recognise_chat_template(r1_first), ChatFormat::deepseek_r1_first);
  const std::string r1 = replaced(r1_first, "{{'<｜Assistant｜>'}}", "{{'<｜Assistant｜><think>\\n'}}");
  EXPECT_EQ(recognise_chat_template(r1), ChatFormat::deepseek_r1);
  EXPECT_EQ(recognise_chat_template(replaced(r1, "<think>\\n", "<think>")), std::nullopt);
  EXPECT_EQ(recognise_chat_template(replaced(v3, "<｜tool▁outputs▁end｜>", "<｜tool▁output▁end｜>")), std::nullopt);
}

TEST_F(ChatConfig, MissingFileGivesTheDefaults) {
  const TokenizerConfig config = read_tokenizer_config(directory_);
  EXPECT_EQ(config.bos_token, "");
  EXPECT_FALSE(config.add_bos_token);
  EXPECT_FALSE(config.has_chat_template);
  EXPECT_EQ(config.chat_format, std::nullopt);
}

TEST_F(ChatConfig, ReadsFormsOfTheFields) {
  write("tokenizer_config.json",
        Json{{"bos_token", "<s>"}, {"eos_token", nullptr}, {"chat_template", "{{ x }}"}}.dump());
  TokenizerConfig config = read_tokenizer_config(directory_);
  EXPECT_EQ(config.bos_token, "<s>");
  EXPECT_EQ(config.eos_token, "");
  EXPECT_TRUE(config.has_chat_template);
  EXPECT_EQ(config.chat_format, std::nullopt);

  write("tokenizer_config.json",
        Json{{"chat_template",
              {{{"name", "tool_use"}, {"template", "{{ x }}"}}, {{"name", "default"}, {"template", v31_template}}}}}
            .dump());
  EXPECT_EQ(read_tokenizer_config(directory_).chat_format, ChatFormat::deepseek_v31);
  write("chat_template.jinja", "{{ x }}");
  config = read_tokenizer_config(directory_);
  EXPECT_TRUE(config.has_chat_template);
  EXPECT_EQ(config.chat_format, std::nullopt) << "the file takes precedence";
}

TEST_F(ChatConfig, NamesTheFileAndTheField) {
  for (const char* text : {R"([])", R"({"bos_token":3})", R"({"eos_token":{"text":"x"}})", R"({"add_bos_token":"yes"})",
                           R"({"chat_template":5})", R"({"chat_template":[{"name":"default"}]})", "{"}) {
    write("tokenizer_config.json", text);
    try {
      read_tokenizer_config(directory_);
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      EXPECT_THAT(error.what(), HasSubstr("tokenizer_config.json"));
    }
  }
}

}  // namespace
}  // namespace fathom
