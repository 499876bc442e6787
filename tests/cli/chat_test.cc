#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

FathomRun chat(const std::string& input, std::vector<std::string> arguments = {}) {
  arguments.insert(arguments.begin(), {"chat", "--model", random_checkpoint(), "--threads", "2", "--seed", "1", "-n",
                                       "8", "--temperature", "1"});
  return run_fathom(arguments, input);
}

/// The numbers of "[… prompt: N tokens read …, M from the cache; …]" lines, one pair per answer.
std::vector<std::pair<int, int>> cache_use(const std::string& notes) {
  static const std::regex line("prompt: ([0-9]+) tokens read in [0-9]+ ms, ([0-9]+) from the cache");
  std::vector<std::pair<int, int>> use;
  for (auto match = std::sregex_iterator(notes.begin(), notes.end(), line); match != std::sregex_iterator(); ++match) {
    use.emplace_back(std::stoi((*match)[1]), std::stoi((*match)[2]));
  }
  return use;
}

TEST(ChatCommand, AnswersEveryLine) {
  const FathomRun run = chat("Hello\nAnd now?\n");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_FALSE(run.out.empty());
  EXPECT_EQ(chat("Hello\nAnd now?\n").out, run.out) << "the same seed gives the same conversation";
}

TEST(ChatCommand, TurnsExtendTheCache) {
  for (const char* format : {"v3", "v31"}) {
    const auto use = cache_use(chat("Hello, what is new today?\nabc\nx\n", {"--stats", "--format", format}).err);
    ASSERT_EQ(use.size(), 3u) << format;
    EXPECT_EQ(use[0].second, 0);
    // Held: the prompt and all answer tokens but the last. New: that one, the end of the turn, user, text, assistant
    // (V3.1: </think>), and up to two that the MTP layer has not seen.
    const int control = std::string(format) == "v3" ? 4 : 5;
    EXPECT_GE(use[1].second, use[0].first) << format;
    EXPECT_LE(use[1].first, 1 + 1 + 3 + control) << format;
    EXPECT_GE(use[2].second, use[1].first + use[1].second) << format;
    EXPECT_LE(use[2].first, 1 + 1 + 1 + control) << format;
  }
}

TEST(ChatCommand, ThoughtsAreReadAgainWithoutTheTurn) {
  const FathomRun run = chat("Hello, what is new today?\nabc\n", {"--stats", "--format", "r1"});
  const auto use = cache_use(run.err);
  ASSERT_EQ(use.size(), 2u) << run.err;
  EXPECT_LT(use[1].second, use[0].first) << "the prompt's own <think> is not in the next prompt";
  EXPECT_GT(use[1].second, 0);
  EXPECT_TRUE(run.out.starts_with("<think>\n"));
}

TEST(ChatCommand, Commands) {
  const FathomRun run =
      chat("/stats\n/system Be brief.\nHello\n/regen\n/clear\nHello\n/nonsense\n/help\n/exit\nnever\n");
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const auto use = cache_use(run.err);
  ASSERT_EQ(use.size(), 3u) << run.err;
  EXPECT_EQ(use[0].first, 1 + 9 + 1 + 5 + 1) << "begin of text, system prompt, user, Hello, assistant";
  EXPECT_EQ(use[1].first + use[1].second, use[0].first) << "/regen asks the same again";
  EXPECT_EQ(use[2].second, 0) << "/clear empties the cache";
  EXPECT_NE(run.err.find("/nonsense"), std::string::npos);
  EXPECT_NE(run.err.find("/regen"), std::string::npos);
}

TEST(ChatCommand, RegenWithoutAMessageIsASentence) {
  const FathomRun run = chat("/regen\n");
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.err.find("no message"), std::string::npos);
}

TEST(ChatCommand, AFullContextIsASentence) {
  const FathomRun run = chat("Hello\nWhat now?\n/clear\nHi\n", {"--context", "12"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.err.find("full"), std::string::npos) << run.err;
  EXPECT_NE(run.err.find("/clear begins a new one"), std::string::npos) << run.err;
}

TEST(ChatCommand, TextThatIsNotUtf8IsASentenceAndTheConversationGoesOn) {
  const FathomRun run = chat("\xff\x30\xff\nHello\n", {"--stats"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("UTF-8"), std::string::npos) << run.err;
  EXPECT_EQ(cache_use(run.err).size(), 1u);
}

TEST(ChatCommand, AnUnknownTemplateIsSaidSo) {
  const TemporaryDirectory directory;
  for (const auto& file : std::filesystem::directory_iterator(random_checkpoint())) {
    std::filesystem::copy_file(file.path(), directory.file(file.path().filename().string()));
  }
  const std::string path = directory.file("tokenizer_config.json");
  auto config = nlohmann::json::parse(read_text(path));
  config["chat_template"] = "{% for message in messages %}[INST]{{ message.content }}[/INST]{% endfor %}";
  write_text(path, config.dump());
  const FathomRun run = run_fathom({"chat", "--model", directory.path()}, "Hi\n");
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_NE(run.err.find("fathom generate"), std::string::npos) << run.err;
  EXPECT_EQ(run_fathom({"chat", "--model", directory.path(), "--format", "v3", "-n", "2"}, "Hi\n").exit_code, 0);
}

TEST(ChatCommand, CtrlCEndsAScriptedConversation) {
  const FathomRun run =
      run_fathom({"chat", "--model", random_checkpoint(), "--temperature", "1", "--seed", "1", "-n", "100000"},
                 "Hello\nHello\nHello\nHello\nHello\nHello\nHello\nHello\n", 700);
  EXPECT_EQ(run.exit_code, 130) << run.err;
}

}  // namespace
}  // namespace fathom
