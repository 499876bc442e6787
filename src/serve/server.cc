#include "serve/server.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <ctime>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/error.h"
#include "formats/json.h"
#include "model/latent_cache.h"
#include "serve/answer.h"
#include "serve/answer_plan.h"
#include "serve/api_error.h"
#include "serve/chat_request.h"
#include "serve/embedded_files.h"
#include "serve/engine_runner.h"
#include "serve/json_fields.h"
#include "serve/metrics.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// Deeper JSON is no schema of a tool that anybody wrote by hand, and every level is a call on the stack.
constexpr int kDeepestBody = 64;
constexpr size_t kMostQueued = 1024;
constexpr int kParsers = 2;

enum class Route {
  health,
  models,
  model,
  chat,
  completion,
  tokenize,
  detokenize,
  embeddings,
  status,
  metrics,
  openapi,
  page
};

struct RouteEntry {
  std::string_view method;
  std::string_view path;
  Route route;
  ApiBase base = ApiBase::v1;
};

// DeepSeek's base addresses are the root, /v1 and /beta; OpenAI's is /v1.
constexpr std::array<RouteEntry, 17> kRoutes = {{
    {"GET", "/health", Route::health},
    {"GET", "/v1/models", Route::models},
    {"GET", "/models", Route::models},
    {"GET", "/beta/models", Route::models},
    {"POST", "/v1/chat/completions", Route::chat},
    {"POST", "/chat/completions", Route::chat},
    {"POST", "/beta/chat/completions", Route::chat, ApiBase::beta},
    {"POST", "/v1/completions", Route::completion},
    {"POST", "/completions", Route::completion},
    {"POST", "/beta/completions", Route::completion, ApiBase::beta},
    {"POST", "/tokenize", Route::tokenize},
    {"POST", "/detokenize", Route::detokenize},
    {"POST", "/v1/embeddings", Route::embeddings},
    {"GET", "/status", Route::status},
    {"GET", "/metrics", Route::metrics},
    {"GET", "/openapi.json", Route::openapi},
    {"GET", "/", Route::page},
}};

std::string_view route_name(Route route) {
  switch (route) {
    case Route::health:
      return "/health";
    case Route::models:
    case Route::model:
      return "/v1/models";
    case Route::chat:
      return "/v1/chat/completions";
    case Route::completion:
      return "/v1/completions";
    case Route::tokenize:
      return "/tokenize";
    case Route::detokenize:
      return "/detokenize";
    case Route::embeddings:
      return "/v1/embeddings";
    case Route::status:
      return "/status";
    case Route::metrics:
      return "/metrics";
    case Route::openapi:
      return "/openapi.json";
    case Route::page:
      return "/";
  }
  return "?";
}

/// Everything that the page may load comes from here; nothing may frame it.
constexpr std::string_view kPagePolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

std::string_view content_type_of(std::string_view path) {
  const std::string_view end = path.substr(std::min(path.rfind('.'), path.size()));
  if (end == ".html") return "text/html; charset=utf-8";
  if (end == ".js") return "text/javascript; charset=utf-8";
  if (end == ".css") return "text/css; charset=utf-8";
  if (end == ".svg") return "image/svg+xml";
  if (end == ".json") return "application/json";
  if (end == ".png") return "image/png";
  if (end == ".woff2") return "font/woff2";
  if (end == ".webmanifest") return "application/manifest+json";
  if (end == ".txt") return "text/plain; charset=utf-8";
  return "application/octet-stream";
}

/// The host of a Host header or an origin, without port.
std::string_view host_of(std::string_view text) {
  const size_t scheme = text.find("://");
  if (scheme != std::string_view::npos) text.remove_prefix(scheme + 3);
  if (text.starts_with('[')) return text.substr(0, std::min(text.find(']'), text.size() - 1) + 1);
  return text.substr(0, text.find(':'));
}

