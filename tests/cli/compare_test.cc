#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

std::string sea_text() {
  std::string text;
  for (int i = 0; i < 12; ++i) text += "The sea is deep, and what lies below is counted in fathoms. ";
  return text;
}

TEST(Compare, AModelWithItselfIsTheSame) {
  const TemporaryDirectory files;
  write_text(files.file("text"), sea_text());
  const FathomRun run = run_fathom({"compare", "--a", random_checkpoint(), "--b", random_checkpoint(), "--text",
                                    files.file("text"), "--tokens", "100", "--context", "48", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  const auto result = nlohmann::json::parse(run.out);
  EXPECT_EQ(result.at("kl").at("greatest"), 0);
  EXPECT_EQ(result.at("top1_agreement"), 1);
  EXPECT_EQ(result.at("greatest_logit_difference"), 0);
  EXPECT_EQ(result.at("perplexity").at("a"), result.at("perplexity").at("b"));
  // 100 tokens in windows of 47 and a begin-of-text token each, which is not predicted itself.
  EXPECT_EQ(result.at("positions"), 103);
  EXPECT_EQ(result.at("predictions"), 100);
}

TEST(Compare, WithoutBItIsAWithOtherOptions) {
  const TemporaryDirectory files;
  write_text(files.file("ids"), "1, 2 3\n4,5\n6 7 8 9 10\t11 12 13 14 15\n");
  const FathomRun run = run_fathom({"compare", "--a", random_checkpoint(), "--a-compute", "fp32", "--b-compute", "bf16",
                                    "--ids", files.file("ids"), "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto result = nlohmann::json::parse(run.out);
  EXPECT_EQ(result.at("b").at("model"), random_checkpoint());
  EXPECT_EQ(result.at("b").at("compute"), "bf16");
  EXPECT_EQ(result.at("positions"), 15);
  EXPECT_EQ(result.at("predictions"), 14);
  EXPECT_GT(result.at("kl").at("mean"), 0);
  EXPECT_LT(result.at("kl").at("mean"), 0.01);
}

TEST(Compare, TheTableNamesWhatItMeasures) {
  const TemporaryDirectory files;
  write_text(files.file("text"), sea_text());
  const FathomRun run =
      run_fathom({"compare", "--a", random_checkpoint(), "--text", files.file("text"), "--tokens", "20"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"KL divergence", "top-1 agreement", "100.00 %", "perplexity", "greatest logit difference"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << " in:\n" << run.out;
  }
}

TEST(Compare, MistakesAreASentence) {
  const TemporaryDirectory files;
  const std::string model = random_checkpoint();
  write_text(files.file("text"), sea_text());
  write_text(files.file("empty"), " \n");
  write_text(files.file("bad"), "1 2 three");
  write_text(files.file("large"), "1 2 999999");
  const std::vector<Mistake> mistakes = {
      {{}, "--a"},
      {{"--a", model}, "--text"},
      {{"--a", model, "--text", files.file("text"), "--ids", files.file("bad")}, "exactly one"},
      {{"--a", model, "--text", files.file("none")}, files.file("none")},
      {{"--a", model, "--ids", files.file("empty")}, "no token ids"},
      {{"--a", model, "--ids", files.file("bad")}, "\"three\""},
      {{"--a", model, "--ids", files.file("large")}, "999999"},
      {{"--a", model, "--text", files.file("text"), "--context", "1"}, "--context"},
      {{"--a", model, "--text", files.file("text"), "--context", "5000"}, "max_position_embeddings"},
      {{"--a", model, "--b", "/nonexistent", "--text", files.file("text")}, "/nonexistent"},
  };
  expect_refused("compare", mistakes);
}

}  // namespace
}  // namespace fathom
