#include "serve/load_test.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <thread>

#include "base/interrupt.h"
#include "serve/streamed_answer.h"
#include "serve/tiny_server.h"
#include "support/certificate.h"
#include "support/errors.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;
using std::chrono::milliseconds;

// ---------------------------------------------------------------------------------------------------- events

TEST(EventReader, TakesEventsApartWhereverTheBytesAreCut) {
  const std::string stream =
      ": keep-alive\n\ndata: {\"a\":1}\n\r\ndata:two\r\ndata: lines\r\n\r\ndata: \n\ndata: [DONE]\n\n";
  const std::vector<std::string> expected = {"{\"a\":1}", "two\nlines", "", "[DONE]"};
  for (size_t cut = 0; cut <= stream.size(); ++cut) {
    EventReader reader;
    std::vector<std::string> events;
    const auto take = [&](std::string_view data) {
      events.emplace_back(data);
      return true;
    };
    EXPECT_TRUE(reader.push(stream.substr(0, cut), take));
    EXPECT_TRUE(reader.push(stream.substr(cut), take));
    EXPECT_TRUE(reader.between_events());
    EXPECT_EQ(events, expected) << cut;
  }
}

TEST(EventReader, FindsFault) {
  const auto fault = [](const std::string& bytes) {
    EventReader reader;
    const bool whole = reader.push(bytes, [](std::string_view) { return true; });
    EXPECT_EQ(whole, reader.fault().empty());
    return reader.fault();
  };
  EXPECT_EQ(fault("data: x\n\n"), "");
  EXPECT_NE(fault("data: x\n{}\n\n").find("neither data nor a comment"), std::string::npos);
  EXPECT_NE(fault("event: x\n").find("neither data nor a comment"), std::string::npos);
  EXPECT_NE(fault("data: x\ry\n\n").find("carriage return"), std::string::npos);
  EXPECT_NE(fault("data: " + std::string(EventReader::kMostBytes, 'x')).find("1 MiB"), std::string::npos);

  EventReader cut;
  EXPECT_TRUE(cut.push("data: x\n", [](std::string_view) { return true; }));
  EXPECT_FALSE(cut.between_events());
  EventReader enough;
  int events = 0;
  EXPECT_TRUE(enough.push("data: 1\n\ndata: 2\n\n", [&](std::string_view) { return ++events < 1; }));
  EXPECT_EQ(events, 1);
}

// ---------------------------------------------------------------------------------------------------- figures

TEST(LoadFigures, PercentilesAreValuesThatWereMeasured) {
  std::vector<double> hundred;
  for (int i = 1; i <= 100; ++i) hundred.push_back(i);
  EXPECT_EQ(percentile(hundred, 50), 50);
  EXPECT_EQ(percentile(hundred, 90), 90);
  EXPECT_EQ(percentile(hundred, 99), 99);
  EXPECT_EQ(percentile(hundred, 99.5), 100);
  EXPECT_EQ(percentile(hundred, 100), 100);
  EXPECT_EQ(percentile(hundred, 0), 1);
  const std::vector<double> three = {1, 10, 100};
  EXPECT_EQ(percentile(three, 50), 10);
  EXPECT_EQ(percentile(three, 33), 1);
  EXPECT_EQ(percentile(three, 34), 10);
  EXPECT_EQ(percentile(std::vector<double>{7}, 99), 7);
  EXPECT_TRUE(std::isnan(percentile({}, 50)));
}

TEST(LoadFigures, DurationsKeepTheirPlaceInTime) {
  Durations durations;
  durations.add(0.5, 0.003);
  durations.add(1.5, 0.001);
  durations.add(1.75, 0.002);
  durations.add(2.5, 1e9);
  EXPECT_EQ(durations.sorted(0, 2), (std::vector<double>{0.001, 0.002, 0.003}));
  EXPECT_EQ(durations.sorted(1, 2), (std::vector<double>{0.001, 0.002}));
  EXPECT_EQ(durations.sorted().size(), 4u);
  EXPECT_GT(durations.sorted().back(), 3600);
}

