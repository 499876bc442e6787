// fathom split and fathom join: a checkpoint in the official demo's model-parallel format, and back.

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/rewriting.h"
#include "weights/model_parallel.h"

namespace fathom {
namespace {

struct SplitArguments {
  std::string in;
  SplitOptions options;
  uint64_t shard_bytes = 4'000'000'000;
  int threads = 0;
};

void add_common(CLI::App& command, SplitArguments& arguments, const char* in) {
  command.add_option("IN", arguments.in, in)->required()->type_name("DIR");
  command.add_option("OUT", arguments.options.out, "The directory to write, new or empty")
      ->required()
      ->type_name("DIR");
  command.add_option("--threads", arguments.threads, "Threads; 0 is one per processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
}

void split(const SplitArguments& arguments) {
  const Checkpoint checkpoint(arguments.in);
  const TensorReader reader(checkpoint);
  const RewritePlan plan = plan_split(checkpoint, reader, arguments.options);
  ThreadTeam team(arguments.threads);
  write_stdout(rewrite_with_progress(plan, team, "split"));
}

void join(const SplitArguments& arguments) {
  const SplitCheckpoint checkpoint(arguments.in);
  const RewritePlan plan = plan_join(checkpoint, arguments.options.out, arguments.shard_bytes);
  ThreadTeam team(arguments.threads);
  write_stdout(rewrite_with_progress(plan, team, "join"));
}

}  // namespace

void add_split_commands(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<SplitArguments>();
  CLI::App& command = *app.add_subcommand("split", "Write a checkpoint as the official demo reads it on several ranks");
  add_common(command, *arguments, "The checkpoint");
  command
      .add_option("--model-parallel", arguments->options.ranks,
                  "Ranks: each gets its slice of the attention and feed-forward matrices, and its experts whole")
      ->required()
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  command.add_flag("--mtp", arguments->options.mtp, "The MTP layer too, which the demo does not use");
  command.footer("Example: fathom split --model-parallel 16 DeepSeek-V3 DeepSeek-V3-demo");
  command.callback([arguments, &exit_code] {
    split(*arguments);
    exit_code = 0;
  });

  auto back = std::make_shared<SplitArguments>();
  CLI::App& other = *app.add_subcommand("join", "Write what split has made in the Hugging Face layout again");
  add_common(other, *back, "The directory with model0-mp*.safetensors and config.json");
  other.add_option("--shard-size", back->shard_bytes, "Size of a file (default 4GB)")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::PositiveNumber)
      ->type_name("SIZE");
  other.callback([back, &exit_code] {
    join(*back);
    exit_code = 0;
  });
}

}  // namespace fathom
