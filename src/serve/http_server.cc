#include "serve/http_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <future>
#include <limits>
#include <mutex>
#include <set>
#include <thread>

// All of Boost is in this file: 17 s of the compiler. (Compiled separately, Asio takes 11 s and this file 12.)
#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK  // ThreadSanitizer knows no fences; the scheduler's mutex orders what we post
#endif
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <boost/beast/http/status.hpp>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Callbacks rather than coroutines: a connection reads, writes and waits at the same time, and g++ 12 miscompiles
// lambdas in the same expression as co_await.

constexpr size_t kReadBytes = 16 << 10;      // one record of TLS
constexpr size_t kMostPipelined = 64 << 10;  // of later requests, kept while a reply is pending; then reading stops
constexpr size_t kJoinedBytes = 16 << 10;    // pieces of output below this size are joined, to be one packet
constexpr size_t kMostPemBytes = 1 << 20;
constexpr int kBacklog = 4096;              // the system cuts it to net.core.somaxconn
constexpr milliseconds kLinger{2000};       // for a client to read the last reply and to close
constexpr milliseconds kWatchPeriod{250};   // between looks at a socket that is not read
constexpr milliseconds kAcceptPause{100};   // after a failed accept (no descriptors left)
constexpr int kKeepAliveIdleSeconds = 30;   // a client whose machine is gone is found after
constexpr int kKeepAliveProbes = 3;         //   kKeepAliveIdleSeconds
constexpr int kKeepAliveProbeSeconds = 10;  //   + kKeepAliveProbes * kKeepAliveProbeSeconds

bool same_name(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7f;
}

/// Bytes of a client as part of a sentence: cut, and printable.
std::string quoted(std::string_view text) {
  constexpr size_t kShown = 60;
  std::string result = "\"";
  for (char c : text.substr(0, kShown)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f || c == '"' || c == '\\') {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  result += text.size() > kShown ? "\"…" : "\"";
  return result;
}

struct Refusal {
  int status = 400;
  std::string sentence;
};

// ---------------------------------------------------------------------------------------------------- requests

/// Decodes %XX. A refusal if an escape is not one, or stands for a control character: no path has one, and a line feed
/// would reach logs.
std::optional<Refusal> percent_decode(std::string_view text, std::string& result) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  result.clear();
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '%') {
      const int high = i + 2 < text.size() ? digit(text[i + 1]) : -1;
      const int low = i + 2 < text.size() ? digit(text[i + 2]) : -1;
      if (high < 0 || low < 0) {
        return Refusal{400, fmt::format("the path: expected two hexadecimal digits after '%', found {}",
                                        quoted(text.substr(i, 3)))};
      }
      c = static_cast<char>(high * 16 + low);
      if (is_control(c)) {
        return Refusal{400, fmt::format("the path: expected no control character, found {}", text.substr(i, 3))};
      }
      i += 2;
    }
    result += c;
  }
  return std::nullopt;
}

/// Splits a request target ("/path?query", "http://host/path?query", "*").
std::optional<Refusal> split_target(std::string_view target, HttpRequest& request) {
  if (target.find('#') != std::string_view::npos) {
    return Refusal{400, fmt::format("the request's target: expected no '#', found {}", quoted(target))};
  }
  for (std::string_view scheme : {"http://", "https://"}) {
    if (!same_name(target.substr(0, scheme.size()), scheme)) continue;
    const size_t end = target.find_first_of("/?", scheme.size());
    target = end == std::string_view::npos ? std::string_view{} : target.substr(end);
    if (target.empty() || target.front() == '?') {
      request.path = "/";
      request.query = target.empty() ? "" : std::string(target.substr(1));
      return std::nullopt;
    }
    break;
  }
  if (target == "*" && request.method == "OPTIONS") {
    request.path = "*";
    return std::nullopt;
  }
  if (target.front() != '/') {
    return Refusal{400,
                   fmt::format("the request's target: expected a path that begins with '/', found {}", quoted(target))};
  }
  const size_t mark = target.find('?');
  if (mark != std::string_view::npos) request.query = target.substr(mark + 1);
  return percent_decode(target.substr(0, mark), request.path);
}

/// Finds the end of a head and refuses bytes that another parser might read otherwise, which is what request smuggling
/// lives on: bare CR or LF, other control characters, folded lines.
class HeadScanner {
 public:
  /// Looks at what `input` has more than at the last call. The length of the head once its end is there.
  std::optional<size_t> scan(std::string_view input) {
    for (; place_ < input.size(); ++place_) {
      const char c = input[place_];
      if (c == '\r') {
        if (place_ + 1 == input.size()) return std::nullopt;
        if (input[place_ + 1] != '\n') return refuse("a carriage return without its line feed");
      } else if (c == '\n') {
        if (place_ == 0 || input[place_ - 1] != '\r') return refuse("a line feed without its carriage return");
        if (input.substr(0, place_ + 1).ends_with("\r\n\r\n")) return place_ + 1;
      } else if (c == ' ' || c == '\t') {
        if (place_ > 0 && input[place_ - 1] == '\n') return refuse("a line that begins with a blank");
      } else if (is_control(c)) {
        return refuse(fmt::format("the control character 0x{:02x}", static_cast<unsigned char>(c)));
      }
    }
    return std::nullopt;
  }
  const std::optional<Refusal>& refusal() const { return refusal_; }

 private:
  std::nullopt_t refuse(std::string_view what) {
    refusal_ = Refusal{400, fmt::format("the request's head: expected lines that end in CR LF, found {}", what)};
    return std::nullopt;
  }

  size_t place_ = 0;
  std::optional<Refusal> refusal_;
};

