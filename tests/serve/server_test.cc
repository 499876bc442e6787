#include "serve/server.h"

#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <mutex>
#include <thread>

#include "serve/tiny_server.h"
#include "support/errors.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

Json chat(const std::string& text, Json more = Json::object()) {
  Json body = {{"model", "fathom-tiny"}, {"messages", {{{"role", "user"}, {"content", text}}}}, {"temperature", 0}};
  body.update(more);
  return body;
}

/// One server for the tests that need no options of their own.
class ServerApi : public testing::Test {
 protected:
  static void SetUpTestSuite() { shared_ = new TinyServer(); }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static TinyServer& server() { return *shared_; }

  static void expect_error(const RawReply& reply, int status, const std::string& param, const std::string& part) {
    EXPECT_EQ(reply.status, status) << reply.body;
    const Json body = Json::parse(reply.body, nullptr, false);
    ASSERT_TRUE(body.is_object() && body.contains("error")) << reply.body;
    EXPECT_EQ(body["error"]["param"], param.empty() ? Json(nullptr) : Json(param)) << reply.body;
    EXPECT_NE(body["error"]["message"].get<std::string>().find(part), std::string::npos) << reply.body;
    EXPECT_TRUE(body["error"]["type"].is_string());
    EXPECT_TRUE(body["error"]["code"].is_string());
  }

 private:
  static TinyServer* shared_;
};
TinyServer* ServerApi::shared_ = nullptr;

TEST_F(ServerApi, AnswersAChat) {
  const RawReply reply = server().post("/v1/chat/completions", chat("Tell me a story.", {{"max_tokens", 30}}));
  ASSERT_EQ(reply.status, 200) << reply.body;
  const Json body = Json::parse(reply.body);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "fathom-tiny");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_FALSE(choice["message"]["content"].get<std::string>().empty());
  EXPECT_EQ(choice["finish_reason"], "length");
  const Json& usage = body["usage"];
  EXPECT_EQ(usage["completion_tokens"], 30);
  EXPECT_EQ(usage["total_tokens"].get<int>(), usage["prompt_tokens"].get<int>() + 30);
  EXPECT_EQ(usage["prompt_tokens"].get<int>(),
            usage["prompt_cache_hit_tokens"].get<int>() + usage["prompt_cache_miss_tokens"].get<int>());
  EXPECT_EQ(usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_cache_hit_tokens"]);
}

