#include "serve/load_test.h"

#include <fmt/core.h>
#include <netinet/in.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <unordered_set>

// All of Boost is in this file; see http_server.cc.
#ifdef __SANITIZE_THREAD__
#define BOOST_ASIO_DISABLE_FENCED_BLOCK
#endif
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/basic_parser.hpp>

#include "base/error.h"
#include "base/interrupt.h"
#include "serve/streamed_answer.h"

namespace fathom {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

constexpr size_t kReadBytes = 16 << 10;
constexpr size_t kSlowReadBytes = 512;  // two or three pieces of an answer
constexpr milliseconds kSlowPause{20};
constexpr int kSlowReceiveBuffer = 4096;  // what the system takes for a slow reader; so the server feels it
constexpr milliseconds kConnectTimeout{10'000};
constexpr milliseconds kSilenceTimeout{120'000};  // the server says something every 10 s
constexpr milliseconds kPauseAfterRefusal{250};   // a client that is refused does not ask again at once
constexpr milliseconds kHealthPeriod{100};
constexpr milliseconds kMemoryPeriod{1000};
constexpr milliseconds kLookPeriod{100};  // at interrupts, silent connections and progress
constexpr size_t kFillerBytes = 64 << 10;
constexpr uint64_t kOversizedBytes = uint64_t{1} << 30;
constexpr int64_t kMostTooLongBytes = 8 << 20;  // of a prompt; bodies of more than 16 MiB are refused for that
constexpr size_t kMostReasons = 40;             // different ones in LoadLevel::broken
constexpr size_t kMostReplyBytes = 16 << 20;    // of a reply that is kept
constexpr double kBytesPerToken = 4;            // where the server has no /tokenize

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// A figure of a Prometheus page; nothing if it is not there.
std::optional<double> metric(std::string_view page, const std::string& name) {
  const std::string line = "\n" + name + " ";
  const size_t at = page.find(line);
  if (at == std::string_view::npos) return std::nullopt;
  const char* begin = page.data() + at + line.size();
  double value = 0;
  const auto parsed = std::from_chars(begin, page.data() + page.size(), value);
  return parsed.ec == std::errc() ? std::optional(value) : std::nullopt;
}

// ---------------------------------------------------------------------------------------------------- connections

/// What becomes of a request.
class ReplyListener {
 public:
  virtual ~ReplyListener() = default;
  virtual void on_head(int status, std::string_view content_type) = 0;
  virtual void on_body(std::string_view bytes) = 0;
  virtual void on_end() = 0;
  /// Instead of all that is left; the connection is closed.
  virtual void on_broken(const std::string& why) = 0;
};

class ReplyParser final : public http::basic_parser<false> {
 public:
  /// `listener` may become null at any time.
  explicit ReplyParser(ReplyListener*& listener) : listener_(listener) {
    header_limit(64 << 10);
    body_limit(boost::none);
    eager(true);
  }

 private:
  using View = boost::beast::string_view;

  void on_request_impl(http::verb, View, View, int, error_code&) override {}
  void on_response_impl(int status, View, int, error_code& ec) override {
    // None of the interim replies was asked for.
    if (status < 200) ec = http::error::bad_status;
    status_ = status;
  }
  void on_field_impl(http::field field, View, View value, error_code&) override {
    if (field == http::field::content_type) content_type_ = std::string(value);
  }
  void on_header_impl(error_code&) override {
    if (listener_ != nullptr) listener_->on_head(status_, content_type_);
  }
  void on_body_init_impl(const boost::optional<uint64_t>&, error_code&) override {}
  size_t on_body_impl(View body, error_code&) override {
    if (listener_ != nullptr) listener_->on_body(body);
    return body.size();
  }
  void on_chunk_header_impl(uint64_t, View, error_code&) override {}
  size_t on_chunk_body_impl(uint64_t, View body, error_code&) override {
    if (listener_ != nullptr) listener_->on_body(body);
    return body.size();
  }
  void on_finish_impl(error_code&) override {}

  ReplyListener*& listener_;
  int status_ = 0;
  std::string content_type_;
};

class Connection;

/// The server, as all connections see it.
struct Network {
  std::set<Connection*> connections;  // goes last: some connections end with `io`
  asio::io_context io{1};
  std::optional<asio::ssl::context> tls;
  ServerUrl url;
  tcp::endpoint server;
  std::string common_headers;

  std::string head(std::string_view method, std::string_view path, std::string_view framing) const {
    return fmt::format("{} {}{} HTTP/1.1\r\n{}{}\r\n", method, url.path, path, common_headers, framing);
  }
  std::string post(std::string_view path, const std::string& body) const {
    return head("POST", path, fmt::format("content-type: application/json\r\ncontent-length: {}\r\n", body.size())) +
           body;
  }
};

/// A connection to the server, made with its first request. One request at a time.
class Connection final : public std::enable_shared_from_this<Connection> {
 public:
  /// Gives what is to be sent next; empty: the request is whole.
  using More = std::function<std::string()>;

  explicit Connection(Network& network, int receive_buffer = 0)
      : network_(network), socket_(network.io), timer_(network.io), receive_buffer_(receive_buffer) {
    if (network_.tls) tls_.emplace(socket_, *network_.tls);
    network_.connections.insert(this);
  }
  ~Connection() { network_.connections.erase(this); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// `listener` stays until it hears the end, or `close`. It hears nothing before this returns.
  void ask(std::string bytes, ReplyListener& listener, More more = {}) {
    out_ = std::move(bytes);
    more_ = std::move(more);
    listener_ = &listener;
    parser_.emplace(listener_);
    last_activity_ = Clock::now();
    connected_ ? send() : connect();
  }

  /// Whether the next request can go this way, too.
  bool reusable() const { return reusable_ && !closed_; }
  /// When the first byte of the request went out.
  Clock::time_point sent() const { return sent_; }
  /// From now on reads little at a time, with pauses.
  void read_slowly() { read_bytes_ = kSlowReadBytes; }
  /// Reads nothing for so long.
  void stall(milliseconds pause) { stall_ = pause; }

  /// The listener hears nothing more.
  void close() {
    if (std::exchange(closed_, true)) return;
    listener_ = nullptr;
    timer_.cancel();
    error_code ignored;
    socket_.close(ignored);
  }

  /// Gives up where nothing happens any more.
  void look(Clock::time_point now) {
    if (closed_ || listener_ == nullptr || pausing_) return;
    const milliseconds limit = connected_ ? kSilenceTimeout : kConnectTimeout;
    if (now - last_activity_ < limit) return;
    fail(fmt::format("{} for {} s", connected_ ? "nothing came" : "no connection was made", limit.count() / 1000));
  }

 private:
  void fail(const std::string& why) {
    ReplyListener* listener = listener_;
    close();
    if (listener != nullptr) listener->on_broken(why);
  }

  void connect() {
    error_code ec;
    socket_.open(network_.server.protocol(), ec);
    if (!ec && receive_buffer_ > 0) socket_.set_option(asio::socket_base::receive_buffer_size(receive_buffer_), ec);
    if (!ec) socket_.set_option(tcp::no_delay(true), ec);
    if (ec) {
      asio::post(network_.io, [self = shared_from_this(), ec] { self->on_connect(ec); });
      return;
    }
    socket_.async_connect(network_.server, [self = shared_from_this()](error_code error) { self->on_connect(error); });
  }

  void on_connect(error_code ec) {
    if (closed_) return;
    if (ec) return fail(fmt::format("no connection was made ({})", ec.message()));
    if (!tls_) return send();
    const std::string& host = network_.url.host;
    error_code no_address;
    asio::ip::make_address(host, no_address);
    if (no_address) SSL_set_tlsext_host_name(tls_->native_handle(), host.c_str());
    tls_->set_verify_callback(asio::ssl::host_name_verification(host), no_address);
    tls_->async_handshake(asio::ssl::stream_base::client, [self = shared_from_this()](error_code error) {
      if (self->closed_) return;
      if (error) return self->fail(fmt::format("no TLS connection was made ({})", self->tls_fault(error)));
      self->send();
    });
  }

  std::string tls_fault(error_code ec) {
    const long verified = SSL_get_verify_result(tls_->native_handle());
    return verified == X509_V_OK ? ec.message() : X509_verify_cert_error_string(verified);
  }

  void send() {
    connected_ = true;
    reusable_ = false;
    sent_ = last_activity_ = Clock::now();
    write();
    read();
  }

  void write() {
    writing_ = true;
    auto handler = [self = shared_from_this()](error_code ec, size_t) { self->on_written(ec); };
    tls_ ? asio::async_write(*tls_, asio::buffer(out_), std::move(handler))
         : asio::async_write(socket_, asio::buffer(out_), std::move(handler));
  }

  void on_written(error_code ec) {
    // A server that does not want the rest may have said so: reading finds out.
    if (closed_ || ec) return;
    last_activity_ = Clock::now();
    if (more_) out_ = more_();
    if (more_ && !out_.empty()) return write();
    writing_ = false;
  }

  void read() {
    auto handler = [self = shared_from_this()](error_code ec, size_t bytes) { self->on_read(ec, bytes); };
    const auto buffer = asio::buffer(read_buffer_.data(), read_bytes_);
    tls_ ? tls_->async_read_some(buffer, std::move(handler)) : socket_.async_read_some(buffer, std::move(handler));
  }

  void read_later() {
    milliseconds pause = std::exchange(stall_, milliseconds(0));
    if (read_bytes_ == kSlowReadBytes) pause = std::max(pause, kSlowPause);
    if (pause.count() == 0) return read();
    pausing_ = true;
    timer_.expires_after(pause);
    timer_.async_wait([self = shared_from_this()](error_code) {
      self->pausing_ = false;
      self->last_activity_ = Clock::now();
      if (!self->closed_) self->read();
    });
  }

  void on_read(error_code ec, size_t bytes) {
    if (closed_) return;
    last_activity_ = Clock::now();
    if (ec) return on_end_of_input(ec);
    input_.append(read_buffer_.data(), bytes);
    // Beast asserts that it gets 5 bytes once it has seen the last chunk's size; no chunked body can end in fewer.
    if (parser_->is_header_done() && parser_->chunked() && input_.size() < 5) return read_later();
    const size_t used = parser_->put(asio::buffer(input_), ec);
    if (closed_) return;
    if (ec && ec != http::error::need_more) return fail(fmt::format("a reply that is no HTTP ({})", ec.message()));
    input_.erase(0, used);
    parser_->is_done() ? finish() : read_later();
  }

  void on_end_of_input(error_code ec) {
    // Without a length the connection's end is the body's. Some end TLS without saying so.
    if ((ec == asio::error::eof || ec == asio::ssl::error::stream_truncated) && parser_->is_header_done() &&
        parser_->need_eof()) {
      error_code ignored;
      parser_->put_eof(ignored);
      return finish();
    }
    const char* place = parser_->is_header_done() ? "inside a reply" : "before a reply";
    ec == asio::error::eof ? fail(fmt::format("the connection ended {}", place))
                           : fail(fmt::format("the connection broke {} ({})", place, ec.message()));
  }

  void finish() {
    if (!input_.empty()) return fail("bytes behind the end of a reply");
    reusable_ = parser_->keep_alive() && !writing_;
    std::exchange(listener_, nullptr)->on_end();
  }

  Network& network_;
  tcp::socket socket_;
  std::optional<asio::ssl::stream<tcp::socket&>> tls_;
  asio::steady_timer timer_;
  const int receive_buffer_;
  bool connected_ = false;
  bool closed_ = false;
  bool reusable_ = false;
  bool writing_ = false;
  bool pausing_ = false;
  ReplyListener* listener_ = nullptr;
  std::optional<ReplyParser> parser_;
  std::string out_;
  More more_;
  std::string input_;
  std::array<char, kReadBytes> read_buffer_;
  size_t read_bytes_ = kReadBytes;
  milliseconds stall_{0};
  Clock::time_point sent_, last_activity_;
};

/// Lets things happen until `done`; `look` is called now and then.
void run_until(Network& network, const std::function<bool()>& done, const std::function<void()>& look) {
  Clock::time_point next = Clock::now() + kLookPeriod;
  while (!done()) {
    if (network.io.stopped()) network.io.restart();
    network.io.run_one_for(kLookPeriod);
    const Clock::time_point now = Clock::now();
    if (now < next) continue;
    next = now + kLookPeriod;
    std::vector<std::shared_ptr<Connection>> connections;  // looking at one may add others
    for (Connection* connection : network.connections) {
      if (auto shared = connection->weak_from_this().lock()) connections.push_back(std::move(shared));
    }
    for (const auto& connection : connections) connection->look(now);
    look();
  }
}

struct Fetched {
  int status = 0;  ///< 0: broken
  std::string body;
  std::string why;
};

/// One request and its reply, kept whole.
class Fetch : public ReplyListener {
 public:
  void on_head(int status, std::string_view) override { reply.status = status; }
  void on_body(std::string_view bytes) override {
    if (reply.body.size() + bytes.size() <= kMostReplyBytes) reply.body += bytes;
  }
  void on_end() override { done = true; }
  void on_broken(const std::string& why) override {
    reply = {0, "", why};
    done = true;
  }

  Fetched reply;
  bool done = false;
};

/// If interrupted, there is no reply.
Fetched fetch(Network& network, std::string request) {
  Fetch listener;
  const auto connection = std::make_shared<Connection>(network);
  struct Close {
    Connection& connection;
    ~Close() { connection.close(); }
  } const close{*connection};
  connection->ask(std::move(request), listener);
  run_until(
      network, [&] { return listener.done || interrupted(); }, [] {});
  return std::move(listener.reply);
}

/// Asks one thing over and over, at fixed times: a reply that is late counts from when its request was due, and so do
/// those that had to wait for it.
class Prober : public ReplyListener {
 public:
  /// `status` 0: there was no reply.
  using OnReply = std::function<void(int status, const std::string& body, double seconds)>;

  Prober(Network& network, std::string request, milliseconds period, OnReply on_reply)
      : network_(network),
        request_(std::move(request)),
        period_(period),
        on_reply_(std::move(on_reply)),
        timer_(network.io),
        due_(Clock::now()) {
    ask();
  }
  ~Prober() override {
    if (connection_) connection_->close();
    *alive_ = false;
  }
  Prober(const Prober&) = delete;
  Prober& operator=(const Prober&) = delete;

  void on_head(int status, std::string_view) override { status_ = status; }
  void on_body(std::string_view bytes) override {
    if (body_.size() + bytes.size() <= kMostReplyBytes) body_ += bytes;
  }
  void on_end() override { finish(); }
  void on_broken(const std::string&) override {
    status_ = 0;
    finish();
  }

 private:
  void ask() {
    status_ = 0;
    body_.clear();
    if (!connection_ || !connection_->reusable()) connection_ = std::make_shared<Connection>(network_);
    connection_->ask(request_, *this);
  }

  void finish() {
    const Clock::time_point now = Clock::now();
    on_reply_(status_, body_, seconds_between(due_, now));
    due_ += period_;
    // After a broken one nothing is made up for: a server that is gone would be asked without a pause.
    if (status_ == 0) due_ = std::max(due_, now + period_);
    timer_.expires_at(due_);
    timer_.async_wait([this, alive = alive_](error_code) {
      if (*alive) ask();
    });
  }

  Network& network_;
  const std::string request_;
  const milliseconds period_;
  const OnReply on_reply_;
  asio::steady_timer timer_;
  Clock::time_point due_;
  std::shared_ptr<Connection> connection_;
  int status_ = 0;
  std::string body_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// ---------------------------------------------------------------------------------------------------- answers

/// The answer to one request.
class AnswerFetch : public ReplyListener {
 public:
  void on_head(int status, std::string_view) override { status_ = status; }
  void on_body(std::string_view bytes) override {
    if (status_ == 200) answer.push(bytes, [] { return true; });
  }
  void on_end() override {
    done = true;
    completed = status_ == 200 && answer.fault().empty() && answer.fault_at_end().empty();
  }
  void on_broken(const std::string&) override { done = true; }

  StreamedAnswer answer;
  bool done = false, completed = false;

 private:
  int status_ = 0;
};

/// Answers that were given under load, to be compared with those to the same prompt and seed alone. Of each prompt the
/// first, and only if nothing of it was found in the server's cache: what is found there may have been computed with
/// attention of another form, and lead to other last bits (docs/architecture.md, One answer).
class Recall {
 public:
  Recall(int64_t most, uint64_t seed) : most_(most), random_(seed, 1) {}

  void add(int64_t source, const StreamedAnswer& answer) {
    if (most_ == 0 || answer.hit_tokens.value_or(0) > 0 || !sources_.insert(source).second) return;
    // Of all of them, so many, each with the same chance (reservoir sampling).
    if (std::ssize(kept_) < most_) {
      kept_.emplace_back(source, answer.whole());
    } else if (const size_t place = random_.below(sources_.size()); place < kept_.size()) {
      kept_[place] = {source, answer.whole()};
    }
  }
  const std::vector<std::pair<int64_t, std::string>>& kept() const { return kept_; }

 private:
  const int64_t most_;
  Random random_;
  std::unordered_set<int64_t> sources_;
  std::vector<std::pair<int64_t, std::string>> kept_;
};

std::string difference(int64_t source, const std::string& loaded, const std::string& alone) {
  const auto [a, b] = std::mismatch(loaded.begin(), loaded.end(), alone.begin(), alone.end());
  const auto place = static_cast<size_t>(a - loaded.begin());
  const size_t begin = place - std::min<size_t>(place, 20);
  const auto excerpt = [&](const std::string& text) {
    return Json(text.substr(begin, 60)).dump(-1, ' ', true, Json::error_handler_t::replace);
  };
  return fmt::format("Prompt {}: at byte {} of the answer, {} under load and {} alone.", source, place, excerpt(loaded),
                     excerpt(alone));
}

// ---------------------------------------------------------------------------------------------------- a level

struct Load {
  const LoadOptions& options;
  Network& network;
  const LoadRequests& requests;
  Recall& recall;
  LoadReport& report;
  double bytes_per_token;
  int64_t next_number = 0;
};

class Level;

/// One of the streams that are open at once: a request, its reply, the next request.
class Slot : public ReplyListener {
 public:
  Slot(Level& level, Load& load);
  ~Slot() override;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;

  void next();
  /// Ends what is open.
  void cut();
  bool finished() const { return finished_; }

  void on_head(int status, std::string_view content_type) override;
  void on_body(std::string_view bytes) override;
  void on_end() override;
  void on_broken(const std::string& why) override;

 private:
  using Kind = LoadRequest::Kind;

  void ask();
  bool on_piece();
  void complete();
  void broken(const std::string& why);
  void next_after_pause();
  bool in_durations() const { return request_.kind == Kind::plain || request_.kind == Kind::cancelled; }

  Level& level_;
  Load& load_;
  asio::steady_timer pause_;
  std::shared_ptr<Connection> connection_;
  LoadRequest request_;
  std::optional<StreamedAnswer> answer_;
  static constexpr int kBetweenRequests = -1;
  int status_ = 0;
  int64_t pieces_ = 0;
  bool cancel_ = false;
  bool finished_ = false;
  Clock::time_point last_piece_;
  uint64_t filler_left_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

class Level {
 public:
  Level(Load& load, int64_t concurrent) : load_(load) { result.concurrent = concurrent; }

  void run() {
    const double cpu = cpu_seconds();
    begin_ = last_end_ = Clock::now();
    Network& network = load_.network;
    const Prober memory(network, network.head("GET", "/metrics", ""), kMemoryPeriod,
                        [&](int status, const std::string& body, double) { note_memory(status, body); });
    // The first figure is that of a server without this load.
    run_until(
        network, [&] { return memory_asked_ || interrupted(); }, [] {});
    begin_ = last_end_ = Clock::now();
    if (!result.memory.empty()) result.memory.front().at_seconds = 0;
    const Prober health(network, network.head("GET", "/health", ""), kHealthPeriod,
                        [&](int status, const std::string&, double seconds) {
                          status == 200 ? result.health.add(now(), seconds) : void(++result.health_failed);
                        });
    for (int64_t i = 0; i < result.concurrent; ++i) slots_.push_back(std::make_unique<Slot>(*this, load_));
    for (const auto& slot : slots_) slot->next();
    run_until(
        network, [&] { return running_ == 0; },
        [&] {
          if (interrupted()) stop();
          show_progress();
        });
    result.seconds = seconds_between(begin_, last_end_);
    result.client_cpu_seconds = cpu_seconds() - cpu;
    const Fetched end = fetch(network, network.head("GET", "/metrics", ""));
    note_memory(end.status, end.body);
  }

  /// Whether no more requests are to begin.
  bool over() const {
    const LoadOptions& options = load_.options;
    return stopped_ || (options.requests > 0 ? taken_ >= options.requests : now() >= options.seconds);
  }
  /// The number of the next request; nothing: the slot that asks has ended.
  std::optional<int64_t> take() {
    if (over()) {
      --running_;
      return std::nullopt;
    }
    ++taken_;
    return load_.next_number++;
  }
  void on_slot() { ++running_; }
  /// A request has come to its end, whichever.
  void on_request_end() {
    ++ended_;
    last_end_ = Clock::now();
  }
  double now() const { return seconds_between(begin_, Clock::now()); }

  void count_broken(const std::string& why) {
    const bool known = result.broken.contains(why) || result.broken.size() < kMostReasons;
    ++result.broken[known ? why : "other reasons"];
  }

  LoadLevel result;

 private:
  void stop() {
    if (std::exchange(stopped_, true)) return;
    for (const auto& slot : slots_) {
      if (!slot->finished()) slot->cut();
    }
  }

  void note_memory(int status, const std::string& body) {
    memory_asked_ = true;
    const std::optional<double> bytes = metric(body, "process_resident_memory_bytes");
    if (status == 200 && bytes) result.memory.push_back({now(), *bytes});
  }

  void show_progress() const {
    if (!load_.options.on_progress) return;
    load_.options.on_progress(fmt::format("{} streams", result.concurrent), "requests", ended_, load_.options.requests);
  }

  Load& load_;
  std::vector<std::unique_ptr<Slot>> slots_;
  Clock::time_point begin_, last_end_;
  int64_t running_ = 0;  // slots that have not ended
  int64_t taken_ = 0, ended_ = 0;
  bool stopped_ = false;
  bool memory_asked_ = false;
};

Slot::Slot(Level& level, Load& load) : level_(level), load_(load), pause_(load.network.io) {
  level_.on_slot();
}

Slot::~Slot() {
  if (connection_) connection_->close();
  *alive_ = false;
}

void Slot::next() {
  const std::optional<int64_t> number = level_.take();
  if (!number) {
    finished_ = true;
    if (connection_) connection_->close();
    return;
  }
  request_ = load_.requests.request(*number);
  answer_.emplace();
  status_ = 0;
  pieces_ = 0;
  cancel_ = false;
  const bool slow = request_.kind == Kind::slow || request_.kind == Kind::stalling;
  if (slow && connection_) connection_->close();
  if (!connection_ || !connection_->reusable()) {
    connection_ = std::make_shared<Connection>(load_.network, slow ? kSlowReceiveBuffer : 0);
  }
  if (request_.kind == Kind::slow) connection_->read_slowly();
  ask();
}

void Slot::ask() {
  constexpr std::string_view path = "/v1/chat/completions";
  if (request_.size != LoadRequest::Size::announced && request_.size != LoadRequest::Size::chunked) {
    return connection_->ask(load_.network.post(path, request_.body), *this);
  }
  const bool chunked = request_.size == LoadRequest::Size::chunked;
  const std::string framing =
      "content-type: application/json\r\n" +
      (chunked ? "transfer-encoding: chunked\r\n" : fmt::format("content-length: {}\r\n", kOversizedBytes));
  const std::string begin =
      chunked ? fmt::format("{:x}\r\n{}\r\n", request_.body.size(), request_.body) : request_.body;
  filler_left_ = kOversizedBytes - request_.body.size();
  connection_->ask(load_.network.head("POST", path, framing) + begin, *this, [this, chunked, alive = alive_] {
    const size_t bytes = *alive ? std::min<uint64_t>(kFillerBytes, filler_left_) : 0;
    if (bytes == 0) return std::string();
    filler_left_ -= bytes;
    const std::string filler(bytes, 'a');
    return chunked ? fmt::format("{:x}\r\n{}\r\n", bytes, filler) : filler;
  });
}

void Slot::cut() {
  finished_ = true;
  pause_.cancel();
  if (connection_) connection_->close();
  if (status_ != kBetweenRequests) {
    ++level_.result.cut;
    level_.on_request_end();
  }
  level_.take();
}

void Slot::on_head(int status, std::string_view content_type) {
  status_ = status;
  if (status != 200) return;
  if (request_.kind == Kind::malformed) return broken("a malformed body was taken");
  if (request_.kind == Kind::oversized) return broken("an oversized body was taken");
  if (!content_type.starts_with("text/event-stream")) return broken("a stream of another type than text/event-stream");
}

void Slot::on_body(std::string_view bytes) {
  if (status_ != 200) return;
  const bool good = answer_->push(bytes, [this] { return on_piece(); });
  if (!good) return broken(answer_->fault());
  if (!cancel_) return;
  connection_->close();
  ++level_.result.cancelled;
  level_.on_request_end();
  next();
}

/// A piece of text came; false: that was enough.
bool Slot::on_piece() {
  const Clock::time_point now = Clock::now();
  ++pieces_;
  if (in_durations()) {
    LoadLevel& result = level_.result;
    pieces_ == 1 ? result.first_token.add(level_.now(), seconds_between(connection_->sent(), now))
                 : result.between_tokens.add(level_.now(), seconds_between(last_piece_, now));
  }
  last_piece_ = now;
  if (request_.kind == Kind::stalling && pieces_ == request_.at_token) {
    connection_->stall(milliseconds(request_.stall_ms));
  }
  cancel_ = request_.kind == Kind::cancelled && pieces_ == request_.at_token;
  return !cancel_;
}

void Slot::on_end() {
  if (status_ == 200) {
    const std::string fault = answer_->fault_at_end();
    if (!fault.empty()) return broken(fault);
    complete();
    return next();
  }
  const bool hopeless = request_.kind == Kind::malformed || request_.kind == Kind::oversized;
  LoadRefusals& hopeless_ones = request_.kind == Kind::malformed ? level_.result.malformed : level_.result.oversized;
  if (hopeless && !(status_ >= 400 && status_ < 500) && status_ != 503) {
    return broken(fmt::format("{} as the reply to a {} body", status_,
                              request_.kind == Kind::malformed ? "malformed" : "oversized"));
  }
  ++(hopeless ? hopeless_ones.refused : level_.result.refused)[status_];
  if (hopeless) ++hopeless_ones.sent;
  level_.on_request_end();
  hopeless ? next() : next_after_pause();
}

void Slot::complete() {
  LoadLevel& result = level_.result;
  ++result.completed;
  if (in_durations()) {
    result.request.add(level_.now(), seconds_between(connection_->sent(), Clock::now()));
  } else {
    ++result.slow;
  }
  result.prompt_tokens += answer_->prompt_tokens;
  result.output_tokens += answer_->output_tokens;
  if (answer_->hit_tokens) result.hit_tokens = result.hit_tokens.value_or(0) + *answer_->hit_tokens;
  load_.recall.add(request_.source, *answer_);
  level_.on_request_end();
}

void Slot::on_broken(const std::string& why) {
  broken(why);
}

void Slot::broken(const std::string& why) {
  connection_->close();
  if (request_.kind == Kind::malformed) ++level_.result.malformed.sent;
  if (request_.kind == Kind::oversized) ++level_.result.oversized.sent;
  level_.count_broken(why);
  level_.on_request_end();
  next_after_pause();
}

void Slot::next_after_pause() {
  if (level_.over()) return next();
  status_ = kBetweenRequests;
  pause_.expires_after(kPauseAfterRefusal);
  pause_.async_wait([this, alive = alive_](error_code ec) {
    if (*alive && !ec && !finished_) next();
  });
}

// ---------------------------------------------------------------------------------------------------- the test

void check_options(const LoadOptions& options) {
  for (const char character : options.key) {
    if (character <= 0x20 || character > 0x7e) {
      throw_bad_input("The API key: expected visible ASCII characters, found another one.");
    }
  }
  const LoadShares& shares = options.shares;
  const double all = shares.cancel + shares.slow + shares.malformed + shares.oversized;
  if (!(all <= 1)) {
    throw_bad_input("The shares of cancelled, slow, malformed and oversized requests: expected at most 1, found {}.",
                    all);
  }
}

/// Each stream is a descriptor, and shells often allow 1024.
void allow_descriptors(const LoadOptions& options) {
  const int64_t streams = *std::max_element(options.concurrent.begin(), options.concurrent.end());
  const auto needed = static_cast<rlim_t>(streams + 64);
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= needed) return;
  if (limit.rlim_max < needed) {
    throw_bad_input("{} streams need {} file descriptors; the system allows {} (ulimit -Hn).", streams, needed,
                    limit.rlim_max);
  }
  limit.rlim_cur = needed;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void prepare_network(Network& network, const LoadOptions& options) {
  const ServerUrl& url = network.url = parse_server_url(options.url);
  const bool colon = url.host.find(':') != std::string::npos;
  network.common_headers = fmt::format("host: {}{}{}:{}\r\nuser-agent: fathom-bench\r\n", colon ? "[" : "", url.host,
                                       colon ? "]" : "", url.port);
  if (!options.key.empty()) network.common_headers += fmt::format("authorization: Bearer {}\r\n", options.key);
  if (!url.tls) return;
  network.tls.emplace(asio::ssl::context::tls_client);
  SSL_CTX_set_min_proto_version(network.tls->native_handle(), TLS1_2_VERSION);
  error_code ignored;  // without certificates of authorities, verification says so
  network.tls->set_default_verify_paths(ignored);
  network.tls->set_verify_mode(options.insecure ? asio::ssl::verify_none : asio::ssl::verify_peer);
}

/// The reply to GET /v1/models of the first of the host's addresses where somebody answers.
Fetched find_server(Network& network, const LoadOptions& options) {
  tcp::resolver resolver(network.io);
  error_code ec;
  const auto found = resolver.resolve(network.url.host, std::to_string(network.url.port), ec);
  if (ec) throw_failure("{}: the host's address is not known ({}).", options.url, ec.message());
  Fetched reply;
  for (const auto& entry : found) {
    network.server = entry.endpoint();
    reply = fetch(network, network.head("GET", "/v1/models", ""));
    check_interrupt();
    if (reply.status != 0) return reply;
  }
  throw_failure("{}: no server answers there: {}.", options.url, reply.why);
}

struct ModelEntry {
  std::string name;
  int64_t context = 0;  ///< 0: not told
};

ModelEntry served_model(const Fetched& reply, const LoadOptions& options) {
  if (reply.status == 401 || reply.status == 403) {
    throw_bad_input("{}: the server does not let this client in ({}): {}", options.url, reply.status,
                    error_message(reply.body));
  }
  if (reply.status != 200) {
    throw_failure("{}: asked for its models, the server answers {}: {}", options.url, reply.status,
                  error_message(reply.body));
  }
  const Json list = Json::parse(reply.body, nullptr, false);
  ModelEntry model;
  try {
    const Json& entry = list.at("data").at(0);
    model.name = entry.at("id").get<std::string>();
    if (entry.contains("max_model_len")) model.context = entry["max_model_len"].get<int64_t>();
  } catch (const Json::exception&) {
    throw_failure("{}: asked for its models, the server answers no list of them: {}", options.url,
                  printable(reply.body));
  }
  return model;
}

double measure_bytes_per_token(Network& network, const LoadOptions& options, const ModelEntry& model) {
  Random random(options.seed);
  const std::string text = load_text(random, 8192);
  const Fetched reply = fetch(network, network.post("/tokenize", Json{{"model", model.name}, {"prompt", text}}.dump()));
  check_interrupt();
  const Json json = Json::parse(reply.body, nullptr, false);
  if (reply.status != 200 || !json.is_object() || !json.contains("count") || !json["count"].is_number_unsigned() ||
      json["count"] == 0) {
    return kBytesPerToken;
  }
  return static_cast<double>(text.size()) / json["count"].get<double>();
}

void check_context(const LoadOptions& options, const ModelEntry& model) {
  if (model.context > 0 && options.prompt_tokens + options.max_tokens > model.context) {
    throw_bad_input("Prompts of {} and answers of {} tokens need {} positions; the server's model has {}.",
                    options.prompt_tokens, options.max_tokens, options.prompt_tokens + options.max_tokens,
                    model.context);
  }
}

LoadContent load_content(const LoadOptions& options, const ModelEntry& model, double bytes) {
  LoadContent content;
  content.model = model.name;
  content.seed = options.seed;
  content.prompt_bytes = std::max<int64_t>(std::llround(bytes * static_cast<double>(options.prompt_tokens)), 16);
  content.max_tokens = options.max_tokens;
  content.temperature = options.temperature;
  content.too_long_bytes = std::llround(1.5 * bytes * static_cast<double>(model.context));
  if (content.too_long_bytes > kMostTooLongBytes) content.too_long_bytes = 0;
  content.shares = options.shares;
  return content;
}

/// Asks for other things until nothing is left in the server's cache of what it was asked before: until so many tokens
/// of prompts have been computed as all of its pages hold. Nothing where the server does not tell its pages.
void empty_cache(Load& load, const ModelEntry& model) {
  const Fetched metrics = fetch(load.network, load.network.head("GET", "/metrics", ""));
  double pages = 0;
  for (const char* state : {"free", "kept", "used"}) {
    pages += metric(metrics.body, fmt::format("fathom_cache_pages{{state=\"{}\"}}", state)).value_or(0);
  }
  const double tokens = pages * metric(metrics.body, "fathom_cache_page_tokens").value_or(0);
  const auto prompt_bytes = static_cast<int64_t>(load.bytes_per_token * 0.75 * static_cast<double>(model.context));
  double computed = 0;
  for (uint64_t number = 0; computed < tokens && prompt_bytes > 0 && !interrupted(); ++number) {
    Random random(load.options.seed, ~number);
    const std::string text = fmt::format("Page {}: {}", number, load_text(random, prompt_bytes));
    const Json body = {
        {"model", model.name}, {"messages", Json::array({{{"role", "user"}, {"content", text}}})}, {"max_tokens", 1}};
    const Fetched reply = fetch(load.network, load.network.post("/v1/chat/completions", body.dump()));
    const Json answer = Json::parse(reply.body, nullptr, false);
    if (reply.status != 200 || !answer.is_object() || !answer.contains("usage")) return;
    computed += answer["usage"].value("prompt_tokens", 0.0);
    if (computed == 0) return;
    if (load.options.on_progress) {
      load.options.on_progress("emptying the cache", "tokens", std::llround(computed), std::llround(tokens));
    }
  }
}

void verify(Load& load) {
  LoadReport& report = load.report;
  for (const auto& [source, loaded] : load.recall.kept()) {
    AnswerFetch listener;
    const auto connection = std::make_shared<Connection>(load.network);
    connection->ask(load.network.post("/v1/chat/completions", load.requests.body(source)), listener);
    run_until(
        load.network, [&] { return listener.done || interrupted(); }, [] {});
    connection->close();
    if (!listener.done) return;
    ++report.asked_again;
    if (load.options.on_progress) {
      load.options.on_progress("asking again", "requests", report.asked_again, std::ssize(load.recall.kept()));
    }
    if (!listener.completed) {
      ++report.unanswered;
    } else if (listener.answer.hit_tokens.value_or(0) > 0) {
      ++report.not_compared;
    } else if (const std::string alone = listener.answer.whole(); alone != loaded) {
      ++report.mismatches;
      if (report.example.empty()) report.example = difference(source, loaded, alone);
    }
  }
}

}  // namespace

ServerUrl parse_server_url(std::string_view text) {
  const auto fail = [&](std::string_view what) {
    throw_bad_input("The server's URL: expected http://HOST:PORT or https://HOST:PORT, found {}: {}", what,
                    printable(text));
  };
  ServerUrl url;
  std::string_view rest = text;
  if (rest.starts_with("https://")) {
    url.tls = true;
    url.port = 443;
    rest.remove_prefix(8);
  } else if (rest.starts_with("http://")) {
    rest.remove_prefix(7);
  } else {
    fail("no http:// or https:// at its begin");
  }
  for (const char character : rest) {
    if (character <= 0x20 || character > 0x7e) fail("a character that is not visible ASCII");
  }
  if (rest.find_first_of("?#") != std::string_view::npos) fail("a query or a fragment");
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view place = rest.substr(0, slash);
  std::string_view path = rest.substr(slash);
  if (place.find('@') != std::string_view::npos) fail("a user in it (the key comes from the environment)");
  const size_t bracket = place.starts_with('[') ? place.find(']') : std::string_view::npos;
  if (place.starts_with('[') && bracket == std::string_view::npos) fail("'[' without ']'");
  const size_t host_end = bracket == std::string_view::npos ? std::min(place.find(':'), place.size()) : bracket + 1;
  url.host = bracket == std::string_view::npos ? place.substr(0, host_end) : place.substr(1, bracket - 1);
  if (url.host.empty()) fail("no host");
  place.remove_prefix(host_end);
  if (!place.empty()) {
    const auto parsed = std::from_chars(place.data() + 1, place.data() + place.size(), url.port);
    if (place.front() != ':' || parsed.ec != std::errc() || parsed.ptr != place.data() + place.size() ||
        url.port == 0) {
      fail("a port that is no number from 1 to 65535");
    }
  }
  const auto without_slashes = [](std::string_view& end) {
    while (end.ends_with('/')) end.remove_suffix(1);
  };
  without_slashes(path);
  if (path.ends_with("/v1")) path.remove_suffix(3);
  without_slashes(path);
  url.path = path;
  return url;
}

void Durations::add(double at_seconds, double seconds) {
  const auto bounded = [](double value) {
    return static_cast<uint32_t>(std::clamp(std::round(value), 0.0, 4294967295.0));
  };
  samples_.push_back({bounded(at_seconds * 1e3), bounded(seconds * 1e6)});
}

std::vector<double> Durations::sorted(double begin, double end) const {
  std::vector<double> values;
  for (const Sample& sample : samples_) {
    const double at = sample.at_ms / 1e3;
    if (at >= begin && at < end) values.push_back(sample.us / 1e6);
  }
  std::sort(values.begin(), values.end());
  return values;
}

double percentile(std::span<const double> sorted, double percent) {
  if (sorted.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto count = static_cast<double>(sorted.size());
  // A whole rank must not become the next one for the last bit of a product.
  const double rank = std::ceil(percent / 100 * count - 1e-9);
  return sorted[static_cast<size_t>(std::clamp(rank, 1.0, count)) - 1];
}

int64_t LoadLevel::broken_count() const {
  int64_t count = 0;
  for (const auto& [why, times] : broken) count += times;
  return count;
}

std::vector<double> LoadLevel::memory_per_minute() const {
  std::vector<double> greatest;
  for (const Memory& sample : memory) {
    const auto minute = static_cast<size_t>(sample.at_seconds / 60);
    if (greatest.size() <= minute) greatest.resize(minute + 1);
    greatest[minute] = std::max(greatest[minute], sample.bytes);
  }
  return greatest;
}

int64_t LoadReport::completed() const {
  int64_t count = 0;
  for (const LoadLevel& level : levels) count += level.completed;
  return count;
}

int64_t LoadReport::broken() const {
  int64_t count = 0;
  for (const LoadLevel& level : levels) count += level.broken_count();
  return count;
}

LoadReport run_load_test(const LoadOptions& options) {
  check_options(options);
  allow_descriptors(options);
  Network network;
  prepare_network(network, options);
  const ModelEntry model = served_model(find_server(network, options), options);
  check_context(options, model);
  const double bytes_per_token = measure_bytes_per_token(network, options, model);
  const LoadRequests requests(load_content(options, model, bytes_per_token));
  LoadReport report;
  report.model = model.name;
  Recall recall(options.verify, options.seed);
  Load load{options, network, requests, recall, report, bytes_per_token};
  for (const int64_t concurrent : options.concurrent) {
    Level level(load, concurrent);
    level.run();
    report.levels.push_back(std::move(level.result));
    if (interrupted()) break;
  }
  if (!recall.kept().empty()) {
    empty_cache(load, model);
    if (!interrupted()) verify(load);
  }
  report.interrupted = interrupted();
  return report;
}

}  // namespace fathom
