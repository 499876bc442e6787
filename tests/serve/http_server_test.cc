#include "serve/http_server.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <sys/resource.h>

#include <atomic>
#include <cstdio>
#include <functional>
#include <mutex>
#include <random>
#include <stdexcept>
#include <thread>

#include "base/error.h"
#include "support/certificate.h"
#include "support/errors.h"
#include "support/golden.h"
#include "support/raw_http_client.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// Waits for what another thread does; false after `limit`.
bool eventually(const std::function<bool()>& condition, milliseconds limit = milliseconds(10'000)) {
  const auto end = Clock::now() + limit;
  while (!condition()) {
    if (Clock::now() > end) return false;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return true;
}

milliseconds since(Clock::time_point start) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - start);
}

std::string get(const std::string& target, const std::string& more_headers = "") {
  return fmt::format("GET {} HTTP/1.1\r\nhost: here\r\n{}\r\n", target, more_headers);
}

std::string post(const std::string& target, const std::string& body, const std::string& more_headers = "") {
  return fmt::format("POST {} HTTP/1.1\r\nhost: here\r\ncontent-length: {}\r\n{}\r\n{}", target, body.size(),
                     more_headers, body);
}

std::string post_chunked(const std::string& target, const std::string& chunks) {
  return fmt::format("POST {} HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n{}", target, chunks);
}

/// A server with the routes that the tests need.
///
///   /health  "ok"                          /keep   the reply is kept for the test
///   /echo    what the server understood    /drop   the reply is dropped
///   /large   8 MB                          /throw  the handler throws
class TestServer {
 public:
  explicit TestServer(const HttpServerOptions& options = {}, HttpServer::HeadHandler on_head = nullptr)
      : server_(std::in_place, options, std::move(on_head),
                [this](HttpRequest request, std::shared_ptr<HttpReply> reply) {
                  handle(std::move(request), std::move(reply));
                }) {}

  HttpServer& server() { return *server_; }
  uint16_t port() const { return server_->port(); }
  void destroy() { server_.reset(); }

  std::atomic<int> requests{0};
  std::atomic<int> gone{0};
  static constexpr size_t kLarge = 8 << 20;

  /// The `index`th reply that was kept.
  std::shared_ptr<HttpReply> kept(size_t index = 0) {
    EXPECT_TRUE(eventually([&] {
      std::lock_guard lock(mutex_);
      return kept_.size() > index;
    }));
    std::lock_guard lock(mutex_);
    return kept_.at(index);
  }
  void forget_kept() {
    std::lock_guard lock(mutex_);
    kept_.clear();
  }
  HttpRequest last_request() {
    std::lock_guard lock(mutex_);
    return last_;
  }

  void expect_alive() {
    RawHttpClient client(port());
    EXPECT_EQ(client.ask(get("/health")).body, "ok");
  }

 private:
  void handle(HttpRequest request, std::shared_ptr<HttpReply> reply) {
    ++requests;
    {
      std::lock_guard lock(mutex_);
      last_ = request;
    }
    if (request.path == "/keep") {
      reply->on_gone([this] { ++gone; });
      std::lock_guard lock(mutex_);
      kept_.push_back(std::move(reply));
    } else if (request.path == "/throw") {
      throw std::runtime_error("the handler's own trouble");
    } else if (request.path == "/throw-late") {
      reply->begin(200, {});
      reply->write("half");
      throw std::runtime_error("the handler's own trouble");
    } else if (request.path == "/drop") {
      reply.reset();
    } else if (request.path == "/echo") {
      reply->send({200,
                   {{"content-type", "text/plain"}},
                   fmt::format("{} {} ?{} {}", request.method, request.path, request.query, request.body)});
    } else if (request.path == "/large") {
      reply->send({200, {}, std::string(kLarge, 'x')});
    } else {
      reply->send({200, {{"content-type", "text/plain"}}, "ok"});
    }
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<HttpReply>> kept_;
  HttpRequest last_;
  std::optional<HttpServer> server_;  // last: its thread uses the others
};

HttpServerOptions with(const std::function<void(HttpServerOptions&)>& change) {
  HttpServerOptions options;
  change(options);
  return options;
}

// ---------------------------------------------------------------------------------------------------- requests

TEST(HttpServer, AnswersPlainRequests) {
  TestServer server;
  RawHttpClient client(server.port());
  const RawReply reply = client.ask(get("/echo?a=1&b=%20", "X-Thing:  two words \r\n"));
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.head.starts_with("HTTP/1.1 200 OK\r\n")) << reply.head;
  EXPECT_EQ(reply.header("content-type"), "text/plain");
  EXPECT_EQ(reply.header("content-length"), std::to_string(reply.body.size()));
  EXPECT_TRUE(reply.header("date").ends_with(" GMT")) << reply.head;
  EXPECT_EQ(reply.header("connection"), "");
  EXPECT_EQ(reply.body, "GET /echo ?a=1&b=%20 ");

  const HttpRequest request = server.last_request();
  EXPECT_EQ(request.header("x-thing"), "two words");
  EXPECT_EQ(request.header("HOST"), "here");
  EXPECT_EQ(request.header("absent"), "");
  EXPECT_EQ(request.headers.at(1).first, "X-Thing") << "names stay as they were sent";
  EXPECT_EQ(request.peer, "127.0.0.1");

  EXPECT_EQ(client.ask(post("/echo", "the body")).body, "POST /echo ? the body");
  EXPECT_EQ(client.ask(post("/echo", "")).body, "POST /echo ? ");
}

TEST(HttpServer, ServesManyRequestsOnOneConnection) {
  TestServer server;
  RawHttpClient client(server.port());
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(client.ask(post("/echo", std::to_string(i))).body, fmt::format("POST /echo ? {}", i));
    // Blank lines after a body, as some clients send them, belong to no request.
    if (i % 10 == 0) {
      ASSERT_TRUE(client.send("\r\n"));
    }
  }
  EXPECT_EQ(server.server().connections(), 1);
  client.close();
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
}

TEST(HttpServer, AnswersPipelinedRequestsInTheirOrder) {
  TestServer server;
  RawHttpClient client(server.port());
  std::string all = get("/keep");
  for (int i = 0; i < 200; ++i) all += i % 2 ? get(fmt::format("/echo?{}", i)) : post("/echo", std::to_string(i));
  ASSERT_TRUE(client.send(all));
  const auto reply = server.kept();
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(server.requests, 1) << "the second request waits for the first one's reply";
  reply->send({200, {}, "first"});
  EXPECT_EQ(client.read_reply().body, "first");
  for (int i = 0; i < 200; ++i) {
    ASSERT_EQ(client.read_reply().body, i % 2 ? fmt::format("GET /echo ?{} ", i) : fmt::format("POST /echo ? {}", i));
  }
}

