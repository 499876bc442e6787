#include "weights/rewrite.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/output_directory.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "weights/piece_writer.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kPieceBytes = uint64_t{8} << 20;
constexpr uint64_t kReadBytes = uint64_t{16} << 20;
constexpr const char* kStateName = "rewrite.json";
constexpr const char* kLockName = "rewrite.lock";

std::string hex(XXH128_hash_t hash) {
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

/// Keeps a second run out of a directory as long as it lives.
class DirectoryLock {
 public:
  explicit DirectoryLock(const fs::path& path) : path_(path) {
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (descriptor_ < 0) throw_failure("{}: cannot be created, {}", path.string(), std::strerror(errno));
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      ::close(descriptor_);
      throw_bad_input("{}: another run is writing this directory", path.parent_path().string());
    }
  }
  ~DirectoryLock() { ::close(descriptor_); }
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;
  void remove() const { ::unlink(path_.c_str()); }

 private:
  fs::path path_;
  int descriptor_;
};

/// Which shards of OUT.partial are whole, and the hash of their tensors' bytes.
class State {
 public:
  State(const fs::path& directory, const std::string& identity)
      : path_((directory / kStateName).string()), identity_(identity) {
    if (!file_exists(path_)) return;
    const nlohmann::json json = read_json_file(path_);
    if (!json.is_object() || !json.contains("identity") || json["identity"] != identity) {
      throw_bad_input(
          "{}: left over from another command or another checkpoint; remove it, or repeat that command to finish it",
          directory.string());
    }
    for (const auto& [file, hash] : json.at("shards").items()) shards_[file] = hash.get<std::string>();
  }
  const std::string* hash(const std::string& file) const {
    const auto found = shards_.find(file);
    return found == shards_.end() ? nullptr : &found->second;
  }
  void add(const std::string& file, const std::string& hash) {
    shards_[file] = hash;
    write();
  }
  void forget(const std::string& file) {
    shards_.erase(file);
    write();
  }
  void write() const {
    OutputFile file(path_);
    file.write(ordered_json{{"identity", identity_}, {"shards", shards_}}.dump(1));
    file.commit();
  }
  void remove() const { fs::remove(path_); }

 private:
  std::string path_;
  std::string identity_;
  std::map<std::string, std::string> shards_;
};

/// A shard's tensors in pieces, in the order of the file.
std::vector<OutputPiece> pieces_of(const OutputShard& shard) {
  std::vector<OutputPiece> pieces;
  for (const OutputTensor& tensor : shard.tensors) {
    const int64_t rows = row_count(tensor.shape);
    const uint64_t bytes = row_bytes(tensor.dtype, tensor.shape);
    int64_t at_once = bytes == 0 ? rows : static_cast<int64_t>(std::max<uint64_t>(1, kPieceBytes / bytes));
    at_once = std::max(tensor.row_step, at_once / tensor.row_step * tensor.row_step);
    for (int64_t row = 0; row < rows; row += at_once) {
      const int64_t count = std::min(at_once, rows - row);
      pieces.push_back({bytes * static_cast<uint64_t>(count),
                        [&tensor, row, count](std::byte* out) { tensor.make(row, count, out); },
                        tensor.after_previous && row == 0});
    }
  }
  return pieces;
}

/// Writes one shard; the hash of its tensors' bytes.
std::string write_shard(const fs::path& path, const OutputShard& shard, ThreadTeam& team,
                        const std::function<void(uint64_t bytes)>& on_bytes) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const OutputTensor& tensor : shard.tensors) declared.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path.string(), declared, {{"format", "pt"}});
  XXH3_state_t hash;
  XXH3_128bits_reset(&hash);
  const auto write = [&](const void* data, size_t bytes) {
    XXH3_128bits_update(&hash, data, bytes);
    writer.write(data, bytes);
  };
  write_pieces(pieces_of(shard), team, write, on_bytes);
  writer.commit();
  return hex(XXH3_128bits_digest(&hash));
}

