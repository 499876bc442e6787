#include "fathom/fathom.h"

#include <gtest/gtest.h>

#include "cli/run_fathom.h"

namespace fathom {
namespace {

TEST(Library, GeneratesAndStreams) {
  Model model(random_checkpoint(), {.compute = "fp32", .threads = 2, .context = 64});
  ASSERT_TRUE(model.has_tokenizer());
  const auto prompt = model.tokenize("Hi", true);
  EXPECT_EQ(prompt.size(), 3u);
  EXPECT_EQ(model.detokenize(model.tokenize("深い")), "深い");
  std::string streamed;
  const GenerateResult result =
      model.generate(prompt, {.max_new_tokens = 10, .ignore_eos = true}, [&](std::string_view text) {
        streamed += text;
        return true;
      });
  EXPECT_EQ(result.tokens.size(), 10u);
  EXPECT_EQ(result.finish_reason, "length");
  EXPECT_EQ(streamed, result.text);
  EXPECT_EQ(model.generate(model.chat_prompt("Hi"), {.max_new_tokens = 2}).finish_reason.empty(), false);
}

TEST(Library, HoldsWeightsAsAsked) {
  const std::vector<int32_t> prompt = {1, 2, 3};
  const GenerateOptions options = {.max_new_tokens = 5, .ignore_eos = true};
  const auto tokens = [&](const ModelOptions& how) {
    return Model(random_checkpoint(), how).generate(prompt, options).tokens;
  };
  EXPECT_EQ(tokens({.threads = 2, .context = 64, .weights = "memory"}), tokens({.threads = 2, .context = 64}));
  EXPECT_EQ(tokens({.threads = 2, .context = 64, .weights = "int8", .weights_zero_point = true}).size(), 5u);
  EXPECT_EQ(tokens({.threads = 2, .context = 64, .weights = "int4", .weights_group = 128}).size(), 5u);
}

TEST(Library, SaysWhatIsWrong) {
  try {
    Model model("/nonexistent");
    ADD_FAILURE() << "no error";
  } catch (const std::exception& error) {
    EXPECT_TRUE(is_bad_input(error));
    EXPECT_NE(std::string(error.what()).find("/nonexistent"), std::string::npos);
  }
  EXPECT_THROW(Model(random_checkpoint(), {.compute = "fp64"}), std::runtime_error);
  EXPECT_THROW(Model(random_checkpoint(), {.weights = "int2"}), std::runtime_error);
  EXPECT_THROW(Model(random_checkpoint(), {.weights_group = 128}), std::runtime_error);
  EXPECT_FALSE(is_bad_input(std::runtime_error("x")));
}

}  // namespace
}  // namespace fathom
