#pragma once
#include <string>

#include "serve/load_test.h"

namespace CLI {
class App;
}

namespace fathom {

/// What `fathom bench --serve` is told, beside --json.
struct LoadArguments {
  LoadOptions options;
  std::string concurrent = "16";
  std::string plot;
  bool wanted = false;  ///< --serve was given

  /// Adds --serve and what belongs to it; options that are there already contradict it, but for --help and --json.
  void add_to(CLI::App& command);
};

/// Loads the server, writes the report to the standard output and draws the picture. `failure` if nothing completed, if
/// answers broke off, or differ from what they are alone.
void bench_server(LoadArguments arguments, bool json, int& exit_code);

}  // namespace fathom
