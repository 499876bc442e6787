// fathom serve: the OpenAI and DeepSeek APIs and the chat page over HTTP.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "serve/server.h"

namespace fathom {

namespace {

constexpr int64_t kDefaultContext = 32768;
constexpr const char* kKeyVariable = "FATHOM_API_KEY";

struct ServeArguments {
  ModelArguments model;
  std::vector<std::string> names;
  std::string format;
  bool deepseek_temperature = false;
  std::optional<double> temperature, top_p;
  ServeOptions serve;
  ApiLimits limits;
  uint16_t port = 8080;
  std::string key_file;
  bool no_key = false, no_page = false;
  KeyLimits key_limits;
  uint64_t most_body = 16 << 20;
  int64_t together = 16;
  int64_t queue = 1024;
  int64_t cache_tokens = 0;
  int64_t request_seconds = 1800, drain_seconds = 30, keep_alive_seconds = 10;
  std::string log = "-";
};

/// One line for each request, to standard error or to a file that it is added to.
class RequestLog {
 public:
  explicit RequestLog(const std::string& path) {
    if (path == "-") {
      file_ = stderr;
    } else {
      file_ = std::fopen(path.c_str(), "ae");
      if (file_ == nullptr) throw_bad_input("{}: the log cannot be written there.", path);
      owned_.reset(file_);
    }
  }
  void write(const std::string& line) {
    const std::lock_guard lock(mutex_);
    std::fwrite((line + "\n").data(), 1, line.size() + 1, file_);
    std::fflush(file_);
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::mutex mutex_;
  std::FILE* file_ = nullptr;
  std::unique_ptr<std::FILE, Close> owned_;
};

void note(const std::string& text) {
  fmt::print(stderr, "fathom: {}\n", text);
}

void read_keys(ServeArguments& arguments) {
  ServeOptions& serve = arguments.serve;
  if (!arguments.key_file.empty()) serve.keys = read_key_file(arguments.key_file, arguments.key_limits);
  if (const char* key = std::getenv(kKeyVariable); key != nullptr && *key != '\0') {
    ApiKey made = make_api_key(key, kKeyVariable, arguments.key_limits);
    made.name = "environment";
    serve.keys.push_back(std::move(made));
  }
  serve.everybody = arguments.key_limits;
  if (arguments.no_key && !serve.keys.empty()) throw_bad_input("--no-key contradicts the API keys that are given.");
  if (serve.keys.empty() && !arguments.no_key && !is_loopback(serve.http.host)) {
    throw_bad_input(
        "--host {}: other machines could ask without a key; give --api-keys FILE or set {}, or say --no-key if a proxy "
        "in front asks for one.",
        serve.http.host, kKeyVariable);
  }
}

ServedModel served_model(const ServeArguments& arguments, const Session& session, const TokenizerConfig& config,
                         std::shared_ptr<const Tokenizer> tokenizer) {
  const std::string& directory = arguments.model.directory;
  std::optional<ChatFormat> format;
  if (!arguments.format.empty() || config.chat_format) {
    format = chat_format(directory, config, arguments.format);
    check_chat_tokens(directory, *tokenizer, config);
  }
  ServedModel model = describe_model(directory, session, std::move(tokenizer), config, format, FATHOM_VERSION);
  if (!arguments.names.empty()) model.names = arguments.names;
  model.deepseek_temperature = arguments.deepseek_temperature;
  if (arguments.temperature) model.sampling.temperature = *arguments.temperature;
  if (arguments.top_p) model.sampling.top_p = *arguments.top_p;
  model.limits = arguments.limits;
  return model;
}

int run(ServeArguments& arguments) {
  read_keys(arguments);
  ServeOptions& serve = arguments.serve;
  serve.http.port = arguments.port;
  serve.http.most_body = arguments.most_body;
  serve.page = !arguments.no_page;
  serve.most_open = arguments.queue + arguments.together;
  serve.request_limit = std::chrono::seconds(arguments.request_seconds);
  serve.keep_alive = std::chrono::seconds(arguments.keep_alive_seconds);
  // Whatever is wrong with the files is said before the port is taken.
  const std::string& directory = arguments.model.directory;
  const TokenizerConfig tokenizer_config = read_tokenizer_config(directory);
  std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::load(directory);
  std::unique_ptr<RequestLog> log;
  if (arguments.log != "off") {
    log = std::make_unique<RequestLog>(arguments.log);
    serve.on_log = [&log](const std::string& line) { log->write(line); };
  }
  const std::string scheme = serve.http.tls_certificate.empty() ? "http" : "https";
  const std::string host =
      serve.http.host.find(':') == std::string::npos ? serve.http.host : "[" + serve.http.host + "]";

  std::unique_ptr<Session> session;
  std::unique_ptr<Engine> engine;
  Server server(std::move(serve));
  session = arguments.model.open(kDefaultContext);
  ServedModel model = served_model(arguments, *session, tokenizer_config, std::move(tokenizer));

  EngineOptions options;
  options.most_running = arguments.together;
  // The server counts what is open. To the engine everybody waits for a moment, those who find a place at once too.
  options.most_waiting = arguments.queue + arguments.together + arguments.limits.most_answers;
  options.drafts = session->drafts();
  options.store = session->store();
  options.most_tokens = std::max(options.most_tokens, (1 + options.drafts) * options.most_running);
  // One more for each request, for the copy of a page that a prompt shares in part.
  const int64_t one = LatentPool::pages_for(session->context()) + 1;
  const int64_t wanted =
      arguments.cache_tokens > 0 ? LatentPool::pages_for(arguments.cache_tokens) : one * arguments.together;
  options.cache_pages =
      plan_cache_pages(session->model(), std::max(wanted, one), std::min<int64_t>(one, 4), system_memory());
  engine = std::make_unique<Engine>(session->model(), options, session->team());

  const std::string name = model.names.front();
  const std::string chat = model.format ? std::string(chat_format_name(*model.format)) : "no chat template";
  server.serve(std::move(model), *engine, options);
  note(fmt::format("{} is served at {}://{}:{} ({}, {} together, context {}, cache of {} tokens in {:.1f} MB)", name,
                   scheme, host, server.port(), chat, options.most_running, session->context(),
                   options.cache_pages * LatentPool::kPage, static_cast<double>(engine->cache_bytes()) / 1e6));

  while (!interrupted()) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  note("shutting down; what runs may finish");
  if (!server.shut_down(std::chrono::seconds(arguments.drain_seconds))) {
    note(fmt::format("requests that were left after {} s were ended", arguments.drain_seconds));
  }
  return 0;
}

}  // namespace

void add_serve_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<ServeArguments>();
  CLI::App& command = *app.add_subcommand("serve", "Serve the OpenAI and DeepSeek APIs and a chat page");
  arguments->model.add_to(command);
  command
      .add_option("--name", arguments->names,
                  "Name that clients ask for; may be given several times, the first is the one answers carry. Without "
                  "it the name of the model's directory")
      ->type_name("NAME");
  command.add_option("--format", arguments->format, "Chat format, if not the checkpoint's own")
      ->check(CLI::IsMember({"v3", "r1", "v31"}))
      ->type_name("NAME");
  command
      .add_option("--temperature", arguments->temperature,
                  "Temperature of requests that name none. Without it what generation_config.json says if it has "
                  "do_sample, else 1, as the API has it")
      ->check(CLI::Range(0.0, 2.0))
      ->type_name("X");
  command.add_option("--top-p", arguments->top_p, "The same for top_p")->check(CLI::Range(0.001, 1.0))->type_name("X");
  command.add_flag("--deepseek-temperature", arguments->deepseek_temperature,
                   "Map temperatures as DeepSeek's API does: 0.3 times up to 1, 0.7 less above");