TEST_F(ServerApi, StreamsWhatItAnswersWhole) {
  const Json request =
      chat("What is 17 + 25?",
           {{"max_tokens", 200}, {"thinking", {{"type", "enabled"}}}, {"logprobs", true}, {"top_logprobs", 2}});
  const Json whole = Json::parse(server().post("/v1/chat/completions", request).body);
  Json streamed_request = request;
  streamed_request["stream"] = true;
  streamed_request["stream_options"] = {{"include_usage", true}};
  const RawReply reply = server().post("/v1/chat/completions", streamed_request);
  ASSERT_EQ(reply.status, 200);
  EXPECT_EQ(reply.header("content-type"), "text/event-stream; charset=utf-8");
  bool done = false;
  const std::vector<Json> events = events_of(reply.body, done);
  EXPECT_TRUE(done);
  ASSERT_GT(events.size(), 3u);
  std::string content, reasoning, finish;
  Json content_logprobs = Json::array(), reasoning_logprobs = Json::array();
  for (size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["object"], "chat.completion.chunk");
    if (i + 1 == events.size()) {
      EXPECT_TRUE(events[i]["choices"].empty());
      EXPECT_EQ(events[i]["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
      EXPECT_EQ(events[i]["usage"]["completion_tokens_details"], whole["usage"]["completion_tokens_details"]);
      break;
    }
    EXPECT_TRUE(events[i]["usage"].is_null());
    const Json& choice = events[i]["choices"][0];
    const Json& delta = choice["delta"];
    EXPECT_EQ(delta.contains("role"), i == 0);
    if (delta.contains("content") && delta["content"].is_string()) content += delta["content"].get<std::string>();
    if (delta.contains("reasoning_content")) reasoning += delta["reasoning_content"].get<std::string>();
    if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
    for (const Json& entry : choice["logprobs"]["content"]) content_logprobs.push_back(entry);
    for (const Json& entry : choice["logprobs"]["reasoning_content"]) reasoning_logprobs.push_back(entry);
  }
  const Json& choice = whole["choices"][0];
  EXPECT_EQ(content, choice["message"]["content"]);
  EXPECT_EQ(reasoning, choice["message"]["reasoning_content"]);
  EXPECT_FALSE(reasoning.empty());
  EXPECT_EQ(finish, choice["finish_reason"]);
  EXPECT_EQ(content_logprobs, choice["logprobs"]["content"]);
  EXPECT_EQ(reasoning_logprobs, choice["logprobs"]["reasoning_content"]);
  EXPECT_EQ(content_logprobs.size() + reasoning_logprobs.size(), whole["usage"]["completion_tokens"].get<size_t>());
  EXPECT_GT(whole["usage"]["completion_tokens_details"]["reasoning_tokens"].get<int>(), 0);
  EXPECT_NE(content.find("42"), std::string::npos) << content;
}

TEST_F(ServerApi, GivesSeveralAnswersWithSeedsOfTheirOwn) {
  Json request = chat("Tell me a story.", {{"n", 3}, {"temperature", 1}, {"seed", 5}, {"max_tokens", 20}});
  const Json three = Json::parse(server().post("/v1/chat/completions", request).body);
  ASSERT_EQ(three["choices"].size(), 3u);
  EXPECT_EQ(three["usage"]["completion_tokens"], 60);
  for (int i = 0; i < 3; ++i) {
    request["n"] = 1;
    request["seed"] = 5 + i;
    const Json one = Json::parse(server().post("/v1/chat/completions", request).body);
    EXPECT_EQ(one["choices"][0]["message"]["content"], three["choices"][static_cast<size_t>(i)]["message"]["content"]);
    EXPECT_EQ(three["choices"][static_cast<size_t>(i)]["index"], i);
  }
}

TEST_F(ServerApi, CallsTools) {
  const Json tools = {{{"type", "function"},
                       {"function",
                        {{"name", "get_weather"},
                         {"strict", true},
                         {"parameters",
                          {{"type", "object"},
                           {"properties",
                            {{"city", {{"type", "string"}, {"maxLength", 12}}},
                             {"days", {{"type", "integer"}, {"minimum", 1}, {"maximum", 7}}}}},
                           {"required", {"city", "days"}},
                           {"additionalProperties", false}}}}}},
                      {{"type", "function"}, {"function", {{"name", "noop"}}}}};
  for (const bool thinking : {false, true}) {
    for (const bool stream : {false, true}) {
      SCOPED_TRACE(testing::Message() << "thinking " << thinking << ", stream " << stream);
      Json request = chat("What is the weather like?",
                          {{"tools", tools}, {"stream", stream}, {"max_tokens", 400}, {"parallel_tool_calls", false}});
      request["tool_choice"] = {{"type", "function"}, {"function", {{"name", "get_weather"}}}};
      if (thinking) {
        request["thinking"] = {{"type", "enabled"}};
        // The model may not stop thinking by itself.
        request["logit_bias"] = Json::object();
        const Json id = Json::parse(
            server().post("/tokenize", {{"prompt", "</think>"}, {"add_special_tokens", false}}).body)["tokens"][0];
        request["logit_bias"][std::to_string(id.get<int>())] = 20;
      }
      const RawReply reply = server().post("/v1/chat/completions", request);
      ASSERT_EQ(reply.status, 200) << reply.body;
      Json call;
      std::string finish;
      if (stream) {
        bool done = false;
        std::string arguments;
        for (const Json& event : events_of(reply.body, done)) {
          const Json& choice = event["choices"][0];
          if (choice["finish_reason"].is_string()) finish = choice["finish_reason"];
          if (!choice["delta"].contains("tool_calls")) continue;
          const Json& entry = choice["delta"]["tool_calls"][0];
          EXPECT_EQ(entry["index"], 0);
          if (entry.contains("id")) call = entry;
          arguments += entry["function"]["arguments"].get<std::string>();
        }
        call["function"]["arguments"] = arguments;
      } else {
        const Json body = Json::parse(reply.body);
        ASSERT_EQ(body["choices"][0]["message"]["tool_calls"].size(), 1u) << reply.body;
        call = body["choices"][0]["message"]["tool_calls"][0];
        finish = body["choices"][0]["finish_reason"];
      }
      EXPECT_EQ(finish, "tool_calls");
      EXPECT_EQ(call["type"], "function");
      EXPECT_TRUE(call["id"].get<std::string>().starts_with("call_"));
      EXPECT_EQ(call["function"]["name"], "get_weather");
      const Json arguments = Json::parse(call["function"]["arguments"].get<std::string>());
      EXPECT_TRUE(arguments["city"].is_string());
      EXPECT_TRUE(arguments["days"].is_number_integer());
      EXPECT_EQ(arguments.size(), 2u);
    }
  }
  // Free to call or not, an answer ends either way.
  const Json free = Json::parse(
      server().post("/v1/chat/completions", chat("Tell me a story.", {{"tools", tools}, {"max_tokens", 300}})).body);
  EXPECT_TRUE(free["choices"][0]["finish_reason"].is_string()) << free;
}

TEST_F(ServerApi, FollowsAResponseFormat) {
  const Json schema = {{"type", "object"},
                       {"properties", {{"ok", {{"type", "boolean"}}}}},
                       {"required", {"ok"}},
                       {"additionalProperties", false}};
  const Json format = {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", schema}}}};
  const Json body =
      Json::parse(server().post("/v1/chat/completions", chat("json", {{"response_format", format}})).body);
  const Json content = Json::parse(body["choices"][0]["message"]["content"].get<std::string>());
  EXPECT_TRUE(content["ok"].is_boolean());
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
}

TEST_F(ServerApi, GoesOnFromAPrefix) {
  Json request = chat("Tell me a story.", {{"max_tokens", 10}});
  request["messages"].push_back({{"role", "assistant"}, {"content", "Once there was a green"}, {"prefix", true}});
  const Json body = Json::parse(server().post("/beta/chat/completions", request).body);
  const auto content = body["choices"][0]["message"]["content"].get<std::string>();
  EXPECT_FALSE(content.empty());
  EXPECT_EQ(content.find("Once there was"), std::string::npos) << content;
}

TEST_F(ServerApi, CompletesText) {
  Json request = {{"model", "fathom-tiny"},
                  {"prompt", "Once upon a time"},
                  {"max_tokens", 12},
                  {"temperature", 0},
                  {"logprobs", 2}};
  const Json body = Json::parse(server().post("/v1/completions", request).body);
  EXPECT_EQ(body["object"], "text_completion");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["logprobs"]["tokens"].size(), 12u);
  EXPECT_EQ(choice["logprobs"]["top_logprobs"][0].size(), 2u);
  std::string joined;
  for (const Json& token : choice["logprobs"]["tokens"]) joined += token.get<std::string>();
  EXPECT_EQ(joined, choice["text"]);

  request.erase("logprobs");
  request["echo"] = true;
  const Json echoed = Json::parse(server().post("/v1/completions", request).body);
  EXPECT_EQ(echoed["choices"][0]["text"], "Once upon a time" + choice["text"].get<std::string>());
  request["stream"] = true;
  bool done = false;
  std::string text;
  for (const Json& event : events_of(server().post("/v1/completions", request).body, done)) {
    text += event["choices"][0]["text"].get<std::string>();
  }
  EXPECT_TRUE(done);
  EXPECT_EQ(text, echoed["choices"][0]["text"]);

  const Json several = Json::parse(server()
                                       .post("/v1/completions", {{"model", "fathom-tiny"},
                                                                 {"prompt", {"One", "Two words"}},
                                                                 {"n", 2},
                                                                 {"max_tokens", 3},
                                                                 {"ignore_eos", true}})
                                       .body);
  EXPECT_EQ(several["choices"].size(), 4u);
  EXPECT_EQ(several["usage"]["completion_tokens"], 12);
  const Json infilled =
      Json::parse(server()
                      .post("/beta/completions",
                            {{"model", "fathom-tiny"}, {"prompt", "Tom went"}, {"suffix", "home."}, {"max_tokens", 5}})
                      .body);
  EXPECT_EQ(infilled["choices"][0]["finish_reason"].get<std::string>().empty(), false);
}

TEST_F(ServerApi, TokenizesBothWays) {
  const Json tokens = Json::parse(server().post("/tokenize", {{"prompt", "深い sea"}}).body);
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  const Json text = Json::parse(server().post("/detokenize", {{"tokens", tokens["tokens"]}}).body);
  EXPECT_EQ(text["prompt"], "<｜begin▁of▁sentence｜>深い sea");
  const Json conversation =
      Json::parse(server().post("/tokenize", {{"messages", {{{"role", "user"}, {"content", "Hi"}}}}}).body);
  EXPECT_EQ(Json::parse(server().post("/detokenize", {{"tokens", conversation["tokens"]}}).body)["prompt"],
            "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>");
}

TEST_F(ServerApi, ReusesAPrefix) {
  const Json request = chat(std::string(600, 'a') + " b c d", {{"max_tokens", 2}});
  server().post("/v1/chat/completions", request);
  const Json again = Json::parse(server().post("/v1/chat/completions", request).body);
  EXPECT_GE(again["usage"]["prompt_cache_hit_tokens"].get<int>(), 64);
}

TEST_F(ServerApi, RefusesByName) {
  std::string long_text;
  for (int i = 0; i < 1500; ++i) long_text += "5 ";
  const auto expect = [&](const Json& body, int status, const std::string& param, const std::string& part) {
    SCOPED_TRACE(body.dump().substr(0, 200));
    expect_error(server().post("/v1/chat/completions", body), status, param, part);
  };
  expect(chat("x", {{"temperature", 3}}), 422, "temperature", "from 0 to 2");
  expect(chat("x", {{"temperature", "hot"}}), 400, "temperature", "expected a number");
  expect(chat("x", {{"top_p", 0}}), 422, "top_p", "above 0");
  expect(chat("x", {{"max_tokens", 0}}), 422, "max_tokens", "from 1");
  expect(chat("x", {{"n", 100}}), 422, "n", "from 1 to 16");
  expect(chat("x", {{"functions", Json::array()}}), 400, "functions", "not a field");
  expect(chat("x", {{"stop", ""}}), 400, "stop", "empty");
  expect(chat("x", {{"logit_bias", {{"99999999", 1}}}}), 422, "logit_bias", "no token id");
  expect(chat("x", {{"top_logprobs", 2}}), 400, "top_logprobs", "logprobs");
  expect(chat("x", {{"stream_options", {{"include_usage", true}}}}), 400, "stream_options", "streamed");
  expect(chat("x", {{"response_format", {{"type", "xml"}}}}), 400, "response_format.type", "xml");
  expect(chat("x", {{"response_format",
                     {{"type", "json_schema"}, {"json_schema", {{"name", "x"}, {"schema", {{"type", "wrong"}}}}}}}}),
         400, "response_format", "wrong");
  expect(chat("x", {{"tool_choice", "required"}}), 400, "tool_choice", "needs tools");
  expect(chat("x", {{"tools", {{{"type", "function"}, {"function", {{"name", "not a name"}}}}}}}), 400, "tools",
         "not a name");
  expect(chat("x", {{"model", "gpt-4"}}), 404, "model", "fathom-tiny");
  expect(chat("x", {{"messages", Json::array()}}), 400, "messages", "at least one");
  expect(chat("x", {{"messages", {{{"role", "wizard"}, {"content", "x"}}}}}), 400, "messages[0].role", "wizard");
  expect(chat("x", {{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}}), 400,
         "messages[0].content[0].type", "image_url");
  expect(chat("x", {{"messages",
                     {{{"role", "user"}, {"content", "x"}},
                      {{"role", "assistant"}, {"content", "x"}, {"reasoning_content", "y"}},
                      {{"role", "user"}, {"content", "x"}}}}}),
         400, "messages[1].reasoning_content", "not sent back");
  expect(chat(long_text), 400, "messages", "the context of this server holds 1024");
  expect(Json::array(), 400, "", "expected an object");
  EXPECT_EQ(Json::parse(server().post("/v1/chat/completions", chat(long_text)).body)["error"]["code"],
            "context_length_exceeded");

  RawHttpClient client(server().server->port());
  expect_error(client.ask(TinyServer::text_of("POST", "/v1/chat/completions", "{\"model\": ")), 400, "",
               "not valid JSON");
  expect_error(client.ask(TinyServer::text_of("POST", "/v1/chat/completions", std::string(200, '['))), 400, "",
               "deeper");
  expect_error(server().get("/v1/nothing"), 404, "", "/v1/nothing");
  const RawReply wrong_method = server().get("/v1/chat/completions");
  expect_error(wrong_method, 405, "", "POST");
  EXPECT_EQ(wrong_method.header("allow"), "POST");
  expect_error(client.ask("POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
                          "text/plain\r\ncontent-length: 2\r\n\r\n{}"),
               415, "", "JSON");
  expect_error(server().post("/v1/embeddings", {{"input", "x"}}), 400, "", "no embeddings");
}

TEST_F(ServerApi, SplitsALongRunOfBlanks) {
  // More than the ten million steps at which PCRE2 gives up by itself.
  const std::string blanks(kSanitized ? 1'000'000 : 11'000'000, ' ');
  const RawReply reply = server().post("/tokenize", {{"prompt", blanks}});
  ASSERT_EQ(reply.status, 200) << reply.body.substr(0, 300);
  EXPECT_GT(Json::parse(reply.body)["count"].get<int64_t>(), 1);
  expect_error(server().post("/v1/chat/completions", chat(blanks + "x")), 400, "messages",
               "the context of this server holds 1024");
}

TEST_F(ServerApi, TrustsNoForeignPage) {
  RawHttpClient client(server().server->port());
  expect_error(client.ask("GET /v1/models HTTP/1.1\r\nhost: evil.example\r\n\r\n"), 403, "", "--allow-host");
  expect_error(server().get("/v1/models", {"origin: https://evil.example"}), 403, "", "--allow-origin");
  EXPECT_EQ(server().get("/v1/models", {"origin: http://localhost"}).status, 200);
}

TEST_F(ServerApi, TellsItsState) {
  EXPECT_EQ(server().get("/health").body, R"({"status":"ok"})");
  const Json models = Json::parse(server().get("/v1/models").body);
  EXPECT_EQ(models["data"][0]["id"], "fathom-tiny");
  EXPECT_EQ(Json::parse(server().get("/v1/models/fathom-tiny").body)["object"], "model");
  EXPECT_EQ(server().get("/v1/models/other").status, 404);
  server().post("/v1/chat/completions", chat("Hi", {{"max_tokens", 5}}));
  const Json status = Json::parse(server().get("/status").body);
  EXPECT_EQ(status["model"], "fathom-tiny");
  EXPECT_GE(status["tokens"]["generated"].get<int>(), 5);
  int64_t sent = 0;
  for (const Json& layer : status["experts"]["load"]) {
    for (const Json& expert : layer) sent += expert.get<int64_t>();
  }
  EXPECT_GT(sent, 0);
  const std::string metrics = server().get("/metrics").body;
  for (const char* name :
       {"fathom_requests_total{", "fathom_prompt_tokens_total ", "fathom_time_to_first_token_seconds_bucket{",
        "fathom_cache_pages{state=\"free\"} ", "fathom_engine_steps_total "}) {
    EXPECT_NE(metrics.find(name), std::string::npos) << name;
  }
}

TEST_F(ServerApi, AClientThatLeavesEndsItsRequest) {
  const auto running = [&] {
    const Json requests = Json::parse(server().get("/status").body)["requests"];
    return requests["running"].get<int>() + requests["waiting"].get<int>();
  };
  {
    RawHttpClient client(server().server->port());
    client.send(
        TinyServer::text_of("POST", "/v1/chat/completions",
                            chat("Tell me a story.", {{"stream", true}, {"ignore_eos", true}, {"n", 4}}).dump()));
    ASSERT_NE(client.read_head().find("200"), std::string::npos);
    ASSERT_TRUE(client.read_chunk());
    EXPECT_GE(running(), 1);
    client.reset();
  }
  int tries = 0;
  while (running() > 0 && tries < 100) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ++tries;
  }
  EXPECT_LT(tries, 100);
}

