#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "formats/synth.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

std::string deep_text() {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "Line " + std::to_string(i) + ": a fathom is six feet of rope.\n";
  return text;
}

TEST(QuantizeCommand, WritesWhatEveryCommandOpens) {
  const TemporaryDirectory files;
  const std::string out = files.file("out");
  write_text(files.file("text"), deep_text());
  FathomRun run = run_fathom({"quantize", "--to", "int4", "--calibrate", files.file("text"), "--calibrate-tokens",
                              "300", "--json", random_checkpoint(), out});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  const auto report = nlohmann::json::parse(run.out);
  const auto& text = report.at("text");
  EXPECT_EQ(text.at("calibration_tokens"), 300);
  EXPECT_EQ(text.at("judgement_tokens"), 300);
  EXPECT_EQ(text.at("judged_on_other_tokens"), true);
  EXPECT_EQ(text.at("compute").at("out"), "int8");
  EXPECT_GT(text.at("kl").at("mean"), 0);
  EXPECT_LT(text.at("kl").at("mean"), 0.5);
  EXPECT_GT(text.at("top1_agreement"), 0.3);
  EXPECT_GT(report.at("tensors").size(), 100u);
  for (const auto& tensor : report.at("tensors")) {
    EXPECT_LT(tensor.at("relative_error"), 0.12);
    EXPECT_LE(tensor.at("weighted_squared_error"), tensor.at("nearest_weighted_squared_error"));
  }

  run = run_fathom({"generate", "--model", out, "--ids", "1,2,3", "-n", "4"});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  const FathomRun mapped = run_fathom({"generate", "--model", out, "--ids", "1,2,3", "-n", "4", "--weights", "mapped"});
  EXPECT_EQ(mapped.out, run.out);
  run = run_fathom({"inspect", out});
  EXPECT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.out.find("cannot be used"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("Notes"), std::string::npos) << run.out;
  run = run_fathom({"verify", out, "--against", random_checkpoint()});
  EXPECT_EQ(run.exit_code, 0) << run.out;
  run = run_fathom(
      {"compare", "--a", random_checkpoint(), "--b", out, "--text", files.file("text"), "--tokens", "50", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(nlohmann::json::parse(run.out).at("b").at("compute"), "int8");
  EXPECT_EQ(nlohmann::json::parse(run.out).at("b").at("weights"), "memory");
  run = run_fathom({"gguf", "export", "--type", "q8_0", out, files.file("model.gguf")});
  EXPECT_EQ(run.exit_code, 0) << run.err;
}

TEST(QuantizeCommand, TheTableNamesWhatItMeasures) {
  const TemporaryDirectory files;
  write_text(files.file("text"), deep_text());
  const FathomRun run =
      run_fathom({"quantize", "--to", "int8", "--scales", "nearest", "--calibrate", files.file("text"),
                  "--calibrate-tokens", "64", random_checkpoint(), files.file("out")});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"attention", "routed experts", "int8 g128", "the worst", "judged on 64 tokens",
                           "KL divergence", "top-1 agreement", "written and checked"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << " in:\n" << run.out;
  }
  EXPECT_EQ(run.out.find("calibrated"), std::string::npos) << run.out;
}

TEST(QuantizeCommand, WorksInLittleMemory) {
  const TemporaryDirectory files;
  SynthOptions synth;
  synth.config = *model_preset("tiny");
  synth.config.hidden_size = 2048;
  synth.config.moe_intermediate_size = 1024;
  synth.out = files.file("in");
  ASSERT_GT(write_random_checkpoint(synth).tensor_bytes, 400'000'000u);
  const FathomRun run = run_fathom({"quantize", "--to", "int4", files.file("in"), files.file("out"), "--threads", "2"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  if (!kSanitized) {
    EXPECT_LT(run.peak_bytes, 300'000'000u);
  }
}

TEST(QuantizeCommand, MistakesAreASentence) {
  const TemporaryDirectory files;
  const std::string model = random_checkpoint();
  write_text(files.file("empty"), "");
  const std::string out = files.file("out");
  const std::vector<Mistake> mistakes = {
      {{"--to", "int8", model}, "OUT"},
      {{model, out}, "--to"},
      {{"--to", "int3", model, out}, "int3"},
      {{"--to", "int8", "--group", "64", model, out}, "--group"},
      {{"--to", "int8", "--scales", "best", model, out}, "--scales"},
      {{"--to", "int8", "--head", "fp8", model, out}, "--head"},
      {{"--to", "int8", "--calibrate", files.file("none"), model, out}, files.file("none")},
      {{"--to", "int8", "--calibrate", files.file("empty"), model, out}, "no text"},
      {{"--to", "int8", "/nonexistent", out}, "/nonexistent"},
      {{"--to", "int8", model, model}, "found files in it"},
  };
  expect_refused("quantize", mistakes);
}

}  // namespace
}  // namespace fathom
