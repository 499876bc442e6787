// fathom generate: completes one prompt or a file of prompts.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/expert_report.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "cli/result_file.h"
#include "constrain/grammar_text.h"
#include "constrain/json_grammar.h"
#include "constrain/regex_grammar.h"
#include "engine/generate_many.h"
#include "formats/json.h"
#include "model/cost.h"
#include "text/chat_prompt.h"

namespace fathom {

namespace {

struct GenerateArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string prompt, ids, input_file, output_file;
  bool has_prompt = false, has_ids = false;
  bool chat = false, thinking = false;
  std::string system, format;
  int64_t max_new_tokens = 256;
  std::vector<std::string> stop;
  bool ignore_eos = false, no_bos = false, json = false;
  int64_t logprobs = -1;
  int64_t together = 16;
  int64_t answers = 1;
  bool json_object = false;
  std::string json_schema, regex, grammar;
};

/// One thing to complete.
struct Prompt {
  std::string where;            ///< for sentences
  nlohmann::ordered_json echo;  ///< how the result names it: "prompt", and "prompt_ids" or "messages"
  std::vector<int32_t> ids;
  bool thinks = false;  ///< the answer begins with thoughts
};

class GenerateCommand {
 public:
  explicit GenerateCommand(const GenerateArguments& arguments)
      : arguments_(arguments),
        sampling_(arguments.sampling.resolve(arguments.model.directory, 0)),
        tokenizer_(load_tokenizer_if_present(arguments.model.directory)),
        tokenizer_config_(read_tokenizer_config(arguments.model.directory)) {
    sampling_.logprobs = arguments_.logprobs;
    if (arguments_.logprobs >= 0 && !arguments_.json && arguments_.output_file.empty()) {
      throw_bad_input("--logprobs needs --json or --output-file to show them in");
    }
    if (!arguments_.stop.empty() && !tokenizer_) {
      throw_bad_input("{}: --stop needs a tokenizer.json, and there is none", arguments_.model.directory);
    }
    for (const std::string& stop : arguments_.stop) {
      if (stop.empty()) throw_bad_input("--stop: a stop string must not be empty");
    }
    if (arguments_.chat) need_chat_format();
    read_constraint();
  }