/// Beast's parser, which writes into an HttpRequest and refuses what Beast leaves to its user.
class RequestParser final : public http::basic_parser<true> {
 public:
  RequestParser(HttpRequest& request, size_t most_body) : request_(request), most_body_(most_body) {
    header_limit(std::numeric_limits<uint32_t>::max());  // HeadScanner and Connection count
    body_limit(boost::none);                             // here: Beast would refuse before the rest of the head is read
    eager(false);
  }

  bool http11() const { return http11_; }
  bool expects_continue() const { return expects_continue_; }
  bool has_body() const { return chunked() || content_length().value_or(0) > 0; }

  /// Why `put` failed.
  Refusal refusal(error_code ec, std::string_view input) const {
    if (refusal_) return *refusal_;
    if (ec == http::error::bad_version) {
      // Beast does not tell a version that it does not speak from what is none.
      const std::string_view line = input.substr(0, input.find('\r'));
      const std::string_view version = line.substr(line.rfind(' ') + 1);
      const bool three_words = std::count(line.begin(), line.end(), ' ') == 2;
      if (three_words && version.size() == 8 && version.starts_with("HTTP/") && version[6] == '.') {
        return {505, fmt::format("expected HTTP/1.1 or HTTP/1.0, found {}", quoted(version))};
      }
      return {400, fmt::format("the request line: expected METHOD TARGET HTTP/1.1, found {}", quoted(line))};
    }
    if (ec == http::error::bad_method || ec == http::error::bad_target) {
      return {400, fmt::format("the request line: expected METHOD TARGET HTTP/1.1, found {}",
                               quoted(input.substr(0, input.find('\r'))))};
    }
    if (ec == http::error::bad_content_length || ec == http::error::multiple_content_length) {
      return {400, "expected one content-length, a number of bytes, and no transfer-encoding beside it"};
    }
    if (ec == http::error::bad_transfer_encoding) {
      return {400, "expected one transfer-encoding, and no content-length beside it"};
    }
    if (ec == http::error::bad_chunk || ec == http::error::bad_chunk_extension || ec == http::error::bad_line_ending) {
      return {400, "the body: expected chunks, each of its size in hexadecimal digits, CR LF, its bytes and CR LF"};
    }
    return {400, fmt::format("the request cannot be read ({})", ec.message())};
  }

 private:
  using View = boost::beast::string_view;

  void refuse(int status, std::string sentence, error_code& ec) {
    refusal_ = Refusal{status, std::move(sentence)};
    ec = http::error::bad_value;
  }

  void on_request_impl(http::verb, View method, View target, int version, error_code& ec) override {
    request_.method = std::string_view(method);
    http11_ = version == 11;
    if (auto refused = split_target(target, request_)) refuse(refused->status, refused->sentence, ec);
  }

  void on_response_impl(int, View, int, error_code&) override {}

  void on_field_impl(http::field field, View name, View value, error_code& ec) override {
    if (head_done_) return;  // a trailer: nothing here means anything after the body, and headers must not change
    switch (field) {
      case http::field::content_length:
        // Beast takes a list of equal numbers; a proxy in front might take its first or its last.
        if (++content_lengths_ > 1 || !std::all_of(value.begin(), value.end(), http_digit)) {
          return refuse(400, fmt::format("content-length: expected one number, found {}", quoted(value)), ec);
        }
        break;
      case http::field::transfer_encoding:
        // Beast would take "gzip" for no body at all.
        if (!same_name(value, "chunked")) {
          return refuse(501, fmt::format("transfer-encoding: expected \"chunked\", found {}", quoted(value)), ec);
        }
        if (!http11_) return refuse(400, "transfer-encoding: expected none in a request of HTTP/1.0", ec);
        break;
      case http::field::host:
        if (++hosts_ > 1) return refuse(400, "expected one host header, found two", ec);
        break;
      case http::field::expect:
        if (!same_name(value, "100-continue")) {
          return refuse(417, fmt::format("expect: expected \"100-continue\", found {}", quoted(value)), ec);
        }
        expects_continue_ = http11_;
        break;
      default:
        break;
    }
    request_.headers.emplace_back(name, value);
  }

  void on_header_impl(error_code& ec) override {
    head_done_ = true;
    if (http11_ && hosts_ == 0) return refuse(400, "expected a host header, found none", ec);
    if (content_length().value_or(0) > most_body_) refuse_body(ec);
  }

  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}

  size_t on_body_impl(View body, error_code&) override {
    request_.body.append(body);
    return body.size();
  }

  void on_chunk_header_impl(uint64_t size, View extensions, error_code& ec) override {
    // Beast lets anything stand between quotes, a line feed that another parser takes for the line's end included.
    if (std::any_of(extensions.begin(), extensions.end(), is_control)) {
      return refuse(400, "the body: expected no control character in a chunk's extension, found one", ec);
    }
    if (size > most_body_ - request_.body.size()) refuse_body(ec);
  }

  size_t on_chunk_body_impl(uint64_t, View body, error_code&) override {
    request_.body.append(body);
    return body.size();
  }

  void on_finish_impl(error_code&) override {}

  void refuse_body(error_code& ec) {
    refuse(413, fmt::format("the body: expected at most {} bytes, found more", most_body_), ec);
  }
  static bool http_digit(char c) { return c >= '0' && c <= '9'; }

  HttpRequest& request_;
  const size_t most_body_;
  bool http11_ = true;
  bool expects_continue_ = false;
  bool head_done_ = false;
  int content_lengths_ = 0;
  int hosts_ = 0;
  std::optional<Refusal> refusal_;
};

// ---------------------------------------------------------------------------------------------------- replies