TEST(HttpServer, KeepsABoundedPartOfWhatIsPipelined) {
  TestServer server;
  RawHttpClient client(server.port());
  client.patience = milliseconds(300);
  ASSERT_TRUE(client.send(get("/keep")));
  const auto reply = server.kept();
  const std::string next = post("/echo", std::string(64 << 10, 'p'));
  int whole = 0;
  size_t sent = 0;
  while (sent < (64u << 20) && client.send(next)) {
    sent += next.size();
    ++whole;
  }
  EXPECT_LT(sent, 64u << 20) << "the server reads on and on";
  EXPECT_FALSE(reply->gone());
  client.patience = milliseconds(10'000);
  reply->send({200, {}, "first"});
  EXPECT_EQ(client.read_reply().body, "first");
  for (int i = 0; i < whole; ++i)
    ASSERT_EQ(client.read_reply().body.size(), std::string("POST /echo ? ").size() + (64 << 10));
}

TEST(HttpServer, ReadsChunkedBodies) {
  TestServer server;
  const std::string chunks = "5\r\nhello\r\n1;name=\"a value\";other\r\n \r\n00005\r\nworld\r\n0\r\nTrailer: x\r\n\r\n";
  RawHttpClient client(server.port());
  EXPECT_EQ(client.ask(post_chunked("/echo", chunks)).body, "POST /echo ? hello world");
  EXPECT_EQ(server.last_request().header("trailer"), "") << "a trailer is no header";
  EXPECT_EQ(client.ask(post_chunked("/echo", "0\r\n\r\n")).body, "POST /echo ? ");
  // Byte by byte; the empty body too, in which Beast asserts five bytes after the size.
  for (const std::string& body : {chunks, std::string("0\r\n\r\n"), std::string("A\r\n0123456789\r\n0\r\n\r\n")}) {
    const std::string request = post_chunked("/echo", body);
    for (size_t i = 0; i < request.size(); ++i) {
      ASSERT_TRUE(client.send(request.substr(i, 1)));
      if (i > request.size() - 12) std::this_thread::sleep_for(milliseconds(2));
    }
    EXPECT_EQ(client.read_reply().status, 200);
  }
  EXPECT_EQ(server.last_request().body, "0123456789");
}

TEST(HttpServer, StreamsAReplyInChunks) {
  TestServer server;
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send(get("/keep")));
  const auto reply = server.kept();
  std::thread writer([&] {
    reply->begin(200, {{"content-type", "text/event-stream"}});
    for (int i = 0; i < 100; ++i) {
      reply->write(fmt::format("data: {}\n\n", i));
      reply->write("");  // must not end the body
    }
    reply->end();
    reply->write("after the end");
  });
  const RawReply whole = client.read_reply();
  writer.join();
  EXPECT_EQ(whole.status, 200);
  EXPECT_TRUE(whole.whole);
  EXPECT_EQ(whole.header("content-type"), "text/event-stream");
  EXPECT_EQ(whole.header("content-length"), "");
  EXPECT_EQ(whole.chunks.size(), 100u);
  EXPECT_TRUE(whole.body.ends_with("data: 99\n\n"));
  EXPECT_FALSE(reply->gone());

  // Each piece arrives when it is written, not when the reply is whole.
  ASSERT_TRUE(client.send(get("/keep")));
  const auto slow = server.kept(1);
  slow->begin(200, {});
  EXPECT_TRUE(client.read_head().starts_with("HTTP/1.1 200 OK\r\n"));
  for (int i = 0; i < 5; ++i) {
    slow->write(std::to_string(i));
    EXPECT_EQ(client.read_chunk().value_or("none"), std::to_string(i));
  }
  slow->end();
  EXPECT_EQ(client.read_chunk().value_or("none"), "");
  client.close();
  std::this_thread::sleep_for(milliseconds(20));
  EXPECT_EQ(server.gone, 0) << "the client went after its replies";
}

TEST(HttpServer, SendsNoBodyToHead) {
  TestServer server;
  RawHttpClient client(server.port());
  RawReply reply = client.ask("HEAD /large HTTP/1.1\r\nhost: here\r\n\r\n", true);
  EXPECT_EQ(reply.header("content-length"), std::to_string(TestServer::kLarge));
  ASSERT_TRUE(client.send("HEAD /keep HTTP/1.1\r\nhost: here\r\n\r\n"));
  const auto streamed = server.kept();
  streamed->begin(200, {});
  streamed->write("not sent");
  streamed->end();
  EXPECT_EQ(client.read_reply(true).status, 200);
  reply = client.ask("HEAD /throw HTTP/1.1\r\nhost: here\r\n\r\n", true);
  EXPECT_EQ(reply.status, 500);
  EXPECT_EQ(client.ask(get("/health")).body, "ok") << "nothing lies in between";
}

TEST(HttpServer, LeavesTheBodyOutWhereTheStatusHasNone) {
  TestServer server;
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send(get("/keep") + get("/health")));
  server.kept()->send({204, {}, "not sent"});
  const RawReply reply = client.read_reply();
  EXPECT_EQ(reply.status, 204);
  EXPECT_EQ(reply.header("content-length"), "");
  EXPECT_EQ(client.read_reply().body, "ok");
}

TEST(HttpServer, SpeaksHttp10) {
  TestServer server;
  {
    RawHttpClient client(server.port());
    const RawReply reply = client.ask("GET /health HTTP/1.0\r\n\r\n");
    EXPECT_EQ(reply.body, "ok");
    EXPECT_EQ(reply.header("connection"), "close");
    EXPECT_TRUE(client.ends());
  }
  {
    RawHttpClient client(server.port());
    for (int i = 0; i < 3; ++i) {
      const RawReply reply = client.ask("GET /health HTTP/1.0\r\nconnection: keep-alive\r\n\r\n");
      EXPECT_EQ(reply.body, "ok");
      EXPECT_EQ(reply.header("connection"), "keep-alive");
    }
  }
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send("GET /keep HTTP/1.0\r\nconnection: keep-alive\r\n\r\n"));
  const auto reply = server.kept();
  reply->begin(200, {});
  reply->write("one ");
  reply->write("two");
  reply->end();
  const RawReply streamed = client.read_reply();
  EXPECT_EQ(streamed.header("transfer-encoding"), "");
  EXPECT_EQ(streamed.body, "one two");
  EXPECT_TRUE(streamed.whole);
}

TEST(HttpServer, ClosesWhenAskedTo) {
  TestServer server;
  RawHttpClient client(server.port());
  const RawReply reply = client.ask(get("/health", "Connection: Close\r\n") + get("/health"));
  EXPECT_EQ(reply.body, "ok");
  EXPECT_EQ(reply.header("connection"), "close");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_TRUE(client.ends());

  RawHttpClient other(server.port());
  ASSERT_TRUE(other.send(get("/keep")));
  server.kept()->send({200, {{"Connection", "close"}}, "the handler's wish"});
  EXPECT_EQ(other.read_reply().header("connection"), "close");
  EXPECT_TRUE(other.ends());
}

TEST(HttpServer, DecodesThePath) {
  TestServer server;
  const auto status = [&](const std::string& target) {
    RawHttpClient client(server.port());
    return client.ask(get(target)).status;
  };
  const auto path = [&](const std::string& target) {
    EXPECT_EQ(status(target), 200) << target;
    return server.last_request().path;
  };
  EXPECT_EQ(path("/v1/models/a%20b%2Fc"), "/v1/models/a b/c");
  EXPECT_EQ(path("/%e2%82%AC"), "/€");
  EXPECT_EQ(path("/a+b"), "/a+b");
  EXPECT_EQ(path("/a?b%zz"), "/a") << "the query is left as it is";
  EXPECT_EQ(server.last_request().query, "b%zz");
  EXPECT_EQ(path("http://elsewhere:80/x?y"), "/x");
  EXPECT_EQ(path("HTTP://elsewhere"), "/");
  EXPECT_EQ(path("https://elsewhere?z"), "/");
  EXPECT_EQ(server.last_request().query, "z");
  for (const char* bad : {"/%", "/%4", "/%4g", "/%g4", "/a%", "/%00", "/a%0d%0aSet-Cookie:x", "/%7f", "/%+1", "/% 1",
                          "relative", "*", "/a#b", "host:443", "?a"}) {
    EXPECT_EQ(status(bad), 400) << bad;
  }
  RawHttpClient client(server.port());
  EXPECT_EQ(client.ask("OPTIONS * HTTP/1.1\r\nhost: here\r\n\r\n").status, 200);
  EXPECT_EQ(server.last_request().path, "*");
}