TEST(LoadFigures, MemoryIsTheGreatestOfEachMinute) {
  LoadLevel level;
  level.memory = {{0, 5}, {59, 7}, {60, 6}, {121, 1}};
  EXPECT_EQ(level.memory_per_minute(), (std::vector<double>{7, 6, 1}));
  level.broken = {{"a", 2}, {"b", 3}};
  EXPECT_EQ(level.broken_count(), 5);
}

TEST(ServerUrl, IsTakenApart) {
  const ServerUrl plain = parse_server_url("http://127.0.0.1:8080");
  EXPECT_FALSE(plain.tls);
  EXPECT_EQ(plain.host, "127.0.0.1");
  EXPECT_EQ(plain.port, 8080);
  EXPECT_EQ(plain.path, "");
  const ServerUrl far = parse_server_url("https://[::1]/behind/a//v1/");
  EXPECT_TRUE(far.tls);
  EXPECT_EQ(far.host, "::1");
  EXPECT_EQ(far.port, 443);
  EXPECT_EQ(far.path, "/behind/a");
  EXPECT_EQ(parse_server_url("http://here/v1").path, "");
  EXPECT_EQ(parse_server_url("http://here").port, 80);
  for (const char* wrong :
       {"", "here:80", "ftp://here", "http://", "http://:80", "http://here:0", "http://here:65536", "http://here:x",
        "http://here:80x", "http://[::1", "http://[::1]80", "http://me@here", "http://here/?a", "http://here/#a",
        "http://he re", "http://here\r\nx: y", "http://h\xc3\xa9re"}) {
    FATHOM_EXPECT_ERROR(parse_server_url(wrong), ErrorKind::bad_input, "URL", "http://HOST:PORT");
  }
}

// ---------------------------------------------------------------------------------------------------- requests

LoadContent content_with(const LoadShares& shares) {
  LoadContent content;
  content.model = "fathom-tiny";
  content.max_tokens = 4;
  content.too_long_bytes = 20'000;
  content.shares = shares;
  return content;
}

TEST(LoadRequests, AreTheSameForTheirNumber) {
  const LoadContent content = content_with({0.2, 0.2, 0.2, 0.2});
  const LoadRequests one(content);
  const LoadRequests other(content);
  std::map<LoadRequest::Kind, int> kinds;
  std::map<LoadRequest::Size, int> sizes;
  std::map<int64_t, std::string> bodies;
  std::set<std::string> different;
  constexpr int kRequests = 2000;
  int shared = 0;
  for (int64_t number = kRequests - 1; number >= 0; --number) {
    const LoadRequest request = one.request(number);
    const LoadRequest again = other.request(number);
    EXPECT_EQ(request.body, again.body);
    EXPECT_EQ(request.kind, again.kind);
    EXPECT_EQ(request.at_token, again.at_token);
    EXPECT_LE(request.source, number);
    EXPECT_GE(request.source, 0);
    ++kinds[request.kind];
    ++sizes[request.size];
    const std::string body = one.body(request.source);
    const auto [known, is_new] = bodies.emplace(request.source, body);
    EXPECT_EQ(known->second, body);
    if (!is_new) continue;
    EXPECT_TRUE(different.insert(body).second) << request.source;
    const Json json = Json::parse(body);
    EXPECT_EQ(json["seed"], request.source);
    if (json["messages"].size() == 2) ++shared;
  }
  // Shares within five standard deviations.
  for (const auto& [kind, count] : kinds) {
    const bool half = kind == LoadRequest::Kind::slow || kind == LoadRequest::Kind::stalling;
    EXPECT_NEAR(count, half ? 200 : 400, 90);
  }
  EXPECT_EQ(kinds.size(), 6u);
  EXPECT_EQ(sizes.size(), 4u);
  EXPECT_NEAR(kRequests - static_cast<int>(bodies.size()), kRequests / 8, 80);
  EXPECT_NEAR(shared, static_cast<int>(bodies.size()) / 2, 110);
  LoadContent seeded = content;
  seeded.seed = 1;
  EXPECT_NE(LoadRequests(seeded).body(0), one.body(0));
}

