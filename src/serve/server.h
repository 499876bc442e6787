#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/engine.h"
#include "serve/access.h"
#include "serve/http_server.h"
#include "serve/served_model.h"

namespace fathom {

/// Whether a host, as an address to listen on or as a name to be asked by, is this machine alone: localhost, 127.*,
/// ::1.
bool is_loopback(std::string_view host);

struct ServeOptions {
  HttpServerOptions http;
  std::vector<ApiKey> keys;  ///< none: everybody may ask
  KeyLimits everybody;       ///< limits of all together where there are no keys
  /// Host headers to be answered beside the address itself, when there is no key to tell a stranger's page by.
  std::vector<std::string> allowed_hosts;
  std::string allowed_origin;  ///< of pages elsewhere that may ask ("*": any); empty: none
  bool page = true;            ///< serve the chat page
  int64_t most_open = 1024;    ///< requests that compute or wait; one more gets 503
  std::chrono::seconds request_limit{1800};
  std::chrono::milliseconds keep_alive{10'000};         ///< of silence, then a sign of life
  bool log_prompts = false;                             ///< prompts and answers in the log
  std::function<void(const std::string& line)> on_log;  ///< a JSON object for each request; may be empty
};

/// The server: OpenAI's and DeepSeek's API, the chat page, health and metrics, over one engine.
///
/// It listens from its construction on and says 503 to everything until `serve` gives it a model, and again from
/// `shut_down` on; /health says which.
class Server {
 public:
  /// `bad_input`: see HttpServer.
  explicit Server(ServeOptions options);
  /// Cancels what is left.
  ~Server();

  uint16_t port() const;
  /// Answers requests with this model from now on. `engine` is the server's alone until it is destroyed. Called once.
  void serve(ServedModel model, Engine& engine, const EngineOptions& engine_options);
  /// Takes no new requests, waits for those that run, then ends what is left after `limit`. True if nothing was left.
  bool shut_down(std::chrono::milliseconds limit);

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
