#include "engine/generate_many.h"

#include <gtest/gtest.h>

#include "engine/session.h"
#include "support/errors.h"

namespace fathom {
namespace {

// Prompts in different lengths, with stop strings, greedy and drawn: together each gives what it gives alone.
TEST(GenerateMany, GivesEachPromptItsOwnAnswerInOrder) {
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
  const auto tokenizer = Tokenizer::load(directory);
  SessionOptions session_options;
  session_options.threads = 2;
  session_options.context = 200;
  Session session(directory, session_options);
  std::vector<GenerationRequest> requests;
  for (const char* prompt : {"Once upon a time", "What is 12 + 31?", "In a quiet house near the river lived", "Sort",
                             "The code of the red box is", "One day", "On Sunday they"}) {
    GenerationRequest request;
    request.prompt = tokenizer->encode(prompt);
    request.sampling.temperature = requests.size() % 2 == 0 ? 0 : 0.7;
    request.sampling.seed = requests.size();
    request.sampling.logprobs = 1;
    request.max_new_tokens = requests.size() == 3 ? 1000 : 40;
    if (requests.size() % 3 == 0) request.stop = {". "};
    requests.push_back(request);
  }
  for (const int64_t drafts : {0, 1}) {
    GenerateManyOptions options;
    options.together = 3;
    options.context = 200;
    options.drafts = drafts;
    std::vector<Generation> results;
    const EngineCounters counters = generate_many(
        session.model(), tokenizer.get(), requests, options, session.team(), [] { return false; },
        [&](size_t index, const Generation& result) {
          EXPECT_EQ(index, results.size());
          results.push_back(result);
        });
    EXPECT_EQ(counters.accepted > 0, drafts > 0);
    ASSERT_EQ(results.size(), requests.size());
    for (size_t i = 0; i < requests.size(); ++i) {
      session.clear();
      const Generation expected = generate(session, tokenizer.get(), requests[i]);
      EXPECT_EQ(results[i].tokens, expected.tokens) << i;
      EXPECT_EQ(results[i].text, expected.text) << i;
      EXPECT_EQ(results[i].finish_reason, expected.finish_reason) << i;
      ASSERT_EQ(results[i].logprobs.size(), expected.logprobs.size());
      for (size_t t = 0; t < expected.logprobs.size(); ++t) {
        EXPECT_EQ(results[i].logprobs[t].logprob, expected.logprobs[t].logprob) << i << " token " << t;
      }
    }
  }
}

TEST(GenerateMany, StopsAndRefuses) {
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
  SessionOptions session_options;
  session_options.context = 64;
  Session session(directory, session_options);
  GenerationRequest request;
  request.prompt.assign(65, 3);
  GenerateManyOptions options;
  options.context = 64;
  const auto run = [&](const std::function<bool()>& stop) {
    size_t results = 0;
    generate_many(session.model(), nullptr, {request, request}, options, session.team(), stop,
                  [&](size_t, const Generation&) { ++results; });
    return results;
  };
  FATHOM_EXPECT_ERROR(run([] { return false; }), ErrorKind::bad_input, "65", "64");
  request.prompt.resize(10);
  request.stop = {"x"};
  FATHOM_EXPECT_ERROR(run([] { return false; }), ErrorKind::bad_input, "tokenizer");
  request.stop.clear();
  request.max_new_tokens = 20;
  int steps = 0;
  EXPECT_EQ(run([&] { return ++steps > 3; }), 0u);
}

}  // namespace
}  // namespace fathom
