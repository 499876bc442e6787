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

TEST(Library, SaysWhatIsWrong) {
  try {
    Model model("/nonexistent");
    ADD_FAILURE() << "no error";
  } catch (const std::exception& error) {
    EXPECT_TRUE(is_bad_input(error));
    EXPECT_NE(std::string(error.what()).find("/nonexistent"), std::string::npos);
  }
  EXPECT_THROW(Model(random_checkpoint(), {.compute = "fp64"}), std::runtime_error);
  EXPECT_FALSE(is_bad_input(std::runtime_error("x")));
}

}  // namespace
}  // namespace fathom