TEST(LoadRequests, PromptsHaveTheirLength) {
  for (const int64_t bytes : {16, 100, 1000, 20'000}) {
    LoadContent content = content_with({});
    content.prompt_bytes = bytes;
    const LoadRequests requests(content);
    for (int64_t source = 0; source < 20; ++source) {
      size_t length = 0;
      const Json body = Json::parse(requests.body(source));
      for (const Json& message : body["messages"]) {
        length += message["content"].get<std::string>().size();
      }
      EXPECT_NEAR(static_cast<double>(length), static_cast<double>(bytes), 30);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- a real server

LoadOptions options_for(uint16_t port, const std::string& scheme = "http://127.0.0.1") {
  LoadOptions options;
  options.url = scheme + ":" + std::to_string(port);
  options.concurrent = {4};
  options.requests = 12;
  options.prompt_tokens = 40;
  options.max_tokens = 4;
  return options;
}

int64_t sum(const std::map<int, int64_t>& counts) {
  int64_t total = 0;
  for (const auto& [status, count] : counts) total += count;
  return total;
}

TEST(LoadTest, CountsWhatBecameOfEveryRequest) {
  EngineOptions engine = TinyServer::small_engine();
  engine.cache_pages = 32;  // soon emptied
  const TinyServer server({}, engine);
  LoadOptions options = options_for(server.server->port());
  options.requests = 30;
  options.seed = 148;  // some of each kind, and no long stall
  options.shares = {0.2, 0.1, 0.2, 0.1};
  options.verify = 200;
  int64_t last_done = 0;
  options.on_progress = [&](const std::string&, const std::string&, int64_t done, int64_t) { last_done = done; };
  const LoadReport report = run_load_test(options);

  std::map<LoadRequest::Kind, int64_t> expected;
  LoadContent content = content_with(options.shares);
  content.seed = options.seed;
  const LoadRequests requests(content);
  for (int64_t number = 0; number < options.requests; ++number) ++expected[requests.request(number).kind];
  using Kind = LoadRequest::Kind;
  ASSERT_EQ(expected.size(), 6u) << "the test should have some of each";

  EXPECT_EQ(report.model, "fathom-tiny");
  EXPECT_FALSE(report.interrupted);
  ASSERT_EQ(report.levels.size(), 1u);
  const LoadLevel& level = report.levels[0];
  EXPECT_EQ(level.concurrent, 4);
  EXPECT_EQ(level.completed, expected[Kind::plain] + expected[Kind::slow] + expected[Kind::stalling]);
  EXPECT_EQ(level.slow, expected[Kind::slow] + expected[Kind::stalling]);
  EXPECT_EQ(level.cancelled, expected[Kind::cancelled]);
  EXPECT_EQ(level.cut, 0);
  EXPECT_TRUE(level.refused.empty());
  for (const auto& [why, count] : level.broken) ADD_FAILURE() << count << " times " << why;
  EXPECT_EQ(level.malformed.sent, expected[Kind::malformed]);
  EXPECT_EQ(sum(level.malformed.refused), level.malformed.sent);
  EXPECT_EQ(level.oversized.sent, expected[Kind::oversized]);
  EXPECT_EQ(sum(level.oversized.refused), level.oversized.sent);
  EXPECT_GT(level.oversized.refused.at(413), 0);

  EXPECT_EQ(level.output_tokens, 4 * level.completed);
  EXPECT_NEAR(static_cast<double>(level.prompt_tokens) / static_cast<double>(level.completed), 40, 15);
  ASSERT_TRUE(level.hit_tokens);
  EXPECT_LT(*level.hit_tokens, level.prompt_tokens);
  EXPECT_EQ(level.first_token.samples().size(), static_cast<size_t>(expected[Kind::plain] + level.cancelled));
  EXPECT_EQ(level.request.samples().size(), static_cast<size_t>(expected[Kind::plain]));
  EXPECT_GE(level.between_tokens.samples().size(), static_cast<size_t>(3 * expected[Kind::plain]));
  EXPECT_GT(level.first_token.sorted().front(), 0);
  EXPECT_LE(level.request.sorted().back(), level.seconds + 1e-3);
  EXPECT_FALSE(level.health.samples().empty());
  EXPECT_EQ(level.health_failed, 0);
  ASSERT_GE(level.memory.size(), 2u);
  EXPECT_EQ(level.memory.front().at_seconds, 0);
  EXPECT_GT(level.memory.front().bytes, 1e6);
  EXPECT_GT(level.client_cpu_seconds, 0);

  EXPECT_GT(report.asked_again, 0);
  EXPECT_LT(report.asked_again, level.completed) << "some are asked for twice, or begin alike";
  EXPECT_LT(report.not_compared, report.asked_again);
  EXPECT_EQ(report.mismatches, 0) << report.example;
  EXPECT_EQ(report.unanswered, 0);
  EXPECT_EQ(last_done, report.asked_again);
}

TEST(LoadTest, EndsWithItsTime) {
  const TinyServer server;
  LoadOptions options = options_for(server.server->port());
  options.concurrent = {1, 3};
  options.requests = 0;
  options.seconds = 0.3;
  const LoadReport report = run_load_test(options);
  ASSERT_EQ(report.levels.size(), 2u);
  for (const LoadLevel& level : report.levels) {
    EXPECT_GT(level.completed, 0);
    EXPECT_GT(level.seconds, 0.25);
    EXPECT_LE(level.health.samples().size(), static_cast<size_t>(level.seconds * 10) + 2);
  }
}

TEST(LoadTest, CountsRefusals) {
  EngineOptions engine = TinyServer::small_engine();
  engine.most_running = 1;
  engine.most_waiting = 1;
  const TinyServer server({}, engine);
  LoadOptions options = options_for(server.server->port());
  options.concurrent = {6};
  options.max_tokens = 32;
  const LoadLevel level = run_load_test(options).levels.at(0);
  EXPECT_GT(level.completed, 0);
  EXPECT_GT(level.refused.at(503), 0);
  EXPECT_EQ(level.completed + sum(level.refused), 12);
  EXPECT_EQ(level.broken_count(), 0);
}

TEST(LoadTest, BringsItsKey) {
  ServeOptions serve;
  serve.keys = {make_api_key("0123456789abcdef", "test", {})};
  const TinyServer server(std::move(serve));
  LoadOptions options = options_for(server.server->port());
  options.requests = 2;
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::bad_input, "401", "API key");
  options.key = "0123456789abcdef";
  const LoadLevel level = run_load_test(options).levels.at(0);
  EXPECT_EQ(level.completed, 2);
  EXPECT_FALSE(level.memory.empty());
  options.key = "two words";
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::bad_input, "API key");
}

TEST(LoadTest, ChecksCertificates) {
  const CertificateFiles files;
  ServeOptions serve;
  serve.http.tls_certificate = files.certificate();
  serve.http.tls_key = files.key();
  const TinyServer server(std::move(serve));
  LoadOptions options = options_for(server.server->port(), "https://localhost");
  options.shares.cancel = 0.3;
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::failure, "https://localhost", "certificate");
  options.insecure = true;
  const LoadLevel level = run_load_test(options).levels.at(0);
  EXPECT_EQ(level.completed + level.cancelled, 12);
  options.insecure = false;
  ASSERT_EQ(::setenv("SSL_CERT_FILE", files.certificate().c_str(), 1), 0);
  EXPECT_EQ(run_load_test(options).levels.at(0).broken_count(), 0);
  // The certificate is another host's.
  options.url = "https://127.0.0.1:" + std::to_string(server.server->port());
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::failure, "TLS");
  ::unsetenv("SSL_CERT_FILE");
}