TEST(HttpServer, HonoursExpectations) {
  TestServer server(with([](auto& o) { o.most_body = 100; }));
  {
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\nExpect: 100-Continue\r\n\r\n"));
    EXPECT_EQ(client.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    EXPECT_EQ(server.requests, 0);
    EXPECT_EQ(client.ask("body").body, "POST /echo ? body");
    // A client that did not wait is not told to go on; nor is one that has no body to send.
    ASSERT_TRUE(client.send(post("/echo", "body", "expect: 100-continue\r\n")));
    EXPECT_TRUE(client.read_head().starts_with("HTTP/1.1 200"));
  }
  {
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 101\r\nExpect: 100-continue\r\n\r\n"));
    EXPECT_TRUE(client.read_head().starts_with("HTTP/1.1 413"));
    EXPECT_TRUE(client.ends());
  }
  RawHttpClient client(server.port());
  EXPECT_EQ(client.ask(get("/echo", "expect: wonders\r\n")).status, 417);
}

TEST(HttpServer, AsksTheHeadHandlerBeforeTheBody) {
  TestServer server({}, [](const HttpRequest& head) -> std::optional<HttpAnswer> {
    if (head.path == "/fails") throw std::runtime_error("trouble");
    if (head.header("authorization") == "secret" && head.body.empty()) return std::nullopt;
    return HttpAnswer{401, {{"www-authenticate", "Bearer"}}, "who are you?"};
  });
  RawHttpClient client(server.port());
  RawReply reply = client.ask(get("/echo"));
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(reply.header("www-authenticate"), "Bearer");
  EXPECT_EQ(reply.body, "who are you?");
  EXPECT_EQ(client.ask(get("/fails")).status, 500);
  EXPECT_EQ(client.ask(post("/echo", "x", "authorization: secret\r\n")).body, "POST /echo ? x")
      << "the same connection";
  EXPECT_EQ(server.requests, 1);
  // A body that nobody wants is not read as the next request.
  reply = client.ask("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n" + get("/echo"));
  EXPECT_EQ(reply.status, 401);
  EXPECT_EQ(reply.header("connection"), "close");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(server.requests, 1);
}

// ---------------------------------------------------------------------------------------------------- refusals

TEST(HttpServer, RefusesWhatTwoParsersCouldReadInTwoWays) {
  TestServer server;
  const std::string start = "POST /echo HTTP/1.1\r\nhost: h\r\n";
  const struct {
    std::string request;
    int status;
  } cases[] = {
      {start + "content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {start + "transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n", 400},
      {start + "content-length: 4\r\ncontent-length: 5\r\n\r\nabcde", 400},
      {start + "content-length: 4\r\nContent-Length: 4\r\n\r\nabcd", 400},
      {start + "content-length: 4, 4\r\n\r\nabcd", 400},
      {start + "content-length: +4\r\n\r\nabcd", 400},
      {start + "content-length: -1\r\n\r\nabcd", 400},
      {start + "content-length: 0x4\r\n\r\nabcd", 400},
      {start + "content-length: 4 4\r\n\r\nabcd", 400},
      {start + "content-length:\r\n\r\nabcd", 400},
      {start + "content-length: 99999999999999999999999\r\n\r\nabcd", 400},
      {start + "content-length : 4\r\n\r\nabcd", 400},
      {start + "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {start + "transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501},
      {start + "transfer-encoding: identity\r\n\r\n", 501},
      {start + "transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501},
      {start + "transfer-encoding: \x0b"
               "chunked\r\n\r\n0\r\n\r\n",
       400},
      {"POST /echo HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400},
      {start + "a: b\r\n folded\r\n\r\n", 400},
      {start + "a: b\r\n\tfolded\r\n\r\n", 400},
      {start + "a: b\r\n \r\n\r\n", 400},
      {"POST /echo HTTP/1.1\r\n host: h\r\n\r\n", 400},
      {start + "a: b\nc: d\r\n\r\n", 400},
      {start + "a: b\rc: d\r\n\r\n", 400},
      {start + "a: b" + std::string(1, '\0') + "c\r\n\r\n", 400},
      {start + "a: b\x01\r\n\r\n", 400},
      {start + "a: b\x7f\r\n\r\n", 400},
      {start + "a\x80: b\r\n\r\n", 400},
      {start + "a b: c\r\n\r\n", 400},
      {start + ": c\r\n\r\n", 400},
      {start + "no colon\r\n\r\n", 400},
      {start + "host: again\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\n\n", 400},
      {"GET /\r\n\r\n", 400},
      {"GET / \r\n\r\n", 400},
      {"GET  / HTTP/1.1\r\nhost: h\r\n\r\n", 400},
      {"GET / HTTP/1.1 \r\nhost: h\r\n\r\n", 400},
      {"GET / http/1.1\r\nhost: h\r\n\r\n", 400},
      {"GET / HTTP/1.10\r\nhost: h\r\n\r\n", 400},
      {"GET / HTTP/11\r\nhost: h\r\n\r\n", 400},
      {"GET / HTTP/1.2\r\nhost: h\r\n\r\n", 505},
      {"GET / HTTP/0.9\r\nhost: h\r\n\r\n", 505},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505},
      {"G(T / HTTP/1.1\r\nhost: h\r\n\r\n", 400},
      {" GET / HTTP/1.1\r\nhost: h\r\n\r\n", 400},
      {"\x16\x03\x01\x02\x05\x01", 400},  // TLS
      {post_chunked("/echo", "-1\r\n\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "0x1\r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", " 1\r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "1 \r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "1\na\n0\n\n\r\n\r\n"), 400},
      {post_chunked("/echo", "1\r\nabc\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "\r\n\r\n\r\n"), 400},
      {post_chunked("/echo", "1;a=\"\n2\r\nb\"\r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "1;a=\"\n\"\r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "ffffffffffffffffff\r\na\r\n0\r\n\r\n"), 400},
      {post_chunked("/echo", "0\r\na b: c\r\n\r\n"), 400},
      {post_chunked("/echo", "0\r\ntransfer-encoding: chunked\r\n\r\n"), 400},
  };
  for (const auto& [request, status] : cases) {
    RawHttpClient client(server.port());
    // The request behind it must never be seen.
    const RawReply reply = client.ask(request + get("/smuggled"));
    EXPECT_EQ(reply.status, status) << request << "\n" << reply.body;
    EXPECT_EQ(reply.header("connection"), "close") << request;
    EXPECT_EQ(client.read_to_end(), "") << request;
  }
  EXPECT_EQ(server.requests, 0);
  server.expect_alive();
}

TEST(HttpServer, RefusesALargeHead) {
  TestServer server(with([](auto& o) { o.most_header = 1000; }));
  RawHttpClient client(server.port());
  // Exactly as many bytes as are allowed, then one more; then a head that never ends.
  const size_t rest = 1000 - get("/health", "x: \r\n").size();
  EXPECT_EQ(client.ask(get("/health", "x: " + std::string(rest, 'y') + "\r\n")).status, 200);
  RawReply reply = client.ask(get("/health", "x: " + std::string(rest + 1, 'y') + "\r\n"));
  EXPECT_EQ(reply.status, 431);
  EXPECT_TRUE(client.ends());
  RawHttpClient endless(server.port());
  endless.send("GET /" + std::string(100'000, 'a'));
  reply = endless.read_reply();
  EXPECT_EQ(reply.status, 431);
  EXPECT_NE(reply.body.find("1000 bytes"), std::string::npos) << reply.body;
  EXPECT_TRUE(endless.ends());
}

TEST(HttpServer, RefusesALargeBody) {
  TestServer server(with([](auto& o) { o.most_body = 1000; }));
  {
    RawHttpClient client(server.port());
    EXPECT_EQ(client.ask(post("/echo", std::string(1000, 'a'))).status, 200);
    const RawReply reply = client.ask("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 1001\r\n\r\n");
    EXPECT_EQ(reply.status, 413) << "before any of it is sent";
    EXPECT_NE(reply.body.find("1000 bytes"), std::string::npos) << reply.body;
    EXPECT_TRUE(client.ends());
  }
  {
    RawHttpClient client(server.port());
    const std::string half = "1f4\r\n" + std::string(500, 'a') + "\r\n";
    EXPECT_EQ(client.ask(post_chunked("/echo", half + half + "0\r\n\r\n")).status, 200);
    EXPECT_EQ(client.ask(post_chunked("/echo", half + half + "1\r\n")).status, 413);
    EXPECT_TRUE(client.ends());
  }
  {
    RawHttpClient client(server.port());
    EXPECT_EQ(client.ask(post_chunked("/echo", "fffffffffffffff\r\n")).status, 413);
  }
  {
    // A client that sends all of a large body before it reads still gets to see why it was refused.
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.send(post("/echo", std::string(4 << 20, 'a'))));
    EXPECT_EQ(client.read_reply().status, 413);
  }
  {
    // Neither a chunk's extension nor trailers may go on for ever.
    RawHttpClient client(server.port());
    client.send(post_chunked("/echo", "1;" + std::string(100'000, 'e')));
    EXPECT_EQ(client.read_reply().status, 431);
    RawHttpClient other(server.port());
    std::string trailers;
    for (int i = 0; i < 20'000; ++i) trailers += "a: b\r\n";
    other.send(post_chunked("/echo", "0\r\n" + trailers));
    EXPECT_EQ(other.read_reply().status, 431);
  }
  EXPECT_EQ(server.requests, 2);
}

TEST(HttpServer, BoundsAllBodiesTogether) {
  TestServer server(with([](auto& o) { o.most_bodies = 1000; }));
  RawHttpClient slow(server.port());
  ASSERT_TRUE(slow.send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 800\r\n\r\n" + std::string(700, 'a')));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(RawHttpClient(server.port()).ask(post("/echo", std::string(500, 'b'))).status, 503);
  EXPECT_EQ(RawHttpClient(server.port()).ask(post("/echo", std::string(200, 'b'))).status, 200);
  ASSERT_TRUE(slow.send(std::string(100, 'a')));
  EXPECT_EQ(slow.read_reply().status, 200);
  // What was answered counts no more, on an old connection or a new one.
  EXPECT_EQ(slow.ask(post("/echo", std::string(900, 'c'))).status, 200);
  EXPECT_EQ(RawHttpClient(server.port()).ask(post("/echo", std::string(900, 'c'))).status, 200);
}

TEST(HttpServer, LimitsTheTimeOfAHead) {
  TestServer server(with([](auto& o) { o.head_timeout = milliseconds(150); }));
  RawHttpClient stalled(server.port());
  ASSERT_TRUE(stalled.send("GET /health HT"));
  RawHttpClient dripping(server.port());
  const auto start = Clock::now();
  std::atomic<bool> ended{false};
  std::thread drip([&] {
    while (!ended && dripping.send("G")) std::this_thread::sleep_for(milliseconds(20));
  });
  EXPECT_EQ(stalled.read_reply().status, 408);
  EXPECT_GE(since(start), milliseconds(120));
  EXPECT_TRUE(stalled.ends());
  EXPECT_EQ(dripping.read_reply().status, 408);
  EXPECT_TRUE(dripping.ends());
  ended = true;
  drip.join();

  // The time of a second request's head begins with its own first byte.
  RawHttpClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.ask(get("/health")).status, 200);
    std::this_thread::sleep_for(milliseconds(100));
  }
}

TEST(HttpServer, LimitsTheTimeOfABody) {
  TestServer server(with([](auto& o) { o.body_timeout = milliseconds(100); }));
  const std::string head = "POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\n";
  {
    RawHttpClient client(server.port());
    const auto start = Clock::now();
    EXPECT_EQ(client.ask(head + "a").status, 408);
    EXPECT_GE(since(start), milliseconds(80));
    EXPECT_TRUE(client.ends());
  }
  {
    RawHttpClient client(server.port());
    EXPECT_EQ(client.ask(post_chunked("/echo", "5\r\nab")).status, 408);
  }
  // Bytes that keep coming help only so long.
  RawHttpClient client(server.port());
  const auto start = Clock::now();
  ASSERT_TRUE(client.send(head));
  std::atomic<bool> ended{false};
  std::thread drip([&] {
    while (!ended && client.send("b")) std::this_thread::sleep_for(milliseconds(20));
  });
  EXPECT_EQ(client.read_reply().status, 408);
  EXPECT_GE(since(start), milliseconds(800)) << "while bytes come, ten times as long";
  EXPECT_TRUE(client.ends());
  ended = true;
  drip.join();
  EXPECT_EQ(server.requests, 0);
}

TEST(HttpServer, ClosesIdleConnections) {
  TestServer server(with([](auto& o) { o.idle_timeout = milliseconds(150); }));
  RawHttpClient silent(server.port());
  RawHttpClient used(server.port());
  RawHttpClient blank(server.port());
  EXPECT_EQ(used.ask(get("/health")).body, "ok");
  const auto start = Clock::now();
  ASSERT_TRUE(blank.send("\r\n\r\n\r"));
  for (RawHttpClient* client : {&silent, &used, &blank}) {
    EXPECT_EQ(client->read_to_end(), "");
    EXPECT_TRUE(client->ends());
  }
  EXPECT_LT(since(start), milliseconds(5000));
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
}

TEST(HttpServer, LetsItsUserWordRefusals) {
  TestServer server(with([](auto& o) {
    o.most_body = 10;
    o.word_refusal = [](int status, std::string_view sentence) {
      if (status == 505) throw std::runtime_error("no words");
      return HttpAnswer{200, {{"content-type", "application/json"}}, fmt::format("[{}, \"{}\"]", status, sentence)};
    };
  }));
  RawHttpClient client(server.port());
  RawReply reply = client.ask(post("/echo", std::string(11, 'a')));
  EXPECT_EQ(reply.status, 413);
  EXPECT_EQ(reply.header("content-type"), "application/json");
  EXPECT_EQ(reply.body, "[413, \"the body: expected at most 10 bytes, found more\"]");
  RawHttpClient other(server.port());
  EXPECT_EQ(other.ask(get("/drop")).body.substr(0, 5), "[500,");
  EXPECT_EQ(other.ask("GET / HTTP/1.7\r\n\r\n").header("content-type"), "text/plain; charset=utf-8");
}

// ---------------------------------------------------------------------------------------------------- replies

TEST(HttpServer, LetsNoHeaderOfAHandlerEndItsLine) {
  TestServer server;
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send(get("/keep") + get("/keep")));
  const HttpHeaders headers = {{"x-good", "a\r\nx-evil: 1\r\n\r\n<html>"},
                               {"x-bad\r\nx-evil", "2"},
                               {"", "3"},
                               {"x bad", "4"},
                               {"x-null", std::string("a\0b\x7f"
                                                      "c",
                                                      5)},
                               {"Content-Length", "1"},
                               {"Transfer-Encoding", "gzip"}};
  server.kept(0)->send({200, headers, "body"});
  const RawReply reply = client.read_reply();
  EXPECT_EQ(reply.header("x-good"), "a  x-evil: 1    <html>");
  EXPECT_EQ(reply.header("x-null"), "a b c");
  EXPECT_EQ(reply.header("content-length"), "4");
  EXPECT_EQ(reply.head.find("\r\nx-evil"), std::string::npos) << reply.head;
  EXPECT_EQ(reply.head.find("x-bad"), std::string::npos) << reply.head;
  EXPECT_EQ(reply.head.find("Transfer"), std::string::npos) << reply.head;
  EXPECT_EQ(reply.body, "body");
  server.kept(1)->begin(99999, headers);
  server.kept(1)->end();
  const RawReply streamed = client.read_reply();
  EXPECT_EQ(streamed.status, 500) << "not a status of HTTP";
  EXPECT_EQ(streamed.head.find("\r\nx-evil"), std::string::npos) << streamed.head;
  EXPECT_EQ(streamed.header("transfer-encoding"), "chunked");
}

TEST(HttpServer, Says500ForARequestThatNobodyAnswers) {
  TestServer server;
  RawHttpClient client(server.port());
  EXPECT_EQ(client.ask(get("/drop")).status, 500);
  const RawReply thrown = client.ask(get("/throw"));
  EXPECT_EQ(thrown.status, 500);
  EXPECT_EQ(thrown.body.find("trouble"), std::string::npos) << "an exception's text is not the client's business";
  ASSERT_TRUE(client.send(get("/keep")));
  server.kept();
  std::thread([&] { server.forget_kept(); }).join();
  EXPECT_EQ(client.read_reply().status, 500);
  EXPECT_EQ(client.ask(get("/health")).body, "ok");
  EXPECT_EQ(server.gone, 0);
}

TEST(HttpServer, BreaksOffAStreamThatNobodyEnds) {
  TestServer server;
  RawHttpClient client(server.port());
  RawReply reply = client.ask(get("/throw-late"));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "half");
  EXPECT_FALSE(reply.whole) << "the client has to see that something is missing";
  EXPECT_TRUE(client.ends());
  RawHttpClient other(server.port());
  ASSERT_TRUE(other.send(get("/keep")));
  server.kept()->begin(200, {});
  server.kept()->write("half");
  server.forget_kept();
  reply = other.read_reply();
  EXPECT_EQ(reply.body, "half");
  EXPECT_FALSE(reply.whole);
}

TEST(HttpServer, IgnoresCallsOutOfOrder) {
  TestServer server;
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send(get("/keep") + get("/keep")));
  auto reply = server.kept(0);
  reply->write("before the head");
  reply->end();
  reply->send({200, {}, "one"});
  reply->send({200, {}, "two"});
  reply->begin(200, {});
  reply->write("three");
  reply->end();
  EXPECT_EQ(client.read_reply().body, "one");
  reply = server.kept(1);
  reply->begin(200, {});
  reply->begin(201, {});
  reply->send({200, {}, "one"});
  reply->write("two");
  reply->end();
  reply->end();
  EXPECT_EQ(client.read_reply().body, "two");
  EXPECT_EQ(client.ask(get("/health")).body, "ok");
}

TEST(HttpServer, SendsLargeReplies) {
  TestServer server;
  RawHttpClient client(server.port(), 4096);
  ASSERT_TRUE(client.send(get("/large")));
  std::this_thread::sleep_for(milliseconds(50));
  const RawReply reply = client.read_reply();
  EXPECT_EQ(reply.body, std::string(TestServer::kLarge, 'x')) << "most_unsent is of streams";
}

// ---------------------------------------------------------------------------------------------------- clients that go

TEST(HttpServer, NoticesAClientThatGoesBeforeTheReply) {
  TestServer server;
  const std::function<void(RawHttpClient&)> ways[] = {
      [](RawHttpClient& c) { c.close(); },
      [](RawHttpClient& c) { c.reset(); },
      [](RawHttpClient& c) { c.half_close(); },  // looks like the first
      [](RawHttpClient& c) {                     // with a next request under way
        c.send("GET /next HTTP");
        c.close();
      },
  };
  int count = 0;
  for (const auto& go : ways) {
    for (const bool streaming : {false, true}) {
      RawHttpClient client(server.port());
      ASSERT_TRUE(client.send(get("/keep")));
      const auto reply = server.kept(count++);
      if (streaming) {
        reply->begin(200, {});
        reply->write("some");
        EXPECT_NE(client.read_head(), "");
        EXPECT_EQ(client.read_chunk().value_or(""), "some");
      }
      std::this_thread::sleep_for(milliseconds(10));
      EXPECT_FALSE(reply->gone());
      go(client);
      EXPECT_TRUE(eventually([&] { return server.gone == count; }, milliseconds(3000))) << count;
      EXPECT_TRUE(reply->gone());
      // All of it does nothing any more, and a late action is called at once.
      reply->begin(200, {});
      reply->write("more");
      reply->end();
      reply->send({});
      bool told = false;
      reply->on_gone([&] { told = true; });
      EXPECT_TRUE(told);
    }
  }
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
  EXPECT_EQ(server.gone, count);
}

TEST(HttpServer, NoticesAClientThatGoesBehindAFullBuffer) {
  TestServer server;
  RawHttpClient client(server.port());
  client.patience = milliseconds(300);
  ASSERT_TRUE(client.send(get("/keep")));
  server.kept();
  // More than the server keeps, and little enough for the rest and the connection's end to lie in the system's buffer.
  ASSERT_TRUE(client.send(std::string(100 << 10, 'j')));
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(server.gone, 0);
  client.close();
  EXPECT_TRUE(eventually([&] { return server.gone == 1; }, milliseconds(3000)));
}

TEST(HttpServer, TakesAClientThatReadsNothingForGone) {
  TestServer server(with([](auto& o) { o.write_timeout = milliseconds(300); }));
  RawHttpClient client(server.port(), 4096);
  ASSERT_TRUE(client.send(get("/keep")));
  const auto reply = server.kept();
  reply->begin(200, {});
  const auto start = Clock::now();
  reply->write(std::string(32 << 20, 'x'));  // more than the system's buffers take
  EXPECT_TRUE(eventually([&] { return server.gone == 1; }, milliseconds(5000)));
  EXPECT_GE(since(start), milliseconds(250));
  EXPECT_TRUE(reply->gone());
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));

  // The same with a reply that is whole: nobody waits for it, but the connection must not stay.
  RawHttpClient other(server.port(), 4096);
  ASSERT_TRUE(other.send(get("/keep")));
  server.kept(1)->send({200, {}, std::string(32 << 20, 'x')});
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
  EXPECT_EQ(server.gone, 1);
}

TEST(HttpServer, TakesAClientThatIsTooFarBehindForGone) {
  TestServer server(with([](auto& o) { o.most_unsent = 1 << 20; }));
  RawHttpClient slow(server.port(), 4096);
  ASSERT_TRUE(slow.send(get("/keep")));
  const auto reply = server.kept();
  RawHttpClient quick(server.port());
  ASSERT_TRUE(quick.send(get("/keep")));
  const auto other = server.kept(1);
  reply->begin(200, {});
  other->begin(200, {});
  EXPECT_NE(quick.read_head(), "");
  // Both get the same. The slow one goes overboard, the quick one sees each piece.
  const std::string piece(64 << 10, 'x');
  size_t written = 0;
  while (!reply->gone() && written < (256u << 20)) {
    reply->write(piece);
    other->write(piece);
    written += piece.size();
    ASSERT_EQ(quick.read_chunk().value_or(""), piece);
  }
  EXPECT_LT(written, 64u << 20);
  EXPECT_TRUE(eventually([&] { return server.gone == 1; }, milliseconds(3000)));
  other->end();
  EXPECT_EQ(quick.read_chunk().value_or("none"), "");
  EXPECT_EQ(quick.ask(get("/health")).body, "ok");
  EXPECT_FALSE(other->gone());
}

TEST(HttpServer, OutlivesClientsThatLeaveInTheMiddleOfARequest) {
  TestServer server;
  const std::string request = post("/echo", "0123456789");
  for (size_t length = 0; length < request.size(); ++length) {
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.send(request.substr(0, length)));
    length % 2 ? client.close() : client.reset();
  }
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
  EXPECT_EQ(server.requests, 0);
  // One that only closes its half is told what is missing.
  for (size_t length : {size_t{5}, request.size() - 1}) {
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.send(request.substr(0, length)));
    client.half_close();
    EXPECT_EQ(client.read_reply().status, 400);
    EXPECT_TRUE(client.ends());
  }
}

TEST(HttpServer, AnswersAHalfClosedClientWhatNeedsNoTime) {
  TestServer server;
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send(get("/echo?1") + get("/large") + get("/echo?2")));
  client.half_close();
  EXPECT_EQ(client.read_reply().body, "GET /echo ?1 ");
  EXPECT_EQ(client.read_reply().body.size(), TestServer::kLarge);
  EXPECT_EQ(client.read_reply().body, "GET /echo ?2 ");
  EXPECT_TRUE(client.ends());
}

// ---------------------------------------------------------------------------------------------------- many connections

TEST(HttpServer, ServesManyConnectionsAtOnce) {
  TestServer server;
  std::vector<RawHttpClient> clients;
  constexpr int kClients = 200;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back(server.port());
    ASSERT_TRUE(clients.back().connected());
    ASSERT_TRUE(clients.back().send(get("/keep")));
  }
  server.kept(kClients - 1);
  EXPECT_EQ(server.server().connections(), kClients);
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      for (int i = t; i < kClients; i += 4) server.kept(i)->begin(200, {});
      for (int round = 0; round < 20; ++round) {
        for (int i = t; i < kClients; i += 4) server.kept(i)->write("data: x\n\n");
      }
      for (int i = t; i < kClients; i += 4) server.kept(i)->end();
    });
  }
  for (RawHttpClient& client : clients) {
    const RawReply reply = client.read_reply();
    EXPECT_TRUE(reply.whole);
    EXPECT_EQ(reply.chunks.size(), 20u);
  }
  for (std::thread& writer : writers) writer.join();
  for (RawHttpClient& client : clients) ASSERT_TRUE(client.send(get("/health")));
  for (RawHttpClient& client : clients) EXPECT_EQ(client.read_reply().body, "ok");
  EXPECT_EQ(server.gone, 0);
}

TEST(HttpServer, LetsConnectionsWaitWhenThereAreTooMany) {
  TestServer server(with([](auto& o) { o.most_connections = 2; }));
  RawHttpClient first(server.port());
  RawHttpClient second(server.port());
  EXPECT_EQ(first.ask(get("/health")).body, "ok");
  EXPECT_EQ(second.ask(get("/health")).body, "ok");
  RawHttpClient third(server.port());
  third.patience = milliseconds(100);
  ASSERT_TRUE(third.send(get("/health")));
  EXPECT_FALSE(third.receive());
  EXPECT_EQ(server.server().connections(), 2);
  third.patience = milliseconds(10'000);
  first.close();
  EXPECT_EQ(third.read_reply().body, "ok");
  EXPECT_EQ(second.ask(get("/health")).body, "ok");
}

TEST(HttpServer, RecoversFromAShortageOfDescriptors) {
  TestServer server;
  server.expect_alive();
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 0; }));
  RawHttpClient client;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int lowest_free = ::dup(client.descriptor());
  ::close(lowest_free);
  rlimit none_left = before;
  none_left.rlim_cur = static_cast<rlim_t>(lowest_free);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none_left), 0);
  const bool connected = client.connect(server.port());
  client.send(get("/health"));
  rusage start{};
  ::getrusage(RUSAGE_SELF, &start);
  std::this_thread::sleep_for(milliseconds(400));
  rusage end{};
  ::getrusage(RUSAGE_SELF, &end);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_TRUE(connected);
  EXPECT_EQ(server.server().connections(), 0);
  EXPECT_EQ(client.read_reply().body, "ok");
  const auto used = [](const rusage& u) {
    return (u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
  };
  EXPECT_LT(used(end) - used(start), 200) << "ms of the processor in 400 ms: the server spins";
}