bool is_json(std::string_view content_type) {
  std::string type(content_type.substr(0, content_type.find(';')));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  for (char& letter : type) letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter | 0x20 : letter);
  return type == "application/json";
}

std::string dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

/// "2026-11-29T01:07:24.123Z"
std::string timestamp() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900, utc.tm_mon + 1, utc.tm_mday,
                     utc.tm_hour, utc.tm_min, utc.tm_sec, ms);
}

/// A request on its way through the server.
struct Call {
  HttpRequest http;
  std::shared_ptr<HttpReply> reply;
  Route route;
  ApiBase base;
  int who = 0;
  std::string id;
  Clock::time_point begin = Clock::now();
};

}  // namespace

bool is_loopback(std::string_view host) {
  return host == "localhost" || host == "[::1]" || host == "::1" || host.starts_with("127.");
}

struct Server::Data {
  explicit Data(ServeOptions wanted)
      : options(std::move(wanted)), access(options.keys, options.everybody), started(Clock::now()) {
    for (int i = 0; i < kParsers; ++i) {
      parsers.emplace_back([this](const std::stop_token& stop) { parse_calls(stop); });
    }
    ticker = std::jthread([this](const std::stop_token& stop) { tick(stop); });
    HttpServerOptions http_options = options.http;
    http_options.word_refusal = [](int status, std::string_view sentence) {
      return HttpAnswer{status, {{"content-type", "application/json"}}, error_body(status, sentence)};
    };
    http_options.on_refusal = [this](const HttpRequest& head, int status) {
      metrics.count_request("refused", status);
      log_refusal(head, status);
    };
    http = std::make_unique<HttpServer>(
        http_options, [this](const HttpRequest& head) { return refuse(head); },
        [this](HttpRequest request, std::shared_ptr<HttpReply> reply) { take(std::move(request), std::move(reply)); });
  }

  ~Data() {
    state = State::stopping;
    ticker = {};
    for (std::jthread& parser : parsers) parser.request_stop();
    queue_changed.notify_all();
    parsers.clear();
    if (runner) runner->stop();  // every answer hears its end while its connection is still there
    http.reset();
  }

  // --- on the network's thread ---

  /// What is refused before its body is read.
  std::optional<HttpAnswer> refuse(const HttpRequest& head) {
    const auto refusal = [&](int status, std::string_view sentence, std::string_view code = {}) {
      HttpAnswer answer{status, {{"content-type", "application/json"}}, error_body(status, sentence, code)};
      add_common_headers(head, answer.headers);
      if (status == 503) answer.headers.emplace_back("retry-after", "5");
      metrics.count_request("refused", status);
      log_refusal(head, status);
      return answer;
    };
    if (head.method == "OPTIONS" && !options.allowed_origin.empty() && !head.header("origin").empty()) {
      HttpAnswer answer{204,
                        {{"access-control-allow-methods", "GET, POST"},
                         {"access-control-allow-headers", "authorization, content-type"},
                         {"access-control-max-age", "3600"}},
                        ""};
      add_common_headers(head, answer.headers);
      return answer;
    }
    std::string allowed;
    const auto route = find_route(head, allowed);
    if (route && route->route == Route::health) return std::nullopt;
    if (!access.needs_key() && !trusts_host(head)) {
      return refusal(403,
                     "The Host header names another machine than the address that this server listens on, which "
                     "is what a page that tricks a browser sends; --allow-host NAME allows the name.");
    }
    if (!trusts_origin(head)) {
      return refusal(403, "Pages of other origins may not ask this server; --allow-origin ORIGIN allows one.");
    }
    if (access.who(head.header("authorization")) == Access::kNobody) {
      const bool page = route && route->route == Route::page;
      auto answer = refusal(401, "Authentication failed: an API key is needed (Authorization: Bearer KEY).");
      answer.headers.emplace_back("www-authenticate",
                                  page ? "Basic realm=\"Fathom: the API key as password\"" : "Bearer");
      return answer;
    }
    if (!route && !allowed.empty()) {
      auto answer =
          refusal(405, fmt::format("{} is asked with {}, not with {}.", shown(head.path), allowed, shown(head.method)));
      answer.headers.emplace_back("allow", allowed);
      return answer;
    }
    if (!route)
      return refusal(404, fmt::format("There is no {} here; /openapi.json lists what there is.", shown(head.path)));
    if (head.method == "POST" && !is_json(head.header("content-type"))) {
      // Browsers let every page send other types without asking this server first.
      return refusal(415, "The body must be JSON, sent as content-type: application/json.");
    }
    const State now = state;
    if (now == State::ready || route->route == Route::page || route->route == Route::openapi) return std::nullopt;
    return refusal(503, now == State::loading ? "The model is still being loaded." : "The server is shutting down.");
  }