/// "Tue, 05 Nov 2024 08:49:37 GMT", whatever the locale.
std::string http_date() {
  static constexpr std::array<const char*, 7> kDays{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr std::array<const char*, 12> kMonths{"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm t{};
  ::gmtime_r(&now, &t);
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[t.tm_wday], t.tm_mday, kMonths[t.tm_mon],
                     t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec);
}

bool is_token(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool has_no_body(int status) {
  return status == 204 || status == 304;
}

/// The head of a reply. `framing` are whole lines. A handler's headers cannot end a line: control characters in values
/// become blanks, and a name that is none is left out, as are the headers that say where the body ends.
std::string reply_head(int status, const HttpHeaders& headers, std::string_view framing) {
  const http::status known = http::int_to_status(static_cast<unsigned>(status));
  const std::string_view reason = known == http::status::unknown ? "" : std::string_view(http::obsolete_reason(known));
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", status, reason);
  bool dated = false;
  for (const auto& [name, value] : headers) {
    if (!is_token(name)) continue;
    if (same_name(name, "content-length") || same_name(name, "transfer-encoding") || same_name(name, "connection") ||
        same_name(name, "keep-alive") || same_name(name, "trailer") || same_name(name, "upgrade")) {
      continue;
    }
    dated = dated || same_name(name, "date");
    head += name;
    head += ": ";
    for (char c : value) head += is_control(c) ? ' ' : c;
    head += "\r\n";
  }
  if (!dated) head += "date: " + http_date() + "\r\n";
  head += framing;
  head += "\r\n";
  return head;
}

class Connection;

/// One request's reply on its way from the handler's threads to the network's.
///
///   waiting → whole                `send`
///   waiting → streaming → whole    `begin`, `end`
///   waiting → dropped              the reply was given up: the network's thread says 500, which makes it whole
///   streaming → broken             the same after `begin`: the connection ends without the last chunk
///
/// The client can go in each of them. Then, or once all of it is on the wire, the connection detaches itself, and what
/// is called afterwards does nothing.
class Exchange {
 public:
  enum class Phase { waiting, streaming, whole, dropped, broken };

  Exchange(Connection* connection, bool http11, bool is_head, bool keep_alive)
      : connection_(connection), http11_(http11), is_head_(is_head), keep_alive_(keep_alive) {}

  // Any thread.

  void send(HttpAnswer answer) {
    std::function<void()> unused;  // destroyed after the lock: it may own anything
    std::lock_guard lock(mutex_);
    if (phase_ != Phase::waiting || gone_) return;
    compose(std::move(answer));
    phase_ = Phase::whole;
    unused.swap(on_gone_);
    wake();
  }

  void begin(int status, const HttpHeaders& headers) {
    std::lock_guard lock(mutex_);
    if (phase_ != Phase::waiting || gone_) return;
    status = checked(status);
    without_body_ = is_head_ || has_no_body(status);
    keep_alive_ = keep_alive_ && !asks_to_close(headers) && (http11_ || has_no_body(status));
    std::string framing = connection_line();
    if (http11_ && !has_no_body(status)) framing += "transfer-encoding: chunked\r\n";
    append(reply_head(status, headers, framing));
    phase_ = Phase::streaming;
    wake();
  }

  void write(std::string data, size_t most_unsent) {
    std::lock_guard lock(mutex_);
    // An empty chunk would be the last one.
    if (phase_ != Phase::streaming || gone_ || without_body_ || data.empty()) return;
    // A client that has taken all there was gets the next piece whatever its size.
    if (unsent_ > 0 && data.size() > most_unsent - std::min(unsent_, most_unsent)) {
      gone_ = overflowed_ = true;
      out_.clear();
      awake_ = false;  // a call that was asked for earlier may wait until the client takes something
    } else if (http11_) {
      append(fmt::format("{:x}\r\n", data.size()));
      append(std::move(data));
      append("\r\n");
    } else {
      append(std::move(data));
    }
    wake();
  }

  void end() {
    std::function<void()> unused;
    std::lock_guard lock(mutex_);
    if (phase_ != Phase::streaming || gone_) return;
    if (http11_ && !without_body_) append("0\r\n\r\n");
    phase_ = Phase::whole;
    unused.swap(on_gone_);
    wake();
  }

  /// Nobody will answer any more.
  void drop() {
    std::function<void()> unused;
    std::lock_guard lock(mutex_);
    if (!is_pending() || gone_) return;
    phase_ = phase_ == Phase::waiting ? Phase::dropped : Phase::broken;
    unused.swap(on_gone_);
    wake();
  }

  void on_gone(std::function<void()> action) {
    {
      std::lock_guard lock(mutex_);
      if (!gone_) {
        if (is_pending()) on_gone_.swap(action);
        return;
      }
    }
    action();
  }

  bool gone() const {
    std::lock_guard lock(mutex_);
    return gone_;
  }

  // The network's thread.

  struct Output {
    std::deque<std::string> pieces;
    Phase phase;
  };

  /// What has to be written next.
  Output take() {
    std::lock_guard lock(mutex_);
    awake_ = false;
    return {std::exchange(out_, {}), phase_};
  }

  /// The client left more than most_unsent bytes lying.
  bool overflowed() const {
    std::lock_guard lock(mutex_);
    return overflowed_;
  }

  void written(size_t bytes) {
    std::lock_guard lock(mutex_);
    unsent_ -= bytes;
  }

  /// "HTTP/1.1 100 Continue", before the reply.
  void send_continue() {
    std::lock_guard lock(mutex_);
    append("HTTP/1.1 100 Continue\r\n\r\n");
    wake();
  }

  /// The server's own answer, in the place of one that was dropped too.
  void answer(HttpAnswer answer) {
    std::lock_guard lock(mutex_);
    compose(std::move(answer));
    phase_ = Phase::whole;
    wake();
  }

  /// The connection will end with this reply, which says so if its head is not written yet.
  void close_after() {
    std::lock_guard lock(mutex_);
    keep_alive_ = false;
  }
  bool keep_alive() const {
    std::lock_guard lock(mutex_);
    return keep_alive_;
  }
  /// Somebody still has to answer.
  bool pending() const {
    std::lock_guard lock(mutex_);
    return is_pending();
  }

  /// The connection takes nothing any more; if the reply is not whole, its client has gone.
  void detach() {
    std::function<void()> action;
    {
      std::lock_guard lock(mutex_);
      connection_ = nullptr;
      out_.clear();
      if (is_pending()) gone_ = true;
      action.swap(on_gone_);
    }
    try {
      if (action) action();
    } catch (...) {
      // There is nobody to tell; the network's thread has to go on.
    }
  }

 private:
  // All below: under the lock.

  bool is_pending() const { return phase_ == Phase::waiting || phase_ == Phase::streaming; }

  static int checked(int status) { return status >= 200 && status <= 599 ? status : 500; }

  static bool asks_to_close(const HttpHeaders& headers) {
    return std::any_of(headers.begin(), headers.end(),
                       [](const auto& h) { return same_name(h.first, "connection") && same_name(h.second, "close"); });
  }

  std::string connection_line() const {
    if (!keep_alive_) return "connection: close\r\n";
    return http11_ ? "" : "connection: keep-alive\r\n";
  }

  void compose(HttpAnswer answer) {
    const int status = checked(answer.status);
    keep_alive_ = keep_alive_ && !asks_to_close(answer.headers);
    std::string framing = connection_line();
    if (!has_no_body(status)) framing += fmt::format("content-length: {}\r\n", answer.body.size());
    append(reply_head(status, answer.headers, framing));
    if (!is_head_ && !has_no_body(status)) append(std::move(answer.body));
  }

  void append(std::string piece) {
    unsent_ += piece.size();
    if (!out_.empty() && out_.back().size() + piece.size() <= kJoinedBytes) {
      out_.back() += piece;
    } else if (!piece.empty()) {
      out_.push_back(std::move(piece));
    }
  }

  void wake();

  mutable std::mutex mutex_;
  Connection* connection_;  // until it is detached
  const bool http11_;
  const bool is_head_;
  bool keep_alive_;
  bool without_body_ = false;
  Phase phase_ = Phase::waiting;
  bool gone_ = false;
  bool overflowed_ = false;
  bool awake_ = false;           // a call of Connection::pump is on its way
  std::deque<std::string> out_;  // ready for the wire, not taken yet
  size_t unsent_ = 0;            // bytes of out_ and of what was taken and is not written
  std::function<void()> on_gone_;
};

class Reply final : public HttpReply {
 public:
  Reply(std::shared_ptr<Exchange> exchange, size_t most_unsent)
      : exchange_(std::move(exchange)), most_unsent_(most_unsent) {}
  ~Reply() override {
    try {
      exchange_->drop();
    } catch (...) {
      // No memory for a wake-up: the client waits until it goes.
    }
  }
  Reply(const Reply&) = delete;
  Reply& operator=(const Reply&) = delete;

  void send(HttpAnswer answer) override { exchange_->send(std::move(answer)); }
  void begin(int status, HttpHeaders headers) override { exchange_->begin(status, headers); }
  void write(std::string data) override { exchange_->write(std::move(data), most_unsent_); }
  void end() override { exchange_->end(); }
  void on_gone(std::function<void()> action) override { exchange_->on_gone(std::move(action)); }
  bool gone() const override { return exchange_->gone(); }

 private:
  const std::shared_ptr<Exchange> exchange_;
  const size_t most_unsent_;
};

// ---------------------------------------------------------------------------------------------------- connections

/// What all connections share, and the port. All members but the public functions of HttpServer belong to the network's
/// thread.
class Network {
 public:
  Network(const HttpServerOptions& options, HttpServer::HeadHandler on_head, HttpServer::Handler on_request);
  ~Network();
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  uint16_t port() const { return port_; }
  int64_t connections() const { return count_; }
  void stop_accepting();
  bool wait_until_idle(milliseconds limit);

  /// The answer to a request that no handler answers, after `on_refusal` has heard of it.
  HttpAnswer refusal(const HttpRequest& request, int status, std::string_view sentence) const;
  void remove(const std::shared_ptr<Connection>& connection);

  const HttpServerOptions options;
  const HttpServer::HeadHandler on_head;
  const HttpServer::Handler on_request;
  asio::io_context io{1};
  std::optional<asio::ssl::context> tls;
  bool stopping = false;
  size_t body_bytes = 0;  // of all requests that are not answered yet

 private:
  void listen();
  void accept_next();
  void on_accept(error_code ec, tcp::socket socket);
  void close_acceptor();
  void stop();
  void run();

  tcp::acceptor acceptor_{io};
  asio::steady_timer accept_pause_{io};
  asio::executor_work_guard<asio::io_context::executor_type> work_{io.get_executor()};
  std::set<std::shared_ptr<Connection>> connections_;
  bool accepting_ = false;
  uint16_t port_ = 0;
  std::atomic<int64_t> count_{0};
  std::mutex idle_mutex_;
  std::condition_variable idle_;
  std::jthread thread_;
};

/// A client's connection; lives on the network's thread.
///
///   handshaking   TLS only; until idle_timeout
///   idle          no byte of a request has come; until idle_timeout
///   head          from the first byte to the empty line; until head_timeout
///   body          until body_timeout without a byte, or 10 of them in all
///   replying      the handler has the request, or a refusal is on its way; no limit but write_timeout while the client
///                 takes nothing. Reading goes on, to notice that the client goes; what it sends is kept for the next
///                 request up to kMostPipelined, then the socket is only watched
///   lingering     the last reply is written, our half is closed; what still comes is thrown away until the client
///                 closes its half, at most kLinger. Closing at once would reset the connection if bytes were unread,
///                 and a reset takes the reply out of the client's hands
///   closed        not in the network's set any more
///
/// At most one read and one write are under way. `exchange_` exists from the end of the head to the end of the reply.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(Network& network, tcp::socket socket)
      : network_(network), socket_(std::move(socket)), deadline_timer_(network.io), watch_timer_(network.io) {}

  void start() {
    step([&] {
      configure_socket();
      if (!network_.tls) return become_idle();
      tls_.emplace(socket_, *network_.tls);
      set_deadline(network_.options.idle_timeout);
      tls_->async_handshake(asio::ssl::stream_base::server, [self = shared_from_this()](error_code ec) {
        self->step([&] {
          if (self->state_ == State::closed) return;
          ec ? self->close() : self->become_idle();
        });
      });
    });
  }

  /// The server takes no more requests.
  void stop() {
    if (state_ == State::handshaking || state_ == State::idle) {
      close();
    } else if (exchange_) {
      exchange_->close_after();
    }
  }

  /// Ends the connection now. A pending reply learns that its client has gone.
  void close() {
    if (state_ == State::closed) return;
    state_ = State::closed;
    forget_body();
    const auto self = shared_from_this();
    if (exchange_) std::exchange(exchange_, nullptr)->detach();
    error_code ignored;
    socket_.close(ignored);
    deadline_timer_.cancel();
    watch_timer_.cancel();
    network_.remove(self);
  }

  /// Any thread, while the connection is not closed.
  void post_pump() {
    asio::post(network_.io, [self = shared_from_this()] { self->step([&] { self->pump(); }); });
  }

 private:
  enum class State { handshaking, idle, head, body, replying, lingering, closed };

  /// Runs a callback's work; what it throws (no memory) costs this connection, not the server.
  template <typename Work>
  void step(Work&& work) {
    try {
      work();
    } catch (...) {
      close();
    }
  }

  void configure_socket() {
    error_code ignored;
    const auto endpoint = socket_.remote_endpoint(ignored);
    asio::ip::address address = endpoint.address();
    if (address.is_v6() && address.to_v6().is_v4_mapped()) {
      address = asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
    }
    peer_ = address.to_string();
    const int descriptor = socket_.native_handle();
    ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    const auto set = [&](int level, int name, int value) {
      ::setsockopt(descriptor, level, name, &value, sizeof(value));
    };
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, kKeepAliveIdleSeconds);
    set(IPPROTO_TCP, TCP_KEEPINTVL, kKeepAliveProbeSeconds);
    set(IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
    // Bytes that the system has taken from us and the client does not take from it.
    set(IPPROTO_TCP, TCP_USER_TIMEOUT,
        static_cast<int>(std::min<int64_t>(network_.options.write_timeout.count(), 1 << 30)));
  }

  // Time

  /// A year stands for longer times: the clock's end is not one that can be added to.
  static milliseconds bounded(milliseconds time) { return std::min<milliseconds>(time, std::chrono::hours(24 * 365)); }

  void set_deadline(milliseconds from_now) { set_deadline(Clock::now() + bounded(from_now)); }
  void set_deadline(Clock::time_point time) {
    deadline_ = time;
    // A deadline that moves away, which is what nearly all do, costs no timer operation.
    if (timer_set_ && deadline_timer_.expiry() <= time) return;
    arm_timer();
  }
  void clear_deadline() { deadline_ = Clock::time_point::max(); }

  void arm_timer() {
    timer_set_ = true;
    deadline_timer_.expires_at(deadline_);
    deadline_timer_.async_wait([self = shared_from_this()](error_code ec) {
      if (ec || self->state_ == State::closed) return;  // replaced by an earlier one
      self->timer_set_ = false;
      if (self->deadline_ == Clock::time_point::max()) return;
      self->step([&] { Clock::now() < self->deadline_ ? self->arm_timer() : self->on_deadline(); });
    });
  }

  void on_deadline() {
    clear_deadline();
    switch (state_) {
      case State::head:
        return refuse(
            408, fmt::format("expected the request's whole head within {} ms", network_.options.head_timeout.count()));
      case State::body:
        return refuse(408, fmt::format("expected the next bytes of the body within {} ms, and the whole body within {}",
                                       network_.options.body_timeout.count(), whole_body_timeout().count()));
      case State::replying:
        return reset();
      default:
        return close();
    }
  }

  milliseconds whole_body_timeout() const { return 10 * bounded(network_.options.body_timeout); }

  // Reading

  void start_read() {
    if (reading_ || eof_ || state_ == State::closed || state_ == State::handshaking) return;
    if (state_ == State::replying && input_.size() >= kMostPipelined) return watch();
    reading_ = true;
    // What is only thrown away need not be decrypted, and OpenSSL does not go on after "close notify" met more data.
    const bool by_tls = tls_ && state_ != State::lingering;
    auto handler = [self = shared_from_this(), by_tls](error_code ec, size_t bytes) {
      self->step([&] { self->on_read(ec, bytes, by_tls); });
    };
    const auto buffer = asio::buffer(read_buffer_);
    by_tls ? tls_->async_read_some(buffer, std::move(handler)) : socket_.async_read_some(buffer, std::move(handler));
  }

  void on_read(error_code ec, size_t bytes, bool by_tls) {
    reading_ = false;
    if (state_ == State::closed) return;
    if (ec && by_tls && state_ == State::lingering) return start_read();
    if (ec == asio::error::eof || ec == asio::ssl::error::stream_truncated) return on_eof();
    if (ec) return close();
    if (state_ != State::lingering && !discarding_) {
      input_.append(read_buffer_.data(), bytes);
      advance();
    }
    start_read();
  }

  /// The client has closed the connection, or its half of it: which of the two cannot be seen. One that still waits for
  /// an answer that is being computed counts as gone; what is answered already is sent.
  void on_eof() {
    eof_ = true;
    switch (state_) {
      case State::head:
      case State::body:
        return refuse(400, fmt::format("expected a whole request, found the connection's end in its {}",
                                       state_ == State::head ? "head" : "body"));
      case State::replying:
        if (exchange_->pending()) close();
        return;
      default:
        return close();
    }
  }

  /// Looks now and then whether the client has gone, while its bytes are left in the system's buffer.
  void watch() {
    if (watching_) return;
    watching_ = true;
    watch_timer_.expires_after(kWatchPeriod);
    watch_timer_.async_wait([self = shared_from_this()](error_code ec) {
      self->watching_ = false;
      if (ec || self->state_ == State::closed) return;
      self->step([&] {
        pollfd socket{self->socket_.native_handle(), POLLRDHUP, 0};
        if (!self->reading_ && ::poll(&socket, 1, 0) > 0 && self->exchange_ && self->exchange_->pending()) {
          return self->close();
        }
        self->start_read();
      });
    });
  }

  // Requests

  void become_idle() {
    state_ = State::idle;
    set_deadline(network_.options.idle_timeout);
    advance();
    start_read();
  }

  /// Goes on with what has been read.
  void advance() {
    if (state_ == State::idle) {
      // Blank lines between requests are allowed, and start no clock.
      while (input_.starts_with("\r\n")) input_.erase(0, 2);
      if (input_.empty() || input_ == "\r") {
        if (eof_) close();
        return;
      }
      state_ = State::head;
      scanner_ = {};
      request_ = {};
      request_.peer = peer_;
      set_deadline(network_.options.head_timeout);
    }
    if (state_ == State::head) read_head();
    if (state_ == State::body) read_body();
  }

  void read_head() {
    const std::optional<size_t> size = scanner_.scan(input_);
    if (scanner_.refusal()) return refuse(*scanner_.refusal());
    if (size.value_or(input_.size()) > network_.options.most_header) {
      return refuse(
          431, fmt::format("the request's head: expected at most {} bytes, found more", network_.options.most_header));
    }
    if (!size) {
      if (eof_) on_eof();
      return;
    }
    parser_.emplace(request_, network_.options.most_body);
    error_code ec;
    parser_->put(asio::buffer(input_.data(), *size), ec);
    if (ec) return refuse(parser_->refusal(ec, input_));
    input_.erase(0, *size);
    exchange_ = std::make_shared<Exchange>(this, parser_->http11(), request_.method == "HEAD",
                                           parser_->keep_alive() && !network_.stopping);
    std::optional<HttpAnswer> refusal;
    try {
      refusal = network_.on_head ? network_.on_head(request_) : std::nullopt;
    } catch (...) {
      refusal = network_.refusal(request_, 500, "the server failed at this request");
    }
    if (refusal) return answer(std::move(*refusal), parser_->has_body());
    if (!parser_->has_body()) return dispatch();

    parser_->eager(true);
    state_ = State::body;
    body_deadline_ = Clock::now() + whole_body_timeout();
    set_deadline(std::min(body_deadline_, Clock::now() + bounded(network_.options.body_timeout)));
    if (parser_->expects_continue() && input_.empty()) exchange_->send_continue();
  }

  void read_body() {
    // Beast asserts that it gets 5 bytes once it has seen the last chunk's size ("0\r\n" and then "\r" would abort);
    // no chunked body can end in fewer.
    if (input_.size() >= (parser_->chunked() ? 5 : 1)) {
      error_code ec;
      const size_t used = parser_->put(asio::buffer(input_), ec);
      if (ec && ec != http::error::need_more) return refuse(parser_->refusal(ec, {}));
      input_.erase(0, used);
      network_.body_bytes += request_.body.size() - body_bytes_;
      body_bytes_ = request_.body.size();
      if (network_.body_bytes > network_.options.most_bodies) {
        return refuse(503, "the server holds as many bytes of requests as it may; try again later");
      }
      if (parser_->is_done()) return dispatch();
      if (input_.size() > network_.options.most_header) {
        return refuse(431, fmt::format("the body: expected at most {} bytes beside its chunks' data, found more",
                                       network_.options.most_header));
      }
    }
    if (eof_) return on_eof();
    set_deadline(std::min(body_deadline_, Clock::now() + bounded(network_.options.body_timeout)));
  }

  /// Gives the request to its handler.
  void dispatch() {
    begin_replying();
    parser_.reset();
    const std::shared_ptr<Exchange> exchange = exchange_;
    auto reply = std::make_shared<Reply>(exchange, network_.options.most_unsent);
    try {
      network_.on_request(std::exchange(request_, {}), std::move(reply));
    } catch (...) {
      exchange->drop();
    }
    request_.peer = peer_;  // who it was is known to the last
    if (eof_ && exchange->pending()) close();
  }

  void refuse(const Refusal& refusal) { refuse(refusal.status, refusal.sentence); }
  /// Where the next request would begin is not known after this: the connection ends.
  void refuse(int status, std::string_view sentence) { answer(network_.refusal(request_, status, sentence), true); }

  void answer(HttpAnswer answer, bool close_after) {
    if (!exchange_) exchange_ = std::make_shared<Exchange>(this, true, request_.method == "HEAD", !network_.stopping);
    if (close_after) {
      exchange_->close_after();
      discarding_ = true;
      input_.clear();
    }
    begin_replying();
    exchange_->answer(std::move(answer));
    parser_.reset();
    start_read();
  }

  // Writing

  void begin_replying() {
    state_ = State::replying;
    clear_deadline();
    if (writing_) set_deadline(network_.options.write_timeout);  // of "100 Continue"
  }

  /// Writes what the reply has, and ends it when it is whole.
  void pump() {
    if (exchange_ && exchange_->overflowed()) return reset();
    while (!writing_ && exchange_ && state_ != State::closed) {
      if (!out_.empty()) return start_write();
      Exchange::Output output = exchange_->take();
      out_ = std::move(output.pieces);
      if (!out_.empty()) continue;
      if (state_ != State::replying) return;
      clear_deadline();
      switch (output.phase) {
        case Exchange::Phase::waiting:
        case Exchange::Phase::streaming:
          return;
        case Exchange::Phase::whole:
          return finish_reply();
        case Exchange::Phase::dropped:
          exchange_->answer(network_.refusal(request_, 500, "the server failed at this request"));
          break;
        case Exchange::Phase::broken:
          return linger();
      }
    }
  }

  void start_write() {
    writing_ = true;
    if (state_ == State::replying) set_deadline(network_.options.write_timeout);
    auto handler = [self = shared_from_this()](error_code ec, size_t bytes) {
      self->step([&] { self->on_written(ec, bytes); });
    };
    const auto buffer = asio::buffer(out_.front()) + out_start_;
    tls_ ? tls_->async_write_some(buffer, std::move(handler)) : socket_.async_write_some(buffer, std::move(handler));
  }

  void on_written(error_code ec, size_t bytes) {
    writing_ = false;
    if (state_ == State::closed) return;
    if (ec) return close();
    out_start_ += bytes;
    if (out_start_ == out_.front().size()) {
      out_.pop_front();
      out_start_ = 0;
    }
    exchange_->written(bytes);
    pump();
  }

  void finish_reply() {
    forget_body();
    const bool keep_alive = exchange_->keep_alive() && !network_.stopping;
    std::exchange(exchange_, nullptr)->detach();
    keep_alive ? become_idle() : linger();
  }

  /// A body counts until its request is answered: its handler may still hold it.
  void forget_body() { network_.body_bytes -= std::exchange(body_bytes_, 0); }

  /// Ends the connection after its last reply.
  void linger() {
    forget_body();
    if (exchange_) std::exchange(exchange_, nullptr)->detach();
    if (eof_ && !tls_) return close();
    state_ = State::lingering;
    input_ = {};
    set_deadline(kLinger);
    if (tls_) {
      tls_->async_shutdown([self = shared_from_this()](error_code ec) {
        // An error may be that the client is still sending: what comes has to be read before the end.
        if (!ec || self->eof_) self->close();
      });
    } else {
      error_code ignored;
      socket_.shutdown(tcp::socket::shutdown_send, ignored);
    }
    start_read();
  }

  /// Ends a connection whose client takes nothing: what the system still holds for it is thrown away.
  void reset() {
    error_code ignored;
    socket_.set_option(asio::socket_base::linger(true, 0), ignored);
    close();
  }

  Network& network_;
  tcp::socket socket_;
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
  std::string peer_;
  State state_ = State::handshaking;
  bool eof_ = false;         // the client has closed its half
  bool discarding_ = false;  // what comes is not looked at any more: the connection ends with this reply

  asio::steady_timer deadline_timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  bool timer_set_ = false;
  Clock::time_point body_deadline_;
  asio::steady_timer watch_timer_;
  bool watching_ = false;

  std::array<char, kReadBytes> read_buffer_;
  bool reading_ = false;
  std::string input_;  // read, not parsed
  HeadScanner scanner_;
  HttpRequest request_;
  size_t body_bytes_ = 0;  // of this request in the network's sum
  std::optional<RequestParser> parser_;

  std::shared_ptr<Exchange> exchange_;
  std::deque<std::string> out_;
  size_t out_start_ = 0;  // bytes of out_.front() that are written
  bool writing_ = false;
};

void Exchange::wake() {
  if (connection_ == nullptr || awake_) return;
  connection_->post_pump();
  awake_ = true;
}

// ---------------------------------------------------------------------------------------------------- the server

int pick_http11(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes, const unsigned char* offered,
                unsigned offered_bytes, void*) {
  static constexpr unsigned char kHttp11[] = "\x08http/1.1";
  unsigned char* match = nullptr;
  const int result = SSL_select_next_proto(&match, chosen_bytes, kHttp11, sizeof(kHttp11) - 1, offered, offered_bytes);
  *chosen = match;
  return result == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

asio::ssl::context tls_context(const std::string& certificate, const std::string& key) {
  if (certificate.empty()) throw_bad_input("{}: a TLS key, expected its certificate too, found none", key);
  if (key.empty()) throw_bad_input("{}: a TLS certificate, expected its key too, found none", certificate);
  asio::ssl::context context(asio::ssl::context::tls_server);
  SSL_CTX* native = context.native_handle();
  SSL_CTX_set_min_proto_version(native, TLS1_2_VERSION);
  SSL_CTX_set_options(native, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
  SSL_CTX_set_mode(native, SSL_MODE_RELEASE_BUFFERS);  // 34 KB less for each idle connection
  SSL_CTX_set_alpn_select_cb(native, pick_http11, nullptr);
  // Without it OpenSSL asks for the password of an encrypted key on the terminal.
  context.set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); });
  error_code ec;
  context.use_certificate_chain(asio::buffer(read_file(certificate, kMostPemBytes)), ec);
  if (ec) throw_bad_input("{}: expected a certificate chain in PEM, found {}", certificate, ec.message());
  context.use_private_key(asio::buffer(read_file(key, kMostPemBytes)), asio::ssl::context::pem, ec);
  if (ec && ERR_GET_REASON(static_cast<unsigned long>(ec.value())) == X509_R_KEY_VALUES_MISMATCH) {
    throw_bad_input("{}: expected the key of the certificate {}, found that of another one", key, certificate);
  }
  if (ec) throw_bad_input("{}: expected a private key in PEM without a password, found {}", key, ec.message());
  return context;
}