// ---------------------------------------------------------------------------------------------------- the end

TEST(HttpServer, StopsAfterTheRepliesThatArePending) {
  std::atomic<int> heads{0};
  TestServer server({}, [&](const HttpRequest&) {
    ++heads;
    return std::optional<HttpAnswer>();
  });
  RawHttpClient idle(server.port());
  RawHttpClient used(server.port());
  EXPECT_EQ(used.ask(get("/health")).body, "ok");
  RawHttpClient waiting(server.port());
  ASSERT_TRUE(waiting.send(get("/keep") + get("/health")));
  RawHttpClient streaming(server.port());
  server.kept(0);
  ASSERT_TRUE(streaming.send(get("/keep")));
  server.kept(1)->begin(200, {});
  RawHttpClient uploading(server.port());
  ASSERT_TRUE(uploading.send("POST /echo HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\nbo"));
  EXPECT_NE(streaming.read_head(), "");
  EXPECT_TRUE(eventually([&] { return server.server().connections() == 5 && heads == 4; }));

  server.server().stop_accepting();
  server.server().stop_accepting();
  EXPECT_FALSE(RawHttpClient(server.port()).connected());
  EXPECT_EQ(idle.read_to_end(), "");
  EXPECT_EQ(used.read_to_end(), "");
  EXPECT_FALSE(server.server().wait_until_idle(milliseconds(50)));
  EXPECT_EQ(server.server().connections(), 3);
  EXPECT_EQ(server.gone, 0);

  const RawReply uploaded = uploading.ask("dy");
  EXPECT_EQ(uploaded.body, "POST /echo ? body");
  EXPECT_EQ(uploaded.header("connection"), "close");
  EXPECT_TRUE(uploading.ends());
  server.kept(0)->send({200, {}, "late"});
  const RawReply late = waiting.read_reply();
  EXPECT_EQ(late.body, "late");
  EXPECT_EQ(late.header("connection"), "close");
  EXPECT_EQ(waiting.read_to_end(), "") << "no new request on the old connection";
  server.kept(1)->write("the end");
  server.kept(1)->end();
  EXPECT_EQ(streaming.read_chunk().value_or(""), "the end");
  EXPECT_EQ(streaming.read_chunk().value_or("none"), "");
  EXPECT_TRUE(streaming.ends());
  waiting.close();
  streaming.close();
  uploading.close();
  EXPECT_TRUE(server.server().wait_until_idle(milliseconds(5000)));
  EXPECT_EQ(server.server().connections(), 0);
  EXPECT_EQ(server.gone, 0);
}

