#include "cli/run_fathom.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

extern char** environ;

namespace fathom {

std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_text(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

pid_t start_fathom(const std::vector<std::string>& arguments, posix_spawn_file_actions_t& actions) {
  std::vector<char*> argv = {const_cast<char*>(FATHOM_BINARY)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const int failed = ::posix_spawn(&child, FATHOM_BINARY, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) throw std::runtime_error(std::string("cannot start ") + FATHOM_BINARY);
  return child;
}

FathomRun run_fathom(const std::vector<std::string>& arguments, const std::string& input, int interrupt_after_ms,
                     int signal_number) {
  const TemporaryDirectory files;
  write_text(files.file("in"), input);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, (files.file("in")).c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, (files.file("out")).c_str(), O_WRONLY | O_CREAT, 0600);
  posix_spawn_file_actions_addopen(&actions, 2, (files.file("err")).c_str(), O_WRONLY | O_CREAT, 0600);
  const pid_t child = start_fathom(arguments, actions);
  if (interrupt_after_ms >= 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(interrupt_after_ms));
    ::kill(child, signal_number);
  }
  int status = 0;
  struct rusage usage {};
  ::wait4(child, &status, 0, &usage);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_text(files.file("out")),
          read_text(files.file("err")), static_cast<uint64_t>(usage.ru_maxrss) * 1024};
}

const std::string& random_checkpoint() {
  static const TemporaryDirectory directory;
  static const std::string path = [] {
    std::string made = directory.file("model");
    const FathomRun run = run_fathom({"synth", "--config", "tiny", "--format", "fp8", "--out", made});
    if (run.exit_code != 0) throw std::runtime_error("fathom synth: " + run.err);
    return made;
  }();
  return path;
}

void expect_refused(const std::string& command, const std::vector<Mistake>& mistakes) {
  for (const auto& [arguments, part] : mistakes) {
    std::vector<std::string> all = {command};
    all.insert(all.end(), arguments.begin(), arguments.end());
    const FathomRun run = run_fathom(all);
    EXPECT_EQ(run.exit_code, 2) << part;
    EXPECT_TRUE(run.err.starts_with("fathom: ")) << run.err;
    EXPECT_NE(run.err.find(part), std::string::npos) << run.err;
    EXPECT_EQ(run.out, "");
  }
}

namespace {

TEST(RunFathom, SeesWhatTheProgramDoes) {
  const FathomRun run = run_fathom({"--version"});
  EXPECT_EQ(run.exit_code, 0);
  EXPECT_NE(run.out, "");
  EXPECT_EQ(run.err, "");
}

}  // namespace
}  // namespace fathom
