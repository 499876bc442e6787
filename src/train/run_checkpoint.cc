#include "train/run_checkpoint.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "data/random.h"
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

// Under a hidden name first: a process that is killed meanwhile leaves no half of a checkpoint.
void remove_checkpoint(const fs::path& path) {
  const fs::path hidden = path.parent_path() / (kUnfinished + std::string("removed-") + path.filename().string());
  std::error_code ignored;
  fs::remove_all(hidden, ignored);
  fs::rename(path, hidden, ignored);
  fs::remove_all(hidden, ignored);
}

// Fills a directory under a hidden name with `fill`, then gives it its name. What `fill` leaves when it fails is
// removed.
template <typename Fill>
void write_directory(const fs::path& final_path, Fill&& fill) {
  make_directories(final_path.parent_path().string());
  const fs::path unfinished = final_path.parent_path() / (kUnfinished + final_path.filename().string());
  const auto clear = [&] {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
    fs::remove_all(unfinished.string() + ".partial", ignored);  // of write_checkpoint
  };
  clear();
  try {
    fill(unfinished);
    if (fs::exists(final_path)) remove_checkpoint(final_path);
    rename_directory(unfinished, final_path);
  } catch (...) {
    clear();
    throw;
  }
}

void check_room(const std::string& run, uint64_t needed) {
  constexpr uint64_t kBesideWeights = uint64_t{16} << 20;  // tokenizer, config, headers
  needed += kBesideWeights;
  const uint64_t free = free_disk_bytes(run);
  if (free >= needed) return;
  throw_failure("{}: a checkpoint takes {} MB and the disk has {} MB; the earlier checkpoints are as they were.", run,
                needed / 1'000'000, free / 1'000'000);
}

uint64_t model_bytes(const TrainState& state) {
  return static_cast<uint64_t>(state.parameters.size) * sizeof(uint16_t);
}

