#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/train_commands.h"

namespace fathom {

void add_train_command(CLI::App& app, int& exit_code) {
  CLI::App* command = app.add_subcommand("train", "Train a model");
  command->require_subcommand(1);
  add_train_pretrain_command(*command, exit_code);
  add_train_plot_command(*command, exit_code);
  add_train_step_command(*command, exit_code);
}

}  // namespace fathom
