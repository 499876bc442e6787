// fathom cast: a checkpoint from FP8 to BF16 or back.

#include "weights/cast.h"

#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/rewriting.h"

namespace fathom {
namespace {

struct CastArguments {
  std::string in, to, scale_format = "float32";
  CastOptions options;
  int threads = 0;
};

void run(CastArguments& arguments) {
  CastOptions& options = arguments.options;
  options.to = arguments.to == "fp8" ? CastTo::fp8 : CastTo::bf16;
  options.ue8m0 = arguments.scale_format == "ue8m0";
  const Checkpoint checkpoint(arguments.in);
  const TensorReader reader(checkpoint);
  const RewritePlan plan = plan_cast(checkpoint, reader, options);
  ThreadTeam team(arguments.threads);
  write_stdout(rewrite_with_progress(plan, team, "cast"));
}

}  // namespace

void add_cast_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<CastArguments>();
  CLI::App& command = *app.add_subcommand("cast", "Write a checkpoint in BF16 or in FP8");
  command.add_option("IN", arguments->in, "The checkpoint")->required()->type_name("DIR");
  command.add_option("OUT", arguments->options.out, "The directory to write, new or empty")
      ->required()
      ->type_name("DIR");
  command
      .add_option("--to", arguments->to,
                  "bf16: the matrices that are FP8 are multiplied with their scales. fp8: the matrices that published "
                  "FP8 checkpoints have in FP8 become so")
      ->required()
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->type_name("NAME");
  command
      .add_option("--scale-format", arguments->scale_format,
                  "Scales of --to fp8: float32 as DeepSeek-V3, or ue8m0, powers of two, as V3.1")
      ->check(CLI::IsMember({"float32", "ue8m0"}))
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--threads", arguments->threads, "Threads; 0 is one per processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  command.footer(
      "Example: fathom cast --to bf16 DeepSeek-V3 DeepSeek-V3-BF16\n"
      "\n"
      "Works in about 200 MB of memory, whatever the checkpoint's size. A run that was stopped leaves OUT.partial, and "
      "the\n"
      "same command goes on from there. Every file is read again and compared before OUT gets its name.");
  command.callback([arguments, &exit_code] {
    run(*arguments);
    exit_code = 0;
  });
}

}  // namespace fathom
