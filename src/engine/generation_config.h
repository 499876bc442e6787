#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "engine/sampling.h"
#include "formats/model_config.h"

namespace fathom {

class Tokenizer;

/// How a checkpoint wants its tokens drawn: `DIR/generation_config.json` if that says `do_sample` (temperature, 0.6 if
/// it names none; top_p; top_k), else greedy. `bad_input` names a field of the wrong type.
SamplingOptions default_sampling(const std::string& directory);

/// The ids that end an answer: all that config.json, generation_config.json and tokenizer_config.json name.
std::vector<int32_t> end_token_ids(const std::string& directory, const ModelConfig& config, const Tokenizer* tokenizer);

}  // namespace fathom
