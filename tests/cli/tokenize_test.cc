#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

FathomRun tokenize(std::vector<std::string> arguments, const std::string& input) {
  arguments.insert(arguments.begin(), {"tokenize", "--model", random_checkpoint()});
  return run_fathom(arguments, input);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

TEST(TokenizeCommand, GoesThereAndBack) {
  const std::vector<std::string> texts = {"Hello, world!",       "", "深い海", "a\nb", std::string("\0 nul", 5),
                                          "\xe2\x80\xa8\xc2\x85"};
  std::string input;
  for (const std::string& text : texts) input += nlohmann::json(text).dump() + "\n";
  const FathomRun there = tokenize({}, input);
  ASSERT_EQ(there.exit_code, 0) << there.err;
  const FathomRun back = tokenize({"--decode"}, there.out);
  ASSERT_EQ(back.exit_code, 0) << back.err;
  const std::vector<std::string> lines = lines_of(back.out);
  ASSERT_EQ(lines.size(), texts.size());
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(nlohmann::json::parse(lines[i]), texts[i]);
  // What other programs may take for a line end is written as an escape.
  EXPECT_EQ(back.out.find("\xe2\x80\xa8"), std::string::npos);
  EXPECT_EQ(back.out.find("\xc2\x85"), std::string::npos);
}

TEST(TokenizeCommand, TheLastLineNeedsNoNewline) {
  EXPECT_EQ(tokenize({}, "\"a\"\n\"a\"").out, tokenize({}, "\"a\"\n\"a\"\n").out);
  EXPECT_EQ(tokenize({}, "").out, "");
}

TEST(TokenizeCommand, AddsBosOnlyIfAsked) {
  const auto plain = nlohmann::json::parse(tokenize({}, "\"a\"").out);
  const auto with = nlohmann::json::parse(tokenize({"--add-bos"}, "\"a\"").out);
  ASSERT_EQ(with.size(), plain.size() + 1);
  EXPECT_EQ(with[0], 0);
  EXPECT_EQ(with[1], plain[0]);
}

TEST(TokenizeCommand, RendersConversations) {
  const std::string messages = R"([{"role": "user", "content": "Hi"}])";
  const FathomRun run =
      tokenize({"--chat"}, messages + "\n{\"messages\": " + messages + ", \"add_generation_prompt\": false}\n");
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto lines = lines_of(run.out);
  ASSERT_EQ(lines.size(), 2u);
  const auto first = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(first.at("text"), "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>");
  EXPECT_EQ(first.at("ids").size(), 5u);
  EXPECT_EQ(nlohmann::json::parse(lines[1]).at("text"), "<｜begin▁of▁sentence｜><｜User｜>Hi");

  const std::string object = "{\"messages\": " + messages + ", \"thinking\": true}";
  EXPECT_EQ(nlohmann::json::parse(tokenize({"--chat", "--format", "v31"}, object).out).at("text"),
            "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>");
  EXPECT_EQ(nlohmann::json::parse(tokenize({"--chat", "--format", "r1"}, messages).out).at("text"),
            "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think>\n");
}

TEST(TokenizeCommand, BadLinesAreNamed) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> cases = {
      {{}, "\"ok\"\nnot json\n"},
      {{}, "\"ok\"\n[1]\n"},
      {{}, "\"ok\"\n\"\xff\"\n"},
      {{}, "\"ok\"\n\n"},
      {{"--decode"}, "[1]\n\"a\"\n"},
      {{"--decode"}, "[1]\n[-1]\n"},
      {{"--decode"}, "[1]\n[99999999999]\n"},
      {{"--chat"}, "[]\n5\n"},
      {{"--chat"}, "[]\n{\"message\": []}\n"},
      {{"--chat"}, "[]\n[{\"role\": \"user\"}]\n"},
      {{"--chat"}, "[]\n{\"messages\": [], \"thinking\": 1}\n"},
  };
  for (const auto& [arguments, input] : cases) {
    const FathomRun run = tokenize(arguments, input);
    EXPECT_EQ(run.exit_code, 2) << input;
    EXPECT_NE(run.err.find("line 2"), std::string::npos) << run.err;
    EXPECT_EQ(lines_of(run.out).size(), 1u) << "the good line before is answered: " << input;
  }
}

}  // namespace
}  // namespace fathom
