// fathom gguf export, fathom gguf import: to and from the files that llama.cpp reads.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>

#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/rewriting.h"
#include "weights/gguf_export.h"
#include "weights/gguf_import.h"

namespace fathom {
namespace {

constexpr std::pair<const char*, GgmlType> kTypes[] = {
    {"f32", GgmlType::f32},   {"f16", GgmlType::f16},   {"bf16", GgmlType::bf16}, {"q8_0", GgmlType::q8_0},
    {"q4_0", GgmlType::q4_0}, {"q4_k", GgmlType::q4_k}, {"q6_k", GgmlType::q6_k},
};

void print_notes(const std::vector<std::string>& notes) {
  for (const std::string& note : notes) fmt::print(stderr, "note: {}\n", note);
}

struct ExportArguments {
  std::string in, type = "bf16";
  GgufExportOptions options;
  int threads = 0;
};

void run_export(ExportArguments& arguments) {
  for (const auto& [name, type] : kTypes) {
    if (arguments.type == name) arguments.options.type = type;
  }
  const Checkpoint checkpoint(arguments.in);
  const TensorReader reader(checkpoint);
  const GgufExportPlan plan = plan_gguf_export(checkpoint, reader, arguments.options);
  print_notes(plan.notes);
  ThreadTeam team(arguments.threads);
  ByteProgress progress("export");
  const GgufExportResult result = write_gguf(plan, team, std::ref(progress));
  progress.finish();
  write_stdout(written_line(plan.files[0].path, result.tensors, plan.files.size(), result.bytes, result.bytes_kept,
                            result.seconds));
}

struct ImportArguments {
  std::string in, to = "bf16";
  GgufImportOptions options;
  int threads = 0;
};

void run_import(ImportArguments& arguments) {
  arguments.options.f32 = arguments.to == "f32";
  const GgufModel model(arguments.in);
  const GgufImportPlan plan = plan_gguf_import(model, arguments.options);
  print_notes(plan.notes);
  ThreadTeam team(arguments.threads);
  write_stdout(rewrite_with_progress(plan.rewrite, team, "import"));
}

void add_threads(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "Threads; 0 is one per processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
}

void add_export(CLI::App& group, int& exit_code) {
  auto arguments = std::make_shared<ExportArguments>();
  CLI::App& command = *group.add_subcommand("export", "Write a checkpoint as a GGUF file");
  command.add_option("IN", arguments->in, "The checkpoint, in BF16, F16, F32 or FP8")->required()->type_name("DIR");
  command.add_option("OUT", arguments->options.out, "The file to write, new")->required()->type_name("FILE");
  command
      .add_option("--type", arguments->type,
                  "Type of the matrices: f32, f16, bf16, q8_0, q4_0, q4_k or q6_k. Norms and router stay f32")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"}))
      ->type_name("NAME")
      ->capture_default_str();
  command.add_flag("--mtp", arguments->options.mtp, "Write the MTP layer too; readers that do not know it refuse it");
  command
      .add_option("--split-size", arguments->options.split_bytes,
                  "Several files NAME-00001-of-0000N.gguf with at most so many bytes of tensors (40GB, 2GiB)")
      ->transform(CLI::AsSizeValue(true))
      ->type_name("SIZE");
  add_threads(command, arguments->threads);
  command.footer(
      "Example: fathom gguf export --type q4_k DeepSeek-V3 deepseek-v3-q4_k.gguf\n"
      "\n"
      "Works in a few hundred MB of memory, whatever the checkpoint's size. The files are read again and compared\n"
      "before they get their names. A run that was stopped leaves OUT.partial, and the same command goes on from "
      "there.");
  command.callback([arguments, &exit_code] {
    run_export(*arguments);
    exit_code = 0;
  });
}

void add_import(CLI::App& group, int& exit_code) {
  auto arguments = std::make_shared<ImportArguments>();
  CLI::App& command = *group.add_subcommand("import", "Write a GGUF file of a DeepSeek model as a checkpoint");
  command.add_option("IN", arguments->in, "The file; of split files any one")->required()->type_name("FILE");
  command.add_option("OUT", arguments->options.out, "The directory to write, new or empty")
      ->required()
      ->type_name("DIR");
  command.add_option("--to", arguments->to, "Type of the weights: bf16 or f32")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->type_name("NAME")
      ->capture_default_str();
  add_threads(command, arguments->threads);
  command.footer(
      "Example: fathom gguf import DeepSeek-V2-Lite-Chat.Q4_K_M.gguf V2-Lite\n"
      "\n"
      "A run that was stopped leaves OUT.partial, and the same command goes on from there.");
  command.callback([arguments, &exit_code] {
    run_import(*arguments);
    exit_code = 0;
  });
}

}  // namespace

void add_gguf_command(CLI::App& app, int& exit_code) {
  CLI::App& group = *app.add_subcommand("gguf", "Write a checkpoint as a GGUF file, or a GGUF file as a checkpoint");
  group.require_subcommand(1);
  add_export(group, exit_code);
  add_import(group, exit_code);
}

}  // namespace fathom
