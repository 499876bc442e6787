// `fathom train pretrain` as a process: killed, interrupted, without room on the disk; and what other commands make of
// its checkpoints.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <nlohmann/json.hpp>
#include <random>

#include "cli/run_fathom.h"
#include "formats/checkpoint.h"
#include "formats/safetensors.h"
#include "train/parameters.h"
#include "train/recipe.h"
#include "train/tiny_run.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string write_recipe(const TemporaryDirectory& directory, const json& changes = json::object()) {
  json recipe = tiny_recipe();
  recipe.update(changes);
  const std::string path = directory.file("recipe.json");
  write_text(path, recipe.dump(2));
  return path;
}

std::vector<std::string> start(const std::string& recipe, const std::string& run) {
  return {"train", "pretrain", recipe, "--run", run, "--threads", "2"};
}

std::vector<std::string> resume(const std::string& run) {
  return {"train", "pretrain", "--run", run, "--resume", "--threads", "2"};
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

// A directory with the final name of a checkpoint is whole.
void expect_whole_checkpoints(const std::string& run) {
  if (!fs::exists(run + "/checkpoints")) return;
  for (const std::string& name : checkpoint_names(run)) {
    if (name.starts_with(".")) continue;
    SCOPED_TRACE(name);
    const std::string path = run + "/checkpoints/" + name;
    EXPECT_NO_THROW(load_parameters(Checkpoint(path)));
    EXPECT_TRUE(fs::exists(path + "/tokenizer.json"));
    if (name == "ema") continue;
    EXPECT_EQ(json::parse(read_text(path + "/training_state.json"))["step"], std::stoi(name.substr(5)));
    EXPECT_NO_THROW(SafetensorsFile(path + "/training_state.safetensors"));
  }
}

TEST(TrainPretrain, ShowsProgressAndWritesModelsThatOpen) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  const FathomRun trained = run_fathom(start(write_recipe(directory), run));
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  EXPECT_EQ(trained.err, "");
  for (const char* part : {"24 steps", "memory ", "masters", "average", "step 10/24", "step 24/24", "tokens/s",
                           "% of peak", "validation loss", "step-00000024"}) {
    EXPECT_NE(trained.out.find(part), std::string::npos) << part << " in: " << trained.out;
  }
  EXPECT_EQ(read_text(run + "/recipe.json"), read_text(directory.file("recipe.json")));
  for (const char* name : {"step-00000024", "ema"}) {
    const std::string model = run + "/checkpoints/" + name;
    const FathomRun generated = run_fathom(
        {"generate", "--model", model, "--prompt", "One day", "--max-new-tokens", "5", "--ignore-eos", "--json"});
    EXPECT_EQ(generated.exit_code, 0) << generated.err;
    const FathomRun inspected = run_fathom({"inspect", model});
    EXPECT_EQ(inspected.exit_code, 0) << inspected.err;
  }
  const FathomRun again = run_fathom(start(write_recipe(directory), run));
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("a run already"), std::string::npos) << again.err;
}

TEST(TrainPretrain, RefusesMistakesInASentence) {
  const TemporaryDirectory directory;
  const std::string good = write_recipe(directory);
  const auto changed = [&](const std::string& name, const json& changes) {
    json recipe = tiny_recipe();
    recipe.update(changes);
    write_text(directory.file(name), recipe.dump());
    return directory.file(name);
  };
  const std::string unknown = changed("unknown.json", {{"batch_size", 4}});
  const std::string odd = changed("odd.json", {{"micro_batch_sequences", 3}});
  const std::string broken = directory.file("broken.json");
  write_text(broken, "{\"model\": ");
  write_text(directory.file("file"), "");
  const auto with = [&](const std::string& recipe) {
    return std::vector<std::string>{"pretrain", recipe, "--run", directory.file("run")};
  };
  expect_refused("train", {{with(unknown), unknown + ": there is no field batch_size"},
                           {with(odd), odd + ": batch_sequences is 4"},
                           {with(broken), broken},
                           {with("/nonexistent"), "/nonexistent"},
                           {{"pretrain", "--run", directory.file("run")}, "config"},
                           {{"pretrain", good}, "--run"},
                           {{"pretrain", good, "--run", directory.file("file")}, "not a directory"},
                           {{"pretrain", "--run", directory.file("run"), "--resume"}, "recipe.json"}});
  EXPECT_FALSE(fs::exists(directory.file("run")));
}

// Killed again and again, wherever it is: what has a final name is whole, and the end is that of a run that nobody
// killed. The waits grow, so that it ends however slow the machine is.
TEST(TrainPretrain, SurvivesBeingKilled) {
  const TemporaryDirectory directory;
  const json often = {{"checkpoint_every", 1}, {"keep_checkpoints", 2}};
  const std::string recipe = write_recipe(directory, often);
  const std::string whole = directory.file("whole");
  const FathomRun undisturbed = run_fathom(start(recipe, whole));
  ASSERT_EQ(undisturbed.exit_code, 0) << undisturbed.err;
  const std::string run = directory.file("run");
  std::mt19937 random(1);
  int kills = 0;
  for (int attempt = 0; attempt < 200; ++attempt) {
    const bool begun = fs::exists(run + "/recipe.json");
    const int wait = static_cast<int>(20 + random() % 150) + 5 * attempt;
    const FathomRun result = run_fathom(begun ? resume(run) : start(recipe, run), {}, wait, SIGKILL);
    if (result.exit_code == 0) break;
    ASSERT_EQ(result.exit_code, 128 + SIGKILL) << result.err;
    ++kills;
    expect_whole_checkpoints(run);
  }
  EXPECT_GT(kills, 0);
  ASSERT_EQ(run_fathom(resume(run)).exit_code, 0);
  for (const char* name : {"step-00000024", "ema"}) {
    expect_same_files(whole + "/checkpoints/" + name, run + "/checkpoints/" + name);
  }
  EXPECT_EQ(checkpoint_names(run), (std::vector<std::string>{"ema", "step-00000023", "step-00000024"}));
  expect_same_log(whole, run);
}

