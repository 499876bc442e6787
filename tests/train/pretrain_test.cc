// The pretraining loop: it learns, it goes on from where it stopped to the same bits, and it refuses what does not fit.
#include "train/pretrain.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "base/interrupt.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "support/errors.h"
#include "train/tiny_run.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json with(json recipe, const json& changes) {
  recipe.update(changes);
  return recipe;
}

// Runs on one thread unless it says otherwise, and returns the steps' reports.
std::vector<StepReport> train(const json& recipe, const std::string& run, int64_t stop_after = 0, bool resume = false,
                              int threads = 1) {
  ThreadTeam team(threads);
  std::vector<StepReport> reports;
  PretrainEvents events;
  events.on_step = [&](const StepReport& report) { reports.push_back(report); };
  pretrain(parse_recipe(recipe, "recipe"), recipe.dump(), {run, resume, stop_after}, events, team);
  return reports;
}

std::string step_directory(const std::string& run, int64_t step) {
  return fmt::format("{}/checkpoints/step-{:08}", run, step);
}

std::vector<float> floats(const std::string& file, const std::string& tensor) {
  const SafetensorsFile state(file);
  const SafetensorsEntry* entry = state.find(tensor);
  if (entry == nullptr) throw std::runtime_error("no tensor " + tensor);
  std::vector<float> values(static_cast<size_t>(element_count(entry->shape)));
  std::memcpy(values.data(), state.view(*entry).data, values.size() * sizeof(float));
  return values;
}

TEST(Pretrain, TheLossGoesDown) {
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    SCOPED_TRACE(precision);
    const TemporaryDirectory directory;
    const auto steps =
        train(with(tiny_recipe(), {{"precision", precision}, {"tokens", 48 * 4 * 50}, {"checkpoint_every", 1000}}),
              directory.file("run"));
    ASSERT_GE(steps.size(), 45u);
    EXPECT_EQ(static_cast<int64_t>(steps.size()), steps.front().steps);
    EXPECT_NEAR(steps.front().losses.main, std::log(320), 0.3);  // knows nothing
    double last = 0;
    for (size_t i = steps.size() - 5; i < steps.size(); ++i) last += steps[i].losses.main / 5;
    EXPECT_LT(last, steps.front().losses.main - 1.0);
    const auto lines = log_lines(directory.file("run"));
    std::vector<double> validation;
    for (const json& line : lines) {
      if (line.contains("validation")) validation.push_back(line["validation"]["main"]);
    }
    EXPECT_EQ(validation.size(), steps.size() / 10 + (steps.size() % 10 == 0 ? 0 : 1));
    EXPECT_LT(validation.back(), validation.front());
  }
}

// What a stop may not change: every byte of the last checkpoint and of the averages, every line of the log. Stops are
// taken off the rhythm of checkpoints, validation and expert counts; the threads change too.
TEST(Pretrain, StoppedAndResumedGivesTheSameBits) {
  for (const char* precision : {"bf16", "fp8"}) {
    SCOPED_TRACE(precision);
    const TemporaryDirectory directory;
    const json recipe = with(tiny_recipe(), {{"precision", precision}, {"checkpoint_format", precision}});
    const auto whole = train(recipe, directory.file("whole"));
    ASSERT_EQ(whole.size(), 24u);
    EXPECT_EQ(train(recipe, directory.file("parts"), 7, false, 2).size(), 7u);
    EXPECT_EQ(latest_checkpoint(directory.file("parts")), step_directory(directory.file("parts"), 7));
    EXPECT_FALSE(fs::exists(directory.file("parts/checkpoints/ema")));
    const auto middle = train(recipe, directory.file("parts"), 6, true, 1);
    ASSERT_EQ(middle.size(), 6u);
    EXPECT_EQ(middle.front().position.step, 8);
    train(recipe, directory.file("parts"), 0, true, 2);
    expect_same_files(step_directory(directory.file("whole"), 24), step_directory(directory.file("parts"), 24));
    expect_same_files(directory.file("whole/checkpoints/ema"), directory.file("parts/checkpoints/ema"));
    expect_same_log(directory.file("whole"), directory.file("parts"));
    // A run that is done stays as it is.
    EXPECT_TRUE(train(recipe, directory.file("parts"), 0, true).empty());
    expect_same_files(step_directory(directory.file("whole"), 24), step_directory(directory.file("parts"), 24));
  }
}

