#pragma once
#include <signal.h>
#include <spawn.h>

#include <cstdint>
#include <string>
#include <vector>

#include "support/golden.h"

namespace fathom {

struct FathomRun {
  int exit_code = -1;  ///< 128 + signal if one ended it
  std::string out, err;
  uint64_t peak_bytes = 0;  ///< greatest resident memory
};

/// Starts the built program with these arguments and file descriptors; `actions` is destroyed.
pid_t start_fathom(const std::vector<std::string>& arguments, posix_spawn_file_actions_t& actions);

/// Runs the built program with these arguments and standard input, and waits. `interrupt_after_ms` ≥ 0 sends it
/// `signal_number` then.
FathomRun run_fathom(const std::vector<std::string>& arguments, const std::string& input = {},
                     int interrupt_after_ms = -1, int signal_number = SIGINT);

/// Arguments behind a command's name, and what the sentence about them must contain.
struct Mistake {
  std::vector<std::string> arguments;
  std::string part;
};

/// Expects that the command refuses each mistake: exit code 2, one sentence with the part, nothing on the output.
void expect_refused(const std::string& command, const std::vector<Mistake>& mistakes);

/// A small random checkpoint with a tokenizer, made by `fathom synth` once per test process.
const std::string& random_checkpoint();

std::string read_text(const std::string& path);
void write_text(const std::string& path, const std::string& text);

}  // namespace fathom
