#include "engine/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>

#include "constrain/json_grammar.h"
#include "constrain/regex_grammar.h"
#include "engine/model_identity.h"
#include "support/errors.h"
#include "support/golden.h"
#include "text/tokenizer.h"

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

// On one thread: the number of threads is one more thing that an answer must not depend on, and two of them that meet
// after every small loop wait most of their time where a machine has other work.
Answer alone(const LoadedModel& model, const EngineRequest& request) {
  ThreadTeam team(1);
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

// Random arrivals, cancels and a small cache: every answer is the one that the request gets alone. FATHOM_REQUESTS
// makes it longer, with other requests (docs/performance.md says what was run).
TEST(Engine, AnswersDoNotDependOnOtherRequests) {
  ThreadTeam team(2);
  const char* asked_for = std::getenv("FATHOM_REQUESTS");
  const size_t count = asked_for != nullptr ? std::stoul(asked_for) : 40;
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
    std::mt19937 random(static_cast<uint32_t>(c.pages + c.drafts + (count == 40 ? 0 : count)));
    std::vector<EngineRequest> requests;
    std::map<int64_t, Answer> answers;
    std::vector<bool> cancelled;
    while (requests.size() < count || engine.running() + engine.waiting() > 0) {
      if (requests.size() < count && random() % 3 == 0) {
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
      const Answer expected = alone(*model, requests[i]);
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
    EXPECT_LE(2 * different, with_hits + 4);
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
// Counts of what `answers` requests with seeds from `seed` on draw behind the first token.
std::map<std::vector<int32_t>, double> drawn(const LoadedModel& model, const EngineRequest& request, int64_t drafts,
                                             int64_t answers, uint64_t seed, ThreadTeam& team,
                                             EngineCounters& counters) {
  EngineOptions options;
  options.cache_pages = 128;
  options.drafts = drafts;
  options.always_draft = drafts > 0;
  options.most_waiting = answers;
  Engine engine(model, options, team);
  for (int64_t i = 0; i < answers; ++i) {
    EngineRequest one = request;
    one.sampling.seed = seed + static_cast<uint64_t>(i);
    engine.submit(one);
  }
  std::map<int64_t, std::vector<int32_t>> tokens;
  while (engine.step([&](const TokenEvent& event) {
    if (event.token) tokens[event.request].push_back(event.token->token);
  })) {
  }
  std::map<std::vector<int32_t>, double> counts;
  for (auto& [id, drawn_tokens] : tokens) {
    drawn_tokens.erase(drawn_tokens.begin());
    ++counts[drawn_tokens];
  }
  counters = engine.counters();
  return counts;
}

// Drafts that are verified draw from the model's own distribution: two samples, with other seeds, of the tokens that
// drafts are made for, with drafts and without, by the chi-square test of homogeneity.
TEST(Engine, DraftsLeaveTheDistributionAsItIs) {
  constexpr int64_t kAnswers = 800;
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
  const auto model = open(directory);
  ThreadTeam team(1);  // chances do not depend on threads, and two wait for each other where others work
  EngineRequest request;
  request.prompt = Tokenizer::load(directory)->encode("Tom found a");
  request.sampling.temperature = 1.2;
  request.max_new_tokens = 3;
  EngineCounters with, without;
  const auto drafted = drawn(*model, request, 2, kAnswers, 1, team, with);
  const auto plain = drawn(*model, request, 0, kAnswers, 1'000'000, team, without);
  // Drafts were both right and wrong often enough to be tested.
  EXPECT_GT(with.accepted, with.drafts / 10);
  EXPECT_LT(with.accepted, with.drafts * 9 / 10);
  EXPECT_EQ(without.drafts, 0);

  std::map<std::vector<int32_t>, std::pair<double, double>> table;
  for (const auto& [tokens, count] : drafted) table[tokens].first = count;
  for (const auto& [tokens, count] : plain) table[tokens].second = count;
  double statistic = 0;
  double degrees = -1;
  std::pair<double, double> rare;
  const auto add = [&](std::pair<double, double> cell) {
    // Both samples have one size, so each is expected to have half.
    const double expected = (cell.first + cell.second) / 2;
    statistic += (cell.first - expected) * (cell.first - expected) / expected * 2;
    ++degrees;
  };
  for (const auto& [tokens, cell] : table) {
    if (cell.first + cell.second >= 10) {
      add(cell);
    } else {
      rare.first += cell.first;
      rare.second += cell.second;
    }
  }
  if (rare.first + rare.second > 0) add(rare);
  ASSERT_GT(degrees, 15);
  // Wilson and Hilferty's normal approximation; four standard deviations.
  const double deviation = (std::cbrt(statistic / degrees) - (1 - 2 / (9 * degrees))) / std::sqrt(2 / (9 * degrees));
  EXPECT_LT(deviation, 4) << statistic << " with " << degrees << " degrees of freedom";
}

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

// What one engine computed another finds in the directory, and says the same with it.
TEST(Engine, FindsPagesThatAnEarlierOneLeft) {
  const auto model = open(std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny");
  ThreadTeam team(2);
  const std::string directory = testing::TempDir() + "/fathom-pages-" + std::to_string(::getpid());
  EngineRequest request;
  for (int32_t i = 0; i < 200; ++i) request.prompt.push_back(300 + 7 * i % 1000);
  request.max_new_tokens = 40;
  request.sampling.temperature = 0;
  std::map<int64_t, Answer> answers[3];
  for (int round = 0; round < 3; ++round) {
    EngineOptions options;
    options.cache_pages = 8;
    options.drafts = round == 2 ? 0 : 1;
    options.always_draft = true;
    options.store = std::make_shared<PageStore>(directory, model_identity(*model), stored_page_bytes(*model), 1 << 30);
    Engine engine(*model, options, team);
    engine.submit(request);
    while (engine.running() + engine.waiting() > 0) collect(engine, answers[round]);
    EXPECT_EQ(answers[round][0].usage.hit_tokens, round == 0 ? 0 : 192);
    EXPECT_EQ(answers[round][0].usage.accepted > 0, round < 2);
  }
  EXPECT_EQ(answers[0][0].tokens, answers[1][0].tokens);
  EXPECT_EQ(answers[0][0].tokens, answers[2][0].tokens);
  std::filesystem::remove_all(directory);
}

TEST(DraftPolicy, GoesByTheSecondsPerToken) {
  struct Costs {
    double drafted;
    int64_t tokens;
    bool pays;
    int64_t stops_after;
  };
  for (const Costs& costs : {Costs{1.5, 2, true, 400}, Costs{1.1, 1, false, 43}, Costs{1.5, 1, false, 12}}) {
    DraftPolicy policy;
    int64_t steps = 0;
    int64_t verified = 0;
    for (; steps < 400 && policy.pays(1); ++steps) {
      const bool drafts = policy.verifies(1);
      verified += drafts ? 1 : 0;
      // A slow step now and then decides nothing.
      const double seconds = (drafts ? costs.drafted : 1.0) * (steps % 50 == 2 ? 100 : 1);
      policy.record(1, drafts, seconds, drafts ? costs.tokens : 1);
    }
    EXPECT_EQ(policy.pays(1), costs.pays);
    EXPECT_NEAR(static_cast<double>(steps), static_cast<double>(costs.stops_after), 3);
    EXPECT_TRUE(policy.pays(16)) << "nothing is known about other batches";
    if (costs.pays) {
      EXPECT_NEAR(static_cast<double>(verified), 380, 5) << "some go without, to be compared with";
      continue;
    }
    for (int64_t wait : {32, 64, 128}) {
      int64_t asked = 1;
      while (!policy.admits(1)) ++asked;
      EXPECT_EQ(asked, wait);
      for (int64_t i = 0; i < 400 && policy.pays(1); ++i) {
        const bool drafts = policy.verifies(1);
        policy.record(1, drafts, drafts ? 2 : 1, 1);
      }
    }
  }
}

// Greedy and drawn, with drafts and without, together and preempted: each answer is a sentence of its grammar, and the
// one that the request gets alone.
TEST(Engine, AnswersFollowTheirGrammar) {
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
  const auto model = open(directory);
  const auto tokenizer = Tokenizer::load(directory);
  const auto trie = std::make_shared<TokenTrie>(*tokenizer);
  const auto sums =
      std::make_shared<Constraint>(regex_grammar("[1-9][0-9]{0,3} (plus|minus) [1-9]{2} is [a-z]{3,9}!"), trie);
  const auto objects = std::make_shared<Constraint>(json_schema_grammar(nlohmann::ordered_json::parse(
                                                        R"({"type": "object", "required": ["name", "age"],
              "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 130}}})")),
                                                    trie);
  ThreadTeam team(1);
  const int32_t end = *tokenizer->added_token("<｜end▁of▁sentence｜>");
  for (const int64_t drafts : {0, 2}) {
    EngineOptions options;
    options.cache_pages = 5;
    options.most_running = 6;
    options.drafts = drafts;
    options.always_draft = true;
    Engine engine(*model, options, team);
    std::vector<EngineRequest> requests;
    for (int i = 0; i < 12; ++i) {
      EngineRequest request;
      request.prompt = tokenizer->encode("Once upon a time there was");
      request.prompt.resize(static_cast<size_t>(30 + i), 300 + i);
      request.max_new_tokens = 100;
      request.sampling.temperature = i % 4 == 0 ? 0 : 1.5;
      request.sampling.seed = static_cast<uint64_t>(i);
      request.constraint = i % 2 == 0 ? sums : objects;
      request.end_tokens = {end};
      engine.submit(request);
      requests.push_back(request);
    }
    std::map<int64_t, Answer> answers;
    while (engine.running() + engine.waiting() > 0) collect(engine, answers);
    for (int i = 0; i < 12; ++i) {
      const std::string text = tokenizer->decode(answers[i].tokens);
      SCOPED_TRACE(text);
      EXPECT_EQ(answers[i].tokens, alone(*model, requests[static_cast<size_t>(i)]).tokens);
      EXPECT_EQ(answers[i].end, FinishReason::stop);
      if (i % 2 == 0) {
        EXPECT_TRUE(std::regex_match(text, std::regex("[1-9][0-9]{0,3} (plus|minus) [1-9]{2} is [a-z]{3,9}!")));
      } else {
        const auto value = nlohmann::json::parse(text, nullptr, false);
        ASSERT_TRUE(value.is_object());
        EXPECT_TRUE(value.at("name").is_string());
        EXPECT_LE(value.at("age").get<int>(), 130);
        EXPECT_EQ(value.size(), 2u);
      }
    }
    EXPECT_GT(engine.counters().preemptions, 0);
    EXPECT_EQ(engine.counters().accepted > 0, drafts > 0);
  }
}

// Before the grammar begins everything may come but the end.
TEST(Engine, AGrammarCanBeginBehindATag) {
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
  const auto model = open(directory);
  const auto tokenizer = Tokenizer::load(directory);
  const auto digits = std::make_shared<Constraint>(regex_grammar("[0-9]{5}"), std::make_shared<TokenTrie>(*tokenizer));
  ThreadTeam team(2);
  EngineOptions options;
  options.cache_pages = 8;
  Engine engine(*model, options, team);
  EngineRequest request;
  request.prompt = tokenizer->encode("What is 34 + 57?");
  request.max_new_tokens = 60;
  request.sampling.temperature = 0;
  engine.submit(request);
  std::map<int64_t, Answer> answers;
  while (engine.running() + engine.waiting() > 0) collect(engine, answers);
  const std::vector<int32_t> free = answers[0].tokens;
  ASSERT_EQ(free.size(), 60u);
  request.constraint = digits;
  request.constraint_after = {free[20]};
  request.end_tokens = {free[3]};  // would end it where it must not
  engine.submit(request);
  while (engine.running() + engine.waiting() > 0) collect(engine, answers);
  const std::string text = tokenizer->decode(answers[1].tokens);
  EXPECT_EQ(answers[1].end, FinishReason::stop) << text;
  EXPECT_TRUE(std::regex_match(text, std::regex("[^]*[^0-9]?[0-9]{5}"))) << text;
  EXPECT_EQ(std::count(answers[1].tokens.begin(), answers[1].tokens.end(), free[20]), 1);
}

TEST(Engine, SamplingOptionsReachTheTokens) {
  const auto model = tiny_model();
  ThreadTeam team(1);
  EngineRequest request;
  request.prompt = {5, 6, 7};
  request.max_new_tokens = 8;
  request.sampling.temperature = 0;
  request.sampling.logit_bias = {{11, 100.0}};
  EXPECT_EQ(alone(*model, request).tokens, std::vector<int32_t>(8, 11));
  request.sampling.logit_bias = {{11, 100.0}, {12, 100.5}};
  FATHOM_EXPECT_ERROR(alone(*model, request), ErrorKind::bad_input, "logit_bias");
}

TEST(Engine, TheCacheIsPlannedFromWhatIsFree) {
  const auto model = tiny_model();
  const auto page = static_cast<uint64_t>(LatentPool::bytes_for(model->config, model->cache_dtype(), 1));
  SystemMemory memory{page * 1000, page * 200};
  EXPECT_EQ(plan_cache_pages(*model, 50, 1, memory), 50);
  EXPECT_EQ(plan_cache_pages(*model, 500, 1, memory), 100);
  FATHOM_EXPECT_ERROR(plan_cache_pages(*model, 500, 101, memory), ErrorKind::failure, "6464 positions");
  memory.available_bytes = 0;
  EXPECT_EQ(plan_cache_pages(*model, 500, 101, memory), 500);
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
