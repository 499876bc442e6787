#include "serve/served_model.h"

#include <fmt/core.h>

#include <ctime>
#include <filesystem>

#include "base/hash.h"
#include "constrain/tool_grammar.h"
#include "engine/generation_config.h"
#include "engine/model_identity.h"
#include "engine/session.h"

namespace fathom {
namespace {

std::string directory_name(const std::string& directory) {
  std::filesystem::path path = std::filesystem::weakly_canonical(directory);
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

std::string fingerprint_of(const std::string& text) {
  return fmt::format("fp_{:016x}", hash_text(text));
}

}  // namespace

bool ServedModel::can_think() const {
  return format == ChatFormat::deepseek_r1 || format == ChatFormat::deepseek_r1_first ||
         format == ChatFormat::deepseek_v31;
}

ServedModel describe_model(const std::string& directory, const Session& session,
                           std::shared_ptr<const Tokenizer> tokenizer, const TokenizerConfig& config,
                           std::optional<ChatFormat> format, const std::string& version) {
  ServedModel model;
  model.names = {directory_name(directory)};
  model.config = session.config();
  model.context = session.context();
  model.tokenizer_config = config;
  model.format = format;
  model.sampling = default_sampling(directory);
  if (model.sampling.temperature == 0) model.sampling = SamplingOptions();
  model.end_tokens = end_token_ids(directory, session.config(), tokenizer.get());
  model.trie = std::make_shared<const TokenTrie>(*tokenizer, tool_control_tokens(*tokenizer));
  model.tokenizer = std::move(tokenizer);
  model.created = static_cast<int64_t>(std::time(nullptr));
  model.version = version;
  model.fingerprint = fingerprint_of(model_identity(session.model()) + version);
  return model;
}

}  // namespace fathom
