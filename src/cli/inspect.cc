#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/lines.h"
#include "formats/gguf.h"
#include "formats/inspect.h"

namespace fathom {

void add_inspect_command(CLI::App& app, int& exit_code) {
  struct Options {
    std::string path;
    bool json = false;
    int64_t context = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "inspect",
      "Show what a checkpoint holds: parameters by part, formats, bytes, cache size, and what is wrong with it");
  command
      ->add_option("path", options->path,
                   "A checkpoint directory, a config.json, a preset (deepseek-v3, …), or a GGUF file")
      ->required();
  command->add_flag("--json", options->json, "Print the report as JSON");
  CLI::Option* context = command->add_option("--context", options->context,
                                             "Tokens for the size of the cache (default: the model's, at most 32768)");
  command->callback([options, context, &exit_code] {
    if (options->path.ends_with(".gguf") && !options->json) {
      write_stdout(gguf_text(GgufFile(options->path)));
      return;
    }
    std::optional<int64_t> tokens;
    if (context->count() > 0) tokens = options->context;
    const InspectReport report = inspect(options->path, tokens);
    // Paths come from the file system and need not be UTF-8.
    write_stdout(options->json
                     ? inspect_json(report).dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"
                     : inspect_text(report));
    if (!report.problems.fatal.empty()) exit_code = 2;
  });
}

}  // namespace fathom
