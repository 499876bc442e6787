#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "engine/session.h"
#include "serve/server.h"
#include "support/golden.h"
#include "support/raw_http_client.h"

namespace fathom {

inline std::string bundled_model() {
  return std::string(FATHOM_SOURCE_DIR) + "/models/fathom-tiny";
}

inline std::unique_ptr<Session> bundled_session(int64_t context = 1024, int64_t drafts = 1) {
  SessionOptions options;
  options.threads = 2;
  options.context = context;
  options.drafts = drafts;
  return std::make_unique<Session>(bundled_model(), options);
}

inline ServedModel bundled_description(const Session& session) {
  const TokenizerConfig config = read_tokenizer_config(bundled_model());
  return describe_model(bundled_model(), session, Tokenizer::load(bundled_model()), config, config.chat_format, "test");
}

/// A server of the bundled model in this process.
struct TinyServer {
  using Json = nlohmann::ordered_json;

  explicit TinyServer(ServeOptions options = {}, EngineOptions engine_options = small_engine(), ApiLimits limits = {})
      : session(bundled_session()) {
    engine = std::make_unique<Engine>(session->model(), engine_options, session->team());
    server = std::make_unique<Server>(std::move(options));
    ServedModel model = bundled_description(*session);
    model.limits = limits;
    server->serve(std::move(model), *engine, engine_options);
  }

  static EngineOptions small_engine() {
    EngineOptions options;
    options.cache_pages = 256;
    options.drafts = 1;
    return options;
  }

  static std::string text_of(const std::string& method, const std::string& path, const std::string& body,
                             const std::vector<std::string>& headers = {}) {
    std::string text = method + " " + path + " HTTP/1.1\r\nhost: localhost\r\n";
    if (!body.empty()) {
      text += "content-type: application/json\r\ncontent-length: " + std::to_string(body.size()) + "\r\n";
    }
    for (const std::string& header : headers) text += header + "\r\n";
    return text + "\r\n" + body;
  }

  /// A sanitizer makes an answer take many times as long.
  RawReply ask(const std::string& text) const {
    RawHttpClient client(server->port());
    client.patience = std::chrono::minutes(5);
    return client.ask(text);
  }
  RawReply get(const std::string& path, const std::vector<std::string>& headers = {}) const {
    return ask(text_of("GET", path, "", headers));
  }
  RawReply post(const std::string& path, const Json& body, const std::vector<std::string>& headers = {}) const {
    return ask(text_of("POST", path, body.dump(), headers));
  }

  std::unique_ptr<Session> session;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Server> server;  // goes first
};

/// The JSON objects of a stream of server-sent events, without [DONE], whose presence at the end is in `done`.
inline std::vector<nlohmann::ordered_json> events_of(const std::string& body, bool& done) {
  std::vector<nlohmann::ordered_json> events;
  done = false;
  for (size_t at = 0; at < body.size();) {
    const size_t end = std::min(body.find("\n\n", at), body.size());
    const std::string event = body.substr(at, end - at);
    at = end + 2;
    if (event == "data: [DONE]") {
      done = true;
    } else if (event.starts_with("data: ")) {
      events.push_back(nlohmann::ordered_json::parse(event.substr(6)));
    }
  }
  return events;
}

}  // namespace fathom
