#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

TEST(DataCommands, FromNothingToShards) {
  const std::string root = testing::TempDir() + "data_test_" + std::to_string(getpid());
  const auto run = [](const std::vector<std::string>& arguments) {
    const FathomRun result = run_fathom(arguments);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    return result.out;
  };
  std::filesystem::create_directories(root);
  const std::string corpus = root + "/corpus.jsonl";
  EXPECT_NE(run({"data", "generate", "--out", corpus, "--documents", "400", "--seed", "3"}).find("400 documents"),
            std::string::npos);
  run({"data", "generate", "--out", root + "/again.jsonl", "--documents", "400", "--seed", "3"});
  EXPECT_EQ(read_text(corpus), read_text(root + "/again.jsonl"));
  run({"data", "generate", "--out", root + "/items.jsonl", "--documents", "5", "--held-out", "--kinds", "arithmetic",
       "--task", "addition"});
  const std::string items = read_text(root + "/items.jsonl");
  const auto item = nlohmann::json::parse(items.substr(0, items.find('\n')));
  EXPECT_EQ(item["task"], "addition");
  EXPECT_EQ(item["thinking"], true);

  run({"tokenizer", "train", "--vocab-size", "1024", "--out", root + "/tokenizer", corpus});
  const FathomRun chat = run_fathom({"tokenize", "--model", root + "/tokenizer", "--chat", "--thinking"},
                                    "[{\"role\": \"user\", \"content\": \"Hi\"}]\n");
  EXPECT_NE(chat.out.find("<think>"), std::string::npos) << chat.err;
  const std::string packed = run({"data", "pack", "--tokenizer", root + "/tokenizer", "--out", root + "/shards",
                                  "--sequence-length", "256", "--validation", "0.1", corpus});
  EXPECT_NE(packed.find("validation: "), std::string::npos) << packed;
  EXPECT_TRUE(std::filesystem::exists(root + "/shards/tokenizer.json"));
  std::filesystem::remove_all(root);
}

TEST(DataCommands, Mistakes) {
  const FathomRun both = run_fathom({"data", "generate", "--out", "x.jsonl"});
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_NE(both.err.find("neither"), std::string::npos) << both.err;
  const FathomRun kind = run_fathom({"data", "generate", "--out", "x.jsonl", "--documents", "1", "--kinds", "poem"});
  EXPECT_EQ(kind.exit_code, 2);
  EXPECT_NE(kind.err.find("\"poem\""), std::string::npos) << kind.err;
  const FathomRun missing = run_fathom({"data", "pack", "--tokenizer", "nowhere", "--out", "x", "none.jsonl"});
  EXPECT_EQ(missing.exit_code, 2);
  const FathomRun small = run_fathom({"tokenizer", "train", "--vocab-size", "3", "--out", "x", "none.txt"});
  EXPECT_EQ(small.exit_code, 2);
}

}  // namespace
}  // namespace fathom
