// `fathom train step`: the files that it writes, and what it refuses.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "cli/run_fathom.h"
#include "formats/safetensors.h"
#include "support/golden.h"

namespace fathom {
namespace {

TEST(TrainStep, WritesTheGoldenNames) {
  FATHOM_GOLDEN_OR_SKIP(golden, "train-tiny");
  const TemporaryDirectory directory;
  const std::string out = directory.file("out");
  const FathomRun run =
      run_fathom({"train", "step", "--model", golden, "--batch", golden + "/expected.safetensors", "--steps", "2",
                  "--learning-rate", "1e-3", "--balance-loss-alpha", "0.01", "--threads", "2", "--out", out});
  ASSERT_EQ(run.exit_code, 0) << run.err;
  const auto expected = nlohmann::json::parse(read_text(golden + "/expected.json"));
  const auto found = nlohmann::json::parse(read_text(out + "/losses.json"));
  for (const auto& [name, value] : expected["hyperparameters"].items()) {
    if (name != "steps") {
      EXPECT_EQ(found["hyperparameters"][name], value) << name;
    }
  }
  ASSERT_EQ(found["steps"].size(), 2u);
  for (size_t step = 0; step < 2; ++step) {
    const auto& losses = expected["steps"][step]["losses_before_update"];
    const auto& own = found["steps"][step]["losses_before_update"];
    for (const char* name : {"main", "mtp", "balance", "total"}) {
      EXPECT_NEAR(own[name].get<double>(), losses[name].get<double>(), 1e-5) << name;
    }
    EXPECT_EQ(own["tokens_per_expert"], losses["tokens_per_expert"]);
  }
  const SafetensorsFile model(golden + "/model-00001-of-00001.safetensors");
  const SafetensorsFile gradients(out + "/gradients.safetensors");
  const SafetensorsFile after(out + "/after_step_2.safetensors");
  EXPECT_EQ(after.entries().size(), model.entries().size());
  for (const SafetensorsEntry& entry : model.entries()) {
    ASSERT_NE(after.find(entry.name), nullptr) << entry.name;
    EXPECT_EQ(after.find(entry.name)->shape, entry.shape);
    const bool trained = entry.name.find("e_score_correction_bias") == std::string::npos;
    EXPECT_EQ(gradients.find(entry.name) != nullptr, trained) << entry.name;
  }
}

TEST(TrainStep, RefusesWhatItCannotUse) {
  FATHOM_GOLDEN_OR_SKIP(golden, "train-tiny");
  const TemporaryDirectory directory;
  const std::string batch = golden + "/expected.safetensors";
  const std::string out = directory.file("out");
  const int32_t tokens[] = {1, 2, 300, 4};
  const TensorView view = tensor_view(DType::i32, {1, 1, 4}, tokens);
  const std::string wrong = directory.file("wrong.safetensors");
  write_safetensors(wrong, {{"input_ids", view}, {"labels", view}});
  const std::string flat = directory.file("flat.safetensors");
  write_safetensors(flat, {{"input_ids", tensor_view(DType::i32, {4}, tokens)}, {"labels", view}});
  const std::string uneven = directory.file("uneven.safetensors");
  write_safetensors(uneven, {{"input_ids", view}, {"labels", tensor_view(DType::i32, {1, 1, 3}, tokens)}});
  write_text(directory.file("file"), "x");
  const auto with = [&](const std::string& from, const std::string& to) {
    return std::vector<std::string>{"step", "--model", golden, "--batch", from, "--out", to};
  };
  auto many = with(batch, out);
  many.insert(many.end(), {"--steps", "4"});
  auto bits = with(batch, out);
  bits.insert(bits.end(), {"--compute", "int8"});
  auto model = with(batch, out);
  model[2] = "/nonexistent";
  expect_refused("train", {{with(wrong, out), "300"},
                           {with(flat, out), "[steps, sequences, tokens]"},
                           {with(uneven, out), "labels is [1, 1, 3]"},
                           {with(golden + "/config.json", out), "safetensors"},
                           {with(golden + "/model-00001-of-00001.safetensors", out), "no tensor input_ids"},
                           {with(batch, directory.file("file")), "not a directory"},
                           {many, "holds 3"},
                           {bits, "--compute"},
                           {model, "/nonexistent"},
                           {{}, "subcommand"}});
}

}  // namespace
}  // namespace fathom