// Lines behind the checkpoint, and half a line, are what a killed process leaves.
TEST(Pretrain, ATornLogIsMendedOnResume) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  train(tiny_recipe(), directory.file("whole"));
  train(tiny_recipe(), run, 12);
  fs::remove_all(step_directory(run, 12));
  std::ofstream(run + "/log.jsonl", std::ios::app) << "{\"step\": 13, \"tokens\": 17, \"los";
  fs::create_directories(run + "/checkpoints/.unfinished-step-00000013");
  fs::create_directories(run + "/checkpoints/.unfinished-step-00000013.partial");
  fs::create_directories(run + "/checkpoints/.unfinished-removed-step-00000001");
  const auto rest = train(tiny_recipe(), run, 0, true);
  EXPECT_EQ(rest.front().position.step, 11);
  expect_same_log(run, directory.file("whole"));
  expect_same_files(step_directory(directory.file("whole"), 24), step_directory(run, 24));
  EXPECT_EQ(checkpoint_names(run), (std::vector<std::string>{"ema", "step-00000020", "step-00000024"}));
}

// A process that is killed before its first checkpoint has a recipe and a log.
TEST(Pretrain, ResumesFromNothing) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  train(tiny_recipe(), directory.file("whole"));
  train(tiny_recipe(), run, 3);
  fs::remove_all(run + "/checkpoints");
  EXPECT_EQ(train(tiny_recipe(), run, 0, true).size(), 24u);
  expect_same_files(step_directory(directory.file("whole"), 24), step_directory(run, 24));
  expect_same_log(run, directory.file("whole"));
}

TEST(Pretrain, KeepsTheLatestCheckpoints) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  train(with(tiny_recipe(), {{"checkpoint_every", 2}, {"keep_checkpoints", 3}, {"ema_decay", 0}}), run, 9);
  EXPECT_EQ(checkpoint_names(run), (std::vector<std::string>{"step-00000006", "step-00000008", "step-00000009"}));
  train(with(tiny_recipe(), {{"checkpoint_every", 100}, {"keep_checkpoints", 1}, {"ema_decay", 0}}), run, 0, true);
  EXPECT_EQ(checkpoint_names(run), (std::vector<std::string>{"step-00000024"}));
}

// The step's loss is that of its whole batch, however it is cut, although padding gives the parts other counts of
// labels.
TEST(Pretrain, MicroBatchesAddUpToTheBatch) {
  const TemporaryDirectory directory;
  const json recipe = with(tiny_recipe(), {{"precision", "fp32"},
                                           {"moments", "f32"},
                                           {"batch_sequences", 60},  // an epoch's worth has padding
                                           {"first_batch_sequences", 0},
                                           {"balance_loss_alpha", 0.1},
                                           {"tokens", 1},
                                           {"validate_every", 0}});
  // Else the test would show nothing.
  const TokenDataset dataset(tiny_data().shards);
  ShuffledSequences sequences(dataset, 7);
  std::set<int64_t> labels;
  std::vector<int32_t> row(49);
  for (uint64_t part = 0; part < 15; ++part) {
    int64_t own = 0;
    for (uint64_t i = 0; i < 4; ++i) {
      sequences.read(4 * part + i, row);
      own += 48 - std::count(row.begin() + 1, row.end(), dataset.pad_token_id());
    }
    labels.insert(own);
  }
  ASSERT_GT(labels.size(), 1u);
  const auto whole = train(with(recipe, {{"micro_batch_sequences", 60}}), directory.file("whole"));
  const auto parts = train(with(recipe, {{"micro_batch_sequences", 4}}), directory.file("parts"));
  ASSERT_EQ(whole.size(), 1u);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_NEAR(parts[0].losses.main, whole[0].losses.main, 1e-6);
  EXPECT_NEAR(parts[0].losses.mtp[0], whole[0].losses.mtp[0], 1e-6);
  EXPECT_NEAR(parts[0].losses.balance, whole[0].losses.balance, 1e-6);
  EXPECT_NEAR(parts[0].losses.total, whole[0].losses.total, 1e-6);
  EXPECT_NEAR(parts[0].gradient_norm, whole[0].gradient_norm, 1e-5 * whole[0].gradient_norm);
  EXPECT_EQ(parts[0].losses.tokens_per_expert, whole[0].losses.tokens_per_expert);
}

