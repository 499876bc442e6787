// fathom evaluate mtp: how often the MTP layer's draft is what the model says itself.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/evaluate.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "data/story.h"
#include "engine/generation_config.h"
#include "evaluate/drafts.h"
#include "formats/json.h"
#include "text/chat_prompt.h"

namespace fathom {
namespace {

using ordered_json = nlohmann::ordered_json;

struct Arguments {
  std::string directory, prompts;
  WeightArguments weights;
  int threads = 0;
  int64_t items = 20;
  uint64_t seed = 0;
  int64_t tokens = 256;
  bool json = false;
};

// Rows of a pass: of a prompt, and of the MTP layer over the whole sequence.
constexpr int64_t kChunk = 512;

/// What is counted together.
struct DraftTally {
  std::string kind;
  int64_t prompts = 0, tokens = 0, drafts = 0, accepted = 0;

  void add(const DraftRun& run) {
    ++prompts;
    tokens += std::ssize(run.tokens);
    drafts += std::ssize(run.drafts);
    accepted += run.accepted();
  }
  double percent() const { return drafts == 0 ? 0 : 100 * static_cast<double>(accepted) / static_cast<double>(drafts); }
  std::string text() const {
    return fmt::format("{:<14} {:>7} {:>8} {:>8} {:>8} {:>8.1f}\n", kind, prompts, tokens, drafts, accepted, percent());
  }
  ordered_json json() const {
    return {
        {"prompts", prompts}, {"tokens", tokens}, {"drafts", drafts}, {"accepted", accepted}, {"percent", percent()}};
  }
};

struct Prompt {
  std::string kind;
  std::vector<int32_t> ids;
};

class MtpCommand {
 public:
  explicit MtpCommand(const Arguments& arguments) : arguments_(arguments), team_(arguments.threads) {
    text_ = open_checkpoint_text(arguments_.directory);
    config_ = read_model_config(arguments_.directory);
    if (config_.num_nextn_predict_layers == 0) {
      throw_bad_input("{}: the model has no MTP layer (num_nextn_predict_layers is 0), so it makes no drafts",
                      arguments_.directory);
    }
    if (arguments_.prompts.empty()) {
      draw_prompts();
    } else {
      read_prompts();
    }
  }

  void run() {
    LoadDisplay display;
    const std::unique_ptr<LoadedModel> model =
        open_model(arguments_.directory, arguments_.weights.open_options(display), team_);
    DraftOptions options;
    options.max_new_tokens = arguments_.tokens;
    options.end_tokens = end_token_ids(arguments_.directory, model->config, text_.tokenizer.get());
    Workspace workspace(*model, kChunk, team_.size());
    std::vector<DraftTally> tallies;
    DraftTally all{"all"};
    {
      Progress progress("drafts", prompts_.size(), "prompts");
      for (const Prompt& prompt : prompts_) {
        const DraftRun result = measure_drafts(*model, prompt.ids, options, workspace, team_);
        auto tally = std::find_if(tallies.begin(), tallies.end(),
                                  [&](const DraftTally& known) { return known.kind == prompt.kind; });
        if (tally == tallies.end()) tally = tallies.insert(tally, DraftTally{prompt.kind});
        tally->add(result);
        all.add(result);
        progress.advance();
      }
    }
    report(tallies, all);
  }

 private:
  /// A sequence whose prompt leaves room for half of the tokens that are asked for, and for at least two.
  bool fits(const std::vector<int32_t>& ids) const {
    const int64_t most = config_.max_position_embeddings;
    return most == 0 || std::ssize(ids) + std::max<int64_t>(2, arguments_.tokens / 2) <= most;
  }

  std::vector<int32_t> text_ids(const std::string& text) const {
    std::vector<int32_t> ids = text_.tokenizer->encode_plain(text);
    const auto bos = text_.tokenizer->added_token(text_.config.bos_token);
    if (text_.config.add_bos_token && bos) ids.insert(ids.begin(), *bos);
    return ids;
  }

  /// The beginning of a story of the held-out streams.
  std::vector<int32_t> story_prompt(int64_t index) const {
    Random random(arguments_.seed, static_cast<uint64_t>(index) * 2 + 1);
    const std::string story = make_story(random).text;
    return text_ids(story.substr(0, story.find('.') + 1));
  }

  void draw_prompts() {
    constexpr int64_t kTries = 50;  // for each prompt; long retrieval items do not fit a short model
    for (const DocumentKind kind : all_document_kinds) {
      const std::string name(document_kind_name(kind));
      const ItemGroup group{name, kind, {}};
      int64_t drawn = 0;
      for (int64_t index = 0; drawn < arguments_.items; ++index) {
        check_interrupt();
        if (index == arguments_.items * kTries) {
          throw_bad_input("{}: prompts of the kind {} do not fit the model's {} positions with {} tokens to follow",
                          arguments_.directory, name, config_.max_position_embeddings, arguments_.tokens);
        }
        std::vector<int32_t> ids = kind == DocumentKind::story
                                       ? story_prompt(index)
                                       : item_prompt(group_item(group, arguments_.seed, index), text_.conversation());
        if (!fits(ids)) continue;
        prompts_.push_back({name, std::move(ids)});
        ++drawn;
      }
    }
  }