  void take(HttpRequest request, std::shared_ptr<HttpReply> reply) {
    std::string allowed;
    const auto route = find_route(request, allowed);
    if (!route) throw_failure("a request without a route was let in");
    auto call = std::make_shared<Call>();
    call->http = std::move(request);
    call->reply = std::move(reply);
    call->route = route->route;
    call->base = route->base;
    call->who = route->route == Route::health ? 0 : access.who(call->http.header("authorization"));
    call->id = random_id("req_");
    switch (call->route) {
      case Route::health:
        return health(*call);
      case Route::models:
      case Route::model:
        return models(*call);
      case Route::status:
        return send(*call, 200, "application/json", dump(status()));
      case Route::metrics:
        return send(*call, 200, "text/plain; version=0.0.4; charset=utf-8",
                    metrics.text(runner->state(), LatentPool::kPage, http->connections()));
      case Route::openapi:
        return file(*call, "openapi.json");
      case Route::page:
        return page(*call);
      case Route::embeddings:
        return send_error(*call, {400, "This model generates text; it makes no embeddings.", "unsupported"});
      case Route::chat:
      case Route::completion:
      case Route::tokenize:
      case Route::detokenize:
        break;
    }
    // Large bodies take milliseconds to parse and to tokenize, during which others would wait here.
    const std::lock_guard lock(queue_mutex);
    if (queue.size() >= kMostQueued) return send_error(*call, {503, "Too many requests wait to be read."});
    queue.push_back(std::move(call));
    queue_changed.notify_one();
  }

  static std::string shown(std::string_view text) {
    std::string result(text.substr(0, 80));
    for (char& character : result) {
      if (character < 0x20 || character > 0x7e) character = '?';
    }
    return result;
  }

  /// The entry of a request's method and path. If only the method is wrong, `allowed` names the right one.
  std::optional<RouteEntry> find_route(const HttpRequest& head, std::string& allowed) const {
    const bool get = head.method == "GET" || head.method == "HEAD";
    const auto fits = [&](const RouteEntry& entry) {
      return entry.method == "GET" ? get : head.method == entry.method;
    };
    for (const RouteEntry& entry : kRoutes) {
      if (entry.path != head.path || (entry.route == Route::page && !has_page())) continue;
      if (fits(entry)) return entry;
      allowed = entry.method;
    }
    if (!allowed.empty()) return std::nullopt;
    for (const RouteEntry& entry :
         {RouteEntry{"GET", "/v1/models/", Route::model}, {"GET", "/models/", Route::model}}) {
      if (!head.path.starts_with(entry.path) || head.path.size() == entry.path.size()) continue;
      if (fits(entry)) return entry;
      allowed = entry.method;
    }
    if (has_page() && find_embedded_file("web" + head.path) != nullptr) {
      if (get) return RouteEntry{"GET", "/", Route::page};
      allowed = "GET";
    }
    return std::nullopt;
  }

  bool has_page() const { return options.page && find_embedded_file("web/index.html") != nullptr; }

