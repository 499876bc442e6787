#pragma once
#include <optional>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "formats/model_config.h"

namespace fathom {

/// Adds the keys "tokenizer.*" of a checkpoint's tokenizer.json and tokenizer_config.json: a byte-level vocabulary
/// ("gpt2") with the pre-tokenizer "deepseek-v3" or "gpt-2", `config.vocab_size` tokens (ids without one are
/// "[PADn]", unused), types, merges, special ids, the flags add_bos_token and add_eos_token, the chat template.
///
/// A checkpoint without tokenizer.json gets the tokenizer "no_vocab" and a note. `bad_input` for other models than BPE,
/// splits that are neither DeepSeek-V3's nor GPT-2's, ids that the model has no row for.
void add_gguf_tokens(const std::string& directory, const ModelConfig& config, GgufValues& values,
                     std::vector<std::string>& notes);

/// A GGUF file's tokenizer in the files that Hugging Face has.
struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
};

/// The reverse: nothing, and a note, if the file has no tokenizer or one with other splits (by name). Tokens with the
/// type "control" become special; which of DeepSeek's control tokens its published files call special is not in GGUF
/// and comes from a list. `bad_input` for lists of the wrong type or length, tokens that are not UTF-8 or occur twice.
std::optional<TokenizerFiles> gguf_tokenizer_files(const GgufFile& file, const ModelConfig& config,
                                                   std::vector<std::string>& notes);

/// Special ids of the file, as the config has them: bos, and eos with the end of turn if that is another.
void read_gguf_token_ids(const GgufFile& file, ModelConfig& config);

}  // namespace fathom
