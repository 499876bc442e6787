#include "train/run_checkpoint.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kStateTensors = "training_state.safetensors";
constexpr const char* kStateFile = "training_state.json";
constexpr const char* kUnfinished = ".unfinished-";
constexpr const char* kPrefix = "step-";

fs::path checkpoints_of(const std::string& run) {
  return fs::path(run) / "checkpoints";
}

// What the state's file holds: flat arrays in the order of `Parameters`, and the routers' biases.
struct Part {
  std::string name;
  DType dtype;
  Shape shape;
  const void* data;
};

std::vector<Part> parts_of(const TrainState& state, const Buffer* ema) {
  const Parameters& parameters = state.parameters;
  const Shape flat = {parameters.size};
  std::vector<Part> parts = {{"masters", DType::f32, flat, parameters.masters.as<std::byte>()},
                             {"first_moments", state.moments.dtype, flat, state.moments.first.as<std::byte>()},
                             {"second_moments", state.moments.dtype, flat, state.moments.second.as<std::byte>()}};
  if (ema != nullptr) parts.push_back({"ema", DType::f32, flat, ema->as<std::byte>()});
  for (const RouterBias& bias : parameters.biases) {
    parts.push_back({bias.name, DType::f32, {static_cast<int64_t>(bias.values.size())}, bias.values.data()});
  }
  return parts;
}

uint64_t bytes_of(const Part& part) {
  return static_cast<uint64_t>(element_count(part.shape)) * dtype_bytes(part.dtype);
}

std::vector<fs::path> whole_checkpoints(const std::string& run) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), error)) {
    if (entry.path().filename().string().starts_with(kPrefix) && fs::exists(entry.path() / kStateFile)) {
      found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void rename_directory(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  if (error) throw_failure("{}: cannot be renamed to {}: {}.", from.string(), to.string(), error.message());
}

void take(const SafetensorsFile& file, const Part& part) {
  const SafetensorsEntry* entry = file.find(part.name);
  if (entry == nullptr) throw_bad_input("{}: there is no tensor {}.", file.path(), part.name);
  if (entry->dtype != part.dtype || entry->shape != part.shape) {
    throw_bad_input("{}: tensor {} is {} {}; this run has {} {}: it is a checkpoint of another model or recipe.",
                    file.path(), part.name, dtype_name(entry->dtype), shape_text(entry->shape), dtype_name(part.dtype),
                    shape_text(part.shape));
  }
  // The parts point into buffers of this run's own state.
  std::memcpy(const_cast<void*>(part.data), file.view(*entry).data, bytes_of(part));
}

}  // namespace

void copy_tokenizer(const std::string& from, const std::string& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
    const fs::path source = fs::path(from) / name;
    if (!fs::exists(source)) continue;
    OutputFile file((fs::path(to) / name).string());
    file.write(read_file(source.string(), size_t{256} << 20));
    file.commit();
  }
}

std::string save_checkpoint(const std::string& run, const Recipe& recipe, const TrainState& state, const Buffer* ema,
                            const RunPosition& position) {
  const std::string name = fmt::format("{}{:08}", kPrefix, position.step);
  const fs::path final_path = checkpoints_of(run) / name;
  const fs::path unfinished = checkpoints_of(run) / (kUnfinished + name);
  if (fs::exists(final_path)) return final_path.string();
  make_directories(checkpoints_of(run).string());

  const std::vector<Part> parts = parts_of(state, ema);
  uint64_t needed = static_cast<uint64_t>(state.parameters.size) * 2 + (uint64_t{16} << 20);
  for (const Part& part : parts) needed += bytes_of(part);
  const uint64_t free = free_disk_bytes(run);
  if (free < needed) {
    throw_failure("{}: a checkpoint takes {} MB and the disk has {} MB; the earlier checkpoints are as they were.", run,
                  needed / 1'000'000, free / 1'000'000);
  }

  fs::remove_all(unfinished);
  try {
    write_checkpoint(state.parameters, DType::bf16, recipe.fp8_checkpoints, unfinished.string());
    copy_tokenizer(recipe.tokenizer, unfinished.string());
    std::vector<SafetensorsWriter::Declared> declared;
    for (const Part& part : parts) declared.push_back({part.name, part.dtype, part.shape});
    SafetensorsWriter writer((unfinished / kStateTensors).string(), declared);
    for (const Part& part : parts) writer.write(part.data, bytes_of(part));
    writer.commit();
    const json description = {{"step", position.step},
                              {"tokens", position.tokens},
                              {"sequences", position.sequences},
                              {"seed", recipe.seed},
                              {"data", recipe.data}};
    OutputFile file((unfinished / kStateFile).string());
    file.write(description.dump(2) + "\n");
    file.commit();
    rename_directory(unfinished, final_path);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
    throw;
  }
  return final_path.string();
}

std::optional<std::string> latest_checkpoint(const std::string& run) {
  const std::vector<fs::path> found = whole_checkpoints(run);
  if (found.empty()) return std::nullopt;
  return found.back().string();
}

RunPosition load_checkpoint(const std::string& directory, const Recipe& recipe, TrainState& state, Buffer* ema,
                            ThreadTeam& team) {
  const std::string path = (fs::path(directory) / kStateFile).string();
  const json description = read_json_file(path, size_t{1} << 20);
  const auto number = [&](const char* name) {
    const auto it = description.find(name);
    if (it == description.end() || !it->is_number_integer() || it->get<int64_t>() < 0) {
      throw_bad_input("{}: {} is missing or not a whole number.", path, name);
    }
    return it->get<int64_t>();
  };
  const RunPosition position{number("step"), number("tokens"), number("sequences")};
  if (static_cast<uint64_t>(number("seed")) != recipe.seed) {
    throw_bad_input("{}: the checkpoint's seed is {}, the recipe's {}; the data would come in another order.", path,
                    number("seed"), recipe.seed);
  }
  const SafetensorsFile file((fs::path(directory) / kStateTensors).string());
  for (const Part& part : parts_of(state, ema)) take(file, part);
  state.step = position.step;
  refresh_compute_copies(state, team);
  return position;
}

void remove_old_checkpoints(const std::string& run, int64_t keep) {
  std::error_code ignored;
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), ignored)) {
    if (entry.path().filename().string().starts_with(kUnfinished)) unfinished.push_back(entry.path());
  }
  for (const fs::path& path : unfinished) fs::remove_all(path, ignored);
  std::vector<fs::path> whole = whole_checkpoints(run);
  for (size_t i = 0; i + static_cast<size_t>(keep) < whole.size(); ++i) fs::remove_all(whole[i], ignored);
}

}  // namespace fathom