TEST(Pretrain, TheAverageFollowsTheMasters) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  const json recipe =
      with(tiny_recipe(), {{"ema_decay", 0.75}, {"checkpoint_every", 1}, {"keep_checkpoints", 9}, {"tokens", 48 * 8}});
  const auto steps = train(recipe, run);
  ASSERT_EQ(steps.size(), 3u);
  const Recipe parsed = parse_recipe(recipe, "recipe");
  const Parameters initial = initial_parameters(parsed.model, parsed.seed, parsed.initial_deviation);
  std::vector<double> average(initial.masters.as<float>(), initial.masters.as<float>() + initial.size);
  std::vector<float> masters;
  for (int64_t step = 1; step <= 3; ++step) {
    const std::string file = step_directory(run, step) + "/training_state.safetensors";
    masters = floats(file, "masters");
    const std::vector<float> found = floats(file, "ema");
    ASSERT_EQ(masters.size(), average.size());
    for (size_t i = 0; i < average.size(); ++i) {
      average[i] = 0.75 * average[i] + 0.25 * masters[i];
      ASSERT_NEAR(found[i], average[i], 1e-6) << step << " " << i;
    }
  }
  // The checkpoint of averages holds them in BF16; the ordinary one the masters.
  const Parameters averaged = load_parameters(Checkpoint(run + "/checkpoints/ema"));
  const Parameters last = load_parameters(Checkpoint(step_directory(run, 3)));
  EXPECT_FALSE(fs::exists(run + "/checkpoints/ema/training_state.json"));
  for (int64_t i = 0; i < averaged.size; ++i) {
    const auto at = static_cast<size_t>(i);
    ASSERT_NEAR(averaged.masters.as<float>()[i], average[at], 0x1p-8 * std::fabs(average[at]) + 1e-7);
    ASSERT_NEAR(last.masters.as<float>()[i], masters[at], 0x1p-8 * std::fabs(masters[at]) + 1e-12);
  }
  for (size_t i = 0; i < last.biases.size(); ++i) EXPECT_EQ(averaged.biases[i].values, last.biases[i].values);
}

TEST(Pretrain, ANewBudgetMayBeGivenOnResume) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  train(with(tiny_recipe(), {{"tokens", 48 * 8}}), run);
  const json longer = with(tiny_recipe(), {{"tokens", 48 * 16}});
  EXPECT_GT(train(longer, run, 0, true).size(), 0u);
  EXPECT_EQ(parse_recipe(json::parse(files_below(run).at("recipe.json")), "kept").tokens, 48 * 16);
}

// From a trained checkpoint, with YaRN, on longer sequences; stopped and resumed like any other run.
TEST(Pretrain, ExtendsTheContextOfACheckpoint) {
  const TemporaryDirectory directory;
  train(tiny_recipe(), directory.file("short"));
  tiny_data().pack(tiny_data().tokenizer, directory.file("shards-96"), 96, 0.1);
  json recipe = with(tiny_recipe(), {{"start_from", step_directory(directory.file("short"), 24)},
                                     {"model_changes",
                                      {{"max_position_embeddings", 128},
                                       {"rope_scaling",
                                        {{"type", "yarn"},
                                         {"factor", 2},
                                         {"original_max_position_embeddings", 64},
                                         {"beta_fast", 32},
                                         {"beta_slow", 1},
                                         {"mscale", 1.0},
                                         {"mscale_all_dim", 1.0}}}}},
                                     {"data", directory.file("shards-96")},
                                     {"tokens", 96 * 12},
                                     {"first_batch_sequences", 0},
                                     {"learning_rate", 1e-3}});
  recipe.erase("model");
  const auto whole = train(recipe, directory.file("long"));
  ASSERT_EQ(whole.size(), 3u);
  EXPECT_LT(whole.front().losses.main, std::log(320) - 0.5);  // it is not a random model
  train(recipe, directory.file("parts"), 1);
  // The weights that it began with are not needed any more.
  fs::remove(step_directory(directory.file("short"), 24) + "/model-00001-of-00001.safetensors");
  train(recipe, directory.file("parts"), 0, true);
  const std::string last = step_directory(directory.file("long"), 3);
  expect_same_files(last, step_directory(directory.file("parts"), 3));
  const ModelConfig config = read_model_config(last);
  EXPECT_EQ(config.max_position_embeddings, 128);
  EXPECT_EQ(config.yarn->factor, 2);
}

