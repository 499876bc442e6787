#include "evaluate/generated.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "engine/byte_tokenizer.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

constexpr int32_t kEnd = 256;

/// Ids below 256 are bytes; the template's control tokens follow.
class GeneratedEvaluation : public testing::Test {
 protected:
  GeneratedEvaluation()
      : tokenizer_(
            byte_tokenizer({"<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"})) {
    config_.bos_token = "<｜begin▁of▁sentence｜>";
  }

  ConversationFormat conversation() const { return {*tokenizer_, config_, ChatFormat::deepseek_v31}; }

  /// Asks a model that says `said` and then its end token.
  ItemAnswer answer(const EvaluationItem& item, const std::string& said, int64_t context = 1000,
                    int64_t max_new_tokens = 200) {
    const std::vector<int32_t> prompt = item_prompt(item, conversation());
    prompts_ = 0;
    if (std::ssize(prompt) >= context) return unasked_answer(std::ssize(prompt));
    ++prompts_;
    const GenerationRequest request = item_request(prompt, {kEnd}, max_new_tokens);
    AnswerBuilder builder(tokenizer_.get(), request);
    const std::vector<int32_t> script = tokenizer_->encode(said);
    const auto count = std::min(std::ssize(script), request.max_new_tokens);
    for (int64_t i = 0; i < count; ++i) builder.add({script[static_cast<size_t>(i)], 0, {}});
    builder.end(count < std::ssize(script) ? FinishReason::length : FinishReason::stop, {});
    return judged_answer(conversation(), item, std::ssize(prompt), builder.generation());
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizerConfig config_;
  int prompts_ = 0;
};

EvaluationItem sum_item() {
  EvaluationItem item;
  item.task = "addition";
  ChatMessage question;
  question.role = "user";
  question.content = "What is 47 + 38?";
  item.messages = {question};
  item.thinking = true;
  item.answer = "47 + 38 = 85.";
  item.key = "85";
  item.rule = JudgeRule::last_number;
  return item;
}

TEST_F(GeneratedEvaluation, ThePromptIsTheTemplates) {
  EvaluationItem item = sum_item();
  EXPECT_EQ(tokenizer_->decode(item_prompt(item, conversation())),
            "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 38?<｜Assistant｜><think>");
  item.thinking = false;
  EXPECT_EQ(tokenizer_->decode(item_prompt(item, conversation())),
            "<｜begin▁of▁sentence｜><｜User｜>What is 47 + 38?<｜Assistant｜></think>");
}

TEST_F(GeneratedEvaluation, WhatIsSaidIsJudged) {
  const ItemAnswer right = answer(sum_item(), "Units: 15.</think>47 + 38 = 85.");
  EXPECT_TRUE(right.right);
  EXPECT_EQ(right.finish_reason, FinishReason::stop);
  EXPECT_EQ(right.text, "Units: 15.</think>47 + 38 = 85.");
  EXPECT_EQ(right.answer_tokens, 24);  // bytes, and one token for </think>
  EXPECT_EQ(right.prompt_tokens, 20);
  EXPECT_FALSE(answer(sum_item(), "Units: 15. 85.</think>47 + 38 = 86.").right);
  EXPECT_FALSE(answer(sum_item(), "85.</think>").right);
}

TEST_F(GeneratedEvaluation, ThoughtsAloneAreNoAnswer) {
  EXPECT_FALSE(answer(sum_item(), "That is 85.").right);
  EXPECT_FALSE(answer(sum_item(), "</think>85", 1000, 2).right);  // broken off before the second digit
  EvaluationItem item = sum_item();
  item.thinking = false;
  EXPECT_TRUE(answer(item, "That is 85.").right);
  EXPECT_FALSE(answer(item, "<think>That is 85.").right);
}

TEST_F(GeneratedEvaluation, TooLongAPromptIsNotAsked) {
  const ItemAnswer none = answer(sum_item(), "</think>85", 20);
  EXPECT_FALSE(none.fits);
  EXPECT_FALSE(none.right);
  EXPECT_EQ(prompts_, 0);
  EXPECT_EQ(none.prompt_tokens, 20);
  EXPECT_TRUE(answer(sum_item(), "</think>85", 21).fits);
  EXPECT_EQ(prompts_, 1);
}

TEST_F(GeneratedEvaluation, FillerMakesPromptsOfALength) {
  ItemGroup group{"retrieval", DocumentKind::retrieval, {}};
  group.filler_words = filler_for_prompt_tokens(group, 3, 6000, conversation());
  double sum = 0;
  for (int64_t i = 100; i < 150; ++i) {
    sum += static_cast<double>(item_prompt(group_item(group, 3, i), conversation()).size());
  }
  EXPECT_NEAR(sum / 50, 6000, 300);
}

TEST(ItemGroup, TasksInTurnFromTheHeldOutPart) {
  const ItemGroup sorting{"sorting", DocumentKind::list, {"sort words", "sort numbers"}};
  for (int64_t i = 0; i < 10; ++i) {
    EXPECT_EQ(group_item(sorting, 1, i).task, i % 2 == 0 ? "sort words" : "sort numbers");
  }
  const ItemGroup addition{"addition", DocumentKind::arithmetic, {"addition"}};
  for (int64_t i = 0; i < 50; ++i) {
    const std::string question = group_item(addition, 1, i).messages[0].content.value_or("");
    int a = 0;
    int b = 0;
    ASSERT_EQ(std::sscanf(question.c_str(), "What is %d + %d?", &a, &b), 2) << question;
    EXPECT_TRUE(is_held_out_pair('+', a, b)) << question;
  }
}

TEST(AnswerTally, CountsAndMeans) {
  AnswerTally tally;
  EXPECT_EQ(tally.fraction(), 0);
  EXPECT_EQ(tally.mean_answer_tokens(), 0);
  tally.add({100, 10, true, true, FinishReason::stop, ""});
  tally.add({200, 30, true, false, FinishReason::length, ""});
  tally.add({900, 0, false, false, FinishReason::length, ""});
  EXPECT_EQ(tally.items, 3);
  EXPECT_EQ(tally.right, 1);
  EXPECT_EQ(tally.too_long, 1);
  EXPECT_EQ(tally.broken_off, 1);
  EXPECT_DOUBLE_EQ(tally.fraction(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(tally.mean_prompt_tokens(), 400);
  EXPECT_DOUBLE_EQ(tally.mean_answer_tokens(), 20);
}

TEST(AnswerTally, PromptLengths) {
  EXPECT_EQ(prompt_length_bucket(1), 0u);
  EXPECT_EQ(prompt_length_bucket(256), 0u);
  EXPECT_EQ(prompt_length_bucket(257), 1u);
  EXPECT_EQ(prompt_length_bucket(1024), 2u);
  EXPECT_EQ(prompt_length_bucket(1025), 3u);
}

}  // namespace
}  // namespace fathom
