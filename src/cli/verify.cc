// fathom verify: whether a checkpoint is whole and sane, and how far it is from another one.

#include "weights/verify.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/rewriting.h"

namespace fathom {
namespace {

constexpr size_t kShownDifferences = 20;

struct VerifyArguments {
  std::string directory, against;
  bool tensors = false, json = false;
  int threads = 0;
};

nlohmann::ordered_json json_of(const VerifyReport& report) {
  using Json = nlohmann::ordered_json;
  Json tensors = Json::array();
  for (const TensorReport& tensor : report.tensors) {
    Json entry = {{"name", printable_name(tensor.name)},
                  {"dtype", dtype_name(tensor.dtype)},
                  {"shape", tensor.shape},
                  {"xxh3_128", tensor.checksum},
                  {"least", tensor.least},
                  {"greatest", tensor.greatest},
                  {"root_mean_square", tensor.root_mean_square}};
    if (tensor.difference) {
      const TensorDifference& difference = *tensor.difference;
      entry["difference"] = {{"same_bytes", difference.same_bytes}, {"greatest", difference.greatest}};
      entry["difference"]["relative"] = std::isfinite(difference.relative) ? Json(difference.relative) : Json(nullptr);
    }
    if (!tensor.problems.empty()) entry["problems"] = tensor.problems;
    tensors.push_back(std::move(entry));
  }
  return {{"bytes", report.bytes},
          {"problems", report.problems},
          {"problem_count", report.problem_count()},
          {"tensors", std::move(tensors)}};
}

std::string table_of(const VerifyReport& report) {
  std::string text;
  for (const TensorReport& tensor : report.tensors) {
    text += fmt::format("{}  {:8} {:18} {:>11.4g} {:>11.4g} {:>11.4g}  {}\n", tensor.checksum, dtype_name(tensor.dtype),
                        shape_text(tensor.shape), tensor.least, tensor.greatest, tensor.root_mean_square,
                        printable_name(tensor.name));
  }
  return text;
}

std::string differences_of(const VerifyReport& report) {
  std::vector<const TensorReport*> compared;
  for (const TensorReport& tensor : report.tensors) {
    if (tensor.difference) compared.push_back(&tensor);
  }
  const auto same = std::count_if(compared.begin(), compared.end(),
                                  [](const TensorReport* tensor) { return tensor->difference->same_bytes; });
  std::string text = fmt::format("{} of {} tensors that both have hold the same bytes\n", same, compared.size());
  std::erase_if(compared, [](const TensorReport* tensor) { return tensor->difference->greatest == 0; });
  if (compared.empty()) return text + "no number differs\n";
  std::stable_sort(compared.begin(), compared.end(), [](const TensorReport* a, const TensorReport* b) {
    return a->difference->relative > b->difference->relative;
  });
  text +=
      "  relative    greatest  tensor (root mean square of the difference over that of the other; greatest of it)\n";
  for (size_t i = 0; i < std::min(compared.size(), kShownDifferences); ++i) {
    const TensorDifference& difference = *compared[i]->difference;
    text += fmt::format("{:>10.3e}  {:>10.3e}  {}\n", difference.relative, difference.greatest,
                        printable_name(compared[i]->name));
  }
  if (compared.size() > kShownDifferences) {
    text += fmt::format("and {} more that differ less (--json has all)\n", compared.size() - kShownDifferences);
  }
  return text;
}

int run(const VerifyArguments& arguments) {
  const Checkpoint checkpoint(arguments.directory);
  std::unique_ptr<Checkpoint> against;
  if (!arguments.against.empty()) against = std::make_unique<Checkpoint>(arguments.against);
  ThreadTeam team(arguments.threads);
  ByteProgress progress("verify");
  const VerifyReport report = verify_checkpoint(checkpoint, against.get(), team, std::ref(progress));
  progress.finish();
  if (arguments.json) {
    write_stdout(json_of(report).dump(1) + "\n");
  } else {
    if (arguments.tensors) write_stdout(table_of(report));
    if (against) write_stdout(differences_of(report));
    for (const std::string& problem : report.problems) write_stdout(problem + "\n");
    for (const TensorReport& tensor : report.tensors) {
      for (const std::string& problem : tensor.problems) {
        write_stdout(fmt::format("{}: {}\n", printable_name(tensor.name), problem));
      }
    }
    const int64_t problems = report.problem_count();
    write_stdout(fmt::format("{}: {} tensors, {:.2f} GB, {}\n", arguments.directory, report.tensors.size(),
                             static_cast<double>(report.bytes) / 1e9,
                             problems == 0   ? std::string("no problem")
                             : problems == 1 ? std::string("1 problem")
                                             : fmt::format("{} problems", problems)));
  }
  return report.problem_count() == 0 ? 0 : 1;
}

}  // namespace

void add_verify_command(CLI::App& app, int& exit_code) {
  auto arguments = std::make_shared<VerifyArguments>();
  CLI::App& command =
      *app.add_subcommand("verify", "Check a checkpoint's tensors, alone or against another checkpoint");
  command.add_option("DIR", arguments->directory, "The checkpoint")->required()->type_name("DIR");
  command
      .add_option("--against", arguments->against,
                  "Another checkpoint of the same tensors, in any precision: how far the numbers are from its")
      ->type_name("DIR2");
  command.add_flag("--tensors", arguments->tensors,
                   "A line for each tensor: checksum, type, shape, least, greatest, root mean square");
  command.add_flag("--json", arguments->json, "The whole report as one JSON object");
  command.add_option("--threads", arguments->threads, "Threads; 0 is one per processor")
      ->check(CLI::Range(0, 1024))
      ->type_name("N");
  command.footer(
      "Exit code 1 if there is a problem: a tensor that is missing, of another shape, unknown, all zero or not "
      "finite,\n"
      "scales that are not positive (or no powers of two where the config says ue8m0), or one that only one of the "
      "two\n"
      "checkpoints has. Differences are shown and are no problem.");
  command.callback([arguments, &exit_code] { exit_code = run(*arguments); });
}

}  // namespace fathom