TEST(Server, KeysCoverEveryRouteButHealth) {
  ServeOptions options;
  KeyLimits limits;
  limits.concurrent = 1;
  options.keys = {make_api_key("sk-0123456789abcdef", "one", {}), make_api_key("sk-fedcba9876543210", "two", limits)};
  TinyServer server(std::move(options));
  EXPECT_EQ(server.get("/health").status, 200);
  for (const char* path :
       {"/", "/v1/models", "/status", "/metrics", "/openapi.json", "/nowhere", "/v1/chat/completions"}) {
    EXPECT_EQ(server.get(path).status, 401) << path;
    EXPECT_EQ(server.get(path, {"authorization: Bearer sk-0123456789abcdeg"}).status, 401) << path;
  }
  EXPECT_EQ(server.post("/v1/chat/completions", chat("x")).status, 401);
  EXPECT_EQ(server.get("/v1/models", {"authorization: bearer sk-0123456789abcdef"}).status, 200);
  // "user:sk-0123456789abcdef"
  EXPECT_EQ(server.get("/v1/models", {"authorization: Basic dXNlcjpzay0wMTIzNDU2Nzg5YWJjZGVm"}).status, 200);

  const std::string two = "authorization: Bearer sk-fedcba9876543210";
  RawHttpClient client(server.server->port());
  client.send(TinyServer::text_of("POST", "/v1/chat/completions",
                                  chat("Tell me a story.", {{"stream", true}, {"ignore_eos", true}}).dump(), {two}));
  ASSERT_NE(client.read_head().find("200"), std::string::npos);
  const RawReply busy = server.post("/v1/chat/completions", chat("x", {{"max_tokens", 1}}), {two});
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.header("retry-after"), "1");
  client.close();
}

