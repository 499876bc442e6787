#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/generate.h"
#include "engine/generate.h"
#include "text/chat_template.h"

namespace fathom {

class Tokenizer;

/// Held-out items that are counted together: a line of the table.
struct ItemGroup {
  std::string name;
  DocumentKind kind = DocumentKind::arithmetic;
  std::vector<std::string> tasks;  ///< asked in turn; empty: drawn among the kind's
  int64_t filler_words = 0;        ///< retrieval: see ItemOptions
};

/// Item `index` of a group. With at most one task these are the items that
/// `fathom data generate --held-out --seed SEED --kinds KIND --task TASK` writes.
EvaluationItem group_item(const ItemGroup& group, uint64_t seed, int64_t index);

/// How a checkpoint writes conversations.
struct ConversationFormat {
  const Tokenizer& tokenizer;
  TokenizerConfig config;
  ChatFormat format = ChatFormat::deepseek_v31;
};

/// The prompt as `fathom chat` gives it to the model; with the generation prompt of thinking where the item asks for
/// it.
std::vector<int32_t> item_prompt(const EvaluationItem& item, const ConversationFormat& conversation);

/// The filler with which a retrieval group's prompts have about so many tokens in the mean, found with its first 16
/// items; at least one word.
int64_t filler_for_prompt_tokens(ItemGroup group, uint64_t seed, int64_t tokens,
                                 const ConversationFormat& conversation);

/// What a model said to an item.
struct ItemAnswer {
  int64_t prompt_tokens = 0;
  int64_t answer_tokens = 0;
  bool fits = true;  ///< false: prompt and one token do not fit the context; not asked, and wrong
  bool right = false;
  FinishReason finish_reason = FinishReason::length;
  std::string text;
};

/// Like `judge`, but an answer that breaks off inside its thoughts is wrong, whatever it thought: judged is what is
/// said.
bool judge_answer(const EvaluationItem& item, std::string_view text, bool began_thinking);

/// Asks greedily, in at most `max_new_tokens`.
GenerationRequest item_request(const std::vector<int32_t>& prompt, const std::vector<int32_t>& end_tokens,
                               int64_t max_new_tokens);
/// What was generated for an item's prompt, judged.
ItemAnswer judged_answer(const ConversationFormat& conversation, const EvaluationItem& item, int64_t prompt_tokens,
                         const Generation& generation);
/// Of an item whose prompt and one token do not fit the context.
ItemAnswer unasked_answer(int64_t prompt_tokens);

/// Sums over answers.
struct AnswerTally {
  int64_t items = 0;
  int64_t right = 0;
  int64_t too_long = 0;       ///< of the items: not asked, and wrong
  int64_t broken_off = 0;     ///< of the items: the answer reached its greatest length
  int64_t prompt_tokens = 0;  ///< of all items
  int64_t answer_tokens = 0;  ///< of those asked

  void add(const ItemAnswer& answer);
  double fraction() const;            ///< right ÷ items; 0 without items
  double mean_prompt_tokens() const;  ///< 0 without items
  double mean_answer_tokens() const;  ///< over those asked; 0 if there are none
};

/// Where prompts are told apart by length: up to 256, 512, 1,024 tokens, and more.
inline constexpr std::array<int64_t, 3> prompt_length_limits = {256, 512, 1024};
/// 0 to 3.
size_t prompt_length_bucket(int64_t prompt_tokens);

}  // namespace fathom
