// The recipe of a pretraining run: what its file may say, and what its schedules say about each step.
#include "train/recipe.h"

#include <cmath>

#include "support/errors.h"
#include "train/tiny_run.h"

namespace fathom {
namespace {

using nlohmann::json;

json minimal() {
  return {{"model", tiny_model()}, {"data", "shards"}, {"tokenizer", "tok"}, {"tokens", 1000}, {"batch_sequences", 8}};
}

Recipe parsed(const json& changes) {
  json object = minimal();
  if (!changes.empty()) object.update(changes);
  return parse_recipe(object, "r.json");
}

TEST(Recipe, DefaultsAreTheReports) {
  const Recipe r = parsed({});
  EXPECT_EQ(r.model.hidden_size, 32);
  EXPECT_EQ(r.precision, ComputeMode::bf16);
  EXPECT_EQ(r.initial_deviation, 0.006);
  EXPECT_EQ(r.adamw.learning_rate, 2.2e-4);
  EXPECT_EQ(r.adamw.adam_beta1, 0.9);
  EXPECT_EQ(r.adamw.adam_beta2, 0.95);
  EXPECT_EQ(r.adamw.weight_decay, 0.1);
  EXPECT_EQ(r.moments, DType::bf16);
  EXPECT_EQ(r.gradient_clip_norm, 1.0);
  EXPECT_EQ(r.warmup_steps, 2000);
  EXPECT_EQ(r.bias_update_speed, 0.001);
  EXPECT_EQ(r.balance_loss_alpha, 1e-4);
  EXPECT_EQ(r.mtp_loss_weight, 0.3);
  EXPECT_EQ(r.later_mtp_loss_weight, 0.1);
  EXPECT_EQ(r.ema_decay, 0);
}

TEST(Recipe, ReadsEveryField) {
  const Recipe r = parsed({{"precision", "fp8"},
                           {"checkpoint_format", "fp8"},
                           {"seed", 5},
                           {"micro_batch_sequences", 4},
                           {"first_batch_sequences", 4},
                           {"moments", "f32"},
                           {"gradient_clip_norm", 0},
                           {"ema_decay", 0.99},
                           {"validate_every", 3},
                           {"keep_checkpoints", 1}});
  EXPECT_EQ(r.precision, ComputeMode::w8a8);
  EXPECT_TRUE(r.fp8_checkpoints);
  EXPECT_EQ(r.seed, 5u);
  EXPECT_EQ(r.micro_batch_sequences, 4);
  EXPECT_EQ(r.first_batch_sequences, 4);
  EXPECT_EQ(r.moments, DType::f32);
  EXPECT_EQ(r.gradient_clip_norm, 0);
  EXPECT_EQ(r.ema_decay, 0.99);
  EXPECT_EQ(r.validate_every, 3);
  EXPECT_EQ(r.keep_checkpoints, 1);
}

TEST(Recipe, RefusesWhatItDoesNotUnderstand) {
  const auto refused = [](const json& changes, const std::string& part) {
    SCOPED_TRACE(changes.dump());
    FATHOM_EXPECT_ERROR(parsed(changes), ErrorKind::bad_input, "r.json", part);
  };
  refused({{"learning_rat", 1e-3}}, "learning_rat");
  refused({{"learning_rate", "fast"}}, "learning_rate is \"fast\"; expected a number");
  refused({{"learning_rate", -1}}, "learning_rate is -1; expected 0 to 10");
  refused({{"learning_rate", nullptr}}, "learning_rate is null");
  refused({{"ema_decay", 1}}, "ema_decay");
  refused({{"tokens", 1.5}}, "tokens is 1.5; expected a whole number");
  refused({{"tokens", 0}}, "tokens is 0");
  refused({{"tokens", 18446744073709551615u}}, "tokens");
  refused({{"seed", -1}}, "seed is -1");
  refused({{"precision", "fp16"}}, "precision is \"fp16\"; expected one of bf16, fp8, fp32");
  refused({{"precision", 8}}, "precision is 8; expected text");
  refused({{"data", ""}}, "data");
  refused({{"micro_batch_sequences", 3}}, "batch_sequences is 8; expected a multiple of micro_batch_sequences, 3");
  refused({{"micro_batch_sequences", 4}, {"first_batch_sequences", 2}}, "first_batch_sequences is 2");
  refused({{"first_batch_sequences", 9}}, "first_batch_sequences is 9");
  refused({{"first_batch_sequences", 4}, {"batch_ramp_until", 0}}, "batch_ramp_until");
  refused({{"constant_until", 0.97}}, "constant_until");
  refused({{"cosine_until", 0.99}}, "last_from");
  refused({{"start_from", "ck"}}, "both are there");
  refused({{"model_changes", json::object()}}, "model_changes");
  json model = tiny_model();
  model.erase("hidden_size");
  refused({{"model", model}}, "hidden_size");
  model = tiny_model();
  model["topk_method"] = "greedy";
  model["scoring_func"] = "softmax";
  refused({{"model", model}}, "bias_update_speed");
  for (const char* name : {"data", "tokenizer", "tokens", "batch_sequences"}) {
    json object = minimal();
    object.erase(name);
    FATHOM_EXPECT_ERROR(parse_recipe(object, "r.json"), ErrorKind::bad_input, "r.json",
                        std::string(name) + " is missing");
  }
  json object = minimal();
  object.erase("model");
  FATHOM_EXPECT_ERROR(parse_recipe(object, "r.json"), ErrorKind::bad_input, "neither is there");
  FATHOM_EXPECT_ERROR(parse_recipe(json::array(), "r.json"), ErrorKind::bad_input, "r.json", "object");
  FATHOM_EXPECT_ERROR(read_recipe("/nonexistent.json"), ErrorKind::bad_input, "/nonexistent.json");
}

TEST(Recipe, StartsFromACheckpointWithChanges) {
  const TemporaryDirectory directory;
  TinyData::write(directory.file("config.json"), tiny_model().dump());
  json object = minimal();
  object.erase("model");
  object["start_from"] = directory.path();
  object["model_changes"] = {{"max_position_embeddings", 256},
                             {"rope_scaling",
                              {{"type", "yarn"},
                               {"factor", 4},
                               {"original_max_position_embeddings", 64},
                               {"beta_fast", 32},
                               {"beta_slow", 1},
                               {"mscale", 1.0},
                               {"mscale_all_dim", 1.0}}}};
  const Recipe r = parse_recipe(object, "r.json");
  EXPECT_EQ(r.model.max_position_embeddings, 256);
  ASSERT_TRUE(r.model.yarn.has_value());
  EXPECT_EQ(r.model.yarn->factor, 4);
  EXPECT_EQ(r.model.hidden_size, 32);
  object["model_changes"] = {{"hidden_size", 64}};
  FATHOM_EXPECT_ERROR(parse_recipe(object, "r.json"), ErrorKind::bad_input, "r.json", "cannot change hidden_size");
  object["start_from"] = "/nonexistent";
  FATHOM_EXPECT_ERROR(parse_recipe(object, "r.json"), ErrorKind::bad_input, "/nonexistent/config.json");
}

// The report's own run: 14.8 T tokens of sequences of 4,096, batches of 3,072 to 15,360.
TEST(Recipe, SchedulesAreTheReports) {
  const Recipe r = parsed({{"tokens", 14'800'000'000'000},
                           {"batch_sequences", 15360},
                           {"first_batch_sequences", 3072},
                           {"micro_batch_sequences", 512},
                           {"batch_ramp_until", 469e9 / 14.8e12},
                           {"constant_until", 10e12 / 14.8e12},
                           {"cosine_until", 14.3e12 / 14.8e12},
                           {"last_from", 14.633e12 / 14.8e12},
                           {"last_floor", 7.3e-6 / 2.2e-4},
                           {"mtp_loss_weight_until", 10e12 / 14.8e12},
                           {"bias_update_until", 14.3e12 / 14.8e12}});
  const auto at = [&](int64_t step, double tokens) { return plan_step(r, step, static_cast<int64_t>(tokens)); };
  // Linear 0 → 2.2e-4 over the first 2,000 steps.
  EXPECT_DOUBLE_EQ(at(1, 0).learning_rate, 2.2e-4 / 2000);
  EXPECT_DOUBLE_EQ(at(1000, 2e10).learning_rate, 1.1e-4);
  EXPECT_DOUBLE_EQ(at(1999, 4e10).learning_rate, 2.2e-4 * 1999 / 2000);
  EXPECT_DOUBLE_EQ(at(2000, 4e10).learning_rate, 2.2e-4);
  EXPECT_DOUBLE_EQ(at(200000, 9.999e12).learning_rate, 2.2e-4);
  // lr(t) = 2.2e-5 + ½ (2.2e-4 − 2.2e-5) (1 + cos(π (t − 10e12) / 4.3e12)).
  for (const double t : {10.0e12, 10.5e12, 12.15e12, 14.0e12, 14.2999e12}) {
    const double expected = 2.2e-5 + 0.5 * (2.2e-4 - 2.2e-5) * (1 + std::cos(M_PI * (t - 10e12) / 4.3e12));
    EXPECT_NEAR(at(200000, t).learning_rate, expected, 1e-15) << t;
  }
  EXPECT_DOUBLE_EQ(at(240000, 14.31e12).learning_rate, 2.2e-5);
  EXPECT_DOUBLE_EQ(at(240000, 14.632e12).learning_rate, 2.2e-5);
  EXPECT_NEAR(at(240000, 14.634e12).learning_rate, 7.3e-6, 1e-18);
  // γ and λ.
  EXPECT_EQ(at(240000, 14.299e12).bias_update_speed, 0.001);
  EXPECT_EQ(at(240000, 14.301e12).bias_update_speed, 0);
  EXPECT_EQ(at(200000, 9.99e12).mtp_loss_weight, 0.3);
  EXPECT_EQ(at(200000, 10.01e12).mtp_loss_weight, 0.1);
  // The ramp: linear in tokens, in whole micro-batches.
  EXPECT_EQ(at(1, 0).sequences, 3072);
  EXPECT_EQ(at(5000, 469e9 / 2).sequences, 9216);
  for (double t = 0; t < 469e9; t += 7e9) {
    const int64_t sequences = at(3000, t).sequences;
    EXPECT_EQ(sequences % 512, 0);
    EXPECT_LE(std::abs(static_cast<double>(sequences) - (3072 + 12288 * t / 469e9)), 256.0 + 1e-6);
  }
  EXPECT_EQ(at(20000, 470e9).sequences, 15360);
  // 14,997 steps for a ramp without rounding (spec §3.2), then 62,914,560 tokens each.
  const double expected_steps = 14997 + (14.8e12 - 469e9) / 62914560;
  EXPECT_NEAR(static_cast<double>(count_steps(r, 4096)), expected_steps, 150);
}

TEST(Recipe, DefaultBoundariesAreNearTheReports) {
  const Recipe r = parsed({{"tokens", 14'800'000'000'000}});
  EXPECT_NEAR(r.constant_until, 10 / 14.8, 1e-4);
  EXPECT_NEAR(r.cosine_until, 14.3 / 14.8, 1e-4);
  EXPECT_NEAR(r.bias_update_until, 14.3 / 14.8, 1e-4);
  EXPECT_NEAR(r.last_from, 14.633 / 14.8, 1e-4);
  EXPECT_NEAR(r.batch_ramp_until, 0.469 / 14.8, 1e-4);
  EXPECT_NEAR(r.last_floor, 7.3e-6 / 2.2e-4, 1e-6);
  EXPECT_EQ(r.cosine_floor, 0.1);
}

TEST(Recipe, StepsAreCountedAsTheyAreTaken) {
  for (const int64_t tokens : {int64_t{1}, int64_t{48 * 8}, int64_t{48 * 8 + 1}, int64_t{48 * 1001}}) {
    const Recipe r = parsed({{"tokens", tokens}, {"first_batch_sequences", 2}, {"batch_ramp_until", 0.5}});
    int64_t steps = 0;
    for (int64_t taken = 0; taken < tokens; ++steps) taken += plan_step(r, steps + 1, taken).sequences * 48;
    EXPECT_EQ(count_steps(r, 48), steps) << tokens;
  }
  EXPECT_EQ(count_steps(parsed({{"tokens", int64_t{1} << 50}, {"batch_sequences", 1}}), 1), int64_t{1} << 50);
  // Without taking them one by one, in the ramp neither.
  const Recipe endless = parsed({{"tokens", int64_t{1} << 50}, {"first_batch_sequences", 1}, {"batch_ramp_until", 1}});
  EXPECT_GT(count_steps(endless, 1), int64_t{1} << 47);
}

TEST(Recipe, IdentityIsWhatDecidesASteps) {
  const json base = recipe_identity(parsed({}));
  EXPECT_EQ(recipe_identity(parsed({{"learning_rate", 2.2e-4}})), base);  // a default, spelled out
  for (const json& same : {json{{"tokens", 2000}}, json{{"validate_every", 2}}, json{{"validation_sequences", 2}},
                           json{{"checkpoint_every", 2}}, json{{"keep_checkpoints", 9}}, json{{"data", "elsewhere"}},
                           json{{"checkpoint_format", "fp8"}}}) {
    EXPECT_EQ(recipe_identity(parsed(same)), base) << same.dump();
  }
  json model = tiny_model();
  model["rope_theta"] = 5000.0;
  for (const json& other :
       {json{{"seed", 1}}, json{{"precision", "fp8"}}, json{{"moments", "f32"}}, json{{"batch_sequences", 4}},
        json{{"warmup_steps", 1}}, json{{"adam_eps", 1e-9}}, json{{"ema_decay", 0.5}}, json{{"last_floor", 0.5}},
        json{{"balance_loss_alpha", 0}}, json{{"later_mtp_loss_weight", 0}}, json{{"model", model}}}) {
    EXPECT_NE(recipe_identity(parsed(other)), base) << other.dump();
  }
}

}  // namespace
}  // namespace fathom