  void read_prompts() {
    const bool json_lines = arguments_.prompts.ends_with(".jsonl");
    LineReader reader(arguments_.prompts);
    std::string line;
    while (reader.next(line)) {
      check_interrupt();
      if (line.ends_with('\r')) line.pop_back();
      if (line.empty()) continue;
      Prompt prompt = json_lines ? json_prompt(parse_json(line, reader.where()), reader.where())
                                 : Prompt{"prompts", text_ids(line)};
      check_ids(prompt.ids, config_.vocab_size, reader.where());
      const int64_t most = config_.max_position_embeddings;
      if (prompt.ids.empty() || (most > 0 && std::ssize(prompt.ids) + 2 > most)) {
        throw_bad_input("{}: the prompt has {} tokens; expected at least 1, and 2 fewer than the model's {} positions",
                        reader.where(), prompt.ids.size(), most);
      }
      prompts_.push_back(std::move(prompt));
    }
    if (prompts_.empty()) throw_bad_input("{}: there is no prompt in it", arguments_.prompts);
  }

  Prompt json_prompt(const nlohmann::json& json, const std::string& where) const {
    if (!json.is_object() || json.contains("prompt") == json.contains("messages")) {
      throw_bad_input("{}: expected a JSON object with either \"prompt\" or \"messages\"", where);
    }
    const nlohmann::json kind = json.value("kind", nlohmann::json("prompts"));
    const nlohmann::json thinking = json.value("thinking", nlohmann::json(false));
    if (!kind.is_string()) throw_bad_input("{}: \"kind\" must be a string, found {}", where, kind.dump());
    if (!thinking.is_boolean()) throw_bad_input("{}: \"thinking\" must be a boolean, found {}", where, thinking.dump());
    const nlohmann::json& content = json.contains("prompt") ? json.at("prompt") : json.at("messages");
    if (content.is_string() && json.contains("prompt")) {
      return {kind.get<std::string>(), text_ids(content.get<std::string>())};
    }
    EvaluationItem item;
    item.messages = chat_messages_from_json(content, where);
    item.thinking = thinking.get<bool>();
    return {kind.get<std::string>(), item_prompt(item, text_.conversation())};
  }

  void report(const std::vector<DraftTally>& tallies, const DraftTally& all) const {
    if (arguments_.json) {
      ordered_json json = {{"model", arguments_.directory}};
      if (arguments_.prompts.empty()) {
        json["seed"] = arguments_.seed;
      } else {
        json["prompts"] = arguments_.prompts;
      }
      json["max_tokens"] = arguments_.tokens;
      json["all"] = all.json();
      for (const DraftTally& tally : tallies) json["by_kind"][tally.kind] = tally.json();
      write_stdout(json.dump(2) + "\n");
      return;
    }
    std::string out =
        fmt::format("{:<14} {:>7} {:>8} {:>8} {:>8} {:>8}\n", "", "prompts", "tokens", "drafts", "accepted", "percent");
    for (const DraftTally& tally : tallies) out += tally.text();
    write_stdout(out + all.text());
  }

  Arguments arguments_;
  ThreadTeam team_;
  CheckpointText text_;
  ModelConfig config_;
  std::vector<Prompt> prompts_;
};

}  // namespace

void add_evaluate_mtp_command(CLI::App& evaluate, int& /*exit_code*/) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App& command =
      *evaluate.add_subcommand("mtp", "Count how often the first MTP layer's draft is the model's own next token");
  command.add_option("--model,-m", arguments->directory, "Directory of a checkpoint in the Hugging Face layout")
      ->required()
      ->type_name("DIR");
  arguments->weights.add_to(command);
  command.add_option("--threads", arguments->threads, "Threads; 0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->type_name("N")
      ->capture_default_str();
  CLI::Option* items =
      command
          .add_option("--items", arguments->items, "Generated prompts of each kind: beginnings of stories, and items")
          ->check(CLI::Range(int64_t{1}, int64_t{1'000'000}))
          ->type_name("N")
          ->capture_default_str();
  command.add_option("--seed", arguments->seed, "The same seed gives the same prompts")
      ->type_name("N")
      ->capture_default_str();
  command
      .add_option("--prompts", arguments->prompts,
                  "These prompts: a text to complete on each line; in FILE.jsonl objects with \"prompt\" (a text, or "
                  "messages) or \"messages\", and \"kind\" and \"thinking\" if wanted")
      ->excludes(items)
      ->type_name("FILE");
  command.add_option("--tokens", arguments->tokens, "Most tokens to generate for a prompt")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 30))
      ->type_name("N")
      ->capture_default_str();
  command.add_flag("--json", arguments->json, "Print one JSON object");
  command.footer(
      "Examples:\n"
      "  fathom evaluate mtp --model DIR\n"
      "  fathom evaluate mtp --model DIR --prompts questions.jsonl --tokens 100 --json\n"
      "\n"
      "Decoding is greedy, with one draft at each generated token but the last; a draft is accepted if it is the token "
      "that\n"
      "the model then chooses itself, the end token included. The line \"all\" weighs each draft alike.");
  command.callback([arguments] { MtpCommand(*arguments).run(); });
}

}  // namespace fathom
