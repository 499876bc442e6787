// fathom evaluate: how good a model is.

#include "cli/evaluate.h"

#include <CLI/CLI.hpp>
#include <filesystem>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace fathom {

CheckpointText open_checkpoint_text(const std::string& directory) {
  if (!std::filesystem::is_directory(directory)) {
    throw_bad_input("{}: no such directory, a checkpoint was expected", directory);
  }
  CheckpointText text{load_tokenizer_if_present(directory), read_tokenizer_config(directory)};
  if (!text.tokenizer) {
    throw_bad_input("{}: items are asked as text, which needs a tokenizer.json, and there is none", directory);
  }
  if (!text.config.chat_format) {
    throw_bad_input("{}: items are asked as conversations; the checkpoint has {}", directory,
                    text.config.has_chat_template
                        ? "a chat template that is none of those Fathom knows (DeepSeek-V3, R1, V3.1)"
                        : "no chat template");
  }
  text.format = *text.config.chat_format;
  check_chat_tokens(directory, *text.tokenizer, text.config);
  return text;
}

void add_evaluate_command(CLI::App& app, int& exit_code) {
  CLI::App& evaluate = *app.add_subcommand("evaluate", "Judge a model: held-out items, drafts, loss");
  evaluate.require_subcommand(1);
  add_evaluate_generated_command(evaluate, exit_code);
  add_evaluate_mtp_command(evaluate, exit_code);
  add_evaluate_loss_command(evaluate, exit_code);
}

}  // namespace fathom
