#include "engine/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

std::unique_ptr<LoadedModel> open(const std::string& directory, bool fp8_cache = false) {
  OpenOptions options;
  options.compute = ComputeMode::bf16;
  options.fp8_cache = fp8_cache;
  ThreadTeam team(1);
  return open_model(directory, options, team);
}

std::unique_ptr<LoadedModel> tiny_model(bool fp8_cache = false) {
  return open(golden_dir("bf16-tiny"), fp8_cache);
}

struct Answer {
  std::vector<int32_t> tokens;
  std::optional<FinishReason> end;
  RequestUsage usage;
};

// All answers of an engine that has been given its requests, by number.
void collect(Engine& engine, std::map<int64_t, Answer>& answers) {
  engine.step([&](const TokenEvent& event) {
    Answer& answer = answers[event.request];
    ASSERT_FALSE(answer.end) << "request " << event.request << " goes on after its end";
    if (event.token) answer.tokens.push_back(event.token->token);
    if (!event.end) return;
    answer.end = event.end;
  });
  for (auto& [id, answer] : answers) {
    if (const RequestUsage* usage = engine.usage(id)) answer.usage = *usage;
  }
}

Answer alone(const LoadedModel& model, const EngineRequest& request, ThreadTeam& team) {
  EngineOptions options;
  options.cache_pages = 8;
  options.share_prefixes = false;
  Engine engine(model, options, team);
  engine.submit(request);
  std::map<int64_t, Answer> answers;
  while (engine.running() + engine.waiting() > 0) collect(engine, answers);
  return answers[0];
}

EngineRequest random_request(std::mt19937& random, int64_t vocab) {
  EngineRequest request;
  // A third of the prompts begin alike.
  const int64_t length = 1 + random() % 150;
  std::mt19937 common(7);
  std::mt19937& source = random() % 3 == 0 ? common : random;
  for (int64_t i = 0; i < length; ++i) {
    request.prompt.push_back(static_cast<int32_t>(source() % static_cast<uint32_t>(vocab)));
  }
  request.max_new_tokens = 1 + random() % 40;
  request.sampling.temperature = random() % 2 == 0 ? 0 : 0.8;
  request.sampling.seed = random();
  request.sampling.presence_penalty = random() % 4 == 0 ? 0.5 : 0;
  request.priority = random() % 3;
  request.end_tokens = {static_cast<int32_t>(random() % static_cast<uint32_t>(vocab))};
  return request;
}

struct Case {
  int64_t drafts;
  bool share;
  int64_t pages;
  bool fp8_cache = false;
};

// Random arrivals, cancels and a small cache: every answer is the one that the request gets alone.
TEST(Engine, AnswersDoNotDependOnOtherRequests) {
  ThreadTeam team(2);
  for (const Case& c : {Case{0, false, 64}, Case{0, true, 8}, Case{1, true, 64}, Case{1, true, 6}, Case{3, true, 8},
                        Case{2, false, 8, true}}) {
    SCOPED_TRACE(testing::Message() << c.drafts << " drafts, share " << c.share << ", pages " << c.pages << ", FP8 "
                                    << c.fp8_cache);
    const auto model = tiny_model(c.fp8_cache);
    EngineOptions options;
    options.cache_pages = c.pages;
    options.most_tokens = 64;
    options.most_prefill = 30;
    options.most_running = 6;
    options.drafts = c.drafts;
    options.always_draft = c.pages > 6;  // else as the clock says
    options.share_prefixes = c.share;
    Engine engine(*model, options, team);
    std::mt19937 random(static_cast<uint32_t>(c.pages + c.drafts));
    std::vector<EngineRequest> requests;
    std::map<int64_t, Answer> answers;
    std::vector<bool> cancelled;
    while (requests.size() < 40 || engine.running() + engine.waiting() > 0) {
      if (requests.size() < 40 && random() % 3 == 0) {
        requests.push_back(random_request(random, model->config.vocab_size));
        EXPECT_EQ(engine.submit(requests.back()), std::ssize(requests) - 1);
        cancelled.push_back(false);
      }
      if (!requests.empty() && random() % 40 == 0) {
        const int64_t which = random() % requests.size();
        if (!answers[which].end) cancelled[static_cast<size_t>(which)] = true;
        engine.cancel(which);
      }
      collect(engine, answers);
    }
    int64_t preemptions = 0;
    int64_t hits = 0;
    int64_t with_hits = 0;
    int64_t different = 0;
    for (size_t i = 0; i < requests.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "request " << i << " of " << requests[i].prompt.size() << " tokens");
      const Answer& answer = answers[static_cast<int64_t>(i)];
      const Answer expected = alone(*model, requests[i], team);
      preemptions += answer.usage.preemptions;
      hits += answer.usage.hit_tokens;
      ASSERT_TRUE(answer.end);
      EXPECT_EQ(answer.usage.new_tokens, std::ssize(answer.tokens));
      if (cancelled[i]) {
        EXPECT_EQ(answer.end, FinishReason::cancelled);
        ASSERT_LE(answer.tokens.size(), expected.tokens.size());
        EXPECT_TRUE(std::equal(answer.tokens.begin(), answer.tokens.end(), expected.tokens.begin()));
        continue;
      }
      // A prefix that was found can have been computed in the other form of attention, and a random model, whose
      // likeliest tokens lie close together, then takes another way now and then.
      if (answer.usage.hit_tokens > 0) {
        ++with_hits;
        different += answer.tokens != expected.tokens ? 1 : 0;
        continue;
      }
      EXPECT_EQ(answer.tokens, expected.tokens);
      EXPECT_EQ(answer.end, expected.end);
    }
    EXPECT_LE(10 * different, with_hits + 9);
    EXPECT_EQ(preemptions > 0, c.pages < 10);
    EXPECT_EQ(hits > 0, c.share);
    EXPECT_EQ(engine.counters().drafts > 0, c.drafts > 0);
    EXPECT_EQ(engine.free_pages() + engine.kept_pages(), c.pages);
  }
}

