#pragma once

namespace CLI {
class App;
}

namespace fathom {

// Subcommands of `fathom train`; as the commands of commands.h.

void add_train_pretrain_command(CLI::App& train, int& exit_code);
void add_train_plot_command(CLI::App& train, int& exit_code);
void add_train_step_command(CLI::App& train, int& exit_code);

}  // namespace fathom
