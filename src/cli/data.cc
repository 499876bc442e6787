// fathom data: corpora for training.

#include "cli/data.h"

#include <CLI/CLI.hpp>

#include "cli/commands.h"

namespace fathom {

void add_data_command(CLI::App& app, int& exit_code) {
  CLI::App& data = *app.add_subcommand("data", "Make a training corpus, and shards of tokens from one");
  data.require_subcommand(1);
  add_data_generate_command(data, exit_code);
  add_data_pack_command(data, exit_code);
}

}  // namespace fathom