// FNV-1a over sequences that are spread evenly.
std::string sample_hash(const TokenDataset& data) {
  constexpr int64_t kSamples = 64;
  const int64_t count = std::min(kSamples, data.sequences());
  const auto length = static_cast<size_t>(data.sequence_length() + 1);
  std::vector<int32_t> row(length);
  std::string bytes;
  for (int64_t i = 0; i < count; ++i) {
    data.sequence(i * data.sequences() / count, row);
    bytes.append(reinterpret_cast<const char*>(row.data()), length * sizeof(int32_t));
  }
  return fmt::format("fnv1a64:{:016x}", hash_text(bytes));
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

// Compares one part of two identities field by field.
void check_same(const json& before, const json& now, const std::string& part, const std::string& path) {
  const auto found = before.find(part);
  if (found == before.end() || !found->is_object() || found->empty()) throw_bad_input("{}: {} is missing.", path, part);
  const json then = found->flatten();
  const json after = now.at(part).flatten();
  const auto text = [](const json& values, const std::string& name) {
    return values.contains(name) ? values[name].dump() : std::string("nothing");
  };
  json names = then;
  names.update(after);
  for (const auto& item : names.items()) {
    const std::string& name = item.key();
    if (text(then, name) == text(after, name)) continue;
    std::string field = name.substr(1);
    std::replace(field.begin(), field.end(), '/', '.');
    throw_bad_input("{}: the run's {} has {} {} and is to go on with {}; it could not give the same result.", path,
                    part, field, text(then, name), text(after, name));
  }
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

json run_identity(const Recipe& recipe, const TokenDataset& data) {
  return {{"recipe", recipe_identity(recipe)},
          {"data",
           {{"tokenizer", data.fingerprint()},
            {"sequences", data.sequences()},
            {"sequence_length", data.sequence_length()},
            {"sample", sample_hash(data)}}}};
}

std::string save_checkpoint(const std::string& run, const Recipe& recipe, const json& identity, const TrainState& state,
                            const Buffer* ema, const RunPosition& position) {
  const fs::path path = checkpoints_of(run) / fmt::format("{}{:08}", kPrefix, position.step);
  const std::vector<Part> parts = parts_of(state, ema);
  uint64_t needed = model_bytes(state);
  for (const Part& part : parts) needed += bytes_of(part);
  check_room(run, needed);
  write_directory(path, [&](const fs::path& unfinished) {
    write_checkpoint(state.parameters, DType::bf16, recipe.fp8_checkpoints, unfinished.string());
    copy_tokenizer(recipe.tokenizer, unfinished.string());
    std::vector<SafetensorsWriter::Declared> declared;
    for (const Part& part : parts) declared.push_back({part.name, part.dtype, part.shape});
    SafetensorsWriter writer((unfinished / kStateTensors).string(), declared);
    for (const Part& part : parts) writer.write(part.data, bytes_of(part));
    writer.commit();
    json description = {{"step", position.step},
                        {"tokens", position.tokens},
                        {"sequences", position.sequences},
                        {"expert_load", position.expert_load}};
    description.update(identity);
    OutputFile file((unfinished / kStateFile).string());
    file.write(description.dump(2) + "\n");
    file.commit();
  });
  return path.string();
}

void save_average(const std::string& run, const Recipe& recipe, TrainState& state, Buffer& ema) {
  check_room(run, model_bytes(state));
  // The writer reads masters: the averages take their place meanwhile.
  struct Exchange {
    Buffer& a;
    Buffer& b;
    Exchange(Buffer& x, Buffer& y) : a(x), b(y) { std::swap(a, b); }
    ~Exchange() { std::swap(a, b); }
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;
  };
  const Exchange exchange(state.parameters.masters, ema);
  write_directory(checkpoints_of(run) / "ema", [&](const fs::path& unfinished) {
    write_checkpoint(state.parameters, DType::bf16, recipe.fp8_checkpoints, unfinished.string());
    copy_tokenizer(recipe.tokenizer, unfinished.string());
  });
}

std::optional<std::string> latest_checkpoint(const std::string& run) {
  const std::vector<fs::path> found = whole_checkpoints(run);
  if (found.empty()) return std::nullopt;
  return found.back().string();
}

RunPosition read_position(const std::string& directory, const json& identity) {
  const std::string path = (fs::path(directory) / kStateFile).string();
  const json description = read_json_file(path, size_t{64} << 20);
  if (!description.is_object()) throw_bad_input("{}: expected a JSON object.", path);
  const auto number = [&](const char* name) {
    const auto it = description.find(name);
    if (it == description.end() || !it->is_number_integer() || it->get<int64_t>() < 0) {
      throw_bad_input("{}: {} is missing or not a whole number.", path, name);
    }
    return it->get<int64_t>();
  };
  RunPosition position{number("step"), number("tokens"), number("sequences"), {}};
  for (const char* part : {"recipe", "data"}) check_same(description, identity, part, path);
  const auto load = description.find("expert_load");
  try {
    if (load != description.end()) load->get_to(position.expert_load);
  } catch (const json::exception&) {
    throw_bad_input("{}: expert_load is not a list of lists of counts.", path);
  }
  return position;
}

void load_state(const std::string& directory, int64_t step, TrainState& state, Buffer* ema, ThreadTeam& team) {
  const SafetensorsFile file((fs::path(directory) / kStateTensors).string());
  for (const Part& part : parts_of(state, ema)) take(file, part);
  state.step = step;
  refresh_compute_copies(state, team);
}

void take_masters(const std::string& directory, Parameters& parameters) {
  const fs::path path = fs::path(directory) / kStateTensors;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  const SafetensorsFile file(path.string());
  take(file, {"masters", DType::f32, {parameters.size}, parameters.masters.as<std::byte>()});
}

void remove_old_checkpoints(const std::string& run, int64_t keep) {
  std::error_code ignored;
  std::vector<fs::path> unfinished;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run), ignored)) {
    if (entry.path().filename().string().starts_with(kUnfinished)) unfinished.push_back(entry.path());
  }
  for (const fs::path& path : unfinished) fs::remove_all(path, ignored);
  const std::vector<fs::path> whole = whole_checkpoints(run);
  for (size_t i = 0; i + static_cast<size_t>(keep) < whole.size(); ++i) remove_checkpoint(whole[i]);
}

}  // namespace fathom