  const char* address = "Address";
  HttpServerOptions& http = arguments->serve.http;
  command.add_option("--host", http.host, "Address to listen on")
      ->type_name("ADDRESS")
      ->capture_default_str()
      ->group(address);
  command.add_option("--port", arguments->port, "Port to listen on; 0 takes a free one")
      ->type_name("N")
      ->capture_default_str()
      ->group(address);
  command
      .add_option("--tls-certificate", http.tls_certificate, "Serve TLS with this certificate (PEM, with its chain)")
      ->type_name("FILE")
      ->group(address);
  command.add_option("--tls-key", http.tls_key, "Its key (PEM)")->type_name("FILE")->group(address);
  command
      .add_option("--allow-host", arguments->serve.allowed_hosts,
                  "Name by which a server without keys may be asked, beside localhost")
      ->type_name("NAME")
      ->group(address);
  command
      .add_option("--allow-origin", arguments->serve.allowed_origin,
                  "Origin of a page elsewhere that may ask, as https://example.org; * for any")
      ->type_name("ORIGIN")
      ->group(address);
  command.add_flag("--no-page", arguments->no_page, "Do not serve the chat page")->group(address);

  const char* access = "Access";
  command
      .add_option("--api-keys", arguments->key_file,
                  "File of API keys, one on a line; behind each may stand name=, concurrent=, tokens_per_minute=")
      ->type_name("FILE")
      ->group(access);
  command.add_flag("--no-key", arguments->no_key, "Let other machines ask without a key")->group(access);
  command
      .add_option("--key-concurrent", arguments->key_limits.concurrent,
                  "Requests that a key may have open at once; 0 is no limit")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N")
      ->capture_default_str()
      ->group(access);
  command
      .add_option("--key-tokens-per-minute", arguments->key_limits.tokens_per_minute,
                  "Tokens, computed ones of prompts and all of answers, that a key may use in a minute; 0 is no limit")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N")
      ->capture_default_str()
      ->group(access);