  int run() {
    read_prompts();
    if (prompts_.empty()) throw_bad_input("{}: there is no prompt in it", arguments_.input_file);

    std::unique_ptr<ResultFile> file;
    if (!arguments_.output_file.empty()) {
      file = std::make_unique<ResultFile>(
          arguments_.output_file, static_cast<int64_t>(prompts_.size()),
          [this](int64_t index, const nlohmann::json& line) { return belongs(index, line); });
      if (file->complete()) {
        note(fmt::format("{} already holds all {} results", arguments_.output_file, prompts_.size()));
        return 0;
      }
    }
    open_session();
    if (file) file->open();

    const bool several = prompts_.size() > 1;
    std::unique_ptr<Progress> progress;
    if (file || (arguments_.json && several && ::isatty(STDOUT_FILENO) == 0)) {
      progress = std::make_unique<Progress>("generate", prompts_.size(), "prompts");
    }
    const int64_t first = file ? file->kept() : 0;
    if (progress) progress->advance(static_cast<uint64_t>(first));
    const auto put = [&](size_t index, const Generation& result) {
      const std::string line = json_line(result_json(index, result));
      if (file) {
        file->append(line);
      } else {
        write_stdout(line);
      }
      if (progress) progress->advance();
    };
    auto index = static_cast<size_t>(first);
    const auto begin = std::chrono::steady_clock::now();
    const bool plain = !file && !arguments_.json;
    if (!plain && together(prompts_.size() - index)) {
      index += complete_together(index, put);
    } else {
      for (; index < prompts_.size(); ++index) {
        if (plain && several) write_stdout(fmt::format("[{}] {}\n", index, heading(prompts_[index])));
        const Generation result = complete(index, plain);
        if (plain) write_stdout(several ? "\n\n" : "\n");
        if (interrupted()) break;
        if (!plain) put(index, result);
      }
    }
    if (interrupted()) {
      progress.reset();
      report_stores();
      if (file) {
        note(fmt::format("interrupted; {} of {} results are in {}.partial, the same command goes on from there", index,
                         prompts_.size(), arguments_.output_file));
      }
      return kInterruptedExitCode;
    }
    progress.reset();
    report_stores();
    if (!plain && several)
      report_speed(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    if (file) {
      file->commit();
      const std::string kept = first > 0 ? fmt::format(" ({} kept from an earlier run)", first) : std::string();
      note(fmt::format("{} results in {}{}", prompts_.size(), arguments_.output_file, kept));
    }
    return 0;
  }

 private:
  static void note(const std::string& text) { fmt::print(stderr, "fathom: {}\n", text); }

  /// The prompt's beginning, on one line.
  static std::string heading(const Prompt& prompt) {
    constexpr size_t kLongest = 72;
    if (!prompt.echo.at("prompt").is_string()) return fmt::format("{} tokens", prompt.ids.size());
    std::string text = prompt.echo.at("prompt").get<std::string>();
    std::replace(text.begin(), text.end(), '\n', ' ');
    if (text.size() <= kLongest) return text;
    size_t end = kLongest;
    while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not inside a character
    return text.substr(0, end) + "…";
  }

  void need_chat_format() {
    if (chat_format_) return;
    need_tokenizer("a conversation");
    chat_format_ = chat_format(arguments_.model.directory, tokenizer_config_, arguments_.format);
    check_chat_tokens(arguments_.model.directory, *tokenizer_, tokenizer_config_);
  }

  void read_constraint() {
    const bool schema = !arguments_.json_schema.empty();
    const bool text = !arguments_.grammar.empty();
    const int forms = arguments_.json_object + schema + text + (arguments_.regex.empty() ? 0 : 1);
    if (forms == 0) return;
    if (forms > 1) throw_bad_input("give at most one of --json-object, --json-schema, --regex and --grammar");
    need_tokenizer("the form of an answer");
    JsonLayout layout;
    layout.leading_line_ends = arguments_.chat;
    constexpr size_t kLargestForm = size_t{1} << 20;
    const auto grammar = [&] {
      if (arguments_.json_object) return json_grammar(true, layout);
      if (schema) {
        const std::string file = read_file(arguments_.json_schema, kLargestForm);
        return json_schema_grammar(parse_ordered_json(file, arguments_.json_schema), layout);
      }
      return text ? grammar_from_text(read_file(arguments_.grammar, kLargestForm)) : regex_grammar(arguments_.regex);
    };
    const std::string& where = schema ? arguments_.json_schema : arguments_.grammar;
    try {
      constraint_ = std::make_shared<Constraint>(grammar(), std::make_shared<TokenTrie>(*tokenizer_));
    } catch (const Error& error) {
      throw Error(error.kind(), (where.empty() ? std::string("--regex") : where) + ": " + error.what());
    }
    think_end_ = tokenizer_->encode("</think>");
  }

  void need_tokenizer(const char* what) const {
    if (tokenizer_) return;
    throw_bad_input("{}: {} needs a tokenizer.json, and there is none; give token ids with --ids",
                    arguments_.model.directory, what);
  }

  void read_prompts() {
    if (arguments_.has_ids) {
      add_ids(parse_ids(arguments_.ids, "--ids"), "--ids");
      return;
    }
    if (arguments_.has_prompt) {
      add_text(arguments_.prompt, "--prompt");
      return;
    }
    const bool json_lines = arguments_.input_file.ends_with(".jsonl");
    LineReader reader(arguments_.input_file);
    std::string line;
    while (reader.next(line)) {
      check_interrupt();
      if (line.ends_with('\r')) line.pop_back();
      if (json_lines) {
        add_json(parse_json(line, reader.where()), reader.where());
      } else {
        add_text(line, reader.where());
      }
    }
  }

  void add_json(const nlohmann::json& json, const std::string& where) {
    if (!json.is_object())
      throw_bad_input("{}: expected a JSON object with \"prompt\", \"ids\" or \"messages\"", where);
    if (json.contains("prompt") + json.contains("ids") + json.contains("messages") != 1) {
      throw_bad_input("{}: expected exactly one of \"prompt\", \"ids\" and \"messages\"", where);
    }
    if (json.contains("prompt")) {
      if (!json.at("prompt").is_string()) throw_bad_input("{}: \"prompt\" must be a string", where);
      add_text(json.at("prompt").get<std::string>(), where);
    } else if (json.contains("ids")) {
      std::vector<int32_t> ids;
      if (!json.at("ids").is_array()) throw_bad_input("{}: \"ids\" must be a list of token ids", where);
      for (const nlohmann::json& id : json.at("ids")) {
        if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
          throw_bad_input("{}: \"ids\" must be a list of token ids, found {}", where, id.dump());
        }
        ids.push_back(id.get<int32_t>());
      }
      add_ids(std::move(ids), where);
    } else {
      std::vector<ChatTurn> turns;
      for (ChatMessage& message : chat_messages_from_json(json.at("messages"), where)) {
        turns.push_back({std::move(message), std::nullopt});
      }
      need_chat_format();
      add({where, {{"prompt", nullptr}, {"messages", json.at("messages")}}, chat_ids(turns), thinks()});
    }
  }