// A run's checkpoint is more than its model files: the float32 masters, here beside FP8, are what a next run begins
// with.
TEST(Pretrain, BeginsWithTheMastersOfARun) {
  const TemporaryDirectory directory;
  train(with(tiny_recipe(), {{"checkpoint_format", "fp8"}, {"tokens", 48 * 8}}), directory.file("first"));
  const std::string checkpoint = *latest_checkpoint(directory.file("first"));
  json recipe = with(tiny_recipe(), {{"start_from", directory.file("first")},
                                     {"tokens", 48 * 2},
                                     {"first_batch_sequences", 0},
                                     {"learning_rate", 0},
                                     {"weight_decay", 0}});
  recipe.erase("model");
  train(recipe, directory.file("second"));
  const auto masters = [](const std::string& path) { return floats(path + "/training_state.safetensors", "masters"); };
  const std::vector<float> before = masters(checkpoint);
  EXPECT_EQ(masters(*latest_checkpoint(directory.file("second"))), before);
  const Parameters rounded = load_parameters(Checkpoint(checkpoint));
  EXPECT_FALSE(std::equal(before.begin(), before.end(), rounded.masters.as<float>()));
}

// Expects that a run is refused with exit code 2's kind of error, and leaves no directory.
void expect_run_refused(const json& recipe, std::initializer_list<std::string> parts) {
  const TemporaryDirectory directory;
  SCOPED_TRACE(*parts.begin());
  expect_error([&] { train(recipe, directory.file("run")); }, ErrorKind::bad_input, parts);
  EXPECT_FALSE(fs::exists(directory.file("run")));
}

TEST(Pretrain, RefusesDataThatDoesNotFit) {
  const TemporaryDirectory directory;
  const TinyData& data = tiny_data();
  // Another tokenizer: one merge less.
  BpeTrainer trainer;
  trainer.add_text(files_below(data.directory.path()).at("corpus.jsonl"), "test");
  data.make_tokenizer(trainer, 319, directory.file("other"));
  expect_run_refused(with(tiny_recipe(), {{"tokenizer", directory.file("other")}}), {"another tokenizer"});
  json small = tiny_model();
  small["vocab_size"] = 300;
  expect_run_refused(with(tiny_recipe(), {{"model", small}}), {"320 tokens", "vocab_size is 300"});
  json near = tiny_model();
  near["max_position_embeddings"] = 47;
  expect_run_refused(with(tiny_recipe(), {{"model", near}}), {"sequences of 48", "max_position_embeddings, 47"});
  data.pack(data.tokenizer, directory.file("no-validation"), 48, 0);
  expect_run_refused(with(tiny_recipe(), {{"data", directory.file("no-validation")}}), {"validation"});
  expect_run_refused(with(tiny_recipe(), {{"data", directory.file("nowhere")}}), {"nowhere"});
  expect_run_refused(with(tiny_recipe(), {{"tokenizer", directory.file("nowhere")}}), {"nowhere"});
  data.pack(data.tokenizer, directory.file("cut"), 48, 0.1);
  for (const auto& entry : fs::directory_iterator(directory.file("cut"))) {
    if (entry.path().extension() == ".safetensors") fs::resize_file(entry.path(), fs::file_size(entry.path()) - 100);
  }
  expect_run_refused(with(tiny_recipe(), {{"data", directory.file("cut")}}), {".safetensors"});
  json recipe = tiny_recipe();
  recipe.erase("model");
  fs::create_directories(directory.file("no-weights"));
  TinyData::write(directory.file("no-weights/config.json"), tiny_model().dump());
  expect_run_refused(with(recipe, {{"start_from", directory.file("no-weights")}}), {"no-weights"});
}

TEST(Pretrain, RefusesToResumeAnotherRun) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  FATHOM_EXPECT_ERROR(train(tiny_recipe(), run, 0, true), ErrorKind::bad_input, run, "no run to resume");
  train(tiny_recipe(), run, 2);
  const auto before = files_below(run);
  const auto refused = [&](const json& changes, const std::string& part) {
    SCOPED_TRACE(part);
    FATHOM_EXPECT_ERROR(train(with(tiny_recipe(), changes), run, 0, true), ErrorKind::bad_input, step_directory(run, 2),
                        part);
  };
  FATHOM_EXPECT_ERROR(train(tiny_recipe(), run), ErrorKind::bad_input, run, "a run already");
  json wider = tiny_model();
  wider["hidden_size"] = 64;
  refused({{"model", wider}}, "recipe has model.hidden_size 32 and is to go on with 64");
  refused({{"seed", 8}}, "seed 7 and is to go on with 8");
  refused({{"learning_rate", 0.02}}, "learning_rate 0.01 and is to go on with 0.02");
  refused({{"ema_decay", 0}}, "ema_decay");
  refused({{"moments", "f32"}}, "moments");
  tiny_data().pack(tiny_data().tokenizer, directory.file("packed-anew"), 48, 0.1, 5);
  refused({{"data", directory.file("packed-anew")}}, "data has");
  // The same data elsewhere is the same data.
  fs::copy(tiny_data().shards, directory.file("moved"));
  EXPECT_EQ(files_below(run), before);
  EXPECT_EQ(train(with(tiny_recipe(), {{"data", directory.file("moved")}}), run, 1, true).size(), 1u);

  const std::string state = step_directory(run, 3) + "/training_state.safetensors";
  fs::resize_file(state, fs::file_size(state) / 2);
  FATHOM_EXPECT_ERROR(train(tiny_recipe(), run, 0, true), ErrorKind::bad_input, state);
  TinyData::write(step_directory(run, 3) + "/training_state.json", "[]");
  FATHOM_EXPECT_ERROR(train(tiny_recipe(), run, 0, true), ErrorKind::bad_input, "training_state.json");
  TinyData::write(step_directory(run, 3) + "/training_state.json", R"({"step":3,"tokens":1,"sequences":1})");
  FATHOM_EXPECT_ERROR(train(tiny_recipe(), run, 0, true), ErrorKind::bad_input, "is missing");
}

