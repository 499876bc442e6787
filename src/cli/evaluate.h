#pragma once
#include <memory>
#include <string>

#include "evaluate/generated.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace fathom {

// The commands under `fathom evaluate`, as those in commands.h.
void add_evaluate_generated_command(CLI::App& evaluate, int& exit_code);
void add_evaluate_loss_command(CLI::App& evaluate, int& exit_code);
void add_evaluate_mtp_command(CLI::App& evaluate, int& exit_code);

/// A checkpoint's tokenizer and template.
struct CheckpointText {
  std::unique_ptr<Tokenizer> tokenizer;
  TokenizerConfig config;
  ChatFormat format = ChatFormat::deepseek_v31;

  ConversationFormat conversation() const { return {*tokenizer, config, format}; }
};

/// `bad_input` if the directory is none, or has no tokenizer or no template that Fathom knows.
CheckpointText open_checkpoint_text(const std::string& directory);

}  // namespace fathom
