#pragma once
#include <cstdint>
#include <vector>

#include "text/chat_template.h"

namespace fathom {

class Tokenizer;

/// Ids of a whole conversation as a model is to learn it, BOS and the last EOS included.
///
/// Each answer stands behind exactly the prompt that the template gives when the model is asked: thoughts of earlier
/// answers are left out as the template leaves them out, and a last answer that begins with "<think>" follows the
/// generation prompt of thinking. What messages contain is plain text and makes no control tokens.
std::vector<int32_t> training_chat_ids(const Tokenizer& tokenizer, const TokenizerConfig& config, ChatFormat format,
                                       const std::vector<ChatMessage>& messages);

}  // namespace fathom
