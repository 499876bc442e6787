#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "constrain/token_trie.h"
#include "engine/sampling.h"
#include "formats/model_config.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

/// What a client may ask for, beyond what the model itself can.
struct ApiLimits {
  int64_t most_messages = 4096;
  int64_t most_answers = 16;  ///< `n`, and the prompts of a completion
  int64_t most_tokens = 0;    ///< of an answer; 0: as many as the context holds
};

/// What the API knows of the model that it serves. Everything is constant while the server runs.
struct ServedModel {
  std::vector<std::string> names;  ///< the first is the one that answers carry
  ModelConfig config;
  int64_t context = 0;  ///< most positions of a request
  std::shared_ptr<const Tokenizer> tokenizer;
  TokenizerConfig tokenizer_config;
  std::optional<ChatFormat> format;  ///< none: no chat
  SamplingOptions sampling;          ///< where a request says nothing
  std::vector<int32_t> end_tokens;
  std::shared_ptr<const TokenTrie> trie;  ///< with the control tokens of tool calls
  bool deepseek_temperature = false;      ///< map temperatures as DeepSeek's API does (model card of V3-0324)
  ApiLimits limits;
  int64_t created = 0;      ///< unix seconds, of /v1/models
  std::string version;      ///< the program's
  std::string fingerprint;  ///< `system_fingerprint`: changes with the model, its precision and the program

  /// Whether the model's chat format knows thoughts, and whether a request can choose.
  bool can_think() const;
  bool can_choose_thinking() const { return format == ChatFormat::deepseek_v31; }
};

class Session;

/// What a session and the files of its checkpoint say: names (the directory's), end tokens, sampling
/// (generation_config.json if that samples, else the API's own temperature 1), fingerprint. `version` is the program's.
ServedModel describe_model(const std::string& directory, const Session& session,
                           std::shared_ptr<const Tokenizer> tokenizer, const TokenizerConfig& config,
                           std::optional<ChatFormat> format, const std::string& version);

}  // namespace fathom
