#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "support/sanitizer.h"
#include "train/tiny_run.h"

namespace fathom {
namespace {

TEST(Bench, MeasuresAModel) {
  const FathomRun run =
      run_fathom({"bench", "--model", random_checkpoint(), "--prefill", "12", "--decode", "2", "--depth", "0,70",
                  "--batch", "1,3", "--repeat", "2", "--threads", "2", "--read-mib", "64", "--json"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  EXPECT_EQ(run.err, "");
  const auto report = nlohmann::json::parse(run.out);
  EXPECT_EQ(report.at("threads"), 2);
  EXPECT_GT(report.at("limits").at("read_bytes_per_second"), 0);
  EXPECT_GT(report.at("limits").at("f32_operations_per_second"), 0);
  EXPECT_FALSE(report.contains("kernels"));
  std::vector<std::string> names;
  for (const auto& row : report.at("measurements")) {
    names.push_back(row.at("name"));
    EXPECT_GT(row.at("tokens_per_second"), 0);
    EXPECT_EQ(row.at("seconds_per_pass").size(), 2u);
    EXPECT_EQ(row.at("limits").size(), 2u);
    EXPECT_LE(row.at("ceiling_fraction").at("least"), row.at("ceiling_fraction").at("greatest"));
  }
  EXPECT_EQ(names, (std::vector<std::string>{"prefill of 12, depth 0", "decode, batch 1, depth 0",
                                             "decode, batch 3, depth 0", "prefill of 12, depth 70",
                                             "decode, batch 1, depth 70", "decode, batch 3, depth 70"}));
  // Two steps from a depth of 70 meet 71 and 72 positions of 80 values in BF16, in each of 3 layers.
  EXPECT_EQ(report.at("measurements").at(4).at("cache_bytes"), 71.5 * 80 * 2 * 3);
  EXPECT_EQ(report.at("measurements").at(5).at("cache_bytes"), 3 * 71.5 * 80 * 2 * 3);
  EXPECT_FALSE(report.at("first_token").at("cold"));
  EXPECT_GT(report.at("first_token").at("seconds"), 0);
  EXPECT_GT(report.at("first_token").at("cached_fraction"), 0.5);  // just written
  if (!kSanitized) {
    EXPECT_LT(report.at("anonymous_resident_bytes"), 50'000'000);  // the measuring buffer is not the model's
  }
  EXPECT_GT(report.at("mapped_resident_bytes"), 0);
}

TEST(Bench, MeasuresTraining) {
  const TemporaryDirectory directory;
  const std::string config = directory.file("config.json");
  write_text(config, tiny_model().dump());
  const std::vector<std::string> arguments = {"bench",     "--train", "--train-config", config, "--repeat", "1",
                                              "--threads", "1",       "--read-mib",     "16"};
  const FathomRun table = run_fathom(arguments);
  ASSERT_EQ(table.exit_code, 0) << table.err;
  const size_t plan = table.out.find("bf16  memory ");
  ASSERT_NE(plan, std::string::npos) << table.out;
  EXPECT_LT(plan, table.out.find("tokens/s, ")) << table.out;
  std::vector<std::string> as_json = arguments;
  as_json.emplace_back("--json");
  const FathomRun run = run_fathom(as_json);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto report = nlohmann::json::parse(run.out);
  EXPECT_FALSE(report.contains("kernels"));
  const auto& training = report.at("training");
  EXPECT_GT(training.at("active_weights"), 0);
  ASSERT_EQ(training.at("measurements").size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const auto& row = training["measurements"][i];
    EXPECT_EQ(row.at("precision"), i == 0 ? "bf16" : "fp8");
    EXPECT_GT(row.at("tokens_per_second"), 0);
    EXPECT_GT(row.at("memory_bytes"), 0);
    EXPECT_EQ(row.at("forward_backward_seconds").size(), 1u);
    EXPECT_GT(row.at("peak_fraction").at("median"), 0);
  }
}

TEST(Bench, TheTableHasARowForEach) {
  const FathomRun run =
      run_fathom({"bench", "--model", random_checkpoint(), "--prefill", "0", "--decode", "1", "--repeat", "1",
                  "--threads", "1", "--read-mib", "64", "--kernels", "--only", "router", "--cold"});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  for (const char* part : {"streaming read", "float32 FMA", "router", "256 experts", "of ceiling", "decode, batch 1",
                           "(cold: ", "Peak resident memory"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << " in:\n" << run.out;
  }
  EXPECT_EQ(run.out.find("prefill of"), std::string::npos);
}

TEST(Bench, MistakesAreASentence) {
  const std::string model = random_checkpoint();
  const std::vector<Mistake> mistakes = {
      {{"--model", model, "--batch", "0"}, "--batch"},
      {{"--model", model, "--batch", "1,two"}, "\"two\""},
      {{"--model", model, "--batch", "1,,2"}, "--batch"},
      {{"--model", model, "--depth", "-1"}, "--depth"},
      {{"--model", model, "--depth", "5000"}, "max_position_embeddings"},
      {{"--model", model, "--decode", "-3"}, "--decode"},
      {{"--model", model, "--repeat", "0"}, "--repeat"},
      {{"--model", "/nonexistent"}, "/nonexistent"},
      {{"--cold"}, "--model"},
      {{"--train-config", model}, "--train"},
      {{"--train", "--train-config", "/nonexistent"}, "/nonexistent"},
      {{"--read-mib", "1"}, "--read-mib"},
      {{"--no-kernels", "--only", "router"}, "--kernels"},
      {{"--threads", "many"}, "--threads"},
  };
  expect_refused("bench", mistakes);
}

}  // namespace
}  // namespace fathom