TEST(LoadTest, ServersThatAreNotThereAreASentence) {
  uint16_t closed = 0;
  {
    const HttpServer server({}, {}, [](HttpRequest, const std::shared_ptr<HttpReply>&) {});
    closed = server.port();
  }
  FATHOM_EXPECT_ERROR(run_load_test(options_for(closed)), ErrorKind::failure, "no server answers", "refused");
  FATHOM_EXPECT_ERROR(run_load_test(options_for(80, "http://no-such-host.invalid")), ErrorKind::failure,
                      "no-such-host.invalid", "address");
  LoadOptions options = options_for(closed);
  options.shares = {0.5, 0.5, 0.5, 0};
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::bad_input, "shares", "1.5");
  const TinyServer server;
  options = options_for(server.server->port());
  options.prompt_tokens = 1'000'000;
  FATHOM_EXPECT_ERROR(run_load_test(options), ErrorKind::bad_input, "1000000", "1024");
}

// ---------------------------------------------------------------------------------------------------- wrong servers

Json chunk_with(Json choices) {
  return {{"id", "c"}, {"object", "chat.completion.chunk"}, {"choices", std::move(choices)}, {"usage", nullptr}};
}
std::string piece(const std::string& text) {
  return "data: " + chunk_with({{{"index", 0}, {"delta", {{"content", text}}}, {"finish_reason", nullptr}}}).dump() +
         "\n\n";
}
std::string finish(const std::string& reason = "stop") {
  return "data: " + chunk_with({{{"index", 0}, {"delta", Json::object()}, {"finish_reason", reason}}}).dump() + "\n\n";
}
std::string usage() {
  Json chunk = chunk_with(Json::array());
  chunk["usage"] = {{"prompt_tokens", 10}, {"completion_tokens", 2}};
  return "data: " + chunk.dump() + "\n\n";
}
const std::string kDone = "data: [DONE]\n\n";