TEST(HttpServer, RepliesMayOutliveTheServer) {
  TestServer server;
  std::vector<RawHttpClient> clients;
  constexpr int kClients = 8;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back(server.port());
    ASSERT_TRUE(clients.back().send(get("/keep")));
  }
  RawHttpClient half_sent(server.port());
  ASSERT_TRUE(half_sent.send("GET /hea"));
  std::vector<std::shared_ptr<HttpReply>> replies;
  for (int i = 0; i < kClients; ++i) replies.push_back(server.kept(i));
  server.forget_kept();
  std::atomic<bool> stop{false};
  std::vector<std::thread> writers;
  for (int t = 0; t < 2; ++t) {
    writers.emplace_back([&, t] {
      for (int i = 0; i < kClients / 2; ++i) replies[i]->begin(200, {});
      while (!stop) {
        for (int i = t; i < kClients / 2; ++i) replies[i]->write("x");
        std::this_thread::yield();
      }
    });
  }
  std::this_thread::sleep_for(milliseconds(30));
  server.destroy();
  EXPECT_EQ(server.gone, kClients);
  std::this_thread::sleep_for(milliseconds(10));
  stop = true;
  for (std::thread& writer : writers) writer.join();
  for (const auto& reply : replies) {
    EXPECT_TRUE(reply->gone());
    reply->send({});
    bool told = false;
    reply->on_gone([&] { told = true; });
    EXPECT_TRUE(told);
  }
  replies.clear();
  for (RawHttpClient& client : clients) EXPECT_TRUE(client.ends());
  EXPECT_TRUE(half_sent.ends());
  EXPECT_EQ(server.gone, kClients);
}

