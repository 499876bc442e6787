// fathom tokenizer train: a vocabulary from texts.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "data/corpus_reader.h"
#include "formats/tokenizer_json.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer.h"

namespace fathom {

namespace {

struct TrainArguments {
  int64_t vocab_size = 4096;
  int64_t model_max_length = 4096;
  bool merge_digits = false;
  std::string out;
  std::vector<std::string> files;
};

/// DIR/tokenizer.json, for a directory or that file's own name.
std::filesystem::path tokenizer_path(const std::string& out) {
  std::filesystem::path path(out);
  if (path.extension() == ".json") {
    if (path.filename() != "tokenizer.json") {
      throw_bad_input("--out: expected a directory or DIR/tokenizer.json, found \"{}\"", out);
    }
    return path;
  }
  return path / "tokenizer.json";
}

void write_file(const std::filesystem::path& path, const std::string& text) {
  OutputFile file(path.string());
  file.write(text);
  file.commit();
}

void count_documents(const TrainArguments& arguments, BpeTrainer& trainer) {
  CorpusReader reader(arguments.files);
  Progress progress("Reading", reader.total_bytes(), "B");
  CorpusDocument document;
  uint64_t shown = 0;
  while (reader.next(document)) {
    check_interrupt();
    if (!document.text.empty()) trainer.add_text(document.text, document.where);
    for (const ChatMessage& message : document.messages) {
      if (message.content) trainer.add_text(*message.content, document.where);
    }
    progress.advance(reader.bytes_read() - shown);
    shown = reader.bytes_read();
  }
  if (trainer.pieces() == 0) throw_bad_input("{}: expected text to learn from, found none", arguments.files[0]);
}

void run(const TrainArguments& arguments) {
  const std::filesystem::path path = tokenizer_path(arguments.out);
  const size_t wanted = trainable_tokens(arguments.vocab_size);
  BpeTrainer trainer(arguments.merge_digits);
  count_documents(arguments, trainer);
  TrainedBpe bpe;
  {
    Progress progress("Joining", wanted, "tokens");
    bpe = trainer.train(wanted, [&](size_t, size_t) { progress.advance(); });
  }
  if (bpe.tokens.size() < wanted) {
    throw_bad_input(
        "The text has pairs for a vocabulary of {} tokens, expected at least --vocab-size {}; give more text or a "
        "smaller size",
        arguments.vocab_size - static_cast<int64_t>(wanted - bpe.tokens.size()), arguments.vocab_size);
  }
  const std::string json = trained_tokenizer_json(bpe, control_tokens_for(arguments.vocab_size)).dump(2) + "\n";
  Tokenizer::from_json(json, path.string());  // what we could not open ourselves must not get a name
  make_directories(path.has_parent_path() ? path.parent_path().string() : ".");
  write_file(path, json);
  write_file(
      path.parent_path() / "tokenizer_config.json",
      tokenizer_config_json(eos_token_text, arguments.model_max_length, deepseek_v31_chat_template).dump(2) + "\n");
  write_stdout(fmt::format("{}: {} tokens, {} merges, from {} pieces of text ({} different)\n", path.string(),
                           arguments.vocab_size, bpe.merges.size(), trainer.pieces(), trainer.distinct_pieces()));
}

}  // namespace

void add_tokenizer_command(CLI::App& app, int& exit_code) {
  CLI::App& tokenizer = *app.add_subcommand("tokenizer", "Train a tokenizer");
  tokenizer.require_subcommand(1);
  CLI::App& command = *tokenizer.add_subcommand("train", "Learn a vocabulary from texts: byte-level BPE");
  auto arguments = std::make_shared<TrainArguments>();
  command.add_option("FILE", arguments->files, "Plain text, or .jsonl with `text` or `messages` in each line")
      ->required()
      ->type_name("");
  command.add_option("--vocab-size", arguments->vocab_size, "Tokens, control tokens included (default 4096)")
      ->check(CLI::Range(266, 1 << 20))
      ->type_name("N");
  command.add_option("--out,-o", arguments->out, "Where tokenizer.json and tokenizer_config.json go")
      ->required()
      ->type_name("DIR");
  command.add_flag("--merge-digits", arguments->merge_digits,
                   "Let numbers of up to three digits become tokens, as in DeepSeek-V3; otherwise each digit is one");
  command
      .add_option("--model-max-length", arguments->model_max_length,
                  "What tokenizer_config.json names as the longest sequence (default 4096)")
      ->check(CLI::Range(1, 1 << 24))
      ->type_name("N");
  command.footer(
      "Texts are cut as DeepSeek-V3's tokenizer cuts them; bos, eos and pad have the ids 0, 1 and 2; the chat "
      "template\n"
      "is V3.1's. The same texts give the same file.\n"
      "Example:\n"
      "  fathom tokenizer train --vocab-size 4096 --out tokenizer corpus.jsonl");
  command.callback([arguments, &exit_code] {
    run(*arguments);
    exit_code = 0;
  });
}

}  // namespace fathom
