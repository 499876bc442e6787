// fathom chat: a conversation with the model in the terminal.

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <random>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/expert_report.h"
#include "cli/line_editor.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "text/chat_prompt.h"

namespace fathom {

namespace {

// The latent cache is small (about 70 KB per token for DeepSeek-V3 in BF16) and taken as it fills.
constexpr int64_t kDefaultContext = 32768;

constexpr const char* kHelp =
    "/clear        forget the conversation\n"
    "/system TEXT  set the system prompt (without TEXT: show it); the conversation goes on\n"
    "/regen        answer the last message anew\n"
    "/stats        show speed and cache use after each answer, or stop showing them\n"
    "/help         this list\n"
    "/exit         leave (also Ctrl-D)\n"
    "Ctrl-C stops an answer; at the prompt it clears the line. A backslash at the end of a line continues the "
    "message.\n";

struct ChatArguments {
  ModelArguments model;
  SamplingArguments sampling;
  std::string system, format;
  bool thinking = false;
  bool stats = false;
  std::optional<int64_t> max_new_tokens;
};

class Chat {
 public:
  explicit Chat(const ChatArguments& arguments)
      : system_(arguments.system),
        stats_(arguments.stats),
        max_new_tokens_(arguments.max_new_tokens.value_or(INT64_MAX)),
        sampling_(arguments.sampling.resolve(arguments.model.directory, std::random_device()())),
        tokenizer_(Tokenizer::load(arguments.model.directory)),
        config_(read_tokenizer_config(arguments.model.directory)),
        format_(chat_format(arguments.model.directory, config_, arguments.format)) {
    check_chat_tokens(arguments.model.directory, *tokenizer_, config_);
    options_.thinking = arguments.thinking;
    session_ = arguments.model.open(kDefaultContext);
    end_tokens_ = end_token_ids(arguments.model.directory, session_->config(), tokenizer_.get());
  }

  /// Talks until the user leaves; the exit code.
  int run() {
    const int exit_code = talk();
    if (const auto counters = session_->expert_counters()) {
      note(fmt::format("{}\n", expert_store_report(*counters, computed_tokens_, computed_ms_ / 1000)));
    }
    if (const std::string problem = session_->store_problem(); !problem.empty()) note(problem + "\n");
    return exit_code;
  }

 private:
  int talk() {
    // Nothing here has to be tidied up, and at the prompt the flag that the handler sets would only clear the line.
    ::signal(SIGTERM, SIG_DFL);
    LineEditor editor(history_file_path());
    if (editor.is_terminal()) note("/help lists the commands, Ctrl-D leaves.\n");
    std::string text;
    while (true) {
      const LineEditor::Outcome outcome = editor.read(text);
      if (outcome == LineEditor::Outcome::end) return 0;
      if (outcome == LineEditor::Outcome::interrupted || text.empty()) continue;
      if (text[0] == '/') {
        if (!command(text)) return 0;
      } else {
        turns_.push_back({{"user", text, {}}, std::nullopt});
        if (!answer()) turns_.pop_back();
      }
      // Without a terminal there is nobody to go on talking: Ctrl-C means the program.
      if (stopped_ && !editor.is_terminal()) return kInterruptedExitCode;
    }
  }

  static void note(const std::string& text) { fmt::print(stderr, "{}", text); }

  /// Runs a line that begins with a slash; false to leave.
  bool command(const std::string& line) {
    const size_t blank = std::min(line.find_first_of(" \n"), line.size());
    const std::string name = line.substr(0, blank);
    const std::string rest = line.substr(std::min(line.find_first_not_of(" \n", blank), line.size()));
    if (name == "/exit" || name == "/quit") return false;
    if (name == "/clear") {
      turns_.clear();
      session_->clear();
      note("The conversation is forgotten.\n");
    } else if (name == "/system") {
      if (!rest.empty()) system_ = rest;
      note(system_.empty() ? "There is no system prompt.\n" : fmt::format("System prompt: {}\n", system_));
    } else if (name == "/regen") {
      regenerate();
    } else if (name == "/stats") {
      stats_ = !stats_;
      note(stats_ ? "Statistics are shown after each answer.\n" : "Statistics are not shown any more.\n");
    } else if (name == "/help") {
      note(kHelp);
    } else {
      note(fmt::format("There is no command {}; /help lists them.\n", name));
    }
    return true;
  }

  void regenerate() {
    if (turns_.empty()) {
      note("There is no message to answer yet.\n");
      return;
    }
    ChatTurn previous = std::move(turns_.back());
    turns_.pop_back();
    if (!answer()) turns_.push_back(std::move(previous));
  }