TEST(HttpServer, CanBeStoppedByAHandler) {
  std::atomic<HttpServer*> self{nullptr};
  HttpServer server({}, nullptr, [&](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    self.load()->stop_accepting();
    reply->send({200, {}, "bye"});
  });
  self = &server;
  RawHttpClient client(server.port());
  const RawReply reply = client.ask(get("/"));
  EXPECT_EQ(reply.body, "bye");
  EXPECT_EQ(reply.header("connection"), "close");
  client.close();
  EXPECT_TRUE(server.wait_until_idle(milliseconds::max()));
}

TEST(HttpServer, NamesAnAddressThatItCannotUse) {
  const auto start = [](const std::string& host, uint16_t port) {
    HttpServerOptions options;
    options.host = host;
    options.port = port;
    HttpServer server(options, nullptr, [](const HttpRequest&, const std::shared_ptr<HttpReply>&) {});
    return server.port();
  };
  TestServer server;
  FATHOM_EXPECT_ERROR(start("127.0.0.1", server.port()), ErrorKind::bad_input,
                      fmt::format("127.0.0.1:{}", server.port()), "another program");
  FATHOM_EXPECT_ERROR(start("localhost", server.port()), ErrorKind::bad_input,
                      fmt::format("localhost:{}", server.port()), "another program");
  FATHOM_EXPECT_ERROR(start("192.0.2.1", 0), ErrorKind::bad_input, "192.0.2.1:0", "address of this machine");
  FATHOM_EXPECT_ERROR(start("example.org", 80), ErrorKind::bad_input, "\"example.org\"", "localhost");
  FATHOM_EXPECT_ERROR(start("", 80), ErrorKind::bad_input, "\"\"");
  EXPECT_NE(start("localhost", 0), 0);
  EXPECT_NE(start("0.0.0.0", 0), 0);
}