  /// Without a key a browser on this machine could be led here by any page whose name resolves to this address. Such a
  /// page's name is in the Host header.
  bool trusts_host(const HttpRequest& head) const {
    if (!is_loopback(options.http.host)) return true;
    const std::string_view host = host_of(head.header("host"));
    return host.empty() || is_loopback(host) ||
           std::find(options.allowed_hosts.begin(), options.allowed_hosts.end(), host) != options.allowed_hosts.end();
  }

  bool trusts_origin(const HttpRequest& head) const {
    const std::string_view origin = head.header("origin");
    if (origin.empty() || options.allowed_origin == "*" || origin == options.allowed_origin) return true;
    const size_t scheme = origin.find("://");
    return scheme != std::string_view::npos && origin.substr(scheme + 3) == head.header("host");
  }

  void add_common_headers(const HttpRequest& request, HttpHeaders& headers) const {
    headers.emplace_back("x-content-type-options", "nosniff");
    if (options.allowed_origin.empty() || request.header("origin").empty()) return;
    headers.emplace_back("access-control-allow-origin",
                         options.allowed_origin == "*" ? "*" : std::string(options.allowed_origin));
    headers.emplace_back("vary", "origin");
  }

  void send(const Call& call, int status_code, std::string_view type, std::string body, HttpHeaders headers = {}) {
    headers.emplace_back("content-type", type);
    headers.emplace_back("x-request-id", call.id);
    add_common_headers(call.http, headers);
    call.reply->send({status_code, std::move(headers), std::move(body)});
    metrics.count_request(route_name(call.route), status_code);
    AnswerRecord record;
    record.status = status_code;
    record.seconds = std::chrono::duration<double>(Clock::now() - call.begin).count();
    log(call, record);
  }

  void send_error(const Call& call, const ApiError& error) {
    HttpHeaders headers;
    const int wait = error.retry_after_s > 0 ? error.retry_after_s : error.status == 503 ? 5 : 0;
    if (wait > 0) headers.emplace_back("retry-after", std::to_string(wait));
    send(call, error.status, "application/json", error_body(error), std::move(headers));
  }

  void health(const Call& call) {
    const State now = state;
    send(call, now == State::ready ? 200 : 503, "application/json",
         now == State::ready     ? R"({"status":"ok"})"
         : now == State::loading ? R"({"status":"loading"})"
                                 : R"({"status":"shutting down"})");
  }

  void models(const Call& call) {
    const auto entry = [&](const std::string& name) {
      return Json{{"id", name},
                  {"object", "model"},
                  {"created", model.created},
                  {"owned_by", "fathom"},
                  {"max_model_len", model.context}};
    };
    if (call.route == Route::model) {
      const std::string name = call.http.path.substr(call.http.path.find("/models/") + 8);
      if (std::find(model.names.begin(), model.names.end(), name) == model.names.end()) {
        return send_error(
            call, {404, fmt::format("The model \"{}\" is not served here.", shown(name)), "model_not_found", "model"});
      }
      return send(call, 200, "application/json", dump(entry(name)));
    }
    Json list = {{"object", "list"}, {"data", Json::array()}};
    for (const std::string& name : model.names) list["data"].push_back(entry(name));
    send(call, 200, "application/json", dump(list));
  }