  void add_ids(std::vector<int32_t> ids, const std::string& where) {
    add({where, {{"prompt", nullptr}, {"prompt_ids", ids}}, ids});
  }

  void add_text(const std::string& text, const std::string& where) {
    need_tokenizer("a text prompt");
    std::vector<int32_t> ids;
    if (arguments_.chat) {
      std::vector<ChatTurn> turns;
      if (!arguments_.system.empty()) turns.push_back({{"system", arguments_.system, {}}, std::nullopt});
      turns.push_back({{"user", text, {}}, std::nullopt});
      ids = chat_ids(turns);
    } else {
      try {
        ids = tokenizer_->encode(text);
      } catch (const Error& error) {
        throw Error(error.kind(), where + ": " + error.what());
      }
      const auto bos = tokenizer_->added_token(tokenizer_config_.bos_token);
      if (tokenizer_config_.add_bos_token && bos && !arguments_.no_bos) ids.insert(ids.begin(), *bos);
    }
    add({where, nlohmann::ordered_json::object({{"prompt", text}}), std::move(ids), arguments_.chat && thinks()});
  }

  bool thinks() const {
    ChatOptions options;
    options.thinking = arguments_.thinking;
    return answer_begins_thinking(*chat_format_, options);
  }

  std::vector<int32_t> chat_ids(const std::vector<ChatTurn>& turns) const {
    ChatOptions options;
    options.thinking = arguments_.thinking;
    return chat_prompt_ids(*tokenizer_, tokenizer_config_, *chat_format_, turns, options);
  }

  void add(Prompt prompt) {
    if (prompt.ids.empty()) {
      throw_bad_input("{}: the prompt is empty, and no begin-of-text token is put in front of it", prompt.where);
    }
    for (int64_t answer = 0; answer < arguments_.answers; ++answer) {
      prompts_.push_back(prompt);
      if (arguments_.answers > 1) prompts_.back().echo["answer"] = answer;
    }
  }

  /// Opens the model and checks every prompt against it, so that a batch does not break off in the middle.
  void open_session() {
    size_t longest = 0;
    for (const Prompt& prompt : prompts_) longest = std::max(longest, prompt.ids.size());
    session_ = arguments_.model.open(static_cast<int64_t>(longest) + arguments_.max_new_tokens);
    for (const Prompt& prompt : prompts_) {
      check_ids(prompt.ids, session_->config().vocab_size, prompt.where);
      if (static_cast<int64_t>(prompt.ids.size()) > session_->context()) {
        throw_bad_input("{}: the prompt has {} tokens, the context only {}", prompt.where, prompt.ids.size(),
                        session_->context());
      }
    }
    if (!arguments_.ignore_eos) {
      end_tokens_ = end_token_ids(arguments_.model.directory, session_->config(), tokenizer_.get());
    }
  }