TEST(Server, CountsAndLogsWhatTheNetworkRefuses) {
  std::mutex mutex;
  std::vector<Json> log;
  ServeOptions options;
  options.http.most_header = 2048;
  options.http.most_body = 1000;
  options.http.head_timeout = std::chrono::milliseconds(50);
  options.http.body_timeout = std::chrono::milliseconds(50);
  options.on_log = [&](const std::string& line) {
    const std::lock_guard lock(mutex);
    log.push_back(Json::parse(line));
  };
  TinyServer server(std::move(options));
  const std::string head = "POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
  const std::vector<std::pair<int, std::string>> refused = {
      {400, "this is no HTTP\r\n\r\n"},
      {408, "GET / HT"},
      {408, head + "content-length: 10\r\n\r\n{"},
      {413, head + "content-length: 1001\r\n\r\n"},
      {431, "GET / HTTP/1.1\r\nx: " + std::string(3000, 'x') + "\r\n\r\n"},
      {505, "GET / HTTP/3.0\r\n\r\n"},
  };
  std::map<int, int> expected;
  for (const auto& [status, text] : refused) {
    SCOPED_TRACE(text.substr(0, 100));
    EXPECT_EQ(server.ask(text).status, status);
    ++expected[status];
    // Both stand there before the client has its reply.
    const std::lock_guard lock(mutex);
    ASSERT_FALSE(log.empty());
    const Json& line = log.back();
    EXPECT_EQ(line["status"], status);
    EXPECT_EQ(line["peer"], "127.0.0.1");
    EXPECT_TRUE(line["time"].is_string() && line["method"].is_string() && line["path"].is_string()) << line;
    if (status == 413 || text.starts_with(head)) {
      EXPECT_EQ(line["method"], "POST");
      EXPECT_EQ(line["path"], "/tokenize");
    }
  }
  EXPECT_EQ(log.size(), refused.size());
  const std::string metrics = server.get("/metrics").body;
  for (const auto& [status, count] : expected) {
    const std::string line =
        "fathom_requests_total{route=\"refused\",status=\"" + std::to_string(status) + "\"} " + std::to_string(count);
    EXPECT_NE(metrics.find(line + "\n"), std::string::npos) << line << "\n" << metrics.substr(0, 1500);
  }
}