/// The hash of a shard's tensors' bytes as the file has them.
std::string read_shard(const fs::path& path, const OutputShard& shard,
                       const std::function<void(uint64_t bytes)>& on_bytes) {
  const SafetensorsFile file(path.string());
  if (file.entries().size() != shard.tensors.size()) return "other tensors";
  uint64_t begin = file.bytes();
  for (const OutputTensor& tensor : shard.tensors) {
    const SafetensorsEntry* entry = file.find(tensor.name);
    if (entry == nullptr || entry->dtype != tensor.dtype || entry->shape != tensor.shape) return "other tensors";
    begin = std::min(begin, entry->begin);
  }
  const PieceReader reader(path.string());
  std::vector<std::byte> buffer(std::min<uint64_t>(kReadBytes, file.bytes() - begin));
  XXH3_state_t hash;
  XXH3_128bits_reset(&hash);
  for (uint64_t at = begin; at < file.bytes(); at += buffer.size()) {
    const uint64_t bytes = std::min<uint64_t>(buffer.size(), file.bytes() - at);
    reader.read(at, buffer.data(), bytes);
    XXH3_128bits_update(&hash, buffer.data(), bytes);
    on_bytes(bytes);
  }
  return hex(XXH3_128bits_digest(&hash));
}

[[noreturn]] void refuse_for_room(const RewritePlan& plan, uint64_t missing, uint64_t free) {
  throw_failure("{}: {:.2f} GB are to be written, and the disk has {:.2f} GB free", plan.out,
                static_cast<double>(missing) / 1e9, static_cast<double>(free) / 1e9);
}

void copy_companions(const RewritePlan& plan, const fs::path& directory) {
  for (const auto& [name, contents] : plan.texts) {
    OutputFile file((directory / name).string());
    file.write(contents);
    file.commit();
  }
  for (const std::string& path : plan.copies) {
    std::error_code error;
    fs::copy_file(path, directory / fs::path(path).filename(), fs::copy_options::overwrite_existing, error);
    if (error) throw_failure("{}: cannot be copied, {}", path, error.message());
  }
}

}  // namespace

void FileTensorReader::read(const SafetensorsEntry& entry, int64_t first, int64_t count, std::byte* to) const {
  const uint64_t bytes = row_bytes(entry.dtype, entry.shape);
  reader_.read(entry.begin + static_cast<uint64_t>(first) * bytes, to, static_cast<uint64_t>(count) * bytes);
}

TensorReader::TensorReader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {
  for (const auto& file : checkpoint.files()) readers_.push_back(std::make_unique<FileTensorReader>(*file));
}

void TensorReader::read(std::string_view name, int64_t first, int64_t count, std::byte* to) const {
  const TensorPlace place = checkpoint_.place(name);
  const auto found =
      std::find_if(readers_.begin(), readers_.end(), [&](const auto& reader) { return &reader->file() == place.file; });
  (*found)->read(*place.entry, first, count, to);
}

int64_t row_count(const Shape& shape) {
  return shape.empty() ? 1 : shape[0];
}

uint64_t row_bytes(DType dtype, const Shape& shape) {
  uint64_t bytes = dtype_bytes(dtype);
  for (size_t axis = 1; axis < shape.size(); ++axis) bytes *= static_cast<uint64_t>(shape[axis]);
  return bytes;
}

uint64_t OutputShard::bytes() const {
  uint64_t sum = 0;
  for (const OutputTensor& tensor : tensors) {
    sum += static_cast<uint64_t>(row_count(tensor.shape)) * row_bytes(tensor.dtype, tensor.shape);
  }
  return sum;
}

void check_room(const RewritePlan& plan) {
  const fs::path out = require_new_directory(plan.out);
  uint64_t missing = 0;
  for (const OutputShard& shard : plan.shards) {
    if (!file_exists((out.string() + ".partial/") + shard.file)) missing += shard.bytes();
  }
  fs::path there = out;
  std::error_code error;
  while (!fs::exists(there, error) && there.has_parent_path() && there != there.parent_path())
    there = there.parent_path();
  const uint64_t free = free_disk_bytes(there.string());
  if (missing > free) refuse_for_room(plan, missing, free);
}