/// A server that has a model and answers every chat as the test says.
class FakeServer {
 public:
  using Chat = std::function<void(HttpReply& reply)>;

  explicit FakeServer(Chat chat)
      : chat_(std::move(chat)), server_({}, {}, [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
          if (request.path == "/v1/models") return reply->send({200, {}, R"({"data":[{"id":"fake"}]})"});
          if (request.path == "/v1/chat/completions") return chat_(*reply);
          reply->send({404, {}, "nothing"});
        }) {}
  /// With this stream as every answer; without its end, the connection breaks off.
  explicit FakeServer(const std::string& stream, bool end = true)
      : FakeServer([stream, end](HttpReply& reply) {
          reply.begin(200, {{"content-type", "text/event-stream"}});
          reply.write(stream);
          if (end) reply.end();
        }) {}

  uint16_t port() const { return server_.port(); }

 private:
  Chat chat_;
  HttpServer server_;
};

LoadLevel load_of(const FakeServer& server, int64_t requests = 2) {
  LoadOptions options = options_for(server.port());
  options.concurrent = {2};
  options.requests = requests;
  return run_load_test(options).levels.at(0);
}

void expect_broken(const FakeServer& server, const std::string& why) {
  const LoadLevel level = load_of(server);
  EXPECT_EQ(level.completed, 0) << why;
  EXPECT_EQ(level.broken_count(), 2) << why;
  for (const auto& [reason, count] : level.broken) EXPECT_NE(reason.find(why), std::string::npos) << reason;
}

TEST(LoadTest, TakesAnAnswerThatIsInOrder) {
  const LoadLevel level = load_of(FakeServer(": hello\n\n" + piece("a") + piece("b") + finish() + usage() + kDone), 4);
  EXPECT_EQ(level.completed, 4);
  EXPECT_EQ(level.output_tokens, 8);
  EXPECT_EQ(level.prompt_tokens, 40);
  EXPECT_FALSE(level.hit_tokens);
  EXPECT_TRUE(level.memory.empty());
  EXPECT_GT(level.health_failed, 0);
  EXPECT_TRUE(level.health.samples().empty());
}

