// fathom evaluate generated: a model on items of the generated corpus that no training document holds.

#include <fmt/core.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/evaluate.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "engine/generate_many.h"
#include "evaluate/generated.h"
#include "evaluate/proportion.h"

namespace fathom {
namespace {

using ordered_json = nlohmann::ordered_json;

struct Arguments {
  ModelArguments model;
  std::vector<std::string> kinds;
  std::string task;
  int64_t items = 200;
  uint64_t seed = 0;
  int64_t filler_words = 0, prompt_tokens = 0;
  int64_t max_tokens = 256;
  int64_t show = 0;
  bool json = false;
};

constexpr int64_t kDefaultPromptTokens = 1024;

struct Question {
  EvaluationItem item;
  std::vector<int32_t> prompt;
  ItemAnswer answer;
};

/// A line of the table.
struct Line {
  ItemGroup group;
  std::vector<Question> questions;

  AnswerTally tally() const {
    AnswerTally sum;
    for (const Question& question : questions) sum.add(question.answer);
    return sum;
  }
  /// Several tasks: each of them; else nothing.
  std::vector<std::pair<std::string, AnswerTally>> by_task() const {
    std::map<std::string, AnswerTally> tallies;
    for (const Question& question : questions) tallies[question.item.task].add(question.answer);
    if (tallies.size() < 2) return {};
    return {tallies.begin(), tallies.end()};
  }
  /// Retrieval over several lengths: each that occurs; else nothing.
  std::vector<std::pair<std::string, AnswerTally>> by_prompt_length() const {
    if (group.kind != DocumentKind::retrieval) return {};
    constexpr std::array<const char*, 4> names = {"up to 256 tokens", "257 to 512 tokens", "513 to 1024 tokens",
                                                  "more than 1024 tokens"};
    std::array<AnswerTally, names.size()> tallies;
    for (const Question& question : questions) {
      tallies[prompt_length_bucket(question.answer.prompt_tokens)].add(question.answer);
    }
    std::vector<std::pair<std::string, AnswerTally>> list;
    for (size_t i = 0; i < names.size(); ++i) {
      if (tallies[i].items > 0) list.emplace_back(names[i], tallies[i]);
    }
    return list;
  }
  /// Up to `count` questions in the order they were drawn: as many wrong ones as right ones where there are.
  std::vector<const Question*> examples(int64_t count) const {
    int64_t right = tally().right;
    int64_t wrong = std::ssize(questions) - right;
    wrong = std::min(wrong, std::max(count / 2, count - right));
    right = std::min(right, count - wrong);
    std::vector<const Question*> list;
    for (const Question& question : questions) {
      int64_t& left = question.answer.right ? right : wrong;
      if (left == 0) continue;
      --left;
      list.push_back(&question);
    }
    return list;
  }
};

ordered_json tally_json(const AnswerTally& tally) {
  const ProportionInterval interval = wilson_interval(tally.right, tally.items);
  return {{"items", tally.items},
          {"right", tally.right},
          {"percent", 100 * tally.fraction()},
          {"interval_95", {100 * interval.low, 100 * interval.high}},
          {"too_long", tally.too_long},
          {"broken_off", tally.broken_off},
          {"mean_prompt_tokens", tally.mean_prompt_tokens()},
          {"mean_answer_tokens", tally.mean_answer_tokens()}};
}

std::string row_text(const std::string& name, const AnswerTally& tally) {
  const ProportionInterval interval = wilson_interval(tally.right, tally.items);
  return fmt::format("{:<28} {:>6} {:>6} {:>8.1f}   {:>5.1f} to {:>5.1f} {:>8.0f} {:>8.0f}\n", name, tally.items,
                     tally.right, 100 * tally.fraction(), 100 * interval.low, 100 * interval.high,
                     tally.mean_prompt_tokens(), tally.mean_answer_tokens());
}

/// Long texts keep their end: that is where the question stands.
std::string shortened(const std::string& text) {
  constexpr size_t kLongest = 600;
  constexpr size_t kEnd = 300;
  if (text.size() <= kLongest) return text;
  size_t begin = text.size() - kEnd;
  while (begin < text.size() && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) ++begin;
  return "…" + text.substr(begin);
}

std::string indented(const std::string& text) {
  std::string result;
  for (const char c : terminal_text(text)) {
    result += c;
    if (c == '\n') result += "            ";
  }
  return result;
}

class GeneratedCommand {
 public:
  explicit GeneratedCommand(const Arguments& arguments) : arguments_(arguments) {
    choose_groups();
    text_ = open_checkpoint_text(arguments_.model.directory);
  }

  void run() {
    draw_items();
    ask();
    if (arguments_.json) {
      write_stdout(result_json().dump(2) + "\n");
    } else {
      report();
    }
  }