// On a trained model most drafts are accepted, and the tokens are the same, drawn or greedy.
TEST(Engine, SpeculationChangesTheNumberOfStepsAlone) {
  const auto model = open(std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny");
  ThreadTeam team(2);
  for (const double temperature : {0.0, 0.7}) {
    std::vector<int32_t> tokens[4];
    EngineCounters counters[4];
    for (const int64_t drafts : {0, 1, 3}) {
      EngineOptions options;
      options.cache_pages = 8;
      options.drafts = drafts;
      options.always_draft = true;
      Engine engine(*model, options, team);
      EngineRequest request;
      for (int32_t i = 0; i < 20; ++i) request.prompt.push_back(300 + 7 * i);
      request.max_new_tokens = 100;
      request.sampling.temperature = temperature;
      request.sampling.seed = 3;
      engine.submit(request);
      std::map<int64_t, Answer> answers;
      while (engine.running() + engine.waiting() > 0) collect(engine, answers);
      tokens[drafts] = answers[0].tokens;
      counters[drafts] = engine.counters();
    }
    EXPECT_EQ(tokens[0], tokens[1]) << "temperature " << temperature;
    EXPECT_EQ(tokens[0], tokens[3]) << "temperature " << temperature;
    EXPECT_EQ(tokens[0].size(), 100u);
    EXPECT_EQ(counters[0].steps, 100);
    // An accepted draft saves a step, except that the last token needs none behind it.
    EXPECT_GE(counters[1].steps, 100 - counters[1].accepted);
    EXPECT_LE(counters[1].steps, 101 - counters[1].accepted);
    EXPECT_LE(counters[3].steps, temperature == 0 ? counters[1].steps - 5 : counters[1].steps);
    EXPECT_GE(counters[3].steps, 100 - counters[3].accepted);
    EXPECT_GT(counters[1].accepted, temperature == 0 ? 40 : 10);
  }
}

// A long prompt comes in pieces, and those who decode get their token in each step meanwhile.
TEST(Engine, DecodingGoesOnBesideALongPrompt) {
  const auto model = tiny_model();
  ThreadTeam team(1);
  EngineOptions options;
  options.cache_pages = 16;
  options.most_prefill = 16;
  Engine engine(*model, options, team);
  EngineRequest request;
  request.prompt = {1, 2, 3};
  request.max_new_tokens = 50;
  request.sampling.temperature = 0;
  engine.submit(request);
  std::map<int64_t, Answer> answers;
  collect(engine, answers);
  request.prompt.assign(100, 5);
  engine.submit(request);
  for (size_t step = 0; step < 6; ++step) {
    collect(engine, answers);
    EXPECT_EQ(answers[0].tokens.size(), step + 2);
    EXPECT_TRUE(answers[1].tokens.empty());
  }
  collect(engine, answers);
  EXPECT_EQ(answers[1].tokens.size(), 1u);
}

// Several answers to one prompt, asked for together: it is computed once.
TEST(Engine, RequestsWithOnePromptShareIt) {
  const auto model = tiny_model();
  ThreadTeam team(1);
  EngineOptions options;
  options.cache_pages = 16;
  Engine engine(*model, options, team);
  EngineRequest request;
  for (int32_t i = 0; i < 130; ++i) request.prompt.push_back(i % 50);
  request.max_new_tokens = 3;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    request.sampling.seed = seed;
    engine.submit(request);
  }
  std::map<int64_t, Answer> answers;
  while (engine.running() + engine.waiting() > 0) collect(engine, answers);
  EXPECT_EQ(answers[0].usage.hit_tokens, 0);
  for (int64_t i = 1; i < 4; ++i) EXPECT_EQ(answers[i].usage.hit_tokens, 128);
  EXPECT_EQ(engine.counters().prefilled, 130 + 3 * 2);
}

TEST(Engine, SaysWhatCannotBe) {
  const auto model = tiny_model();
  ThreadTeam team(1);
  EngineOptions options;
  options.cache_pages = 2;
  options.most_waiting = 1;
  Engine engine(*model, options, team);
  EngineRequest request;
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::bad_input, "token");
  request.prompt.assign(129, 1);
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::bad_input, "129", "128");
  request.prompt = {1 << 20};
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::bad_input, "vocab");
  request.prompt.assign(100, 1);
  request.max_new_tokens = 0;
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::bad_input, "max_new_tokens");
  request.max_new_tokens = 100;
  request.sampling.top_p = 2;
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::bad_input, "top_p");
  request.sampling.top_p = 1;
  EXPECT_EQ(engine.submit(request), 0);
  FATHOM_EXPECT_ERROR(engine.submit(request), ErrorKind::failure, "full");
  std::map<int64_t, Answer> answers;
  while (engine.running() + engine.waiting() > 0) collect(engine, answers);
  // The cache's 128 positions: 100 of the prompt, 28 drawn ones, and one more token that needs no position.
  EXPECT_EQ(answers[0].end, FinishReason::insufficient_system_resource);
  EXPECT_EQ(answers[0].tokens.size(), 29u);
  EXPECT_FALSE(engine.step([](const TokenEvent&) {}));
  options.most_tokens = 3;
  FATHOM_EXPECT_ERROR(Engine(*model, options, team), ErrorKind::bad_input, "tokens of a step");
}

}  // namespace
}  // namespace fathom
