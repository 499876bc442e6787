#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

using nlohmann::json;

json run_json(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "evaluate");
  arguments.push_back("--json");
  const FathomRun run = run_fathom(arguments);
  EXPECT_EQ(run.exit_code, 0) << run.err;
  return json::parse(run.out, nullptr, false);
}

TEST(EvaluateCommand, GeneratedAsksTheHeldOutItems) {
  const TemporaryDirectory directory;
  const FathomRun drawn = run_fathom({"data", "generate", "--out", directory.file("items.jsonl"), "--documents", "3",
                                      "--held-out", "--kinds", "arithmetic", "--task", "addition", "--seed", "5"});
  ASSERT_EQ(drawn.exit_code, 0) << drawn.err;
  const json result = run_json({"generated", "--model", random_checkpoint(), "--kinds", "arithmetic", "--task",
                                "addition", "--items", "3", "--seed", "5", "--max-tokens", "4", "--show", "3"});
  const json& line = result.at("lines").at(0);
  EXPECT_EQ(line.at("items"), 3);
  EXPECT_EQ(line.at("right"), 0);
  EXPECT_EQ(line.at("mean_answer_tokens"), 4);
  ASSERT_EQ(line.at("examples").size(), 3u);
  const std::string items = read_text(directory.file("items.jsonl"));
  for (const json& example : line.at("examples")) {
    EXPECT_NE(items.find(example.at("prompt").get<std::string>()), std::string::npos) << example.at("prompt");
    EXPECT_FALSE(example.at("right").get<bool>());
  }
}

TEST(EvaluateCommand, TheTableHasALineForEachKindAndTask) {
  const FathomRun run =
      run_fathom({"evaluate", "generated", "--model", random_checkpoint(), "--kinds", "list,retrieval", "--items", "6",
                  "--max-tokens", "3", "--filler", "20", "--show", "1"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"\nlist ", "\n  repeat ", "\nretrieval ", "tokens  ", "95 % interval", "WRONG"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << "\n" << run.out;
  }
}

// The random checkpoint's 4,096 positions do not hold 1,024 words in single bytes.
TEST(EvaluateCommand, PromptsThatDoNotFitCountAsWrong) {
  const FathomRun run = run_fathom({"evaluate", "generated", "--model", random_checkpoint(), "--kinds", "retrieval",
                                    "--items", "2", "--max-tokens", "2", "--prompt-tokens", "6000"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_NE(run.err.find("2 items have prompts that do not fit the context of 4096 positions"), std::string::npos)
      << run.err;
}

TEST(EvaluateCommand, MtpCountsByKind) {
  const json result = run_json({"mtp", "--model", random_checkpoint(), "--items", "1", "--tokens", "5"});
  EXPECT_EQ(result.at("by_kind").size(), 6u);
  EXPECT_EQ(result.at("all").at("prompts"), 6);
  EXPECT_LE(result.at("all").at("drafts"), 24);
  int64_t drafts = 0;
  for (const auto& [kind, tally] : result.at("by_kind").items()) drafts += tally.at("drafts").get<int64_t>();
  EXPECT_EQ(result.at("all").at("drafts"), drafts);

  const TemporaryDirectory directory;
  write_text(directory.file("prompts.jsonl"),
             "{\"prompt\": \"Once\", \"kind\": \"text\"}\n"
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"thinking\": true}\n");
  const json own =
      run_json({"mtp", "--model", random_checkpoint(), "--prompts", directory.file("prompts.jsonl"), "--tokens", "5"});
  EXPECT_EQ(own.at("by_kind").at("text").at("prompts"), 1);
  EXPECT_EQ(own.at("by_kind").at("prompts").at("prompts"), 1);
}

TEST(EvaluateCommand, LossOnShards) {
  const TemporaryDirectory directory;
  const std::string corpus = directory.file("corpus.jsonl");
  run_fathom({"data", "generate", "--out", corpus, "--documents", "20"});
  const auto pack = [&](const std::string& out, const std::string& length) {
    const FathomRun run = run_fathom({"data", "pack", "--tokenizer", random_checkpoint(), "--out", directory.file(out),
                                      "--sequence-length", length, "--validation", "0.3", corpus});
    ASSERT_EQ(run.exit_code, 0) << run.err;
  };
  pack("short", "100");
  const json result = run_json({"loss", "--model", random_checkpoint(), "--data", directory.file("short"),
                                "--sequences", "3", "--by-position", "40"});
  EXPECT_EQ(result.at("sequences"), 3);
  ASSERT_EQ(result.at("by_position").size(), 3u);
  EXPECT_EQ(result.at("by_position").at(2).at("first_position"), 80);
  EXPECT_EQ(result.at("by_position").at(2).at("last_position"), 99);
  double nats = 0;
  for (const json& part : result.at("by_position"))
    nats += part.at("loss").get<double>() * part.at("tokens").get<double>();
  EXPECT_NEAR(result.at("loss").get<double>(), nats / result.at("tokens").get<double>(), 1e-9);

  pack("long", "4200");
  const FathomRun longer = run_fathom({"evaluate", "loss", "--model", random_checkpoint(), "--data",
                                       directory.file("long"), "--sequences", "1", "--by-position", "4096"});
  EXPECT_EQ(longer.exit_code, 0);
  EXPECT_NE(longer.err.find("4096 positions"), std::string::npos) << longer.err;
  EXPECT_NE(longer.out.find("\n4096 to 4199 "), std::string::npos) << longer.out;
}

TEST(EvaluateCommand, Mistakes) {
  const std::string& model = random_checkpoint();
  expect_refused("evaluate",
                 {{{"generated", "--model", "nowhere"}, "no such directory"},
                  {{"generated", "--model", model, "--kinds", "poem"}, "\"poem\""},
                  {{"generated", "--model", model, "--kinds", "story"}, "\"story\""},
                  {{"generated", "--model", model, "--task", "addition"}, "--kinds"},
                  {{"generated", "--model", model, "--kinds", "list,code", "--task", "count"}, "exactly one kind"},
                  {{"generated", "--model", model, "--kinds", "list", "--task", "addition"}, "\"sort words\""},
                  {{"generated", "--model", model, "--kinds", "list", "--filler", "9"}, "retrieval"},
                  {{"generated", "--model", model, "--filler", "9", "--prompt-tokens", "99"}, "--filler"},
                  {{"generated", "--model", model, "--items", "0"}, "--items"},
                  {{"mtp", "--model", model, "--prompts", "nowhere.txt"}, "nowhere.txt"},
                  {{"loss", "--model", model, "--data", "nowhere"}, "nowhere"},
                  {{"loss", "--model", model}, "--data"}});
  const TemporaryDirectory directory;
  ASSERT_EQ(run_fathom({"synth", "--config", "tiny", "--out", directory.file("bare")}).exit_code, 0);
  std::filesystem::remove(directory.file("bare/tokenizer.json"));
  write_text(directory.file("empty.jsonl"), "\n");
  write_text(directory.file("kind.jsonl"), "{\"prompt\": \"a\", \"kind\": 3}\n");
  expect_refused("evaluate",
                 {{{"generated", "--model", directory.file("bare")}, "tokenizer.json"},
                  {{"mtp", "--model", model, "--prompts", directory.file("empty.jsonl")}, "no prompt"},
                  {{"mtp", "--model", model, "--prompts", directory.file("kind.jsonl")}, "\"kind\" must be a string"}});
}

}  // namespace
}  // namespace fathom