TEST(LoadTest, NamesWhatIsWrongWithAnswers) {
  const std::string good = piece("a") + finish() + usage() + kDone;
  expect_broken(FakeServer(piece("a") + finish() + usage()), "ended without [DONE]");
  expect_broken(FakeServer(piece("a") + finish() + kDone), "without usage");
  expect_broken(FakeServer(piece("a") + usage() + kDone), "without a finish_reason");
  expect_broken(FakeServer(good + kDone), "behind [DONE]");
  expect_broken(FakeServer(good + "data: x"), "inside an event");
  expect_broken(FakeServer("data: {\n\n" + good), "no JSON object");
  expect_broken(FakeServer("data: {\"id\":\"\xff\"}\n\n" + good), "no JSON object");
  expect_broken(FakeServer("data: {}\n\n" + good), "without its fields");
  expect_broken(FakeServer("{}\n\n" + good), "neither data nor a comment");
  expect_broken(FakeServer(piece("a") + finish() + piece("b") + usage() + kDone), "behind its finish_reason");
  expect_broken(FakeServer(finish("insufficient_system_resource") + usage() + kDone), "cut off");
  expect_broken(FakeServer("data: {\"error\":{\"message\":\"Out of luck\"}}\n\n"), "Out of luck");
  std::string other = good;
  other.replace(other.rfind("\"id\":\"c\""), 8, "\"id\":\"d\"");
  expect_broken(FakeServer(other), "different ids");
}

TEST(LoadTest, NamesWhatIsWrongWithReplies) {
  const std::string good = piece("a") + finish() + usage() + kDone;
  // Longer than what an idle system takes at once, so that the end is not there with the begin.
  expect_broken(FakeServer(good, false), "the connection");
  expect_broken(FakeServer([&](HttpReply& reply) {
                  reply.send({200, {{"content-type", "application/json"}}, "{}"});
                }),
                "another type");
  std::atomic<int> asked = 0;
  const FakeServer refusing([&](HttpReply& reply) { reply.send({asked++ % 2 == 0 ? 429 : 500, {}, "{}"}); });
  const LoadLevel level = load_of(refusing);
  EXPECT_EQ(level.refused, (std::map<int, int64_t>{{429, 1}, {500, 1}}));
}

TEST(LoadTest, FindsAnswersThatDiffer) {
  std::atomic<int> asked = 0;
  const FakeServer server([&](HttpReply& reply) {
    reply.begin(200, {{"content-type", "text/event-stream"}});
    reply.write(piece("Answer " + std::to_string(asked++)) + finish() + usage() + kDone);
    reply.end();
  });
  LoadOptions options = options_for(server.port());
  options.verify = 5;
  const LoadReport report = run_load_test(options);
  EXPECT_EQ(report.asked_again, 5);
  EXPECT_EQ(report.mismatches, 5);
  EXPECT_NE(report.example.find("Prompt"), std::string::npos) << report.example;
}

TEST(LoadTest, MalformedBodiesThatAreTakenAreBroken) {
  const FakeServer server(piece("a") + finish() + usage() + kDone);
  LoadOptions options = options_for(server.port());
  options.shares.malformed = 1;
  options.requests = 4;
  const LoadLevel level = run_load_test(options).levels.at(0);
  EXPECT_EQ(level.malformed.sent, 4);
  EXPECT_EQ(level.broken, (std::map<std::string, int64_t>{{"a malformed body was taken", 4}}));
}

TEST(LoadTest, WhatIsNoHttpIsBroken) {
  // A socket that answers everything with the same bytes and closes.
  for (const auto& [bytes, why] : std::vector<std::pair<std::string, std::string>>{
           {"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            "no HTTP"},
           {"SSH-2.0-OpenSSH\r\n", "no HTTP"},
           {"HTTP/1.1 100 Continue\r\n\r\n", "no HTTP"},
           {"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n", "inside a reply"},
           {"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}{}", "behind the end"},
           {"", "before a reply"}}) {
    const int listening = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ASSERT_EQ(::bind(listening, reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(::listen(listening, 4), 0);
    ASSERT_EQ(::getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size), 0);
    std::jthread answer([&, text = bytes] {
      const int client = ::accept(listening, nullptr, nullptr);
      char request[4096];
      [[maybe_unused]] const ssize_t taken = ::recv(client, request, sizeof(request), 0);
      ::send(client, text.data(), text.size(), MSG_NOSIGNAL);
      ::close(client);
    });
    FATHOM_EXPECT_ERROR(run_load_test(options_for(ntohs(address.sin_port))), ErrorKind::failure, why);
    answer.join();
    ::close(listening);
  }
}

}  // namespace
}  // namespace fathom