// ---------------------------------------------------------------------------------------------------- TLS

/// The raw client over TLS; checks the server's certificate.
class TlsClient : public RawHttpClient {
 public:
  TlsClient(uint16_t port, const std::string& certificate, int version = 0) : RawHttpClient(port) {
    const timeval patience_of_socket{10, 0};
    ::setsockopt(descriptor(), SOL_SOCKET, SO_RCVTIMEO, &patience_of_socket, sizeof(patience_of_socket));
    context_ = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(context_, certificate.c_str(), nullptr);
    SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
    if (version != 0) {
      SSL_CTX_set_security_level(context_, 0);
      SSL_CTX_set_cipher_list(context_, "ALL:@SECLEVEL=0");
      SSL_CTX_set_min_proto_version(context_, version);
      SSL_CTX_set_max_proto_version(context_, version);
    }
    ssl_ = SSL_new(context_);
    SSL_set_fd(ssl_, descriptor());
    static constexpr unsigned char kProtocols[] = "\x02h2\x08http/1.1";
    SSL_set_alpn_protos(ssl_, kProtocols, sizeof(kProtocols) - 1);
    SSL_set1_host(ssl_, "localhost");
    secure_ = SSL_connect(ssl_) == 1;
  }
  ~TlsClient() override {
    SSL_free(ssl_);
    SSL_CTX_free(context_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool secure() const { return secure_; }
  SSL* ssl() { return ssl_; }
  /// Whether the server said that nothing follows, as it must: an attacker can end a connection too.
  bool ended_securely() const { return (SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0; }
  std::string protocol() const {
    const unsigned char* name = nullptr;
    unsigned length = 0;
    SSL_get0_alpn_selected(ssl_, &name, &length);
    return {reinterpret_cast<const char*>(name), length};
  }

 protected:
  ssize_t write_some(const char* data, size_t bytes) override {
    return SSL_write(ssl_, data, static_cast<int>(std::min<size_t>(bytes, 1 << 20)));
  }
  ssize_t read_some(char* to, size_t bytes) override {
    const int count = SSL_read(ssl_, to, static_cast<int>(bytes));
    if (count <= 0) {
      const int error = SSL_get_error(ssl_, count);
      if (error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) set_ended();
    }
    return count;
  }

 private:
  SSL_CTX* context_ = nullptr;
  SSL* ssl_ = nullptr;
  bool secure_ = false;
};

class TlsFiles : public CertificateFiles {
 public:
  HttpServerOptions options() const {
    HttpServerOptions options;
    options.tls_certificate = certificate();
    options.tls_key = key();
    return options;
  }
};

TEST(HttpServer, SpeaksTls) {
  const TlsFiles files;
  TestServer server(files.options());
  for (const int version : {0, TLS1_2_VERSION, TLS1_3_VERSION}) {
    TlsClient client(server.port(), files.certificate(), version);
    ASSERT_TRUE(client.secure());
    EXPECT_EQ(client.protocol(), "http/1.1");
    EXPECT_EQ(client.ask(get("/health")).body, "ok");
    const std::string body(300'000, 'b');
    EXPECT_EQ(client.ask(post("/echo", body)).body, "POST /echo ? " + body);
    EXPECT_EQ(client.ask(get("/large")).body.size(), TestServer::kLarge);
    EXPECT_EQ(client.ask(get("/health", "connection: close\r\n")).body, "ok");
    EXPECT_TRUE(client.ends());
    EXPECT_TRUE(client.ended_securely());
  }
  EXPECT_FALSE(TlsClient(server.port(), files.certificate(), TLS1_1_VERSION).secure());

  TlsClient old(server.port(), files.certificate(), TLS1_2_VERSION);
  EXPECT_EQ(SSL_renegotiate(old.ssl()), 1);
  EXPECT_NE(SSL_do_handshake(old.ssl()), 1) << "renegotiation is refused";

  // A client that sends all of a large body before it reads sees why it was refused.
  HttpServerOptions small = files.options();
  small.most_body = 1000;
  TestServer small_server(small);
  TlsClient sending(small_server.port(), files.certificate());
  ASSERT_TRUE(sending.send(post("/echo", std::string(4 << 20, 'a'))));
  EXPECT_EQ(sending.read_reply().status, 413);
  EXPECT_TRUE(sending.ends());
  EXPECT_TRUE(sending.ended_securely());
  // A client that closes its half gets its answer's end all the same.
  TlsClient closing(server.port(), files.certificate());
  ASSERT_TRUE(closing.send("GET /large HTTP/1.0\r\n\r\n"));
  SSL_shutdown(closing.ssl());
  EXPECT_EQ(closing.read_reply().body.size(), TestServer::kLarge);
  EXPECT_TRUE(closing.ends());
  EXPECT_TRUE(closing.ended_securely());

  // What is no TLS at all, and a client that leaves in the middle of the handshake.
  RawHttpClient plain(server.port());
  ASSERT_TRUE(plain.send(get("/health")));
  EXPECT_TRUE(plain.ends());
  RawHttpClient leaving(server.port());
  ASSERT_TRUE(leaving.send("\x16\x03\x01"));
  leaving.close();
  EXPECT_EQ(TlsClient(server.port(), files.certificate()).ask(get("/health")).body, "ok");
}

TEST(HttpServer, StreamsOverTlsAndNoticesWhoGoes) {
  const TlsFiles files;
  TestServer server(files.options());
  {
    TlsClient client(server.port(), files.certificate());
    ASSERT_TRUE(client.send(get("/keep") + get("/health")));
    const auto reply = server.kept(0);
    reply->begin(200, {});
    EXPECT_NE(client.read_head(), "");
    for (int i = 0; i < 20; ++i) {
      reply->write(std::to_string(i));
      ASSERT_EQ(client.read_chunk().value_or("none"), std::to_string(i));
    }
    reply->end();
    EXPECT_EQ(client.read_chunk().value_or("none"), "");
    EXPECT_EQ(client.read_reply().body, "ok");
    ASSERT_TRUE(client.send(get("/keep")));
    server.kept(1)->begin(200, {});
    EXPECT_NE(client.read_head(), "");
    client.close();
    EXPECT_TRUE(eventually([&] { return server.gone == 1; }, milliseconds(3000)));
  }
  {
    TlsClient client(server.port(), files.certificate());
    ASSERT_TRUE(client.send(get("/keep")));
    server.kept(2);
    SSL_shutdown(client.ssl());
    EXPECT_TRUE(eventually([&] { return server.gone == 2; }, milliseconds(3000)));
  }
  TlsClient client(server.port(), files.certificate());
  ASSERT_TRUE(client.send(get("/keep")));
  const auto reply = server.kept(3);
  server.destroy();
  EXPECT_EQ(server.gone, 3);
  reply->send({});
  EXPECT_TRUE(client.ends());
}

TEST(HttpServer, LimitsTheTimeOfATlsHandshake) {
  const TlsFiles files;
  HttpServerOptions options = files.options();
  options.idle_timeout = milliseconds(150);
  TestServer server(options);
  RawHttpClient client(server.port());
  ASSERT_TRUE(client.send("\x16\x03"));
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_TRUE(client.ends());
}

TEST(HttpServer, NamesTlsFilesThatItCannotUse) {
  const TlsFiles files;
  const TlsFiles others;
  const auto start = [](const std::string& certificate, const std::string& key) {
    HttpServerOptions options;
    options.tls_certificate = certificate;
    options.tls_key = key;
    HttpServer server(options, nullptr, [](const HttpRequest&, const std::shared_ptr<HttpReply>&) {});
  };
  const auto write = [&](const std::string& name, const std::string& text) {
    FILE* file = std::fopen(files.file(name).c_str(), "w");
    std::fwrite(text.data(), 1, text.size(), file);
    std::fclose(file);
    return files.file(name);
  };
  const std::string junk = write("junk.pem", "this is not PEM\n");
  const std::string empty = write("empty.pem", "");
  FATHOM_EXPECT_ERROR(start(files.file("absent.pem"), files.key()), ErrorKind::bad_input, "absent.pem", "no such file");
  FATHOM_EXPECT_ERROR(start(files.certificate(), files.file("absent.pem")), ErrorKind::bad_input, "absent.pem");
  FATHOM_EXPECT_ERROR(start(junk, files.key()), ErrorKind::bad_input, "junk.pem", "certificate");
  FATHOM_EXPECT_ERROR(start(empty, files.key()), ErrorKind::bad_input, "empty.pem", "certificate");
  FATHOM_EXPECT_ERROR(start(files.key(), files.key()), ErrorKind::bad_input, "key.pem", "certificate");
  FATHOM_EXPECT_ERROR(start(files.certificate(), junk), ErrorKind::bad_input, "junk.pem", "private key");
  FATHOM_EXPECT_ERROR(start(files.certificate(), empty), ErrorKind::bad_input, "empty.pem", "private key");
  FATHOM_EXPECT_ERROR(start(files.certificate(), others.key()), ErrorKind::bad_input, others.key(), files.certificate(),
                      "another");
  FATHOM_EXPECT_ERROR(start(files.certificate(), ""), ErrorKind::bad_input, files.certificate(), "key");
  FATHOM_EXPECT_ERROR(start("", files.key()), ErrorKind::bad_input, files.key(), "certificate");
}

// ---------------------------------------------------------------------------------------------------- hostile bytes

/// Makes a request a little wrong.
std::string mutated(std::string request, std::mt19937& random) {
  static const std::string kPieces[] = {"\r\n",
                                        "\n",
                                        "\r",
                                        "\r\n\r\n",
                                        " ",
                                        "\t",
                                        ":",
                                        std::string(1, '\0'),
                                        "%00",
                                        "%",
                                        "\xff",
                                        "0",
                                        "-1",
                                        "content-length: 18446744073709551616\r\n",
                                        "content-length: 99999999999\r\n",
                                        "content-length: 3\r\n",
                                        "transfer-encoding: chunked\r\n",
                                        "ffffffffffffffff",
                                        "7fffffffffffffff\r\n",
                                        "expect: 100-continue\r\n",
                                        "connection: close\r\n",
                                        " HTTP/1.1\r\n",
                                        "HTTP/9.9",
                                        "0\r\n\r\n",
                                        "host: x\r\n",
                                        "\x16\x03\x01"};
  const auto below = [&](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  const size_t changes = 1 + below(4);
  for (size_t i = 0; i < changes; ++i) {
    const size_t place = below(request.size());
    switch (below(7)) {
      case 0:
        if (!request.empty()) request[place] = static_cast<char>(request[place] ^ (1 << below(8)));
        break;
      case 1:
        if (!request.empty()) request[place] = static_cast<char>(random());
        break;
      case 2:
        request.resize(place);
        break;
      case 3:
        request.insert(place, kPieces[below(std::size(kPieces))]);
        break;
      case 4:
        request.erase(place, 1 + below(10));
        break;
      case 5:
        request.insert(place, request.substr(below(request.size()), below(40)));
        break;
      default: {  // a number becomes another one
        const size_t digit = request.find_first_of("0123456789", place);
        if (digit != std::string::npos) {
          request.replace(digit, 1, std::to_string(random() * (below(2) ? 1ull : 0xffffffffull)));
        }
      }
    }
  }
  return request;
}

TEST(HttpServer, SurvivesHostileBytes) {
  std::atomic<int> wrong{0};
  HttpServerOptions options;
  options.most_header = 2000;
  options.most_body = 4000;
  options.head_timeout = options.body_timeout = options.idle_timeout = milliseconds(50);
  HttpServer server(options, nullptr, [&](const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    const auto has_control = [](std::string_view text) {
      return std::any_of(text.begin(), text.end(),
                         [](char c) { return (c >= 0 && c < 0x20 && c != '\t') || c == 0x7f; });
    };
    bool good = !request.method.empty() && !has_control(request.method) && !has_control(request.path) &&
                !has_control(request.query) && request.body.size() <= 4000;
    for (const auto& [name, value] : request.headers) {
      good = good && !name.empty() && !has_control(name) && !has_control(value);
    }
    if (!good) ++wrong;
    if (request.path.size() % 3 == 0) {
      reply->begin(200, {{"x-path", request.path}});
      reply->write(request.body);
      reply->end();
    } else {
      reply->send({200, {{"x-path", request.path}}, "ok"});
    }
  });
  const std::string valid[] = {
      get("/health"),
      get("/v1/models/a%20b?limit=10&after=%22x%22", "accept: */*\r\nauthorization: Bearer sk-123456\r\n"),
      post("/v1/chat/completions", R"({"model": "m", "messages": [{"role": "user", "content": "hi"}]})",
           "content-type: application/json\r\n"),
      post_chunked("/v1/completions", "10\r\n0123456789abcdef\r\n5;x=\"y\"\r\nhello\r\n0\r\na: b\r\n\r\n"),
      "HEAD / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
      post("/x", "abc", "expect: 100-continue\r\nconnection: close\r\n"),
      "OPTIONS * HTTP/1.1\r\nhost: h\r\norigin: http://localhost:3000\r\n\r\n",
  };
  std::mt19937 random(20240501);
  int requests = 0;
  int replies = 0;
  for (int connection = 0; requests < 12'000; ++connection) {
    RawHttpClient client(server.port());
    ASSERT_TRUE(client.connected());
    std::string bytes;
    const int count = 1 + connection % 3;
    for (int i = 0; i < count; ++i) {
      bytes +=
          random() % 8 == 0 ? valid[random() % std::size(valid)] : mutated(valid[random() % std::size(valid)], random);
    }
    requests += count;
    // Some in two pieces, so that the seam lies anywhere.
    const size_t seam = connection % 4 == 0 ? random() % (bytes.size() + 1) : bytes.size();
    client.send(std::string_view(bytes).substr(0, seam));
    if (seam < bytes.size()) std::this_thread::sleep_for(std::chrono::microseconds(100));
    client.send(std::string_view(bytes).substr(seam));
    // Most say that they have said all; the others must be ended by a timeout.
    if (connection % 50 != 0) client.half_close();
    const std::string answer = client.read_to_end();
    ASSERT_TRUE(client.ends()) << "connection " << connection << " does not end after " << bytes;
    if (!answer.empty()) {
      ++replies;
      ASSERT_TRUE(answer.starts_with("HTTP/1.1 ")) << answer;
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(replies, requests / 4);
  EXPECT_TRUE(eventually([&] { return server.connections() == 0; }));
  RawHttpClient client(server.port());
  EXPECT_EQ(client.ask(get("/v1/models")).body, "ok");
}

}  // namespace
}  // namespace fathom