// The tensors of a checkpoint are checked one by one, too.
TEST(Pretrain, StateOfAnotherShapeIsRefused) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  train(tiny_recipe(), run, 1);
  ThreadTeam team(1);
  Recipe recipe = parse_recipe(tiny_recipe(), "recipe");
  recipe.model.hidden_size = 64;
  TrainState state = start_training(initial_parameters(recipe.model, 1), {ComputeMode::bf16, DType::bf16, 1, 48}, team);
  FATHOM_EXPECT_ERROR(load_state(step_directory(run, 1), 1, state, nullptr, team), ErrorKind::bad_input, "masters",
                      "another model");
}

TEST(Pretrain, TwoProcessesDoNotShareARun) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  ThreadTeam team(1);
  const json recipe = tiny_recipe();
  PretrainEvents events;
  bool tried = false;
  events.on_step = [&](const StepReport&) {
    if (std::exchange(tried, true)) return;
    FATHOM_EXPECT_ERROR(train(recipe, run, 0, true), ErrorKind::failure, run, "another process");
  };
  pretrain(parse_recipe(recipe, "recipe"), recipe.dump(), {run, false, 2}, events, team);
  EXPECT_TRUE(tried);
}

TEST(Pretrain, NotANumberStopsAndKeepsTheStep) {
  const TemporaryDirectory directory;
  const Recipe parsed = parse_recipe(tiny_recipe(), "recipe");
  for (const char* poisoned : {"lm_head.weight", "model.layers.1.mlp.gate.weight"}) {
    SCOPED_TRACE(poisoned);
    Parameters parameters = initial_parameters(parsed.model, 3);
    for (const Parameter& parameter : parameters.list) {
      if (parameter.name == poisoned) parameters.master(parameter)[5] = std::numeric_limits<float>::quiet_NaN();
    }
    const std::string start = directory.file(std::string("start-") + poisoned);
    const std::string run = directory.file(std::string("run-") + poisoned);
    write_checkpoint(parameters, DType::f32, false, start);
    json recipe = with(tiny_recipe(), {{"start_from", start}});
    recipe.erase("model");
    const std::string kept = run + "/not-finite-step-1";
    for (const bool resume : {false, true}) {  // the second time over what the first one kept
      FATHOM_EXPECT_ERROR(train(recipe, run, 0, resume), ErrorKind::failure, "Step 1", "stops before its update", kept,
                          "fathom train step");
      const Parameters again = load_parameters(Checkpoint(kept));
      EXPECT_EQ(std::memcmp(again.masters.as<float>(), parameters.masters.as<float>(),
                            static_cast<size_t>(again.size) * sizeof(float)),
                0);
      const SafetensorsFile batch(kept + "/batch.safetensors");
      ASSERT_NE(batch.find("input_ids"), nullptr);
      EXPECT_EQ(batch.find("input_ids")->shape, (Shape{1, 2, 48}));
      EXPECT_FALSE(latest_checkpoint(run).has_value());
    }
  }
}

TEST(Pretrain, MoreMemoryThanThereIsIsRefused) {
  PretrainPlan plan;
  plan.memory.masters = 3'000'000'000;
  plan.average_bytes = 2'000'000'000;
  check_training_memory(plan, {16'000'000'000, 5'000'000'000});
  check_training_memory(plan, {0, 0});  // the system does not say
  FATHOM_EXPECT_ERROR(check_training_memory(plan, {16'000'000'000, 4'900'000'000}), ErrorKind::failure, "5.0 GB",
                      "4.9 GB");
}

}  // namespace
}  // namespace fathom
