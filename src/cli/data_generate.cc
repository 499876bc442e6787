// fathom data generate: a corpus with no outside text.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/data.h"
#include "cli/lines.h"
#include "data/generate.h"

namespace fathom {

namespace {

using ordered_json = nlohmann::ordered_json;

struct GenerateArguments {
  std::string out;
  uint64_t documents = 0;
  double megabytes = 0;
  uint64_t seed = 0;
  std::vector<std::string> kinds;
  int64_t filler_words = 0;
  bool held_out = false;
  DocumentOptions options;
};

ordered_json messages_json(const std::vector<ChatMessage>& messages) {
  ordered_json list = ordered_json::array();
  for (const ChatMessage& message : messages) {
    list.push_back({{"role", message.role}, {"content", message.content.value_or("")}});
  }
  return list;
}

ordered_json document_json(const Document& document) {
  ordered_json json = {{"kind", document_kind_name(document.kind)}};
  if (document.messages.empty()) {
    json["text"] = document.text;
  } else {
    json["messages"] = messages_json(document.messages);
  }
  return json;
}

std::string_view rule_name(JudgeRule rule) {
  switch (rule) {
    case JudgeRule::last_number:
      return "last number";
    case JudgeRule::contains:
      return "contains";
    case JudgeRule::equal:
      return "equal";
  }
  return "";
}

ordered_json item_json(const EvaluationItem& item) {
  return {{"kind", document_kind_name(item.kind)},
          {"task", item.task},
          {"prompt", messages_json(item.messages)},
          {"thinking", item.thinking},
          {"answer", item.answer},
          {"key", item.key},
          {"rule", rule_name(item.rule)},
          {"distance_bytes", item.distance_bytes}};
}

std::vector<DocumentKind> chosen_kinds(const GenerateArguments& arguments) {
  std::vector<DocumentKind> kinds;
  for (const std::string& name : arguments.kinds) {
    const auto kind = document_kind_from_name(name);
    if (!kind) {
      throw_bad_input("--kinds: expected story, arithmetic, retrieval, list, code, dialogue or drill, found \"{}\"",
                      name);
    }
    kinds.push_back(*kind);
  }
  if (kinds.empty()) kinds.assign(all_document_kinds.begin(), all_document_kinds.end());
  if (arguments.held_out) {
    const auto empty = [](DocumentKind kind) { return evaluation_tasks(kind).empty(); };
    if (arguments.kinds.empty()) std::erase_if(kinds, empty);
  }
  return kinds;
}

void run(const GenerateArguments& arguments) {
  if ((arguments.documents > 0) == (arguments.megabytes > 0)) {
    throw_bad_input("Expected either --documents or --megabytes, found {}",
                    arguments.documents > 0 ? "both" : "neither");
  }
  const std::vector<DocumentKind> kinds = chosen_kinds(arguments);
  const auto bytes = static_cast<uint64_t>(arguments.megabytes * 1e6);
  const auto start = std::chrono::steady_clock::now();
  OutputFile file(arguments.out);
  Progress progress("Generating", arguments.documents > 0 ? arguments.documents : bytes,
                    arguments.documents > 0 ? "documents" : "B");
  uint64_t number = 0;
  for (; arguments.documents > 0 ? number < arguments.documents : file.bytes_written() < bytes; ++number) {
    check_interrupt();
    // Each document has a stream of its own: document n is the same however many there are.
    Random random(arguments.seed, number * 2 + (arguments.held_out ? 1 : 0));
    const DocumentKind kind = draw_kind(random, kinds);
    const std::string line = json_line(
        arguments.held_out ? item_json(make_item(kind, random, {arguments.options.task, arguments.filler_words}))
                           : document_json(make_document(kind, random, arguments.options)));
    file.write(line);
    progress.advance(arguments.documents > 0 ? 1 : line.size());
  }
  const uint64_t written = file.bytes_written();
  file.commit();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  write_stdout(fmt::format("{}: {} {}, {:.1f} MB, {:.1f} MB/s\n", arguments.out, number,
                           arguments.held_out ? "held-out items" : "documents", static_cast<double>(written) / 1e6,
                           static_cast<double>(written) / 1e6 / std::max(seconds, 1e-9)));
}

}  // namespace

void add_data_generate_command(CLI::App& data, int& exit_code) {
  CLI::App& command =
      *data.add_subcommand("generate", "Make a corpus of stories, sums, facts, lists, programs, dialogues");
  auto arguments = std::make_shared<GenerateArguments>();
  command.add_option("--out,-o", arguments->out, "The file to write, a JSON object in each line")
      ->required()
      ->type_name("FILE.jsonl");
  command.add_option("--documents", arguments->documents, "So many documents")->type_name("N");
  command.add_option("--megabytes", arguments->megabytes, "Documents until the file has this size")
      ->check(CLI::Range(0.001, 1e6))
      ->type_name("X");
  command.add_option("--seed", arguments->seed, "The same seed gives the same documents (default 0)")->type_name("N");
  command
      .add_option("--kinds", arguments->kinds,
                  "Only these: story, arithmetic, retrieval, list, code, dialogue; and drill, as many documents as of "
                  "the others "
                  "together, which comes only if it is named")
      ->delimiter(',')
      ->type_name("NAME,...");
  command
      .add_option("--longest-retrieval", arguments->options.longest_retrieval_words,
                  "Most words between facts and questions (default 900)")
      ->check(CLI::Range(20, 1'000'000))
      ->type_name("WORDS");
  command.add_flag("--alike-facts", arguments->options.alike_facts,
                   "Retrieval about things that share their colour or their noun: harder to tell apart");
  command
      .add_option("--task", arguments->options.task,
                  "One task of the kind: of arithmetic \"addition\", of retrieval \"places\", …")
      ->type_name("NAME");
  CLI::Option* held_out =
      command.add_flag("--held-out", arguments->held_out,
                       "Questions with their answers that no training document holds, to be scored on");
  command
      .add_option("--filler", arguments->filler_words, "With --held-out: words between fact and question in retrieval")
      ->needs(held_out)
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("WORDS");
  command.footer(
      "Examples:\n"
      "  fathom data generate --out corpus.jsonl --megabytes 40\n"
      "  fathom data generate --out items.jsonl --documents 500 --held-out --kinds arithmetic --task addition");
  command.callback([arguments, &exit_code] {
    run(*arguments);
    exit_code = 0;
  });
}

}  // namespace fathom