  GenerationRequest request_of(size_t index) const {
    GenerationRequest request;
    request.prompt = prompts_[index].ids;
    request.sampling = sampling_;
    request.sampling.seed += index;  // equal prompts in a batch get different draws
    request.max_new_tokens = arguments_.max_new_tokens;
    request.end_tokens = end_tokens_;
    request.stop = arguments_.stop;
    request.constraint = constraint_;
    if (constraint_ && prompts_[index].thinks) request.constraint_after = think_end_;
    return request;
  }

  /// An expert store reports what each prompt has read, so there they run one after another.
  bool together(size_t prompts) const { return prompts > 1 && arguments_.together > 1 && !session_->expert_counters(); }

  /// Runs the prompts from `first` on through an engine; how many results were put.
  size_t complete_together(size_t first, const std::function<void(size_t, const Generation&)>& put) {
    std::vector<GenerationRequest> requests;
    for (size_t index = first; index < prompts_.size(); ++index) requests.push_back(request_of(index));
    GenerateManyOptions options;
    options.together = std::min(arguments_.together, static_cast<int64_t>(requests.size()));
    options.context = session_->context();
    options.drafts = session_->drafts();
    options.store = session_->store();
    size_t count = 0;
    counters_ = generate_many(
        session_->model(), tokenizer_.get(), requests, options, session_->team(), [] { return interrupted(); },
        [&](size_t index, const Generation& result) {
          put(first + index, result);
          ++count;
        });
    return count;
  }

  Generation complete(size_t index, bool stream) {
    const GenerationRequest request = request_of(index);
    GenerationCallbacks callbacks;
    callbacks.on_prefill = [](int64_t, int64_t) { check_interrupt(); };
    bool first = true;
    callbacks.on_token = [&](int32_t token, std::string_view text) {
      if (stream && tokenizer_) write_stdout(terminal_output_ ? terminal_text(text) : std::string(text));
      if (stream && !tokenizer_) write_stdout(fmt::format("{}{}", first ? "" : ",", token));
      first = false;
      return !interrupted();
    };
    const std::optional<ExpertCounters> before = session_->expert_counters();
    Generation result = generate(*session_, tokenizer_.get(), request, callbacks);
    if (before) experts_ = *session_->expert_counters() - *before;
    computed_tokens_ += result.timings.prefill_tokens + result.timings.decode_tokens;
    computed_ms_ += result.timings.prefill_ms + result.timings.decode_ms;
    return result;
  }

  void report_speed(double seconds) {
    const EngineCounters counters = counters_ ? *counters_ : session_->engine().counters();
    if (counters.steps == 0 || counters.tokens == 0) return;
    const auto steps = static_cast<double>(counters.steps);
    const auto experts = static_cast<double>(counters.experts_run);
    const double bytes = routed_expert_bytes(session_->model()) * experts;
    std::string text = fmt::format("{} tokens in {:.1f} s, {:.1f} tokens/s; {} steps", counters.tokens, seconds,
                                   static_cast<double>(counters.tokens) / seconds, counters.steps);
    if (bytes > 0) {
      text += fmt::format(", {:.1f} MB of routed experts in each, {:.1f} MB for a token", bytes / steps / 1e6,
                          bytes / static_cast<double>(counters.tokens) / 1e6);
    }
    if (counters.drafts > 0) text += fmt::format("; {} of {} drafts accepted", counters.accepted, counters.drafts);
    note(text);
  }

  void report_stores() const {
    if (const std::string problem = session_->store_problem(); !problem.empty()) note(problem);
    if (const auto counters = session_->expert_counters()) {
      note(expert_store_report(*counters, computed_tokens_, computed_ms_ / 1000));
    }
  }

  nlohmann::ordered_json token_json(int32_t token, double logprob) const {
    nlohmann::ordered_json json = {{"token", token}};
    if (tokenizer_) json["text"] = tokenizer_->decode({token});
    json["logprob"] = logprob;
    return json;
  }