TEST(Server, SaysThatItIsAlive) {
  ServeOptions options;
  options.keep_alive = std::chrono::milliseconds(20);
  EngineOptions engine = TinyServer::small_engine();
  engine.most_running = 1;
  TinyServer server(std::move(options), engine);
  RawHttpClient busy(server.server->port());
  busy.send(TinyServer::text_of(
      "POST", "/v1/chat/completions",
      chat("Tell me a story.", {{"stream", true}, {"ignore_eos", true}, {"max_tokens", 700}}).dump()));
  ASSERT_NE(busy.read_head().find("200"), std::string::npos);
  RawHttpClient whole(server.server->port());
  whole.send(TinyServer::text_of("POST", "/v1/chat/completions", chat("Hi", {{"max_tokens", 2}}).dump()));
  const RawReply streamed = server.post("/v1/chat/completions", chat("Hi", {{"max_tokens", 2}, {"stream", true}}));
  EXPECT_NE(streamed.body.find(": keep-alive\n\n"), std::string::npos) << streamed.body;
  const RawReply waited = whole.read_reply();
  EXPECT_TRUE(waited.body.starts_with("\n")) << waited.body;
  EXPECT_EQ(Json::parse(waited.body)["object"], "chat.completion");
}

TEST(Server, EndsWhatRunsPastItsLimit) {
  ServeOptions options;
  options.request_limit = std::chrono::seconds(0);
  TinyServer server(std::move(options));
  const Json body =
      Json::parse(server.post("/v1/chat/completions", chat("Tell me a story.", {{"ignore_eos", true}})).body);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "insufficient_system_resource");
}

