#include "engine/generate.h"

#include <gtest/gtest.h>

#include <memory>

#include "base/error.h"
#include "engine/byte_tokenizer.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

constexpr int32_t kVocabulary = 300;

/// A model that says what a test wrote down: the logits after n tokens favour `script[n − prompt]`.
class ScriptedModel {
 public:
  ScriptedModel(std::vector<int32_t> script, int64_t context) : script_(std::move(script)) {
    model_.prefill = [this](std::span<const int32_t> tokens) {
      held.assign(tokens.begin(), tokens.end());
      position_ = 0;
      return logits();
    };
    model_.decode = [this](int32_t token) {
      held.push_back(token);
      ++position_;
      return logits();
    };
    model_.reused_tokens = [] { return int64_t{1}; };
    model_.context = context;
  }

  const SequenceModel& model() const { return model_; }
  std::vector<int32_t> held;

 private:
  std::span<const float> logits() {
    logits_.assign(kVocabulary, 0.0f);
    logits_[position_ < script_.size() ? script_[position_] : 0] = 5;
    return logits_;
  }

  std::vector<int32_t> script_;
  std::vector<float> logits_;
  size_t position_ = 0;
  SequenceModel model_;
};

std::vector<int32_t> bytes_of(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

GenerationRequest greedy(int64_t max_new_tokens) {
  GenerationRequest request;
  request.prompt = {1, 2, 3};
  request.sampling.temperature = 0;
  request.max_new_tokens = max_new_tokens;
  return request;
}

TEST(Generate, EndsAtTheEndTokenAndLeavesItOut) {
  ScriptedModel model({10, 11, 299, 12}, 100);
  GenerationRequest request = greedy(50);
  request.end_tokens = {298, 299};
  const Generation result = generate(model.model(), nullptr, request);
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{10, 11}));
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.timings.decode_tokens, 2);
  EXPECT_EQ(result.timings.reused_tokens, 1);
  EXPECT_EQ(result.timings.prefill_tokens, 2);
}

TEST(Generate, EndsAtMaxNewTokensWithoutDecodingTheLast) {
  ScriptedModel model({10, 11, 12, 13}, 100);
  const Generation result = generate(model.model(), nullptr, greedy(3));
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{10, 11, 12}));
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  EXPECT_EQ(model.held, (std::vector<int32_t>{1, 2, 3, 10, 11}));
}

TEST(Generate, EndsWhenTheContextIsFull) {
  ScriptedModel model({10, 11, 12, 13}, 5);
  const Generation result = generate(model.model(), nullptr, greedy(50));
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{10, 11, 12}));  // two in the context, one more from the last logits
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  EXPECT_EQ(model.held.size(), 5u);
}

TEST(Generate, StreamsWholeCharacters) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  ScriptedModel model(bytes_of("a\xe6\xb7\xb1!"), 100);
  std::vector<std::string> pieces;
  GenerationCallbacks callbacks;
  callbacks.on_token = [&](int32_t, std::string_view text) {
    pieces.emplace_back(text);
    return true;
  };
  const Generation result = generate(model.model(), tokenizer.get(), greedy(5), callbacks);
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "", "", "\xe6\xb7\xb1", "!"}));
  EXPECT_EQ(result.text, "a\xe6\xb7\xb1!");
}

TEST(Generate, HalfACharacterAtTheEndBecomesTheReplacementCharacter) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  ScriptedModel model(bytes_of("a\xe6\xb7"), 100);
  std::string streamed;
  GenerationCallbacks callbacks;
  callbacks.on_token = [&](int32_t, std::string_view text) {
    streamed += text;
    return true;
  };
  const Generation result = generate(model.model(), tokenizer.get(), greedy(3), callbacks);
  EXPECT_EQ(result.text, tokenizer->decode(result.tokens));
  EXPECT_EQ(streamed, result.text);
}

TEST(Generate, StopStringsAcrossTokensEndTheText) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  ScriptedModel model(bytes_of("one END? two END. three"), 100);
  GenerationRequest request = greedy(50);
  request.stop = {"END.", "never"};
  std::string streamed;
  GenerationCallbacks callbacks;
  callbacks.on_token = [&](int32_t, std::string_view text) {
    streamed += text;
    return true;
  };
  const Generation result = generate(model.model(), tokenizer.get(), request, callbacks);
  EXPECT_EQ(result.text, "one END? two ");
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(result.tokens, bytes_of("one END? two END."));
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
}

TEST(Generate, TextHeldBackForAStopStringIsNotLost) {
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  ScriptedModel model(bytes_of("one EN"), 100);
  GenerationRequest request = greedy(6);
  request.stop = {"END"};
  EXPECT_EQ(generate(model.model(), tokenizer.get(), request).text, "one EN");
}

TEST(Generate, TheCallbackCanEndIt) {
  ScriptedModel model({10, 11, 12, 13}, 100);
  GenerationCallbacks callbacks;
  callbacks.on_token = [](int32_t token, std::string_view) { return token != 11; };
  const Generation result = generate(model.model(), nullptr, greedy(50), callbacks);
  EXPECT_EQ(result.tokens, (std::vector<int32_t>{10, 11}));
  EXPECT_EQ(result.finish_reason, FinishReason::cancelled);
}

TEST(Generate, LogprobsComeWithEveryToken) {
  ScriptedModel model({10, 11}, 100);
  GenerationRequest request = greedy(2);
  request.sampling.logprobs = 2;
  const Generation result = generate(model.model(), nullptr, request);
  ASSERT_EQ(result.logprobs.size(), 2u);
  EXPECT_EQ(result.logprobs[1].token, 11);
  EXPECT_EQ(result.logprobs[1].top_logprobs.size(), 2u);
}

TEST(Generate, RefusesWhatCannotBeDone) {
  ScriptedModel model({10}, 100);
  EXPECT_THROW(generate(model.model(), nullptr, greedy(0)), Error);
  GenerationRequest request = greedy(1);
  request.stop = {"x"};
  EXPECT_THROW(generate(model.model(), nullptr, request), Error);
  const std::unique_ptr<Tokenizer> tokenizer = byte_tokenizer();
  request.stop = {""};
  EXPECT_THROW(generate(model.model(), tokenizer.get(), request), Error);
}

TEST(StopMatcher, HoldsBackOnlyWhatMayBecomeAStop) {
  StopMatcher matcher({"abab", "bx"});
  EXPECT_EQ(matcher.push("za"), "z");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_EQ(matcher.push("a"), "");
  EXPECT_EQ(matcher.push("c"), "abac");
  EXPECT_EQ(matcher.push("b"), "");
  EXPECT_EQ(matcher.finish(), "b");
  EXPECT_FALSE(matcher.matched());
  EXPECT_EQ(matcher.push("ababab"), "");
  EXPECT_TRUE(matcher.matched());
  EXPECT_EQ(matcher.push("more"), "");
}

TEST(StopMatcher, TakesTheFirstOfSeveral) {
  StopMatcher matcher({"world", "lo w"});
  EXPECT_EQ(matcher.push("hello world"), "hel");
  EXPECT_TRUE(matcher.matched());
}

}  // namespace
}  // namespace fathom
