// fathom data pack: a corpus as sequences of tokens.

#include "data/pack.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/data.h"
#include "cli/lines.h"

namespace fathom {

namespace {

std::string split_text(const char* name, const PackSplit& split, int64_t sequence_length) {
  const auto stored = static_cast<double>(split.sequences * (sequence_length + 1));
  return fmt::format("{}: {} documents, {} tokens in {} sequences of {}, {:.2f} % padding\n", name, split.documents,
                     split.tokens, split.sequences, sequence_length,
                     100.0 * static_cast<double>(split.padding) / stored);
}

void run(const PackOptions& options) {
  const PackResult result = pack_corpus(options);
  std::string text = split_text("train", result.train, options.sequence_length);
  if (result.validation.documents > 0) {
    text += split_text("validation", result.validation, options.sequence_length);
  }
  text += fmt::format("fill-in-the-middle: {} documents; longer than a sequence: {}\n", result.fim_documents,
                      result.cut_documents);
  write_stdout(text);
}

}  // namespace

void add_data_pack_command(CLI::App& data, int& exit_code) {
  CLI::App& command = *data.add_subcommand("pack", "Turn a corpus into shards of token sequences");
  auto options = std::make_shared<PackOptions>();
  command.add_option("FILE", options->files, "Plain text, or .jsonl with `text` or `messages` in each line")
      ->required()
      ->type_name("");
  command.add_option("--tokenizer", options->tokenizer_directory, "Directory with tokenizer.json")
      ->required()
      ->type_name("DIR");
  command.add_option("--out,-o", options->out, "The directory to write, new or empty")->required()->type_name("DIR");
  command.add_option("--sequence-length", options->sequence_length, "Tokens that a model reads at once (default 512)")
      ->check(CLI::Range(8, 1 << 20))
      ->type_name("N");
  command
      .add_option("--fim-rate", options->fim_rate,
                  "Share of the documents without control tokens that are told as prefix, suffix, middle (default 0.1)")
      ->check(CLI::Range(0.0, 1.0))
      ->type_name("X");
  command.add_option("--validation", options->validation, "Share of the documents that is held out (default 0)")
      ->check(CLI::Range(0.0, 0.5))
      ->type_name("X");
  command.add_option("--seed", options->seed, "The same seed gives the same shards (default 0)")->type_name("N");
  command
      .add_option("--separator", options->separator,
                  "Lines of plain text that are equal to this separate documents; without it a file is one document")
      ->type_name("LINE");
  command.add_flag("!--no-bos", options->bos, "Documents do not begin with the begin-of-text token");
  command.add_option("--shard-size", options->shard_bytes, "Greatest size of a shard (default 256MB)")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  command.footer(
      "Example:\n"
      "  fathom data pack --tokenizer tokenizer --out shards --sequence-length 512 --validation 0.01 corpus.jsonl");
  command.callback([options, &exit_code] {
    run(*options);
    exit_code = 0;
  });
}

}  // namespace fathom