  /// Generates, shows and remembers the answer to the last message. False if there was none: the turn does not count.
  bool answer() {
    GenerationRequest request;
    std::vector<ChatTurn> turns = turns_;
    if (!system_.empty()) turns.insert(turns.begin(), {{"system", system_, {}}, std::nullopt});
    try {
      request.prompt = chat_prompt_ids(*tokenizer_, config_, format_, turns, options_);
    } catch (const Error& error) {
      note(fmt::format("{}\n", error.what()));
      return false;
    }
    if (static_cast<int64_t>(request.prompt.size()) >= session_->context()) {
      note(fmt::format(
          "The conversation has {} tokens now and the context holds {}: /clear begins a new one, and --context "
          "gives more room.\n",
          request.prompt.size(), session_->context()));
      return false;
    }
    request.sampling = sampling_;
    ++sampling_.seed;  // /regen gives another answer, and a whole conversation is still reproducible
    request.max_new_tokens = max_new_tokens_;
    request.end_tokens = end_tokens_;

    const bool thinking = answer_begins_thinking(format_, options_);
    GenerationCallbacks callbacks;
    callbacks.on_prefill = [](int64_t, int64_t) { check_interrupt(); };
    callbacks.on_token = [this](int32_t, std::string_view text) {
      write_stdout(terminal_output_ ? terminal_text(text) : std::string(text));
      return !interrupted();
    };
    if (thinking) write_stdout("<think>\n");
    stopped_ = false;
    try {
      Generation result = generate(*session_, tokenizer_.get(), request, callbacks);
      write_stdout("\n");
      finish_answer(result, thinking);
      return true;
    } catch (const Error&) {
      if (!interrupted()) throw;
      clear_interrupt();
      stopped_ = true;
      note("(stopped before the answer began; the message is dropped)\n");
      return false;
    }
  }

  void finish_answer(const Generation& result, bool thinking) {
    if (interrupted()) {
      clear_interrupt();
      stopped_ = true;
      note("(stopped)\n");
    }
    computed_tokens_ += result.timings.prefill_tokens + result.timings.decode_tokens;
    computed_ms_ += result.timings.prefill_ms + result.timings.decode_ms;
    const GenerationTimings& timings = result.timings;
    const auto used = timings.prefill_tokens + timings.reused_tokens + std::ssize(result.tokens);
    if (result.finish_reason == FinishReason::length && used >= session_->context()) {
      note(fmt::format("(The context of {} tokens is full: /clear begins a new conversation.)\n", session_->context()));
    } else if (result.finish_reason == FinishReason::insufficient_system_resource) {
      note("(The memory for the conversation's cache is full: /clear begins a new one, --cache-type fp8 halves it.)\n");
    } else if (result.finish_reason == FinishReason::length) {
      note(fmt::format("(cut off after {} tokens, see --max-new-tokens)\n", result.tokens.size()));
    }
    if (stats_) {
      const std::string drafts =
          timings.drafts > 0 ? fmt::format("; {} of {} drafts accepted", timings.accepted, timings.drafts) : "";
      note(fmt::format(
          "[{} tokens, {:.1f} tokens/s{}; prompt: {} tokens read in {:.0f} ms, {} from the cache; context {} of {}]\n",
          result.tokens.size(), timings.tokens_per_second(), drafts, timings.prefill_tokens, timings.prefill_ms,
          timings.reused_tokens, std::min(used, session_->context()), session_->context()));
    }
    turns_.push_back(remembered_answer(*tokenizer_, format_, result.tokens, thinking));
  }

  std::string system_;
  bool stats_;
  int64_t max_new_tokens_;
  SamplingOptions sampling_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizerConfig config_;
  ChatFormat format_;
  ChatOptions options_;
  std::unique_ptr<Session> session_;
  std::vector<int32_t> end_tokens_;
  std::vector<ChatTurn> turns_;
  int64_t computed_tokens_ = 0;
  double computed_ms_ = 0;
  bool stopped_ = false;
  bool terminal_output_ = ::isatty(STDOUT_FILENO) != 0;
};

}  // namespace

void add_chat_command(CLI::App& app, int& exit_code) {
  CLI::App& command = *app.add_subcommand("chat", "Talk with a model");
  auto arguments = std::make_shared<ChatArguments>();
  arguments->model.add_to(command);
  command.add_option("--system", arguments->system, "System prompt")->type_name("TEXT");
  command.add_flag("--thinking", arguments->thinking, "Let a V3.1 model think before it answers (R1 always does)");
  command.add_option("--format", arguments->format, "This chat template instead of the checkpoint's")
      ->check(CLI::IsMember({"v3", "r1", "v31"}))
      ->type_name("NAME");
  command
      .add_option("--max-new-tokens,-n", arguments->max_new_tokens,
                  "Most tokens of an answer; without it, what the context holds")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N");
  command.add_flag("--stats", arguments->stats, "Show speed and cache use after each answer");
  arguments->sampling.add_to(command);
  command.footer(
      std::string("In the conversation:\n") + kHelp +
      "\nWithout a terminal, every line of the standard input is a message; answers go to the standard output and\n"
      "everything else to the standard error output.");
  command.callback([arguments, &exit_code] { exit_code = Chat(*arguments).run(); });
}

}  // namespace fathom