  const char* limits = "Limits";
  command.add_option("--together", arguments->together, "Requests that are computed together")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--queue", arguments->queue, "Requests that wait for their turn; one more gets 503")
      ->check(CLI::Range(1, 1000000))
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command
      .add_option("--cache-tokens", arguments->cache_tokens,
                  "Positions of the latent cache that all requests share. Without it a full context for each that "
                  "runs, but at most half of the memory that is free")
      ->check(CLI::PositiveNumber)
      ->type_name("N")
      ->group(limits);
  command.add_option("--most-tokens", arguments->limits.most_tokens, "Longest answer; 0 is what the context holds")
      ->check(CLI::NonNegativeNumber)
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--most-answers", arguments->limits.most_answers, "Answers to one request (n)")
      ->check(CLI::Range(1, 128))
      ->type_name("N")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--most-body", arguments->most_body, "Largest request (16MiB)")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE")
      ->group(limits);
  command.add_option("--request-seconds", arguments->request_seconds, "Time of a request, waiting included")
      ->check(CLI::PositiveNumber)
      ->type_name("S")
      ->capture_default_str()
      ->group(limits);
  command
      .add_option("--keep-alive-seconds", arguments->keep_alive_seconds,
                  "Silence after which a client that waits gets a sign of life")
      ->check(CLI::PositiveNumber)
      ->type_name("S")
      ->capture_default_str()
      ->group(limits);
  command.add_option("--drain-seconds", arguments->drain_seconds, "Time that running requests have at the end")
      ->check(CLI::NonNegativeNumber)
      ->type_name("S")
      ->capture_default_str()
      ->group(limits);

  const char* output = "Log";
  command.add_option("--log", arguments->log, "A JSON line for each request: FILE, - for standard error, or off")
      ->type_name("FILE")
      ->capture_default_str()
      ->group(output);
  command.add_flag("--log-prompts", arguments->serve.log_prompts, "The requests themselves in it, prompts included")
      ->group(output);
  command.footer(
      "Examples:\n"
      "  fathom serve --model models/fathom-tiny\n"
      "  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\\n"
      "    -d '{\"model\": \"fathom-tiny\", \"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story.\"}]}'\n"
      "  FATHOM_API_KEY=$(openssl rand -hex 16) fathom serve --model DIR --host 0.0.0.0\n"
      "\n"
      "A key can also be in the environment as FATHOM_API_KEY. docs/serving.md has the API, a systemd unit, a "
      "container\n"
      "and a proxy.");
  command.callback([arguments, &exit_code] { exit_code = run(*arguments); });
}

}  // namespace fathom
