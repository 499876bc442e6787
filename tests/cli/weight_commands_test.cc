// fathom cast, split, join, verify and gguf as a user runs them: what they refuse, what they leave behind, and how they
// go on after a kill.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "cli/run_fathom.h"
#include "weights/tiny_checkpoints.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

FathomRun expect_runs(const std::vector<std::string>& arguments) {
  FathomRun run = run_fathom(arguments);
  EXPECT_EQ(run.exit_code, 0) << arguments[0] << ": " << run.err;
  return run;
}

TEST(WeightCommands, RefuseWithOneSentenceAndLeaveNothing) {
  const TemporaryDirectory directory;
  const std::string in = random_checkpoint(), nowhere = directory.file("nowhere"), out = directory.file("out");
  fs::create_directory(directory.file("full"));
  const std::string full = directory.file("full");
  write_text(full + "/file", "x");
  write_text(directory.file("file"), "x");
  expect_refused("cast", {
                             {{"--to", "bf16", nowhere, out}, nowhere},
                             {{"--to", "bf16", directory.file("file"), out}, directory.file("file")},
                             {{"--to", "int3", in, out}, "--to"},
                             {{in, out}, "--to"},
                             {{"--to", "fp8", in, out}, "in FP8 already"},
                             {{"--to", "bf16", in, full}, "found files in it"},
                             {{"--to", "bf16", in, directory.file("file")}, "found a file"},
                             {{"--to", "bf16", in}, "OUT"},
                         });
  expect_refused("split", {
                              {{"--model-parallel", "2", nowhere, out}, nowhere},
                              {{"--model-parallel", "3", in, out}, "3 ranks cannot share"},
                              {{"--model-parallel", "2", in, out}, "axis 1 has 1 elements, which 2 ranks cannot share"},
                              {{"--model-parallel", "0", in, out}, "--model-parallel"},
                              {{"--model-parallel", "2", tiny_checkpoint(false), full}, "found files in it"},
                              {{in, out}, "--model-parallel"},
                          });
  expect_refused("join", {
                             {{nowhere, out}, nowhere},
                             {{in, out}, "no model0-mp"},
                         });
  expect_refused("verify", {
                               {{nowhere}, nowhere},
                               {{in, "--against", nowhere}, nowhere},
                           });
  expect_refused("gguf", {
                             {{"export", nowhere, out}, nowhere},
                             {{"export", "--type", "q9_k", in, out}, "--type"},
                             {{"export", "--mtp", in, directory.file("file")}, "found one"},
                             {{"import", nowhere, out}, nowhere},
                             {{"import", directory.file("file"), out}, directory.file("file")},
                             {{"import", "--to", "fp8", directory.file("file"), out}, "--to"},
                             {{}, "subcommand"},
                         });
  std::set<std::string> left;
  for (const auto& entry : fs::directory_iterator(directory.path())) left.insert(entry.path().filename().string());
  EXPECT_EQ(left, (std::set<std::string>{"full", "file"}));
  EXPECT_EQ(read_text(directory.file("file")), "x");
}

TEST(WeightCommands, EachWayAndBack) {
  const TemporaryDirectory directory;
  const std::string in = random_checkpoint();
  const std::string bf16 = directory.file("bf16"), demo = directory.file("demo"), joined = directory.file("joined"),
                    gguf = directory.file("x.gguf"), back = directory.file("back");
  EXPECT_TRUE(expect_runs({"cast", "--to", "bf16", in, bf16}).out.starts_with(bf16 + ": "));
  expect_runs({"split", "--model-parallel", "2", "--mtp", bf16, demo});
  expect_runs({"join", demo, joined});
  expect_runs({"gguf", "export", "--mtp", "--type", "bf16", bf16, gguf});
  const FathomRun again = run_fathom({"gguf", "export", "--mtp", "--type", "bf16", bf16, gguf});
  EXPECT_EQ(again.exit_code, 2);
  EXPECT_NE(again.err.find("found one"), std::string::npos) << again.err;
  expect_runs({"gguf", "import", gguf, back});
  for (const std::string& other : {joined, back}) {
    SCOPED_TRACE(other);
    const FathomRun verify = expect_runs({"verify", "--json", other, "--against", bf16});
    const json report = json::parse(verify.out);
    int64_t compared = 0;
    for (const json& tensor : report.at("tensors")) {
      if (!tensor.contains("difference") || tensor["difference"].is_null()) continue;
      ++compared;
      EXPECT_EQ(tensor["difference"].at("greatest"), 0) << tensor;
    }
    EXPECT_GT(compared, 50);
    EXPECT_TRUE(verify.err.empty()) << verify.err;
  }
  for (const auto& entry : fs::recursive_directory_iterator(directory.path())) {
    EXPECT_EQ(entry.path().string().find(".partial"), std::string::npos) << entry.path();
  }
}

