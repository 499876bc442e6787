#include "weights/rewrite.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <future>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/memory.h"
#include "base/output_directory.h"
#include "formats/safetensors.h"
#include "weights/partial_output.h"
#include "weights/piece_writer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kPieceBytes = uint64_t{8} << 20;
constexpr uint64_t kReadBytes = uint64_t{16} << 20;

// Whether so many bytes read and as many written would fill most of the page cache.
bool fills_memory(uint64_t bytes) {
  return 2 * bytes > system_memory().total_bytes / 4 * 3;
}

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
  ContentHash hash;
  const auto write = [&](const void* data, size_t bytes) {
    hash.update(data, bytes);
    writer.write(data, bytes);
  };
  write_pieces(pieces_of(shard), team, write, on_bytes);
  writer.commit();
  return hash.take();
}

/// The hash of a shard's tensors' bytes as the file has them.
std::string read_shard(const fs::path& path, const OutputShard& shard, bool forgets,
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
  ContentHash hash;
  for (uint64_t at = begin; at < file.bytes(); at += buffer.size()) {
    const uint64_t bytes = std::min<uint64_t>(buffer.size(), file.bytes() - at);
    reader.read(at, buffer.data(), bytes);
    hash.update(buffer.data(), bytes);
    if (forgets) reader.forget(at, bytes);
    on_bytes(bytes);
  }
  return hash.take();
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
  const uint64_t begin = entry.begin + static_cast<uint64_t>(first) * bytes;
  reader_.read(begin, to, static_cast<uint64_t>(count) * bytes);
  // In few large steps, and one behind: other threads may still read there.
  constexpr uint64_t kStep = uint64_t{128} << 20;
  uint64_t forgotten = forgotten_.load(std::memory_order_relaxed);
  if (!forgets_ || begin < forgotten + 2 * kStep) return;
  const uint64_t to_here = begin / kStep * kStep - kStep;
  if (forgotten_.compare_exchange_strong(forgotten, to_here)) reader_.forget(forgotten, to_here - forgotten);
}

TensorReader::TensorReader(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {
  uint64_t bytes = 0;
  for (const auto& file : checkpoint.files()) bytes += file->bytes();
  const bool forgets = fills_memory(bytes);
  for (const auto& file : checkpoint.files()) readers_.push_back(std::make_unique<FileTensorReader>(*file, forgets));
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
  check_free_disk(plan.out, there, missing);
}

RewriteResult rewrite_checkpoint(const RewritePlan& plan, ThreadTeam& team,
                                 const std::function<void(uint64_t done, uint64_t total)>& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  const fs::path out = require_new_directory(plan.out);
  PartialOutput partial(out, plan.identity);
  const auto is_written = [&](const OutputShard& shard) {
    return !partial.segments(shard.file).empty() && file_exists(partial.path(shard.file).string());
  };

  RewriteResult result;
  for (const OutputShard& shard : plan.shards) {
    result.bytes += shard.bytes();
    result.tensors += std::ssize(shard.tensors);
    if (is_written(shard)) result.bytes_kept += shard.bytes();
  }
  partial.require_free(result.bytes - result.bytes_kept);

  // A shard is read again on a thread of its own while the next one is made.
  uint64_t written = 0;
  std::atomic<uint64_t> checked{0};
  std::atomic<bool> stopping{false};
  const auto advance = [&](uint64_t bytes) {
    written += bytes;
    if (on_progress) on_progress(written + checked, 2 * result.bytes);
  };
  const bool forgets = fills_memory(result.bytes);
  const OutputShard* in_check = nullptr;
  std::future<std::string> check;
  const auto begin_check = [&](const OutputShard& shard) {
    in_check = &shard;
    check = std::async(std::launch::async, [&, path = partial.path(shard.file)] {
      return read_shard(path, shard, forgets, [&](uint64_t bytes) {
        checked += bytes;
        if (stopping) throw_failure("{}: the check was stopped", path.string());
      });
    });
  };
  const auto end_check = [&] {
    if (!check.valid()) return;
    while (check.wait_for(std::chrono::milliseconds(50)) != std::future_status::ready) advance(0);
    advance(0);
    if (check.get() != partial.segments(in_check->file).back().hash) {
      partial.forget(in_check->file);
      throw_failure("{}: the file does not hold what was written into it; repeat the command to write it again",
                    partial.path(in_check->file).string());
    }
  };
  try {
    for (const OutputShard& shard : plan.shards) {
      if (is_written(shard)) {
        advance(shard.bytes());
      } else {
        const std::string hash = write_shard(partial.path(shard.file), shard, team, advance);
        partial.set_segments(shard.file, {{shard.bytes(), hash}});
      }
      end_check();
      begin_check(shard);
    }
    end_check();
  } catch (...) {
    stopping = true;
    if (check.valid()) check.wait();
    throw;
  }
  copy_companions(plan, partial.directory());
  partial.remove_records();
  std::error_code error;
  fs::rename(partial.directory(), out, error);
  if (error) throw_failure("{}: cannot get its name, {}", out.string(), error.message());
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

std::string source_identity(const std::string& directory, const std::vector<std::unique_ptr<SafetensorsFile>>& files) {
  std::string text = fs::absolute(directory).lexically_normal().string();
  for (const auto& file : files) {
    ContentHash hash;
    for (const SafetensorsEntry& entry : file->entries()) {
      const std::string line =
          fmt::format("{} {} {} {}\n", entry.name, dtype_name(entry.dtype), entry.begin, entry.end);
      hash.update(line.data(), line.size());
    }
    std::error_code error;
    const auto written = fs::last_write_time(file->path(), error).time_since_epoch().count();
    text +=
        fmt::format("\n{} {} {} {}", fs::path(file->path()).filename().string(), file->bytes(), written, hash.take());
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