  Json status() const {
    const EngineState engine = runner->state();
    const Metrics::Totals totals = metrics.totals();
    Json load = Json::array();
    const auto E = static_cast<size_t>(model.config.n_routed_experts);
    for (size_t layer = 0; E > 0 && layer < engine.expert_tokens.size() / E; ++layer) {
      const auto row = engine.expert_tokens.begin() + static_cast<std::ptrdiff_t>(layer * E);
      if (model.config.is_moe_layer(static_cast<int64_t>(layer)))
        load.push_back(std::vector<int64_t>(row, row + static_cast<std::ptrdiff_t>(E)));
    }
    double per_second = 0;
    {
      const std::lock_guard lock(rate_mutex);
      if (rate.size() > 1) {
        per_second = static_cast<double>(rate.back().second - rate.front().second) /
                     std::chrono::duration<double>(rate.back().first - rate.front().first).count();
      }
    }
    return {{"model", model.names.front()},
            {"version", model.version},
            {"uptime_seconds", std::chrono::duration<double>(Clock::now() - started).count()},
            {"context", model.context},
            {"thinking", model.can_think()},
            {"requests",
             {{"running", engine.running},
              {"waiting", engine.waiting},
              {"finished", totals.finished},
              {"cancelled", totals.cancelled},
              {"refused", totals.refused}}},
            {"tokens",
             {{"prompt", totals.prompt_tokens},
              {"prompt_cached", totals.hit_tokens},
              {"generated", engine.counters.tokens},
              {"per_second", per_second}}},
            {"cache",
             {{"pages", engine.pages},
              {"free", engine.free_pages},
              {"kept", engine.kept_pages},
              {"page_tokens", LatentPool::kPage},
              {"bytes", cache_bytes}}},
            {"speculation",
             {{"drafts", drafts},
              {"active", engine.drafting},
              {"proposed", engine.counters.drafts},
              {"accepted", engine.counters.accepted}}},
            {"experts", {{"load", std::move(load)}}}};
  }

  void file(const Call& call, const std::string& path) {
    const EmbeddedFile* found = find_embedded_file(path);
    if (found == nullptr) return send_error(call, {404, "This build has no such file in it."});
    HttpHeaders headers = {
        {"content-security-policy", std::string(kPagePolicy)},
        {"referrer-policy", "no-referrer"},
        {"x-frame-options", "DENY"},
        {"vary", "accept-encoding"},
        // Files under assets/ have a hash of their content in their names.
        {"cache-control", path.starts_with("web/assets/") ? "public, max-age=31536000, immutable" : "no-cache"}};
    if (call.http.header("accept-encoding").find("gzip") != std::string_view::npos) {
      headers.emplace_back("content-encoding", "gzip");
      return send(call, 200, content_type_of(path), std::string(found->gzip), std::move(headers));
    }
    send(call, 200, content_type_of(path), std::string(found->bytes), std::move(headers));
  }

  void page(const Call& call) { file(call, "web" + (call.http.path == "/" ? "/index.html" : call.http.path)); }

  // --- on the parsers' threads ---

  void parse_calls(const std::stop_token& stop) {
    while (true) {
      std::shared_ptr<Call> call;
      {
        std::unique_lock lock(queue_mutex);
        // With the token: where the port cannot be taken, nothing but the end of these threads is left to wake them.
        queue_changed.wait(lock, stop, [&] { return !queue.empty(); });
        if (stop.stop_requested()) return;
        call = std::move(queue.front());
        queue.pop_front();
      }
      if (call->reply->gone()) continue;
      try {
        handle(*call);
      } catch (const ApiError& error) {
        send_error(*call, error);
      } catch (const Error& error) {
        send_error(*call, {error.kind() == ErrorKind::bad_input ? 400 : 500, error.what()});
      } catch (const std::exception& error) {
        send_error(*call, {500, fmt::format("This should not have happened: {}", error.what())});
      }
    }
  }

  void handle(Call& call) {
    const Json body = parse_ordered_json(call.http.body, "The body", kDeepestBody);
    switch (call.route) {
      case Route::chat: {
        const ChatRequest request = read_chat_request(body, model);
        auto context = context_of(call, body);
        ChatPlan plan = plan_chat(request, model, *constraints);
        return start(make_chat_answer(std::move(context), request, plan.splitter), std::move(plan.requests));
      }
      case Route::completion: {
        const CompletionRequest request = read_completion_request(body, model, call.base);
        auto context = context_of(call, body);
        std::vector<EngineRequest> requests = plan_completion(request, model, *constraints);
        return start(make_completion_answer(std::move(context), request), std::move(requests));
      }
      case Route::tokenize:
        return tokenize(call, body);
      case Route::detokenize:
        return detokenize(call, body);
      default:
        throw_failure("a request came to the wrong place");
    }
  }