TEST(WeightCommands, VerifyTellsAProblemByItsExitCode) {
  const TemporaryDirectory directory;
  const std::string model = directory.file("model");
  fs::copy(random_checkpoint(), model, fs::copy_options::recursive);
  std::string file;
  for (const auto& entry : fs::directory_iterator(model)) {
    if (entry.path().extension() == ".safetensors") file = entry.path().string();
  }
  std::string bytes = read_text(file);
  for (size_t i = bytes.size() - 4096; i < bytes.size(); ++i) bytes[i] = '\xff';  // NaN in every type
  write_text(file, bytes);
  const FathomRun run = run_fathom({"verify", "--json", model});
  EXPECT_EQ(run.exit_code, 1) << run.err;
  const json report = json::parse(run.out);
  bool told = false;
  for (const json& tensor : report.at("tensors")) told |= !tensor.value("problems", json::array()).empty();
  EXPECT_TRUE(told) << run.out.substr(0, 400);
}

/// Starts the program, waits until `is_time` and kills it in a way that it cannot hear of. False if it was done before.
bool kill_when(const std::vector<std::string>& arguments, const std::function<bool()>& is_time) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  for (const int descriptor : {1, 2}) {
    posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_WRONLY, 0);
  }
  const pid_t child = start_fathom(arguments, actions);
  int status = 0;
  while (!is_time()) {
    if (::waitpid(child, &status, WNOHANG) == child) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

/// A checkpoint in some forty files, so that there is a middle to be killed in.
const std::string& many_files() {
  static const TemporaryDirectory directory;
  static const std::string path = [] {
    std::string made = directory.file("model");
    expect_runs(
        {"synth", "--config", "tiny", "--format", "fp8", "--layers", "12", "--shard-size", "100KB", "--out", made});
    return made;
  }();
  return path;
}

int recorded_files(const std::string& partial) {
  try {
    return static_cast<int>(json::parse(read_text(partial + "/rewrite.json")).at("files").size());
  } catch (const json::exception&) {
    return 0;  // not there yet
  }
}

/// Kills the command once `files` of its files are recorded, and runs it again: the result has to be that of a run that
/// nobody disturbed.
void expect_goes_on_after_kill(const std::vector<std::string>& command, const TemporaryDirectory& directory,
                               const std::string& suffix, int files) {
  const auto with_out = [&](const std::string& out) {
    std::vector<std::string> arguments = command;
    arguments.push_back(out);
    return arguments;
  };
  const auto everything = [&](const std::string& name) {
    std::map<std::string, std::string> contents;
    const std::string folder = directory.file(name);
    for (auto& [file, bytes] : files_of(fs::is_directory(folder + "/out") ? folder + "/out" : folder)) {
      contents[file] = std::move(bytes);
    }
    return contents;
  };
  for (const char* name : {"undisturbed", "killed"}) fs::create_directory(directory.file(name));
  expect_runs(with_out(directory.file("undisturbed") + "/out" + suffix));
  const std::string out = directory.file("killed") + "/out" + suffix;
  bool killed = false;
  for (int attempt = 0; attempt < 20 && !killed; ++attempt) {  // on a busy machine it may be done before we look
    fs::remove_all(directory.file("killed"));
    fs::create_directory(directory.file("killed"));
    killed = kill_when(with_out(out), [&] {
      return files == 0 ? fs::exists(out + ".partial/rewrite.json") : recorded_files(out + ".partial") >= files;
    });
  }
  ASSERT_TRUE(killed);
  for (const auto& entry : fs::directory_iterator(directory.file("killed"))) {
    EXPECT_EQ(entry.path().string(), out + ".partial");
  }
  EXPECT_GE(recorded_files(out + ".partial"), files);
  const FathomRun rest = expect_runs(with_out(out));
  if (files > 0) {
    EXPECT_NE(rest.out.find("by an earlier run"), std::string::npos) << rest.out;
  }
  EXPECT_EQ(everything("killed"), everything("undisturbed"));
  EXPECT_FALSE(fs::exists(out + ".partial"));
}

TEST(WeightCommands, CastGoesOnAfterAKill) {
  const TemporaryDirectory directory;
  expect_goes_on_after_kill({"cast", "--to", "bf16", many_files()}, directory, "", 3);
}

TEST(WeightCommands, GgufExportGoesOnAfterAKill) {
  const TemporaryDirectory directory;
  expect_goes_on_after_kill({"gguf", "export", "--type", "q4_0", "--split-size", "100KB", many_files()}, directory,
                            ".gguf", 3);
}

TEST(WeightCommands, GgufImportGoesOnAfterAKill) {
  const TemporaryDirectory directory;
  expect_runs({"gguf", "export", many_files(), directory.file("x.gguf")});
  // One file of less than its 4 GB: killed anywhere, it is written anew.
  expect_goes_on_after_kill({"gguf", "import", directory.file("x.gguf")}, directory, "", 0);
}

}  // namespace
}  // namespace fathom
