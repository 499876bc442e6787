#include "engine/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "base/error.h"
#include "engine/byte_tokenizer.h"
#include "engine/session.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

std::vector<int32_t> bytes_of(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// What becomes of tokens that an engine hands out until the answer needs no more, and the pieces of its text.
Generation build(const Tokenizer* tokenizer, const std::vector<int32_t>& tokens, const std::vector<std::string>& stop,
                 std::vector<std::string>* pieces = nullptr) {
  GenerationRequest request;
  request.stop = stop;
  AnswerBuilder builder(tokenizer, request);
  const auto put = [&](std::string text) {
    if (pieces != nullptr) pieces->push_back(std::move(text));
  };
  for (const int32_t token : tokens) {
    if (builder.stopped()) break;
    put(builder.add({token, 0, {}}));
  }
  RequestUsage usage;
  usage.prompt_tokens = 7;
  usage.hit_tokens = 3;
  put(builder.end(builder.stopped() ? FinishReason::cancelled : FinishReason::length, usage));
  return builder.generation();
}

std::string joined(const std::vector<std::string>& pieces) {
  std::string text;
  for (const std::string& piece : pieces) text += piece;
  return text;
}

TEST(AnswerBuilder, CountsWhatCame) {
  const Generation result = build(nullptr, {10, 11, 12}, {});
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.timings.decode_tokens, 2);
  EXPECT_EQ(result.timings.reused_tokens, 3);
  EXPECT_EQ(result.timings.prefill_tokens, 4);
}

TEST(AnswerBuilder, StreamsWholeCharacters) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  std::vector<std::string> pieces;
  const Generation result = build(tokenizer.get(), bytes_of("a\xe6\xb7\xb1!"), {}, &pieces);
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "", "", "\xe6\xb7\xb1", "!", ""}));
  EXPECT_EQ(result.text, "a\xe6\xb7\xb1!");
}

TEST(AnswerBuilder, HalfACharacterAtTheEndBecomesTheReplacementCharacter) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  std::vector<std::string> pieces;
  const Generation result = build(tokenizer.get(), bytes_of("a\xe6\xb7"), {}, &pieces);
  EXPECT_EQ(result.text, tokenizer->decode(result.tokens));
  EXPECT_EQ(joined(pieces), result.text);
}

TEST(AnswerBuilder, StopStringsAcrossTokensEndTheText) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  std::vector<std::string> pieces;
  const Generation result = build(tokenizer.get(), bytes_of("one END? two END. three"), {"END.", "never"}, &pieces);
  EXPECT_EQ(result.text, "one END? two ");
  EXPECT_EQ(joined(pieces), result.text);
  EXPECT_EQ(result.tokens, bytes_of("one END? two END."));
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
}

TEST(AnswerBuilder, TextHeldBackForAStopStringIsNotLost) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  EXPECT_EQ(build(tokenizer.get(), bytes_of("one EN"), {"END"}).text, "one EN");
}

TEST(AnswerBuilder, RefusesStopStringsThatCannotBeFound) {
  EXPECT_THROW(build(nullptr, {10}, {"x"}), Error);
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  EXPECT_THROW(build(tokenizer.get(), {10}, {""}), Error);
}

// A session on the bundled model.
class GenerateOnASession : public testing::Test {
 protected:
  static constexpr const char* kDirectory = FATHOM_SOURCE_DIR "/models/fathom-tiny";

  void SetUp() override {
    SessionOptions options;
    options.threads = 2;
    options.context = 150;
    options.drafts = 1;
    session_ = std::make_unique<Session>(kDirectory, options);
    tokenizer_ = Tokenizer::load(kDirectory);
    request_.prompt = tokenizer_->encode("Once upon a time there was a little");
    request_.max_new_tokens = 30;
    request_.sampling.temperature = 0;
    plain_ = generate(*session_, tokenizer_.get(), request_);
    ASSERT_EQ(plain_.tokens.size(), 30u);
  }