TEST(Server, ShutsDownInOrder) {
  TinyServer server;
  RawHttpClient client(server.server->port());
  client.send(TinyServer::text_of("POST", "/v1/chat/completions",
                                  chat("Tell me a story.", {{"stream", true}, {"ignore_eos", true}}).dump()));
  ASSERT_NE(client.read_head().find("200"), std::string::npos);
  std::thread stopping([&] { server.server->shut_down(std::chrono::milliseconds(50)); });
  std::string body;
  while (const auto chunk = client.read_chunk()) {
    if (chunk->empty()) break;
    body += *chunk;
  }
  stopping.join();
  bool done = false;
  const std::vector<Json> events = events_of(body, done);
  EXPECT_TRUE(done);
  ASSERT_FALSE(events.empty());
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "insufficient_system_resource");
}

TEST(Server, IsNotReadyWithoutAModel) {
  Server server(ServeOptions{});
  RawHttpClient client(server.port());
  const RawReply health = client.ask("GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n");
  EXPECT_EQ(health.status, 503);
  EXPECT_EQ(health.body, R"({"status":"loading"})");
  EXPECT_EQ(client.ask("GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").status, 503);
}

// Many at once, some of which leave: each answer is the one that the request gets alone.
TEST(Server, AnswersDoNotDependOnNeighbours) {
  TinyServer server;
  const std::vector<std::string> prompts = {"Tell me a story.", "17 + 25", "Sort: 5 3 9", "Hello",
                                            "Who are you?",     "A dog"};
  const auto body = [&](size_t i) {
    return chat(prompts[i % prompts.size()],
                {{"temperature", i % 2 == 0 ? 0.0 : 0.8}, {"seed", i}, {"max_tokens", 60}});
  };
  const auto ask = [&](size_t i) {
    const Json reply = Json::parse(server.post("/v1/chat/completions", body(i)).body);
    return reply.at("choices").at(0).at("message").at("content").get<std::string>();
  };
  constexpr size_t kRequests = 24;
  std::vector<std::string> together(kRequests);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < kRequests; ++i) {
    threads.emplace_back([&, i] { together[i] = ask(i); });
    if (i % 4 == 0) {
      threads.emplace_back([&, i] {
        RawHttpClient client(server.server->port());
        client.send(TinyServer::text_of("POST", "/v1/chat/completions", body(i).dump()));
        std::this_thread::sleep_for(std::chrono::milliseconds(i));
        client.reset();
      });
    }
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t i = 0; i < kRequests; ++i) EXPECT_EQ(together[i], ask(i)) << i;
}

}  // namespace
}  // namespace fathom
