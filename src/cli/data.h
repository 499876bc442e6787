#pragma once

namespace CLI {
class App;
}

namespace fathom {

// The commands under `fathom data`, as those in commands.h.
void add_data_generate_command(CLI::App& data, int& exit_code);
void add_data_pack_command(CLI::App& data, int& exit_code);

}  // namespace fathom
