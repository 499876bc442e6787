#include "evaluate/generated.h"

#include <algorithm>
#include <cmath>

#include "text/chat_prompt.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

ChatOptions chat_options(const EvaluationItem& item) {
  ChatOptions options;
  options.thinking = item.thinking;
  return options;
}

double mean(int64_t sum, int64_t count) {
  return count == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(count);
}

}  // namespace

EvaluationItem group_item(const ItemGroup& group, uint64_t seed, int64_t index) {
  // The streams of `data generate --held-out`, which draws a kind first.
  Random random(seed, static_cast<uint64_t>(index) * 2 + 1);
  const DocumentKind kind = draw_kind(random, {group.kind});
  ItemOptions options;
  if (!group.tasks.empty()) options.task = group.tasks[static_cast<size_t>(index) % group.tasks.size()];
  options.filler_words = group.filler_words;
  return make_item(kind, random, options);
}

std::vector<int32_t> item_prompt(const EvaluationItem& item, const ConversationFormat& conversation) {
  std::vector<ChatTurn> turns;
  for (const ChatMessage& message : item.messages) turns.push_back({message, std::nullopt});
  return chat_prompt_ids(conversation.tokenizer, conversation.config, conversation.format, turns, chat_options(item));
}

int64_t filler_for_prompt_tokens(ItemGroup group, uint64_t seed, int64_t tokens,
                                 const ConversationFormat& conversation) {
  constexpr int64_t items = 16;
  // The filler ends with a whole paragraph, so the length is no straight line through 0: two more steps come near.
  group.filler_words = std::max<int64_t>(1, tokens * 3 / 4);
  for (int step = 0; step < 3; ++step) {
    double sum = 0;
    for (int64_t i = 0; i < items; ++i) {
      sum += static_cast<double>(item_prompt(group_item(group, seed, i), conversation).size());
    }
    const double per_word = sum / items / static_cast<double>(group.filler_words);
    const double missing = static_cast<double>(tokens) - sum / items;
    group.filler_words = std::max<int64_t>(1, group.filler_words + std::llround(missing / per_word));
  }
  return group.filler_words;
}

bool judge_answer(const EvaluationItem& item, std::string_view text, bool began_thinking) {
  const bool opened = began_thinking || text.find("<think>") != std::string_view::npos;
  if (opened && text.find("</think>") == std::string_view::npos) return false;
  return judge(item, text);
}

GenerationRequest item_request(const std::vector<int32_t>& prompt, const std::vector<int32_t>& end_tokens,
                               int64_t max_new_tokens) {
  GenerationRequest request;
  request.prompt = prompt;
  request.sampling.temperature = 0;
  request.max_new_tokens = max_new_tokens;
  request.end_tokens = end_tokens;
  return request;
}

ItemAnswer judged_answer(const ConversationFormat& conversation, const EvaluationItem& item, int64_t prompt_tokens,
                         const Generation& generation) {
  ItemAnswer answer;
  answer.prompt_tokens = prompt_tokens;
  answer.answer_tokens = std::ssize(generation.tokens);
  answer.finish_reason = generation.finish_reason;
  answer.text = generation.text;
  answer.right = judge_answer(item, answer.text, answer_begins_thinking(conversation.format, chat_options(item)));
  return answer;
}

ItemAnswer unasked_answer(int64_t prompt_tokens) {
  ItemAnswer answer;
  answer.prompt_tokens = prompt_tokens;
  answer.fits = false;
  return answer;
}

void AnswerTally::add(const ItemAnswer& answer) {
  ++items;
  right += answer.right ? 1 : 0;
  too_long += answer.fits ? 0 : 1;
  broken_off += answer.fits && answer.finish_reason == FinishReason::length ? 1 : 0;
  prompt_tokens += answer.prompt_tokens;
  answer_tokens += answer.answer_tokens;
}

double AnswerTally::fraction() const {
  return mean(right, items);
}

double AnswerTally::mean_prompt_tokens() const {
  return mean(prompt_tokens, items);
}

double AnswerTally::mean_answer_tokens() const {
  return mean(answer_tokens, items - too_long);
}

size_t prompt_length_bucket(int64_t prompt_tokens) {
  const auto* limit = std::lower_bound(prompt_length_limits.begin(), prompt_length_limits.end(), prompt_tokens);
  return static_cast<size_t>(limit - prompt_length_limits.begin());
}

}  // namespace fathom