 private:
  void choose_groups() {
    if (arguments_.kinds.empty()) {
      if (!arguments_.task.empty()) throw_bad_input("--task needs the kind it belongs to: add --kinds");
      add_group({"two-digit addition", DocumentKind::arithmetic, {"addition"}});
      add_group({"retrieval", DocumentKind::retrieval, {}});
      add_group({"sorting", DocumentKind::list, {"sort words", "sort numbers"}});
      add_group({"output of programs", DocumentKind::code, {}});
      add_group({"questions on a story", DocumentKind::dialogue, {}});
    }
    if (!arguments_.task.empty() && arguments_.kinds.size() != 1) {
      throw_bad_input("--task {} needs exactly one kind; --kinds names {}", arguments_.task, arguments_.kinds.size());
    }
    for (const std::string& name : arguments_.kinds) {
      const auto kind = document_kind_from_name(name);
      if (!kind || evaluation_tasks(*kind).empty()) {
        throw_bad_input("--kinds: expected arithmetic, retrieval, list, code or dialogue, found \"{}\"", name);
      }
      const std::vector<std::string> tasks = evaluation_tasks(*kind);
      if (!arguments_.task.empty() && std::find(tasks.begin(), tasks.end(), arguments_.task) == tasks.end()) {
        std::string known;
        for (const std::string& task : tasks) known += (known.empty() ? "\"" : ", \"") + task + "\"";
        throw_bad_input("--task: the kind {} has {}; found \"{}\"", name, known, arguments_.task);
      }
      if (arguments_.task.empty()) {
        add_group({name, *kind, {}});
      } else {
        add_group({name + ": " + arguments_.task, *kind, {arguments_.task}});
      }
    }
    const bool lengths = arguments_.filler_words > 0 || arguments_.prompt_tokens > 0;
    const auto retrieves = [](const Line& line) { return line.group.kind == DocumentKind::retrieval; };
    if (lengths && std::none_of(lines_.begin(), lines_.end(), retrieves)) {
      throw_bad_input("--filler and --prompt-tokens are about retrieval, which --kinds does not name");
    }
  }

  void add_group(ItemGroup group) { lines_.push_back({std::move(group), {}}); }

  void draw_items() {
    const ConversationFormat conversation = text_.conversation();
    for (Line& line : lines_) {
      ItemGroup& group = line.group;
      if (group.kind == DocumentKind::retrieval) {
        group.filler_words = arguments_.filler_words;
        int64_t tokens = arguments_.prompt_tokens;
        if (arguments_.kinds.empty() && tokens == 0 && group.filler_words == 0) tokens = kDefaultPromptTokens;
        if (tokens > 0) {
          group.filler_words = filler_for_prompt_tokens(group, arguments_.seed, tokens, conversation);
          group.name += fmt::format(", {} tokens", tokens);
        }
      }
      for (int64_t i = 0; i < arguments_.items; ++i) {
        check_interrupt();
        Question question;
        question.item = group_item(group, arguments_.seed, i);
        question.prompt = item_prompt(question.item, conversation);
        line.questions.push_back(std::move(question));
      }
    }
  }

  void ask() {
    size_t longest = 0;
    for (const Line& line : lines_) {
      for (const Question& question : line.questions) longest = std::max(longest, question.prompt.size());
    }
    const std::unique_ptr<Session> session =
        arguments_.model.open(static_cast<int64_t>(longest) + arguments_.max_tokens);
    const std::vector<int32_t> end_tokens =
        end_token_ids(arguments_.model.directory, session->config(), text_.tokenizer.get());
    context_ = session->context();
    std::vector<Question*> asked;
    std::vector<GenerationRequest> requests;
    for (Line& line : lines_) {
      for (Question& question : line.questions) {
        const int64_t length = std::ssize(question.prompt);
        question.answer = unasked_answer(length);
        if (length >= context_) continue;
        asked.push_back(&question);
        requests.push_back(item_request(question.prompt, end_tokens, arguments_.max_tokens));
      }
    }
    // Each item starts from an empty cache: what it is answered does not depend on the ones beside it.
    GenerateManyOptions options;
    options.context = context_;
    options.share_prefixes = false;
    options.drafts = session->drafts();
    Progress progress("evaluate", asked.size(), "items");
    generate_many(
        session->model(), text_.tokenizer.get(), requests, options, session->team(), [] { return interrupted(); },
        [&](size_t index, const Generation& generation) {
          Question& question = *asked[index];
          question.answer = judged_answer(text_.conversation(), question.item, std::ssize(question.prompt), generation);
          progress.advance();
        });
    check_interrupt();
  }

