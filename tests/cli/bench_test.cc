#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "serve/tiny_server.h"
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

TEST(BenchServe, MeasuresAServer) {
  const TinyServer server;
  const TemporaryDirectory directory;
  const std::string url = "http://127.0.0.1:" + std::to_string(server.server->port());
  std::vector<std::string> arguments = {"bench",
                                        "--serve",
                                        url,
                                        "--concurrent",
                                        "1,3",
                                        "--requests",
                                        "6",
                                        "--prompt-tokens",
                                        "40",
                                        "--max-tokens",
                                        "4",
                                        "--plot",
                                        directory.file("load.svg")};
  const FathomRun table = run_fathom(arguments);
  for (const char* part : {"fathom-tiny", "streams at once", "completed", "output tokens/s", "first token, ms",
                           "/health", "server's memory, MB"}) {
    EXPECT_NE(table.out.find(part), std::string::npos) << part << " in:\n" << table.out;
  }
  EXPECT_EQ(table.out.find("broken"), std::string::npos) << "rows of what never was are left out";
  EXPECT_TRUE(std::filesystem::exists(directory.file("load.gp")));
  EXPECT_TRUE(std::filesystem::exists(directory.file("load.dat")));
  if (std::system("command -v gnuplot > /dev/null 2>&1") == 0) {
    EXPECT_EQ(table.exit_code, 0) << table.err;
    EXPECT_EQ(table.err, "");
    EXPECT_TRUE(std::filesystem::exists(directory.file("load.svg")));
    EXPECT_TRUE(std::filesystem::exists(directory.file("load.png")));
  } else {
    EXPECT_EQ(table.exit_code, 1);
    EXPECT_NE(table.err.find("gnuplot"), std::string::npos) << table.err;
  }

  arguments = {"bench", "--serve",      url + "/v1/", "--concurrent", "2",           "--requests",
               "8",     "--max-tokens", "4",          "--json",       "--malformed", "0.3"};
  const FathomRun run = run_fathom(arguments);
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto report = nlohmann::json::parse(run.out);
  ASSERT_EQ(report.at("levels").size(), 1u);
  const auto& level = report["levels"][0];
  EXPECT_EQ(level.at("concurrent"), 2);
  EXPECT_EQ(level.at("completed").get<int>() + level.at("malformed").at("sent").get<int>(), 8);
  EXPECT_EQ(level.at("output_tokens"), 4 * level.at("completed").get<int>());
  EXPECT_LE(level.at("first_token_seconds").at("p50"), level.at("first_token_seconds").at("max"));
  EXPECT_EQ(level.at("first_token_seconds").at("samples"), level.at("completed"));
  EXPECT_GT(level.at("resident_bytes").at("end"), 0);
  EXPECT_EQ(level.at("resident_bytes").at("greatest_per_minute").size(), 1u);
  EXPECT_FALSE(report.contains("verify"));
}

TEST(BenchServe, ReportsWhenItIsInterrupted) {
  const TinyServer server;
  const FathomRun run =
      run_fathom({"bench", "--serve", "http://127.0.0.1:" + std::to_string(server.server->port()), "--concurrent",
                  "2,4", "--seconds", "600", "--prompt-tokens", "20", "--max-tokens", "4", "--json"},
                 {}, 1500);
  EXPECT_EQ(run.exit_code, 130) << run.err;
  const auto report = nlohmann::json::parse(run.out);
  EXPECT_EQ(report.at("interrupted"), true);
  ASSERT_EQ(report.at("levels").size(), 1u);
  EXPECT_LT(report["levels"][0].at("seconds"), 100);
}

TEST(BenchServe, WhatCannotBeDoneIsASentence) {
  uint16_t closed = 0;
  {
    const HttpServer server({}, {}, [](HttpRequest, const std::shared_ptr<HttpReply>&) {});
    closed = server.port();
  }
  const std::string url = "http://127.0.0.1:" + std::to_string(closed);
  const FathomRun run = run_fathom({"bench", "--serve", url});
  EXPECT_EQ(run.exit_code, 1);
  EXPECT_EQ(run.out, "");
  EXPECT_NE(run.err.find(url), std::string::npos) << run.err;

  const TinyServer server;
  const FathomRun nothing = run_fathom({"bench", "--serve", "http://127.0.0.1:" + std::to_string(server.server->port()),
                                        "--malformed", "1", "--requests", "2"});
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_NE(nothing.out.find("malformed, refused"), std::string::npos) << nothing.out;
  EXPECT_EQ(nothing.out.find("tokens/s"), std::string::npos) << nothing.out;
  EXPECT_NE(nothing.err.find("not one request was completed"), std::string::npos) << nothing.err;
}

TEST(BenchServe, MistakesAreASentence) {
  const std::string url = "http://127.0.0.1:1";
  const std::vector<Mistake> mistakes = {
      {{"--serve", ""}, "URL"},
      {{"--serve", "127.0.0.1:8080"}, "URL"},
      {{"--serve", "http://127.0.0.1:99999"}, "port"},
      {{"--serve", url, "--model", "models/x"}, "--model"},
      {{"--serve", url, "--threads", "2"}, "--threads"},
      {{"--serve", url, "--weights", "int8"}, "--weights"},
      {{"--serve", url, "--train"}, "--train"},
      {{"--serve", url, "--concurrent", "0"}, "--concurrent"},
      {{"--serve", url, "--concurrent", "1,two"}, "\"two\""},
      {{"--serve", url, "--seconds", "1", "--requests", "1"}, "--seconds"},
      {{"--serve", url, "--seconds", "0"}, "--seconds"},
      {{"--serve", url, "--requests", "0"}, "--requests"},
      {{"--serve", url, "--temperature", "3"}, "--temperature"},
      {{"--serve", url, "--cancel", "1.5"}, "--cancel"},
      {{"--serve", url, "--cancel", "0.6", "--slow", "0.6"}, "1.2"},
      {{"--serve", url, "--verify", "0"}, "--verify"},
      {{"--serve", url, "--plot", "load.pdf"}, "load.pdf"},
      {{"--serve", url, "--plot", "/nonexistent/load.svg"}, "/nonexistent"},
      {{"--serve", url, "--plot", "a'b.svg"}, "--plot"},
      {{"--concurrent", "4"}, "--serve"},
      {{"--verify"}, "--serve"},
      {{"--insecure"}, "--serve"},
      {{"--plot", "load.svg"}, "--serve"},
  };
  expect_refused("bench", mistakes);
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
