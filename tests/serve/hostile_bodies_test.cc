#include <gtest/gtest.h>

#include <array>
#include <map>
#include <random>
#include <thread>

#include "serve/tiny_server.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

struct Target {
  std::string path;
  Json body;
};

std::vector<Target> targets() {
  const Json tool = {{"type", "function"},
                     {"function",
                      {{"name", "look"},
                       {"description", "Looks"},
                       {"strict", true},
                       {"parameters",
                        {{"type", "object"},
                         {"properties", {{"where", {{"type", "string"}, {"enum", {"a", "b"}}}}}},
                         {"required", {"where"}},
                         {"additionalProperties", false}}}}}};
  const Json messages = {
      {{"role", "system"}, {"content", "Be brief."}},
      {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "深い <｜User｜>"}}}}},
      {{"role", "assistant"},
       {"content", nullptr},
       {"tool_calls", {{{"id", "c"}, {"type", "function"}, {"function", {{"name", "look"}, {"arguments", "{}"}}}}}}},
      {{"role", "tool"}, {"tool_call_id", "c"}, {"content", "nothing"}},
      {{"role", "user"}, {"content", "Hi"}}};
  return {
      {"/v1/chat/completions",
       {{"model", "fathom-tiny"},
        {"messages", messages},
        {"tools", {tool}},
        {"tool_choice", "auto"},
        {"max_tokens", 2},
        {"temperature", 0.5},
        {"top_p", 0.9},
        {"logprobs", true},
        {"top_logprobs", 2},
        {"stop", {"x", "y"}},
        {"logit_bias", {{"5", -3}}},
        {"seed", 1},
        {"stream", true},
        {"stream_options", {{"include_usage", true}}}}},
      {"/v1/chat/completions",
       {{"model", "fathom-tiny"},
        {"messages", {{{"role", "user"}, {"content", "json"}}}},
        {"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"name", "n"}, {"schema", tool["function"]["parameters"]}}}}},
        {"thinking", {{"type", "disabled"}}},
        {"n", 2}}},
      {"/beta/completions",
       {{"model", "fathom-tiny"},
        {"prompt", "Once"},
        {"suffix", "end"},
        {"max_tokens", 2},
        {"logprobs", 1},
        {"echo", false}}},
      {"/v1/completions",
       {{"model", "fathom-tiny"}, {"prompt", {"a", {1, 2, 3}}}, {"max_tokens", 1}, {"regex", "[ab]+"}}},
      {"/tokenize", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}}},
      {"/detokenize", {{"tokens", {1, 2, 3}}}},
  };
}

/// Every value in it, itself included.
void values_of(Json& json, std::vector<Json*>& values) {
  values.push_back(&json);
  if (!json.is_structured()) return;
  for (auto& child : json) values_of(child, values);
}

/// A body that a client should not have sent; now and then one that it might.
std::string hostile(const Target& target, std::mt19937& random) {
  const auto below = [&](size_t n) { return static_cast<size_t>(random()) % n; };
  Json json = target.body;
  if (random() % 2 == 0) {
    static const std::array<Json, 16> values = {nullptr,
                                                true,
                                                -1,
                                                0,
                                                1e308,
                                                UINT64_MAX,
                                                INT64_MIN,
                                                "",
                                                "x",
                                                std::string(3000, 'a'),
                                                Json::array(),
                                                Json::object(),
                                                Json::array({Json::array()}),
                                                0.1,
                                                std::string("\0😀", 5),
                                                Json{{"a", 1}}};
    for (size_t i = 0; i <= below(3); ++i) {
      std::vector<Json*> all;
      values_of(json, all);
      Json& at = *all[below(all.size())];
      if (at.is_object() && random() % 3 == 0) {
        at["field" + std::to_string(below(5))] = values[below(values.size())];
      } else if (at.is_object() && !at.empty() && random() % 3 == 0) {
        at.erase(std::next(at.begin(), static_cast<std::ptrdiff_t>(below(at.size()))));
      } else {
        at = values[below(values.size())];
      }
    }
    return json.dump();
  }
  std::string text = json.dump();
  for (size_t i = 0; i <= below(4); ++i) {
    const size_t at = below(text.size() + 1);
    switch (below(6)) {
      case 0:
        text.resize(at);
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 2:
        text.insert(at, 1, "{}[],:\"\\0-e"[below(12)]);
        break;
      case 3:
        text.insert(at, std::string(below(300), "[{1"[below(3)]));
        break;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), 40));
        break;
      default:
        text.erase(at, below(20));
        break;
    }
  }
  return text;
}

TEST(HostileBodies, GetAnAnswerEach) {
  const size_t bodies = kSanitized ? 1500 : 10'000;
  ApiLimits limits;
  limits.most_tokens = 4;
  TinyServer server({}, TinyServer::small_engine(), limits);
  const std::vector<Target> all = targets();
  constexpr size_t kThreads = 4;
  std::array<std::map<int, size_t>, kThreads> statuses;
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937 random(static_cast<uint32_t>(thread));
      auto client = std::make_unique<RawHttpClient>(server.server->port());
      client->patience = std::chrono::seconds(60);
      for (size_t i = thread; i < bodies; i += kThreads) {
        const Target& target = all[random() % all.size()];
        const std::string body = hostile(target, random);
        const RawReply reply = client->ask(TinyServer::text_of("POST", target.path, body.empty() ? " " : body));
        ++statuses[thread][reply.status];
        ASSERT_TRUE(reply.whole) << body;
        ASSERT_TRUE(reply.status == 200 || reply.status == 400 || reply.status == 404 || reply.status == 422)
            << reply.status << " for " << body << ": " << reply.body;
        if (reply.status != 200) {
          const Json error = Json::parse(reply.body, nullptr, false);
          ASSERT_TRUE(error.is_object() && error["error"]["message"].is_string()) << reply.body;
          ASSERT_EQ(error["error"]["message"].get<std::string>().find("should not have happened"), std::string::npos)
              << body << ": " << reply.body;
        }
        if (i % 200 == thread) client = std::make_unique<RawHttpClient>(server.server->port());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::map<int, size_t> sum;
  for (const auto& one : statuses) {
    for (const auto& [status, count] : one) sum[status] += count;
  }
  // The mutations reach the readers of fields, ranges and whole requests alike.
  EXPECT_GT(sum[200], bodies / 50);
  EXPECT_GT(sum[400], bodies / 4);
  EXPECT_GT(sum[422], bodies / 100);
  EXPECT_EQ(server.get("/health").status, 200);
  // The step that gave the last answer may be under way.
  int open = 1;
  for (int tries = 0; open > 0 && tries < 200; ++tries) {
    const Json requests = Json::parse(server.get("/status").body)["requests"];
    open = requests["running"].get<int>() + requests["waiting"].get<int>();
    if (open > 0) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(open, 0);
}

}  // namespace
}  // namespace fathom