  AnswerContext context_of(Call& call, const Json& body) {
    AnswerContext context;
    if (runner->unfinished() >= options.most_open) {
      throw ApiError(503, fmt::format("The server is overloaded: {} requests are open.", options.most_open));
    }
    context.permit = access.admit(call.who);
    context.reply = call.reply;
    context.runner = runner.get();
    context.model = &model;
    context.begin = call.begin;
    context.deadline = call.begin + options.request_limit;
    context.headers.emplace_back("x-request-id", call.id);
    add_common_headers(call.http, context.headers);
    context.on_gap = [this](double seconds) { metrics.record_gap(seconds); };
    std::string prompt = options.log_prompts ? dump(body) : std::string();
    Call kept = call;
    kept.http.body.clear();
    kept.reply.reset();
    context.on_done = [this, kept = std::move(kept), prompt = std::move(prompt)](AnswerRecord record) {
      metrics.count_request(route_name(kept.route), record.status);
      metrics.record(record);
      record.prompt = prompt;
      log(kept, record);
    };
    return context;
  }

  void start(const std::shared_ptr<Answer>& answer, std::vector<EngineRequest> requests) {
    {
      const std::lock_guard lock(answers_mutex);
      answers.push_back(answer);
    }
    answer->start(std::move(requests));
    if (state == State::stopping) answer->interrupt();
  }

  void tokenize(const Call& call, const Json& body) {
    JsonFields fields(body, "");
    fields.text("model");
    const auto prompt = fields.text("prompt");
    const Json* messages = fields.take("messages");
    const bool special = fields.boolean("add_special_tokens").value_or(true);
    const bool thinking = fields.boolean("thinking").value_or(false);
    fields.finish();
    if (prompt.has_value() == (messages != nullptr)) {
      throw_invalid("prompt", "Exactly one of prompt and messages is needed.");
    }
    std::vector<int32_t> ids;
    if (messages != nullptr) {
      if (!model.format) throw_invalid("messages", "messages: the model has no chat template that Fathom knows.");
      ids = chat_ids(read_messages(*messages, model), model, thinking);
    } else {
      ids = model.tokenizer->encode(*prompt);
      const auto bos = model.tokenizer->added_token(model.tokenizer_config.bos_token);
      if (special && model.tokenizer_config.add_bos_token && bos) ids.insert(ids.begin(), *bos);
    }
    send(call, 200, "application/json",
         dump({{"count", ids.size()}, {"max_model_len", model.context}, {"tokens", ids}}));
  }