  nlohmann::ordered_json result_json(size_t index, const Generation& result) const {
    nlohmann::ordered_json json = {{"index", index}};
    json.update(prompts_[index].echo);
    json["tokens"] = result.tokens;
    json["text"] = tokenizer_ ? nlohmann::ordered_json(result.text) : nlohmann::ordered_json(nullptr);
    json["finish_reason"] = finish_reason_name(result.finish_reason);
    const GenerationTimings& timings = result.timings;
    const auto rounded = [](double value) { return std::round(value * 1000) / 1000; };
    json["timings"] = {{"prefill_tokens", timings.prefill_tokens},
                       {"reused_tokens", timings.reused_tokens},
                       {"prefill_ms", rounded(timings.prefill_ms)},
                       {"decode_tokens", timings.decode_tokens},
                       {"decode_ms", rounded(timings.decode_ms)},
                       {"tokens_per_second", rounded(timings.tokens_per_second())},
                       {"drafts", timings.drafts},
                       {"accepted", timings.accepted}};
    if (constraint_) json["timings"]["mask_ms"] = rounded(timings.mask_ms);
    if (experts_) json["experts"] = expert_store_json(*experts_);
    if (arguments_.logprobs >= 0) {
      nlohmann::ordered_json list = nlohmann::ordered_json::array();
      for (const SampledToken& sampled : result.logprobs) {
        nlohmann::ordered_json entry = token_json(sampled.token, sampled.logprob);
        entry["top"] = nlohmann::ordered_json::array();
        for (const TokenLogprob& top : sampled.top_logprobs) entry["top"].push_back(token_json(top.token, top.logprob));
        list.push_back(std::move(entry));
      }
      json["logprobs"] = std::move(list);
    }
    return json;
  }

  /// A line of an earlier run is the result of prompt `index`.
  bool belongs(int64_t index, const nlohmann::json& line) const {
    if (!line.is_object() || !line.contains("index") || line.at("index") != index || !line.contains("tokens"))
      return false;
    const nlohmann::json echo = prompts_[static_cast<size_t>(index)].echo;
    return std::all_of(echo.items().begin(), echo.items().end(), [&](const auto& item) {
      return line.contains(item.key()) && line.at(item.key()) == item.value();
    });
  }

  GenerateArguments arguments_;
  SamplingOptions sampling_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizerConfig tokenizer_config_;
  std::optional<ChatFormat> chat_format_;
  std::vector<Prompt> prompts_;
  std::unique_ptr<Session> session_;
  std::vector<int32_t> end_tokens_;
  std::shared_ptr<const Constraint> constraint_;
  std::vector<int32_t> think_end_;
  std::optional<EngineCounters> counters_;  // of prompts that ran together
  std::optional<ExpertCounters> experts_;   // of the last prompt
  int64_t computed_tokens_ = 0;             // of all prompts
  double computed_ms_ = 0;
  bool terminal_output_ = ::isatty(STDOUT_FILENO) != 0;
};

}  // namespace

