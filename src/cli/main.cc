// fathom: the program. Reads the command line, runs one command, turns errors into a sentence and an exit code.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <new>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/help_formatter.h"
#include "cli/options.h"

namespace {

constexpr int kFailure = 1;
constexpr int kBadInput = 2;

int report(const char* sentence, int exit_code) {
  fmt::print(stderr, "fathom: {}\n", sentence);
  return exit_code;
}

int run(int argc, char** argv) {
  CLI::App app{
      "Fathom runs models of the DeepSeek-V3 family: it opens their Hugging Face checkpoints as they are\n"
      "(BF16 or FP8, no conversion) and computes them on this machine's processor."};
  app.name("fathom");
  app.formatter(std::make_shared<fathom::HelpFormatter>());
  app.set_version_flag("--version", "fathom " FATHOM_VERSION, "Print the version and leave");
  app.set_help_flag("--help,-h", "Print this help and leave");
  app.require_subcommand(0, 1);
  app.footer(
      "`fathom COMMAND --help` explains one command.\n"
      "\n"
      "Exit codes: 0 done, 1 the work failed, 2 the input or the command line is wrong, 130 stopped with Ctrl-C.");

  int exit_code = 0;
  fathom::add_chat_command(app, exit_code);
  fathom::add_generate_command(app, exit_code);
  fathom::add_serve_command(app, exit_code);
  fathom::add_forward_command(app, exit_code);
  fathom::add_inspect_command(app, exit_code);
  fathom::add_tokenize_command(app, exit_code);
  fathom::add_tokenizer_command(app, exit_code);
  fathom::add_data_command(app, exit_code);
  fathom::add_synth_command(app, exit_code);
  fathom::add_cast_command(app, exit_code);
  fathom::add_quantize_command(app, exit_code);
  fathom::add_split_commands(app, exit_code);
  fathom::add_verify_command(app, exit_code);
  fathom::add_gguf_command(app, exit_code);
  fathom::add_train_command(app, exit_code);
  fathom::add_evaluate_command(app, exit_code);
  fathom::add_bench_command(app, exit_code);
  fathom::add_compare_command(app, exit_code);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
    std::string command = "fathom";
    for (const CLI::App* at = &app; !at->get_subcommands().empty();) {
      at = at->get_subcommands().front();
      command += " " + at->get_name();
    }
    return report(fmt::format("{} (`{} --help` shows the options)", error.what(), command).c_str(), kBadInput);
  }
  if (app.get_subcommands().empty()) {
    fmt::print(stderr, "{}", app.help());
    return kBadInput;
  }
  return exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  fathom::install_interrupt_handler();
  try {
    return run(argc, argv);
  } catch (const fathom::Error& error) {
    if (fathom::interrupted()) return report(error.what(), fathom::kInterruptedExitCode);
    return report(error.what(), error.kind() == fathom::ErrorKind::bad_input ? kBadInput : kFailure);
  } catch (const std::bad_alloc&) {
    return report("there is not enough memory for this", kFailure);
  } catch (const std::exception& error) {
    return report(fmt::format("this should not have happened: {}", error.what()).c_str(), kFailure);
  }
}
