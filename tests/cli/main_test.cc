#include <gtest/gtest.h>

#include <algorithm>

#include "cli/run_fathom.h"
#include "fathom/fathom.h"

namespace fathom {
namespace {

const std::vector<std::string> kCommands = {"chat",  "generate", "forward", "inspect", "tokenize",
                                            "synth", "train",    "bench",   "compare"};

/// One line, beginning with the program's name.
void expect_sentence(const FathomRun& run) {
  EXPECT_TRUE(run.err.starts_with("fathom: ")) << run.err;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
}

TEST(Program, HelpNamesEveryCommand) {
  const FathomRun run = run_fathom({"--help"});
  EXPECT_EQ(run.exit_code, 0);
  for (const std::string& command : kCommands) EXPECT_NE(run.out.find("  " + command), std::string::npos) << command;
}

TEST(Program, EveryCommandHasHelpThatFitsATerminal) {
  for (const std::string& command : kCommands) {
    const FathomRun run = run_fathom({command, "--help"});
    EXPECT_EQ(run.exit_code, 0) << command;
    EXPECT_NE(run.out.find("Usage: fathom " + command), std::string::npos) << run.out;
    for (size_t begin = 0; begin < run.out.size();) {
      const size_t end = run.out.find('\n', begin);
      EXPECT_LE(end - begin, 125u) << command << ": " << run.out.substr(begin, end - begin);
      begin = end + 1;
    }
  }
}

TEST(Program, VersionIsThatOfTheLibrary) {
  EXPECT_EQ(run_fathom({"--version"}).out, "fathom " + std::string(version()) + "\n");
}

TEST(Program, WithoutACommandItShowsHelpAndFails) {
  const FathomRun run = run_fathom({});
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_EQ(run.out, "");
  EXPECT_NE(run.err.find("Usage:"), std::string::npos);
}

TEST(Program, MistakesOnTheCommandLineAreASentence) {
  const std::vector<std::vector<std::string>> mistakes = {
      {"nonsense"},
      {"chat"},
      {"chat", "--model"},
      {"generate", "--model", "x"},
      {"generate", "--model", "x", "--prompt", "a", "--ids", "1"},
      {"generate", "--model", "x", "--prompt", "a", "--nonsense"},
      {"generate", "--model", "x", "--prompt", "a", "--top-k", "many"},
      {"generate", "--model", "x", "--prompt", "a", "--compute", "fp64"},
      {"generate", "--model", "x", "--prompt", "a", "--weights", "int2"},
      {"generate", "--model", "x", "--prompt", "a", "--weights", "int8", "--weights-group", "64"},
      {"generate", "--model", "x", "--prompt", "a", "--system", "s"},
      {"tokenize", "--model", "x", "--decode", "--chat"},
  };
  for (const auto& arguments : mistakes) {
    const FathomRun run = run_fathom(arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments.back();
    expect_sentence(run);
  }
}

TEST(Program, MissingModelsAreASentence) {
  const std::vector<std::vector<std::string>> commands = {{"chat", "--model", "/nonexistent"},
                                                          {"generate", "--model", "/nonexistent", "--prompt", "a"},
                                                          {"tokenize", "--model", "/nonexistent"},
                                                          {"inspect", "/nonexistent"}};
  for (const auto& arguments : commands) {
    const FathomRun run = run_fathom(arguments);
    EXPECT_EQ(run.exit_code, 2) << arguments[0];
    expect_sentence(run);
    EXPECT_NE(run.err.find("/nonexistent"), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace fathom