void add_generate_command(CLI::App& app, int& exit_code) {
  CLI::App& command = *app.add_subcommand("generate", "Complete a prompt, or a file of prompts");
  auto arguments = std::make_shared<GenerateArguments>();
  arguments->model.add_to(command);

  const char* input = "Input (one of --prompt, --ids and --input-file)";
  CLI::Option* prompt =
      command.add_option("--prompt,-p", arguments->prompt, "The text to complete")->type_name("TEXT")->group(input);
  CLI::Option* ids = command.add_option("--ids", arguments->ids, "Token ids, as 1,2,3; no tokenizer is needed")
                         ->type_name("IDS")
                         ->group(input);
  CLI::Option* file =
      command
          .add_option("--input-file", arguments->input_file,
                      "One prompt a line (\"-\": standard input); in FILE.jsonl every line is an object "
                      "with \"prompt\", \"ids\" or \"messages\"")
          ->type_name("FILE")
          ->group(input);
  CLI::Option* chat =
      command.add_flag("--chat", arguments->chat, "Every text prompt is what a user says to the model")->group(input);
  command.add_option("--system", arguments->system, "With --chat: the system prompt")
      ->type_name("TEXT")
      ->needs(chat)
      ->group(input);
  command.add_flag("--thinking", arguments->thinking, "Conversations: let a V3.1 model think first")->group(input);
  command.add_option("--format", arguments->format, "Conversations: this chat template instead of the checkpoint's")
      ->check(CLI::IsMember({"v3", "r1", "v31"}))
      ->type_name("NAME")
      ->group(input);
  command.add_flag("--no-bos", arguments->no_bos, "Do not put the begin-of-text token in front of text prompts")
      ->group(input);

  const char* end = "End of the answer";
  command.add_option("--max-new-tokens,-n", arguments->max_new_tokens, "Most tokens to generate for a prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str()
      ->group(end);
  command.add_option("--stop", arguments->stop, "End before this text; may be given several times")
      ->type_name("TEXT")
      ->allow_extra_args(false)
      ->group(end);
  command.add_flag("--ignore-eos", arguments->ignore_eos, "Go on after the model's end token")->group(end);

  const char* form = "Form of the answer (one of these); of one that thinks, of what stands behind </think>";
  command.add_flag("--json-object", arguments->json_object, "A JSON object")->group(form);
  command.add_option("--json-schema", arguments->json_schema, "JSON that this JSON Schema allows")
      ->type_name("FILE")
      ->group(form);
  command.add_option("--regex", arguments->regex, "A text that this regular expression matches as a whole")
      ->type_name("PATTERN")
      ->group(form);
  command.add_option("--grammar", arguments->grammar, "What the rule root of this grammar reads (GBNF)")
      ->type_name("FILE")
      ->group(form);

  arguments->sampling.add_to(command);

  const char* output = "Output";
  command.add_flag("--json", arguments->json, "Print one JSON object per prompt on a line")->group(output);
  command
      .add_option("--output-file,--out,-o", arguments->output_file,
                  "Write these objects to FILE; resumes an interrupted one")
      ->type_name("FILE")
      ->group(output);
  command
      .add_option("--logprobs", arguments->logprobs,
                  "Log-probabilities of each token and of the N likeliest in its place")
      ->check(CLI::Range(0, 1000))
      ->type_name("N")
      ->group(output);
  command.add_option("--answers", arguments->answers, "So many answers to each prompt, each with a seed of its own")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->capture_default_str()
      ->group(output);
  const char* batch = "Files of prompts, with --json or --output-file";
  command
      .add_option("--together", arguments->together,
                  "Prompts that are computed together; each gives the same answer as alone. 1: one after another, as "
                  "always with --experts-in-memory")
      ->check(CLI::Range(1, 1024))
      ->type_name("N")
      ->capture_default_str()
      ->group(batch);
  command.footer(
      "Examples:\n"
      "  fathom generate --model DIR --prompt 'The sea is' --max-new-tokens 50\n"
      "  fathom generate --model DIR --chat --input-file questions.txt --output-file answers.jsonl\n"
      "  fathom generate --model DIR --ids 0,3085,344 --json --logprobs 5\n"
      "\n"
      "A batch is checked whole before the first prompt runs: a bad line stops it with a sentence and exit code 2.\n"
      "Results go to FILE.partial as they finish, and FILE gets its name when all are there; the same command after "
      "an\n"
      "interruption keeps what is there if index and prompt agree. Prompt number i uses the seed plus i.");
  command.callback([arguments, prompt, ids, file, &exit_code] {
    if ((prompt->count() > 0) + (ids->count() > 0) + (file->count() > 0) != 1) {
      throw_bad_input("give exactly one of --prompt, --ids and --input-file");
    }
    arguments->has_prompt = prompt->count() > 0;
    arguments->has_ids = ids->count() > 0;
    exit_code = GenerateCommand(*arguments).run();
  });
}

}  // namespace fathom