TEST(TrainPretrain, CtrlCStopsWithACheckpoint) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  // Far more steps than it will take.
  const std::string recipe = write_recipe(directory, {{"tokens", int64_t{1} << 40}, {"checkpoint_every", 1000000}});
  FathomRun stopped;
  for (int wait = 300; wait < 20000; wait *= 2) {
    fs::remove_all(run);
    stopped = run_fathom(start(recipe, run), {}, wait, SIGINT);
    if (stopped.out.find("step-") != std::string::npos) break;  // it was not interrupted before it began
  }
  EXPECT_EQ(stopped.exit_code, 130) << stopped.err;
  ASSERT_EQ(checkpoint_names(run).size(), 1u);
  expect_whole_checkpoints(run);
  const FathomRun on = run_fathom(resume(run) + std::vector<std::string>{"--stop-after", "1"});
  EXPECT_EQ(on.exit_code, 0) << on.err;
  EXPECT_NE(on.out.find("goes on after step"), std::string::npos) << on.out;
}

// The soft limit of a file's size, which the child inherits, as long as it lives: writes beyond it fail as on a full
// disk.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const struct rlimit limit { bytes, before_.rlim_max };
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before_); }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  struct rlimit before_ {};
};

TEST(TrainPretrain, AFullDiskLosesNothing) {
  const TemporaryDirectory directory;
  const std::string recipe = write_recipe(directory);
  const std::string whole = directory.file("whole");
  ASSERT_EQ(run_fathom(start(recipe, whole)).exit_code, 0);
  const std::string run = directory.file("run");
  ASSERT_EQ(run_fathom(start(recipe, run) + std::vector<std::string>{"--stop-after", "5"}).exit_code, 0);
  const std::string checkpoint = run + "/checkpoints/step-00000005";
  const auto before = files_below(checkpoint);
  const uint64_t model = fs::file_size(checkpoint + "/model-00001-of-00001.safetensors");
  const uint64_t state = fs::file_size(checkpoint + "/training_state.safetensors");
  ASSERT_GT(state, model + 4096);
  for (const uint64_t room : {model - 100, state - 100}) {  // the disk fills in the model, in the state
    const FathomRun failed = [&] {
      const FileSizeLimit limit(room);
      return run_fathom(resume(run));
    }();
    EXPECT_EQ(failed.exit_code, 1);
    EXPECT_TRUE(failed.err.starts_with("fathom: ")) << failed.err;
    EXPECT_EQ(std::count(failed.err.begin(), failed.err.end(), '\n'), 1) << failed.err;
    EXPECT_NE(failed.err.find("cannot be written"), std::string::npos) << failed.err;
    EXPECT_EQ(checkpoint_names(run), (std::vector<std::string>{"step-00000005"}));
    EXPECT_EQ(files_below(checkpoint), before);
  }
  ASSERT_EQ(run_fathom(resume(run)).exit_code, 0);
  expect_same_files(whole + "/checkpoints/step-00000024", run + "/checkpoints/step-00000024");
  expect_same_log(whole, run);
}

// A rate that blows the model up: the run ends in a sentence, and `train step` comes to the same from what it kept.
TEST(TrainPretrain, AnExplosionIsKeptForTrainStep) {
  const TemporaryDirectory directory;
  const std::string run = directory.file("run");
  const std::string recipe = write_recipe(directory, {{"learning_rate", 10},
                                                      {"weight_decay", 10},
                                                      {"initial_deviation", 1},
                                                      {"micro_batch_sequences", 4},  // the batch as it is kept
                                                      {"first_batch_sequences", 0},
                                                      {"warmup_steps", 0},
                                                      {"gradient_clip_norm", 0},
                                                      {"ema_decay", 0},
                                                      {"constant_until", 1},
                                                      {"cosine_until", 1},
                                                      {"last_from", 1},
                                                      {"tokens", 48 * 4000}});
  const FathomRun exploded = run_fathom(start(recipe, run));
  ASSERT_EQ(exploded.exit_code, 1) << exploded.out.substr(0, 2000);
  EXPECT_NE(exploded.err.find("the run stops before its update"), std::string::npos) << exploded.err;
  EXPECT_EQ(std::count(exploded.err.begin(), exploded.err.end(), '\n'), 1) << exploded.err;
  std::string kept;
  for (const auto& entry : fs::directory_iterator(run)) {
    if (entry.path().filename().string().starts_with("not-finite-step-")) kept = entry.path().string();
  }
  ASSERT_NE(kept, "");
  const FathomRun step = run_fathom({"train", "step", "--model", kept, "--batch", kept + "/batch.safetensors",
                                     "--compute", "bf16", "--out", directory.file("again")});
  EXPECT_EQ(step.exit_code, 1) << step.out;
  // "fathom: Step N: WHAT; the run stops before its update. …"
  const size_t begin = exploded.err.find(": ", exploded.err.find("Step ")) + 2;
  const std::string what = exploded.err.substr(begin, exploded.err.find("; the run stops") - begin);
  EXPECT_NE(step.err.find(what), std::string::npos) << step.err << exploded.err;
}

}  // namespace
}  // namespace fathom