  ordered_json result_json() const {
    ordered_json list = ordered_json::array();
    for (const Line& line : lines_) {
      ordered_json json = {{"name", line.group.name}, {"kind", document_kind_name(line.group.kind)}};
      json["tasks"] = line.group.tasks;
      if (line.group.filler_words > 0) json["filler_words"] = line.group.filler_words;
      json.update(tally_json(line.tally()));
      for (const auto& [task, tally] : line.by_task()) json["by_task"][task] = tally_json(tally);
      for (const auto& [length, tally] : line.by_prompt_length()) json["by_prompt_length"][length] = tally_json(tally);
      for (const Question* question : line.examples(arguments_.show)) {
        json["examples"].push_back({{"task", question->item.task},
                                    {"prompt", question->item.messages.back().content.value_or("")},
                                    {"prompt_tokens", question->answer.prompt_tokens},
                                    {"expected", question->item.answer},
                                    {"key", question->item.key},
                                    {"answer", question->answer.text},
                                    {"finish_reason", finish_reason_name(question->answer.finish_reason)},
                                    {"right", question->answer.right}});
      }
      list.push_back(std::move(json));
    }
    return {{"model", arguments_.model.directory},
            {"seed", arguments_.seed},
            {"max_tokens", arguments_.max_tokens},
            {"context", context_},
            {"lines", list}};
  }

  void report() const {
    std::string out = fmt::format("{:<28} {:>6} {:>6} {:>8}   {:>14} {:>8} {:>8}\n", "", "items", "right", "percent",
                                  "95 % interval", "prompt", "answer");
    int64_t too_long = 0;
    for (const Line& line : lines_) {
      const AnswerTally tally = line.tally();
      too_long += tally.too_long;
      out += row_text(line.group.name, tally);
      if (arguments_.kinds.empty()) continue;  // one line each
      for (const auto& [task, part] : line.by_task()) out += row_text("  " + task, part);
      for (const auto& [length, part] : line.by_prompt_length()) out += row_text("  " + length, part);
    }
    for (const Line& line : lines_) {
      for (const Question* question : line.examples(arguments_.show)) out += example_text(line, *question);
    }
    write_stdout(out);
    if (too_long > 0) {
      fmt::print(stderr,
                 "fathom: {} items have prompts that do not fit the context of {} positions; they were not asked and "
                 "count as wrong\n",
                 too_long, context_);
    }
  }

  static std::string example_text(const Line& line, const Question& question) {
    std::string ending;
    if (!question.answer.fits) ending = " (the prompt is too long)";
    if (question.answer.fits && question.answer.finish_reason == FinishReason::length) ending = " (broken off)";
    return fmt::format("\n{}, {}: {}{}\n  asked     {}\n  expected  {}\n  answered  {}\n", line.group.name,
                       question.item.task, question.answer.right ? "right" : "WRONG", ending,
                       indented(shortened(question.item.messages.back().content.value_or(""))),
                       indented(question.item.answer), indented(question.answer.text));
  }

  Arguments arguments_;
  CheckpointText text_;
  std::vector<Line> lines_;
  int64_t context_ = 0;
};

}  // namespace

void add_evaluate_generated_command(CLI::App& evaluate, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *evaluate.add_subcommand("generated", "Ask items of the generated corpus that no training document holds");
  arguments->model.add_to(command);
  const char* group = "Items";
  command.add_option("--kinds", arguments->kinds, "Items of these: arithmetic, retrieval, list, code, dialogue")
      ->delimiter(',')
      ->type_name("NAME,...")
      ->group(group);
  command.add_option("--task", arguments->task, "With one kind: only this task of it, as \"addition\"")
      ->type_name("NAME")
      ->group(group);
  command.add_option("--items", arguments->items, "So many items on each line of the table")
      ->check(CLI::Range(int64_t{1}, int64_t{10'000'000}))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command.add_option("--seed", arguments->seed, "The same seed gives the same items")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  CLI::Option* filler =
      command
          .add_option("--filler", arguments->filler_words,
                      "Retrieval: words between fact and question. Without it they are drawn, up to 900")
          ->check(CLI::Range(1, 1'000'000))
          ->type_name("WORDS")
          ->group(group);
  command
      .add_option("--prompt-tokens", arguments->prompt_tokens,
                  "Retrieval: as many words as give prompts of about N tokens. Without --kinds it is 1024")
      ->check(CLI::Range(64, 10'000'000))
      ->excludes(filler)
      ->type_name("N")
      ->group(group);
  command.add_option("--max-tokens", arguments->max_tokens, "Most tokens of an answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  const char* output = "Output";
  command.add_option("--show", arguments->show, "Print N items of each line with their answers, right and wrong ones")
      ->check(CLI::Range(int64_t{0}, int64_t{1'000'000}))
      ->type_name("N")
      ->group(output);
  command.add_flag("--json", arguments->json, "Print one JSON object")->group(output);
  command.footer(
      "Examples:\n"
      "  fathom evaluate generated --model DIR\n"
      "  fathom evaluate generated --model DIR --kinds arithmetic --task addition --items 500 --show 10\n"
      "  fathom evaluate generated --model DIR --kinds retrieval --prompt-tokens 1024\n"
      "\n"
      "Without --kinds: two-digit addition, retrieval in prompts of about 1,024 tokens, sorting, what programs print,\n"
      "questions on a story. Answers are greedy. prompt and answer are mean numbers of tokens; the interval is "
      "Wilson's.\n"
      "An answer that is broken off in its thoughts is wrong, and so is a prompt that does not fit the context.");
  command.callback([arguments] { GeneratedCommand(*arguments).run(); });
}

}  // namespace fathom