Network::Network(const HttpServerOptions& server_options, HttpServer::HeadHandler head_handler,
                 HttpServer::Handler handler)
    : options(server_options), on_head(std::move(head_handler)), on_request(std::move(handler)) {
  if (!options.tls_certificate.empty() || !options.tls_key.empty()) {
    tls.emplace(tls_context(options.tls_certificate, options.tls_key));
  }
  listen();
  accept_next();
  // Signals are for the program's other threads, which wait for them.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  ::pthread_sigmask(SIG_BLOCK, &all, &before);
  try {
    thread_ = std::jthread([this] { run(); });
  } catch (...) {
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Network::~Network() {
  asio::post(io, [this] {
    close_acceptor();
    while (!connections_.empty()) (*connections_.begin())->close();
    work_.reset();
  });
  thread_.join();
}

void Network::run() {
  for (;;) {
    try {
      io.run();
      return;
    } catch (...) {
      // No memory, outside of a connection's step: the next callback may find some.
    }
  }
}

void Network::listen() {
  const bool colon = options.host.find(':') != std::string::npos;
  const std::string place = fmt::format("{}{}{}:{}", colon ? "[" : "", options.host, colon ? "]" : "", options.port);
  error_code ec;
  const auto address = asio::ip::make_address(options.host == "localhost" ? "127.0.0.1" : options.host, ec);
  if (ec) {
    throw_bad_input("expected an IP address of this machine or \"localhost\" to listen on, found {}",
                    quoted(options.host));
  }
  const tcp::endpoint endpoint(address, options.port);
  acceptor_.open(endpoint.protocol(), ec);
  if (!ec) {
    ::fcntl(acceptor_.native_handle(), F_SETFD, FD_CLOEXEC);
    acceptor_.set_option(tcp::acceptor::reuse_address(true), ec);
  }
  if (!ec) acceptor_.bind(endpoint, ec);
  if (!ec) acceptor_.listen(kBacklog, ec);
  if (ec == asio::error::address_in_use) {
    throw_bad_input("{}: expected a free port to listen on, found one that another program uses", place);
  }
  if (ec == boost::system::errc::address_not_available) {
    throw_bad_input("{}: expected an address of this machine to listen on, found another one", place);
  }
  if (ec == boost::system::errc::permission_denied) {
    throw_bad_input("{}: expected a port on which this user may listen, found one that needs permission", place);
  }
  if (ec) throw_bad_input("{}: cannot listen there, {}", place, ec.message());
  port_ = acceptor_.local_endpoint().port();
}

void Network::accept_next() {
  if (stopping || accepting_) return;
  if (static_cast<int64_t>(connections_.size()) >= options.most_connections) return;  // `remove` comes back here
  accepting_ = true;
  acceptor_.async_accept([this](error_code ec, tcp::socket socket) { on_accept(ec, std::move(socket)); });
}

void Network::on_accept(error_code ec, tcp::socket socket) {
  accepting_ = false;
  if (stopping) return;
  if (!ec) {
    std::shared_ptr<Connection> connection;
    try {
      connection = std::make_shared<Connection>(*this, std::move(socket));
      connections_.insert(connection);
      ++count_;
    } catch (...) {
      connection = nullptr;  // no memory for another connection: this one is closed
    }
    if (connection) {
      connection->start();
      return accept_next();
    }
  }
  // A queue that cannot be served (EMFILE) would be offered again at once, for ever.
  accepting_ = true;
  accept_pause_.expires_after(kAcceptPause);
  accept_pause_.async_wait([this](error_code) {
    accepting_ = false;
    accept_next();
  });
}

void Network::remove(const std::shared_ptr<Connection>& connection) {
  connections_.erase(connection);
  {
    std::lock_guard lock(idle_mutex_);
    --count_;
    if (count_ == 0) idle_.notify_all();
  }
  accept_next();
}

HttpAnswer Network::refusal(const HttpRequest& request, int status, std::string_view sentence) const {
  try {
    if (options.on_refusal) options.on_refusal(request, status);
  } catch (...) {
    // The client gets its answer whether or not somebody could write that down.
  }
  HttpAnswer answer;
  try {
    if (options.word_refusal) {
      answer = options.word_refusal(status, sentence);
      answer.status = status;
      return answer;
    }
  } catch (...) {
    answer = {};
  }
  answer.status = status;
  answer.headers = {{"content-type", "text/plain; charset=utf-8"}};
  answer.body = fmt::format("{}\n", sentence);
  return answer;
}

void Network::close_acceptor() {
  stopping = true;
  error_code ignored;
  acceptor_.close(ignored);
  accept_pause_.cancel();
}

void Network::stop() {
  close_acceptor();
  const auto open = connections_;  // some close, and leave the set
  for (const auto& connection : open) connection->stop();
}

void Network::stop_accepting() {
  if (io.get_executor().running_in_this_thread()) return stop();
  const auto done = std::make_shared<std::promise<void>>();
  asio::post(io, [this, done] {
    try {
      stop();
      done->set_value();
    } catch (...) {
      done->set_exception(std::current_exception());
    }
  });
  done->get_future().get();
}

bool Network::wait_until_idle(milliseconds limit) {
  // The clock's end is not a time that can be added to.
  limit = std::min(limit, milliseconds(std::chrono::hours(24 * 365)));
  std::unique_lock lock(idle_mutex_);
  return idle_.wait_for(lock, limit, [this] { return count_ == 0; });
}

}  // namespace

struct HttpServer::Data {
  Network network;
};

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (same_name(key, name)) return value;
  }
  return {};
}

HttpServer::HttpServer(const HttpServerOptions& options, HeadHandler on_head, Handler on_request)
    : data_(new Data{Network(options, std::move(on_head), std::move(on_request))}) {}

HttpServer::~HttpServer() = default;

uint16_t HttpServer::port() const {
  return data_->network.port();
}

void HttpServer::stop_accepting() {
  data_->network.stop_accepting();
}

bool HttpServer::wait_until_idle(std::chrono::milliseconds limit) {
  return data_->network.wait_until_idle(limit);
}

int64_t HttpServer::connections() const {
  return data_->network.connections();
}

}  // namespace fathom