  void detokenize(const Call& call, const Json& body) {
    JsonFields fields(body, "");
    fields.text("model");
    const Json& list = fields.need("tokens");
    fields.finish();
    if (!list.is_array()) throw_invalid("tokens", "tokens: expected a list of token ids.");
    std::vector<int32_t> ids;
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(model.config.vocab_size)) {
        throw_out_of_range("tokens", "tokens: expected token ids from 0 to {}.", model.config.vocab_size - 1);
      }
      ids.push_back(id.get<int32_t>());
    }
    send(call, 200, "application/json", dump({{"prompt", model.tokenizer->decode(ids)}}));
  }

  // --- on the ticker's thread ---

  void tick(const std::stop_token& stop) {
    std::mutex mutex;
    std::condition_variable_any changed;
    std::unique_lock lock(mutex);
    Clock::time_point next_rate{};
    const auto step = std::min(std::chrono::milliseconds(250), options.keep_alive);
    while (!stop.stop_requested()) {
      changed.wait_for(lock, stop, step, [] { return false; });
      const Clock::time_point now = Clock::now();
      for (const std::shared_ptr<Answer>& answer : open_answers()) answer->tick(now, options.keep_alive);
      if (now >= next_rate && state == State::ready) {
        next_rate = now + std::chrono::seconds(1);
        const std::lock_guard rate_lock(rate_mutex);
        rate.emplace_back(now, runner->state().counters.tokens);
        if (rate.size() > 6) rate.pop_front();
      }
    }
  }

  /// Those that are not done; the others are dropped from the list.
  std::vector<std::shared_ptr<Answer>> open_answers() {
    const std::lock_guard lock(answers_mutex);
    std::vector<std::shared_ptr<Answer>> open;
    std::erase_if(answers, [&](const std::weak_ptr<Answer>& weak) {
      auto answer = weak.lock();
      if (!answer) return true;
      open.push_back(std::move(answer));
      return false;
    });
    return open;
  }

  // --- any thread ---

  void log(const Call& call, const AnswerRecord& record) {
    if (!options.on_log) return;
    Json line = {{"time", timestamp()},        {"id", call.id},
                 {"peer", call.http.peer},     {"key", access.name(call.who)},
                 {"method", call.http.method}, {"path", shown(call.http.path)},
                 {"status", record.status},    {"seconds", record.seconds}};
    if (!record.finish.empty()) {
      line["first_token_seconds"] = record.first_token_seconds;
      line["finish_reason"] = record.finish;
      line["prompt_tokens"] = record.prompt_tokens;
      line["cached_tokens"] = record.hit_tokens;
      line["completion_tokens"] = record.completion_tokens;
    }
    if (!record.prompt.empty()) line["request"] = record.prompt;
    options.on_log(dump(line));
  }

  void log_refusal(const HttpRequest& head, int status_code) {
    if (!options.on_log) return;
    options.on_log(dump({{"time", timestamp()},
                         {"peer", head.peer},
                         {"method", shown(head.method)},
                         {"path", shown(head.path)},
                         {"status", status_code}}));
  }

  enum class State { loading, ready, stopping };

  ServeOptions options;
  Access access;
  Metrics metrics;
  Clock::time_point started;
  std::atomic<State> state = State::loading;

  // Set by `serve`, before `state` says ready, and constant from then on.
  ServedModel model;
  std::unique_ptr<ConstraintCache> constraints;
  std::unique_ptr<EngineRunner> runner;
  int64_t drafts = 0;
  uint64_t cache_bytes = 0;

  std::mutex queue_mutex;
  std::condition_variable_any queue_changed;
  std::deque<std::shared_ptr<Call>> queue;
  std::mutex answers_mutex;
  std::vector<std::weak_ptr<Answer>> answers;
  mutable std::mutex rate_mutex;
  std::deque<std::pair<Clock::time_point, int64_t>> rate;  // the last seconds' counts of tokens

  std::vector<std::jthread> parsers;
  std::jthread ticker;
  std::unique_ptr<HttpServer> http;
};

Server::Server(ServeOptions options) : data_(std::make_unique<Data>(std::move(options))) {}
Server::~Server() = default;

uint16_t Server::port() const {
  return data_->http->port();
}

void Server::serve(ServedModel model, Engine& engine, const EngineOptions& engine_options) {
  Data& d = *data_;
  d.model = std::move(model);
  d.constraints = std::make_unique<ConstraintCache>(d.model.trie);
  d.drafts = engine_options.drafts;
  d.cache_bytes = engine.cache_bytes();
  d.runner = std::make_unique<EngineRunner>(engine);
  d.state = Data::State::ready;
}

bool Server::shut_down(std::chrono::milliseconds limit) {
  Data& d = *data_;
  d.state = Data::State::stopping;
  d.http->stop_accepting();
  if (d.http->wait_until_idle(limit)) return true;
  for (const std::shared_ptr<Answer>& answer : d.open_answers()) answer->interrupt();
  // What is cut off is told so, if its client listens.
  d.http->wait_until_idle(std::chrono::seconds(2));
  return false;
}

}  // namespace fathom
