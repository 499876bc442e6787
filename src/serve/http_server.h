#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

/// A request as it came in. While only its head is known, `body` is empty. Method, path and headers hold no control
/// characters; that any of it is UTF-8 is not checked.
struct HttpRequest {
  std::string method;  ///< "GET"
  std::string path;    ///< percent-decoded, without the query: "/v1/models"
  std::string query;   ///< as it was sent, without '?'
  HttpHeaders headers;
  std::string body;
  std::string peer;  ///< the client's address, without its port
  /// The first header of this name in any case of letters; empty if there is none.
  std::string_view header(std::string_view name) const;
};

/// A whole reply. `content-length` and `date` are added; of the headers, control characters in values become blanks,
/// names that HTTP does not allow are left out, and so are those that frame the reply, which are the server's
/// ("connection: close" is obeyed). A reply to HEAD is the one to GET: its body is not sent.
struct HttpAnswer {
  int status = 200;
  HttpHeaders headers;
  std::string body;
};

/// The way back to the client of one request: either `send`, or `begin`, any number of `write`, `end`. Dropped without
/// either, the client gets 500; dropped before `end`, it sees its connection break off. Calls in another order, and all
/// of them after the client has gone or the server is destroyed, do nothing. Any thread; calls of different threads are
/// put in some order.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  virtual void send(HttpAnswer answer) = 0;
  /// The head of a reply whose length is not known (chunked; for an HTTP/1.0 client the end is the connection's).
  virtual void begin(int status, HttpHeaders headers) = 0;
  /// Never waits: what the client does not take is kept, up to `most_unsent` bytes; then the client counts as gone.
  /// (One that has taken all before gets a piece of any size.)
  virtual void write(std::string data) = 0;
  virtual void end() = 0;
  /// Calls `action` once, on the network's thread, when the client goes before `send` or `end`: it closed the
  /// connection or its half of it (which look the same from here), took nothing for `write_timeout`, left more than
  /// `most_unsent` lying, or the server is destroyed. At once, on this thread, if it has gone already. One action per
  /// reply (a later one replaces it), which must not hold the reply itself.
  virtual void on_gone(std::function<void()> action) = 0;
  virtual bool gone() const = 0;
};

struct HttpServerOptions {
  std::string host = "127.0.0.1";   ///< an address of this machine, or "localhost"
  uint16_t port = 0;                ///< 0: any free one
  std::string tls_certificate;      ///< PEM file with the chain; empty: no TLS
  std::string tls_key;              ///< PEM file
  size_t most_header = 16 << 10;    ///< bytes; more is refused with 431
  size_t most_body = 16 << 20;      ///< bytes; more is refused with 413, before it is read where its length is told
  size_t most_bodies = 256 << 20;   ///< bytes of all bodies that are held at once; one more is refused with 503
  size_t most_unsent = 4 << 20;     ///< bytes
  int64_t most_connections = 1024;  ///< more wait in the system's queue until one closes
  std::chrono::milliseconds head_timeout{10'000};   ///< from a request's first byte to the end of its head
  std::chrono::milliseconds body_timeout{30'000};   ///< of a body in which nothing arrives; and in all, 10 times this
  std::chrono::milliseconds idle_timeout{60'000};   ///< of a connection between requests; also for the TLS handshake
  std::chrono::milliseconds write_timeout{30'000};  ///< of a client that takes nothing
  /// A refusal that has no handler to word it (400, 408, 413, 417, 431, 500, 501, 505), as the headers and the body of
  /// its reply; without it the sentence is the body, as plain text. Runs on the network's thread.
  std::function<HttpAnswer(int status, std::string_view sentence)> word_refusal;
  /// Hears of each of these before its reply is sent: what is known of the request, at least the peer. Runs on the
  /// network's thread.
  std::function<void(const HttpRequest& request, int status)> on_refusal;
};

/// An HTTP/1.1 server on one thread of its own: it parses, times and limits connections and leaves the meaning of
/// requests to its handlers.
class HttpServer {
 public:
  /// Asked when a request's head is there and before its body is read: an answer refuses it (the connection then
  /// closes if a body was announced). Runs on the network's thread and must return at once.
  using HeadHandler = std::function<std::optional<HttpAnswer>(const HttpRequest& head)>;
  /// Gets each whole request. Runs on the network's thread and must return at once; the reply may be kept and answered
  /// from any thread. What it throws becomes a 500.
  using Handler = std::function<void(HttpRequest request, std::shared_ptr<HttpReply> reply)>;

  /// Listens, and serves from here on. `bad_input` names the address or the file that cannot be used.
  HttpServer(const HttpServerOptions& options, HeadHandler on_head, Handler on_request);
  /// Closes every connection; pending replies learn that their clients have gone. Not from a handler.
  ~HttpServer();

  uint16_t port() const;
  /// No new connection and no new request on the old ones: those that are idle close, the others after their reply.
  void stop_accepting();
  /// Waits until no connection is left, no longer than `limit`; whether none is. Not from a handler.
  bool wait_until_idle(std::chrono::milliseconds limit);
  /// Connections that are open now.
  int64_t connections() const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