RewriteResult rewrite_checkpoint(const RewritePlan& plan, ThreadTeam& team,
                                 const std::function<void(uint64_t done, uint64_t total)>& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  const fs::path out = require_new_directory(plan.out);
  const fs::path partial = out.string() + ".partial";
  make_directories(partial.string());
  const DirectoryLock lock(partial / kLockName);
  State state(partial, plan.identity);

  RewriteResult result;
  for (const OutputShard& shard : plan.shards) {
    result.bytes += shard.bytes();
    result.tensors += std::ssize(shard.tensors);
    if (state.hash(shard.file) != nullptr && file_exists((partial / shard.file).string())) {
      result.bytes_kept += shard.bytes();
    }
  }
  const uint64_t missing = result.bytes - result.bytes_kept;
  const uint64_t free = free_disk_bytes(partial.string());
  if (missing > free) {
    if (result.bytes_kept == 0) {
      lock.remove();
      std::error_code ignored;
      fs::remove(partial, ignored);
    }
    refuse_for_room(plan, missing, free);
  }
  state.write();

  uint64_t done = 0;
  const auto advance = [&](uint64_t bytes) {
    done += bytes;
    if (on_progress) on_progress(done, 2 * result.bytes);
  };
  for (const OutputShard& shard : plan.shards) {
    if (state.hash(shard.file) != nullptr && file_exists((partial / shard.file).string())) {
      advance(shard.bytes());
      continue;
    }
    state.add(shard.file, write_shard(partial / shard.file, shard, team, advance));
  }
  for (const OutputShard& shard : plan.shards) {
    if (read_shard(partial / shard.file, shard, advance) == *state.hash(shard.file)) continue;
    state.forget(shard.file);  // the next run writes it again
    throw_failure("{}: the file does not hold what was written into it; repeat the command to write it again",
                  (partial / shard.file).string());
  }
  copy_companions(plan, partial);
  state.remove();
  lock.remove();
  std::error_code error;
  fs::rename(partial, out, error);
  if (error) throw_failure("{}: cannot get its name, {}", out.string(), error.message());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string source_identity(const std::string& directory, const std::vector<std::unique_ptr<SafetensorsFile>>& files) {
  std::string text = fs::absolute(directory).lexically_normal().string();
  for (const auto& file : files) {
    XXH3_state_t hash;
    XXH3_128bits_reset(&hash);
    for (const SafetensorsEntry& entry : file->entries()) {
      const std::string line =
          fmt::format("{} {} {} {}\n", entry.name, dtype_name(entry.dtype), entry.begin, entry.end);
      XXH3_128bits_update(&hash, line.data(), line.size());
    }
    std::error_code error;
    const auto written = fs::last_write_time(file->path(), error).time_since_epoch().count();
    text += fmt::format("\n{} {} {} {}", fs::path(file->path()).filename().string(), file->bytes(), written,
                        hex(XXH3_128bits_digest(&hash)));
  }
  return text;
}

std::vector<std::string> companion_files(const std::string& directory) {
  std::vector<std::string> files;
  std::error_code error;
  for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (!entry->is_regular_file() || name == "config.json" || name.ends_with(".safetensors") ||
        name.ends_with(".safetensors.index.json") || name.ends_with(".partial") || name.starts_with('.')) {
      continue;
    }
    files.push_back(entry->path().string());
  }
  if (error) throw_failure("{}: the directory cannot be read, {}", directory, error.message());
  std::sort(files.begin(), files.end());
  return files;
}

std::string index_json(const std::vector<OutputShard>& shards) {
  ordered_json map = ordered_json::object();
  uint64_t total = 0;
  std::map<std::string, std::string> sorted;
  for (const OutputShard& shard : shards) {
    total += shard.bytes();
    for (const OutputTensor& tensor : shard.tensors) sorted[tensor.name] = shard.file;
  }
  return ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", sorted}}.dump(2) + "\n";
}

}  // namespace fathom