  std::unique_ptr<Session> session_;
  std::unique_ptr<Tokenizer> tokenizer_;
  GenerationRequest request_;
  Generation plain_;
};

TEST_F(GenerateOnASession, EndsAtTheEndTokenAndLeavesItOut) {
  const int32_t end = plain_.tokens[12];
  const auto first = std::find(plain_.tokens.begin(), plain_.tokens.end(), end) - plain_.tokens.begin();
  request_.end_tokens = {end};
  const Generation result = generate(*session_, tokenizer_.get(), request_);
  EXPECT_EQ(result.tokens, std::vector<int32_t>(plain_.tokens.begin(), plain_.tokens.begin() + first));
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
}

TEST_F(GenerateOnASession, EndsWhenTheContextIsFull) {
  request_.max_new_tokens = 1000;
  const Generation result = generate(*session_, tokenizer_.get(), request_);
  // One token more than there are positions: the last one needs none.
  EXPECT_EQ(std::ssize(result.tokens), 151 - std::ssize(request_.prompt));
  EXPECT_EQ(result.finish_reason, FinishReason::length);
}

// After the callback has said no, or thrown, the session goes on with the next request as if nothing had been.
TEST_F(GenerateOnASession, TheCallbacksCanEndIt) {
  GenerationCallbacks callbacks;
  callbacks.on_token = [&](int32_t token, std::string_view) { return token != plain_.tokens[9]; };
  const Generation result = generate(*session_, tokenizer_.get(), request_, callbacks);
  const auto first = std::find(plain_.tokens.begin(), plain_.tokens.end(), plain_.tokens[9]) - plain_.tokens.begin();
  EXPECT_EQ(result.tokens, std::vector<int32_t>(plain_.tokens.begin(), plain_.tokens.begin() + first + 1));
  EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
  callbacks.on_token = [](int32_t, std::string_view) -> bool { throw_failure("enough"); };
  EXPECT_THROW(generate(*session_, tokenizer_.get(), request_, callbacks), Error);
  callbacks.on_token = {};
  callbacks.on_prefill = [](int64_t, int64_t) { throw_failure("enough"); };
  session_->clear();
  EXPECT_NO_THROW(
      generate(*session_, tokenizer_.get(), request_, callbacks));  // one step, and the first token is there
  request_.prompt.resize(140, 7);
  EXPECT_EQ(generate(*session_, tokenizer_.get(), request_).tokens.size(), 11u);
  request_.prompt.resize(151, 7);
  EXPECT_THROW(generate(*session_, tokenizer_.get(), request_), Error);
}

TEST_F(GenerateOnASession, AConversationThatGoesOnIsFoundInTheCache) {
  GenerationRequest next = request_;
  next.max_new_tokens = 5;
  next.prompt.insert(next.prompt.end(), plain_.tokens.begin(), plain_.tokens.end());
  next.prompt.resize(90, 11);
  generate(*session_, tokenizer_.get(), next);
  next.prompt.push_back(12);
  const Generation result = generate(*session_, tokenizer_.get(), next);
  // All but the last token, and what the MTP layer has not seen.
  EXPECT_GE(result.timings.reused_tokens, 88);
  session_->clear();
  const Generation anew = generate(*session_, tokenizer_.get(), next);
  EXPECT_EQ(anew.timings.reused_tokens, 0);
  EXPECT_EQ(anew.tokens, result.tokens);
}

TEST_F(GenerateOnASession, LogprobsComeWithEveryToken) {
  request_.sampling.logprobs = 2;
  const Generation result = generate(*session_, tokenizer_.get(), request_);
  ASSERT_EQ(result.logprobs.size(), result.tokens.size());
  EXPECT_EQ(result.logprobs[1].token, result.tokens[1]);
  EXPECT_EQ(result.logprobs[1].top_logprobs.size(), 2u);
}

}  // namespace
}  // namespace fathom
