#pragma once
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fathom {

/// A reply as it came over the wire.
struct RawReply {
  int status = 0;
  std::string head;  ///< with its last empty line
  std::string body;  ///< chunks put together
  std::vector<std::string> chunks;
  bool whole = false;  ///< content-length bytes came, or the last chunk, or (neither told) the connection's end

  /// The value of a header whose name is given in lower case; "" if there is none.
  std::string header(std::string_view name) const {
    size_t line = head.find("\r\n");
    while (line != std::string::npos && line + 2 < head.size()) {
      line += 2;
      const size_t end = head.find("\r\n", line);
      const std::string text = head.substr(line, end - line);
      const size_t colon = text.find(": ");
      if (colon != std::string::npos && text.substr(0, colon) == name) return text.substr(colon + 2);
      line = end;
    }
    return "";
  }
};

/// A client that sends bytes as they are given, right or wrong, over a blocking socket to 127.0.0.1. Nothing waits
/// longer than `patience`.
class RawHttpClient {
 public:
  /// A socket that `connect` connects. `receive_buffer`: bytes that the system takes for a client that does not read;
  /// 0: its own choice.
  RawHttpClient() : RawHttpClient(Unconnected{}, 0) {}
  explicit RawHttpClient(uint16_t port, int receive_buffer = 0) : RawHttpClient(Unconnected{}, receive_buffer) {
    connect(port);
  }
  virtual ~RawHttpClient() { close(); }
  RawHttpClient(RawHttpClient&& other) noexcept
      : patience(other.patience),
        descriptor_(std::exchange(other.descriptor_, -1)),
        connected_(other.connected_),
        ended_(other.ended_),
        unread_(std::move(other.unread_)) {}
  RawHttpClient(const RawHttpClient&) = delete;
  RawHttpClient& operator=(const RawHttpClient&) = delete;
  RawHttpClient& operator=(RawHttpClient&&) = delete;

  std::chrono::milliseconds patience{10'000};

  bool connect(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(descriptor_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
    return connected_;
  }
  bool connected() const { return connected_; }
  int descriptor() const { return descriptor_; }

  /// False if the other side does not take it.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t count = write_some(bytes.data(), bytes.size());
      if (count <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return true;
  }

  /// Adds what comes next to the unread bytes; false at the end, at an error, or after `patience`.
  bool receive() {
    char buffer[16 << 10];
    const ssize_t count = read_some(buffer, sizeof(buffer));
    if (count <= 0) return false;
    unread_.append(buffer, static_cast<size_t>(count));
    return true;
  }

  /// The next reply but "100 Continue"; `head_only` for one to a HEAD request. Status 0 if the connection ends first.
  RawReply read_reply(bool head_only = false) {
    RawReply reply;
    size_t end;
    do {
      while ((end = unread_.find("\r\n\r\n")) == std::string::npos) {
        if (!receive()) return reply;
      }
      reply.head = take(end + 4);
      reply.status = std::atoi(reply.head.substr(std::min<size_t>(9, reply.head.size())).c_str());
    } while (reply.status == 100);
    if (head_only || reply.status == 204 || reply.status == 304) {
      reply.whole = true;
    } else if (reply.header("transfer-encoding") == "chunked") {
      while (std::optional<std::string> chunk = read_chunk()) {
        if (chunk->empty()) {
          reply.whole = true;
          break;
        }
        reply.body += *chunk;
        reply.chunks.push_back(*chunk);
      }
    } else if (const std::string length = reply.header("content-length"); !length.empty()) {
      const size_t bytes = std::strtoull(length.c_str(), nullptr, 10);
      while (unread_.size() < bytes && receive()) {
      }
      reply.whole = unread_.size() >= bytes;
      reply.body = take(std::min(bytes, unread_.size()));
    } else {
      reply.body = read_to_end();
      reply.whole = ended_;
    }
    return reply;
  }

  /// The head of a reply whose body is read by `read_chunk`.
  std::string read_head() {
    size_t end;
    while ((end = unread_.find("\r\n\r\n")) == std::string::npos) {
      if (!receive()) return "";
    }
    return take(end + 4);
  }

  /// The next chunk of a chunked body, "" the last one; none if the connection ends before it is whole.
  std::optional<std::string> read_chunk() {
    size_t end;
    while ((end = unread_.find("\r\n")) == std::string::npos) {
      if (!receive()) return std::nullopt;
    }
    const size_t bytes = std::strtoull(unread_.c_str(), nullptr, 16);
    while (unread_.size() < end + 2 + bytes + 2) {
      if (!receive()) return std::nullopt;
    }
    const std::string chunk = take(end + 2 + bytes + 2);
    return chunk.substr(end + 2, bytes);
  }

  /// All that comes until the connection ends.
  std::string read_to_end() {
    while (receive()) {
    }
    return take(unread_.size());
  }

  /// Whether the server ends the connection, in an orderly way or not, within `patience`; throws away what comes.
  bool ends() {
    read_to_end();
    return ended_;
  }

  /// One request and its reply.
  RawReply ask(std::string_view request, bool head_only = false) {
    return send(request) ? read_reply(head_only) : RawReply{};
  }

  void half_close() { ::shutdown(descriptor_, SHUT_WR); }
  void close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }
  /// Ends the connection with a reset.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close();
  }

 protected:
  /// Bytes sent, at most `bytes`; 0 or less if none can be sent within `patience`.
  virtual ssize_t write_some(const char* data, size_t bytes) {
    for (;;) {
      if (!ready(POLLOUT)) return 0;
      const ssize_t count = ::send(descriptor_, data, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (count > 0 || (errno != EINTR && errno != EAGAIN)) return count;
    }
  }
  /// Bytes received, at most `bytes`; 0 or less if none come within `patience` or at the end (`set_ended`).
  virtual ssize_t read_some(char* to, size_t bytes) {
    for (;;) {
      if (!ready(POLLIN)) return 0;
      const ssize_t count = ::recv(descriptor_, to, bytes, MSG_DONTWAIT);
      if (count < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (count <= 0) set_ended();
      return count;
    }
  }
  void set_ended() { ended_ = true; }

 private:
  struct Unconnected {};
  RawHttpClient(Unconnected, int receive_buffer) {
    descriptor_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    ::setsockopt(descriptor_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (receive_buffer > 0) {
      ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof(receive_buffer));
    }
  }

  bool ready(short event) const {
    pollfd socket{descriptor_, event, 0};
    return ::poll(&socket, 1, static_cast<int>(patience.count())) > 0;
  }

  std::string take(size_t bytes) {
    std::string result = unread_.substr(0, bytes);
    unread_.erase(0, bytes);
    return result;
  }

  int descriptor_ = -1;
  bool connected_ = false;
  bool ended_ = false;  // the server has ended the connection
  std::string unread_;
};

}  // namespace fathom
