#include "model/weight_storage.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/number_formats.h"
#include "kernels/packed_integers.h"

namespace fathom {
namespace {

// Every row begins on a cache line.
constexpr size_t kAlignment = 64;

// What a thread reads at once: large enough that a call costs nothing, small enough for the second-level cache, in
// which the packing finds it.
constexpr int64_t kPieceBytes = int64_t{2} << 20;

// Between two batches of pieces interruption and progress are looked at.
constexpr int64_t kBatchBytes = int64_t{64} << 20;
constexpr int64_t kBatchPiecesPerThread = 4;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t scale_rows(const Weight& weight) {
  return weight.scale_inv == nullptr ? 0 : (weight.rows + weight.block_rows - 1) / weight.block_rows;
}

size_t scale_bytes(const Weight& weight) {
  return weight.scale_inv == nullptr ? 0
                                     : static_cast<size_t>(scale_rows(weight) * weight.scale_cols()) * sizeof(float);
}

// Integers as the checkpoint stores them.
bool is_packed(const Weight& weight) {
  return weight.dtype == DType::i32;
}

// Of a packed weight those of the codes alone.
size_t row_bytes(const Weight& weight) {
  return static_cast<size_t>(is_packed(weight) ? weight.row_stride : weight.cols) * dtype_bytes(weight.dtype);
}

enum class Role { projection, head, kept, embedding };

// Every place of a model that names a tensor.
template <typename OnWeight, typename OnView>
void for_each_tensor(ModelWeights& model, OnWeight&& weight, OnView&& view) {
  const auto mlp = [&](MlpWeights& m) {
    for (Weight* w : {&m.gate_proj, &m.up_proj, &m.down_proj}) weight(*w, Role::projection);
  };
  view(model.embed_tokens, Role::embedding);
  view(model.norm, Role::kept);
  weight(model.lm_head, Role::head);
  for (LayerWeights& layer : model.layers) {
    view(layer.input_layernorm, Role::kept);
    view(layer.post_attention_layernorm, Role::kept);
    AttentionWeights& a = layer.attention;
    for (Weight* w : {&a.q_proj, &a.q_a_proj, &a.q_b_proj, &a.kv_a_proj_with_mqa, &a.o_proj}) {
      weight(*w, Role::projection);
    }
    weight(a.kv_b_proj, Role::kept);
    view(a.q_a_layernorm, Role::kept);
    view(a.kv_a_layernorm, Role::kept);
    if (layer.mlp) mlp(*layer.mlp);
    if (layer.moe) {
      weight(layer.moe->gate, Role::kept);
      for (MlpWeights& expert : layer.moe->experts) mlp(expert);
      if (layer.moe->shared_experts) mlp(*layer.moe->shared_experts);
    }
    if (layer.mtp) {
      MtpWeights& mtp = *layer.mtp;
      view(mtp.enorm, Role::kept);
      view(mtp.hnorm, Role::kept);
      view(mtp.shared_head_norm, Role::kept);
      view(mtp.embed_tokens, Role::embedding);
      weight(mtp.eh_proj, Role::projection);
      weight(mtp.shared_head, Role::head);
    }
  }
}

// The checkpoint's files by the addresses at which they are mapped.
class SourceFiles {
 public:
  struct Place {
    int file = -1;        // −1: not in a file, at `memory`
    uint64_t offset = 0;  // in the file
    const std::byte* memory = nullptr;
  };

  explicit SourceFiles(const Checkpoint& checkpoint) {
    for (const auto& file : checkpoint.files()) files_.push_back(file.get());
    std::sort(files_.begin(), files_.end(),
              [](const auto* a, const auto* b) { return std::less<>()(a->data(), b->data()); });
  }

  Place place(const void* address) const {
    const auto* at = static_cast<const std::byte*>(address);
    auto next = std::upper_bound(files_.begin(), files_.end(), at, [](const std::byte* a, const SafetensorsFile* file) {
      return std::less<>()(a, file->data());
    });
    if (next == files_.begin()) return {-1, 0, at};
    --next;
    const auto offset = static_cast<uint64_t>(at - (*next)->data());
    if (offset >= (*next)->bytes()) return {-1, 0, at};
    return {static_cast<int>(next - files_.begin()), offset, at};
  }

  const std::vector<const SafetensorsFile*>& files() const { return files_; }

 private:
  std::vector<const SafetensorsFile*> files_;
};

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, ModelWeights& weights, const WeightOptions& options) : files_(checkpoint) {
    plan_.options = options;
    if (options.storage == WeightStorage::mapped) {
      for (const SafetensorsFile* file : files_.files()) plan_.mapped_bytes += file->bytes();
      return;
    }
    for_each_tensor(
        weights, [&](Weight& weight, Role role) { add(weight, role); },
        [&](TensorView& view, Role role) { add(view, role); });
    place();
  }

  WeightPlan result() { return std::move(plan_); }

 private:
  void add(Weight& weight, Role role) {
    if (weight.data == nullptr) return;
    std::optional<IntegerFormat> format;
    if (plan_.options.integer() && role == Role::projection) format = projection_format(plan_.options);
    if (plan_.options.integer() && role == Role::head) format = head_format(plan_.options);
    if (is_packed(weight)) format = integer_format(weight);
    tensor(weight, format, false).weights.push_back(&weight);
  }

  void add(TensorView& view, Role role) {
    if (view.data == nullptr) return;
    const bool is_aligned = reinterpret_cast<uintptr_t>(view.data) % dtype_bytes(view.dtype) == 0;
    if (role == Role::embedding && is_aligned) {
      if (mapped_.emplace(view.data, true).second) plan_.mapped_bytes += view.bytes();
      return;
    }
    const int64_t cols = view.shape.back();
    const Weight source = dense_weight(view.dtype, view.data, view.shape.size() > 1 ? view.shape[0] : 1, cols, cols);
    tensor(source, std::nullopt, true).views.push_back(&view);
  }

  // One entry per source and format. A view has no stride, so its copy lies apart from one with padded rows.
  HeldTensor& tensor(const Weight& source, const std::optional<IntegerFormat>& format, bool contiguous) {
    const auto key = std::tuple(source.data, format ? format->bits : 0, contiguous);
    const auto [entry, is_new] = index_.emplace(key, plan_.tensors.size());
    if (!is_new) return plan_.tensors[entry->second];
    HeldTensor& tensor = plan_.tensors.emplace_back();
    tensor.source = source;
    tensor.integer = format;
    if (format) {
      tensor.held = integer_weight(*format, nullptr, source.rows, source.cols);
    } else {
      tensor.held = source;
      tensor.held.data = nullptr;
      tensor.held.scale_inv = nullptr;
      if (!contiguous) {
        tensor.held.row_stride = static_cast<int64_t>(aligned(row_bytes(source)) / dtype_bytes(source.dtype));
      }
    }
    return tensor;
  }

  // Gives every tensor its place, in the order of the files.
  void place() {
    std::stable_sort(plan_.tensors.begin(), plan_.tensors.end(), [&](const HeldTensor& a, const HeldTensor& b) {
      const SourceFiles::Place left = files_.place(a.source.data);
      const SourceFiles::Place right = files_.place(b.source.data);
      return std::tie(left.file, left.offset) < std::tie(right.file, right.offset);
    });
    for (HeldTensor& tensor : plan_.tensors) {
      plan_.read_bytes += static_cast<uint64_t>(tensor.source.rows) * row_bytes(tensor.source);
      tensor.offset = plan_.memory_bytes;
      if (tensor.integer) {
        plan_.memory_bytes += aligned(integer_weight_bytes(*tensor.integer, tensor.source.rows, tensor.source.cols));
        continue;
      }
      plan_.memory_bytes +=
          aligned(static_cast<size_t>(tensor.held.rows * tensor.held.row_stride) * dtype_bytes(tensor.held.dtype));
      tensor.scale_offset = plan_.memory_bytes;
      plan_.memory_bytes += aligned(scale_bytes(tensor.source));
    }
  }

  SourceFiles files_;
  WeightPlan plan_;
  std::map<std::tuple<const std::byte*, int, bool>, size_t> index_;
  std::map<const std::byte*, bool> mapped_;
};

// Some rows of a tensor: what a thread reads and brings into place at once.
struct Piece {
  const HeldTensor* tensor;
  int64_t row_begin, row_end;

  size_t bytes() const { return static_cast<size_t>(row_end - row_begin) * row_bytes(tensor->source); }
};

class Taker {
 public:
  Taker(const WeightPlan& plan, const Checkpoint& checkpoint, std::byte* memory, ThreadTeam& team)
      : plan_(plan), files_(checkpoint), memory_(memory), team_(team), scratch_(static_cast<size_t>(team.size())) {
    for (const SafetensorsFile* file : files_.files()) readers_.push_back(std::make_unique<PieceReader>(file->path()));
    const uint64_t together = plan.read_bytes + plan.memory_bytes;
    // Below three quarters of the machine the page cache may keep the files for the next start.
    forgets_ = together > system_memory().total_bytes / 4 * 3;
    for (const HeldTensor& tensor : plan.tensors) {
      const int64_t step = rows_of_piece(tensor);
      for (int64_t row = 0; row < tensor.source.rows; row += step) {
        pieces_.push_back({&tensor, row, std::min(row + step, tensor.source.rows)});
      }
    }
  }

  void run(const std::function<void(uint64_t, uint64_t)>& on_progress) {
    uint64_t done = 0;
    size_t begin = 0;
    size_t end = batch_end(begin);
    while (begin < pieces_.size()) {
      check_interrupt();
      const size_t next_end = batch_end(end);
      for_each_range(end, next_end,
                     [](const PieceReader& file, uint64_t from, uint64_t to) { file.prefetch(from, to - from); });
      run_batch(begin, end);
      if (forgets_) {
        for_each_range(begin, end,
                       [](const PieceReader& file, uint64_t from, uint64_t to) { file.forget(from, to - from); });
      }
      for (size_t i = begin; i < end; ++i) done += pieces_[i].bytes();
      if (on_progress) on_progress(done, plan_.read_bytes);
      begin = end;
      end = next_end;
    }
  }

 private:
  struct Scratch {
    Buffer rows, scales;
  };

  // Whole panels and whole blocks of scales.
  static int64_t rows_of_piece(const HeldTensor& tensor) {
    int64_t unit = 1;
    // A panel has twice or four times the rows that share a word of zero points.
    if (tensor.integer) unit = std::lcm(kPanelRows, std::max<int64_t>(tensor.source.block_rows, 1));
    const int64_t row = std::max<int64_t>(static_cast<int64_t>(row_bytes(tensor.source)), 1);
    return std::max<int64_t>(kPieceBytes / row / unit, 1) * unit;
  }

  size_t batch_end(size_t begin) const {
    const int64_t least = kBatchPiecesPerThread * team_.size();
    int64_t bytes = 0;
    size_t end = begin;
    while (end < pieces_.size() && (bytes < kBatchBytes || static_cast<int64_t>(end - begin) < least)) {
      bytes += static_cast<int64_t>(pieces_[end].bytes());
      ++end;
    }
    return end;
  }

  // Calls f(file, from, to) for the ranges of the files that pieces [begin, end) read. What lies between two pieces of
  // a file (scales) belongs to the range; a gap larger than a piece (an embedding that stays where it is) does not.
  template <typename F>
  void for_each_range(size_t begin, size_t end, F&& f) const {
    int file = -1;
    uint64_t from = 0;
    uint64_t to = 0;
    for (size_t i = begin; i < end; ++i) {
      const Piece& piece = pieces_[i];
      const SourceFiles::Place place = files_.place(piece.tensor->source.data);
      if (place.file < 0) continue;
      const uint64_t first = place.offset + static_cast<uint64_t>(piece.row_begin) * row_bytes(piece.tensor->source);
      if (place.file != file || first > to + kPieceBytes) {
        if (file >= 0) f(*readers_[static_cast<size_t>(file)], from, to);
        file = place.file;
        from = first;
      }
      to = first + piece.bytes();
    }
    if (file >= 0) f(*readers_[static_cast<size_t>(file)], from, to);
  }

  void run_batch(size_t begin, size_t end) {
    std::exception_ptr failed;
    std::mutex mutex;
    team_.parallel_for(static_cast<int64_t>(end - begin), [&](int64_t item, int thread) {
      try {
        take(pieces_[begin + static_cast<size_t>(item)], scratch_[static_cast<size_t>(thread)]);
      } catch (...) {  // the team's loops must not throw
        const std::scoped_lock lock(mutex);
        if (!failed) failed = std::current_exception();
      }
    });
    if (failed) std::rethrow_exception(failed);
  }

  void take(const Piece& piece, Scratch& scratch) const {
    const HeldTensor& tensor = *piece.tensor;
    const Weight& source = tensor.source;
    const int64_t rows = piece.row_end - piece.row_begin;
    const size_t skipped = static_cast<size_t>(piece.row_begin) * row_bytes(source);
    if (tensor.integer) {
      std::byte* panels =
          memory_ + tensor.offset +
          static_cast<size_t>(piece.row_begin / kPanelRows) * integer_panel_bytes(*tensor.integer, source.cols);
      scratch.rows.reserve(piece.bytes());
      read(source.data, skipped, scratch.rows.as<std::byte>(), piece.bytes());
      if (is_packed(source)) return take_packed(piece, *tensor.integer, scratch, panels);
      Weight part = source;
      part.rows = rows;
      part.data = scratch.rows.as<std::byte>();
      if (source.scale_inv != nullptr) {
        const size_t stride = static_cast<size_t>(source.scale_cols()) * sizeof(float);
        scratch.scales.reserve(static_cast<size_t>(scale_rows(part)) * stride);
        read(source.scale_inv, static_cast<size_t>(piece.row_begin / source.block_rows) * stride,
             scratch.scales.as<std::byte>(), static_cast<size_t>(scale_rows(part)) * stride);
        part.scale_inv = scratch.scales.as<float>();
      }
      pack_integer_rows(part, 0, rows, *tensor.integer, panels);
      return;
    }
    const size_t stride = static_cast<size_t>(tensor.held.row_stride) * dtype_bytes(source.dtype);
    std::byte* to = memory_ + tensor.offset + static_cast<size_t>(piece.row_begin) * stride;
    if (stride == row_bytes(source)) {
      read(source.data, skipped, to, piece.bytes());
    } else {
      scratch.rows.reserve(piece.bytes());
      read(source.data, skipped, scratch.rows.as<std::byte>(), piece.bytes());
      for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(to + static_cast<size_t>(r) * stride,
                    scratch.rows.as<std::byte>() + static_cast<size_t>(r) * row_bytes(source), row_bytes(source));
      }
    }
    if (piece.row_begin == 0 && source.scale_inv != nullptr) {
      read(source.scale_inv, 0, memory_ + tensor.scale_offset, scale_bytes(source));
    }
  }

  // The codes are in `scratch.rows`.
  void take_packed(const Piece& piece, const IntegerFormat& format, Scratch& scratch, std::byte* panels) const {
    const Weight& source = piece.tensor->source;
    const int64_t rows = piece.row_end - piece.row_begin;
    const auto groups = static_cast<size_t>(packed_groups(format, source.cols));
    const size_t scale_bytes = static_cast<size_t>(rows) * groups * sizeof(uint16_t);
    const size_t zero_bytes =
        format.zero_point ? static_cast<size_t>(packed_zero_words(format, rows)) * groups * sizeof(uint32_t) : 0;
    scratch.scales.reserve(scale_bytes + zero_bytes);
    PackedRows packed{scratch.rows.as<std::byte>(), scratch.scales.as<std::byte>(), nullptr};
    read(source.packed_scales, static_cast<size_t>(piece.row_begin) * groups * sizeof(uint16_t),
         scratch.scales.as<std::byte>(), scale_bytes);
    if (format.zero_point) {
      const auto first_word = static_cast<size_t>(piece.row_begin / rows_per_zero_word(format));
      packed.zeros = scratch.scales.as<std::byte>() + scale_bytes;
      read(source.packed_zeros, first_word * groups * sizeof(uint32_t), scratch.scales.as<std::byte>() + scale_bytes,
           zero_bytes);
    }
    check_scales(packed.scales, rows * static_cast<int64_t>(groups), source);
    panels_of_packed_rows(packed, rows, source.cols, format, panels);
  }

  // A scale that is no number would make every answer NaN, and one below zero is none of ours: the file is broken.
  void check_scales(const std::byte* scales, int64_t count, const Weight& source) const {
    constexpr uint16_t kInfinity = 0x7f80;
    for (int64_t i = 0; i < count; ++i) {
      uint16_t bits;
      std::memcpy(&bits, scales + 2 * i, sizeof(bits));
      if (bits < kInfinity) continue;
      throw_bad_input("{}: a scale is not a number of at least 0, found {}", name_of(source.packed_scales),
                      bf16_to_f32(bits));
    }
  }

  // The tensor of a checkpoint whose bytes lie there, behind its file's name.
  std::string name_of(const std::byte* address) const {
    const SourceFiles::Place place = files_.place(address);
    if (place.file < 0) return "a tensor";
    const SafetensorsFile& file = *files_.files()[static_cast<size_t>(place.file)];
    for (const SafetensorsEntry& entry : file.entries()) {
      if (entry.begin == place.offset) return file.path() + ": " + printable_name(entry.name);
    }
    return file.path();
  }

  // `bytes` bytes from `skip` behind an address that the checkpoint gave out. From the file, not through its mapping:
  // mapped pages count as this process's memory and come by the page.
  void read(const void* address, size_t skip, std::byte* to, size_t bytes) const {
    const SourceFiles::Place place = files_.place(address);
    if (place.file < 0) {
      std::memcpy(to, place.memory + skip, bytes);
    } else {
      readers_[static_cast<size_t>(place.file)]->read(place.offset + skip, to, bytes);
    }
  }

  const WeightPlan& plan_;
  SourceFiles files_;
  std::vector<std::unique_ptr<PieceReader>> readers_;
  std::byte* memory_;
  ThreadTeam& team_;
  std::vector<Scratch> scratch_;
  std::vector<Piece> pieces_;
  bool forgets_ = false;
};

constexpr std::array<WeightStorage, 4> kStorages = {WeightStorage::mapped, WeightStorage::memory, WeightStorage::int8,
                                                    WeightStorage::int4};

}  // namespace

std::string_view weight_storage_name(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::mapped:
      return "mapped";
    case WeightStorage::memory:
      return "memory";
    case WeightStorage::int8:
      return "int8";
    case WeightStorage::int4:
      return "int4";
  }
  return "?";
}

std::optional<WeightStorage> weight_storage_from_name(std::string_view name) {
  for (WeightStorage storage : kStorages) {
    if (weight_storage_name(storage) == name) return storage;
  }
  return std::nullopt;
}

ComputeMode default_compute(WeightStorage storage, const ModelConfig* config) {
  const bool integers = WeightOptions{storage}.integer() || (config != nullptr && config->integers);
  return integers ? ComputeMode::int8 : ComputeMode::bf16;
}

WeightOptions options_for(const ModelConfig& config, WeightOptions options, ComputeMode compute,
                          std::string_view directory) {
  check_weight_options(options, compute);
  if (!config.integers) return options;
  if (options.integer()) {
    throw_bad_input(
        "{}: its weights are stored in integers and are held as they are; leave --weights {} out, or quantize the "
        "checkpoint that it was made of for other integers.",
        directory, weight_storage_name(options.storage));
  }
  if (options.experts_in_memory > 0) {
    throw_bad_input(
        "{}: its weights are stored in integers, which are brought into another order when they are read; experts "
        "cannot be fetched from the files (--experts-in-memory).",
        directory);
  }
  if (compute == ComputeMode::w8a8) {
    throw_bad_input(
        "{}: the compute mode w8a8 multiplies weights that are stored in FP8, and these are stored in integers; choose "
        "int8, bf16 or fp32.",
        directory);
  }
  options.storage = WeightStorage::memory;
  return options;
}

void check_weight_options(const WeightOptions& options, ComputeMode compute) {
  const std::string_view storage = weight_storage_name(options.storage);
  if (!options.integer() && (options.group != 0 || options.zero_point)) {
    throw_bad_input("A group size and zero points belong to integer weights (int8, int4); the weights are held {}.",
                    options.storage == WeightStorage::mapped ? "mapped" : "as stored, in memory");
  }
  if (options.group != 0 && options.group != 128 && options.group != 32) {
    throw_bad_input("A group of integer weights has 128 or 32 columns; {} were asked for.", options.group);
  }
  if (options.integer() && options.experts_in_memory > 0) {
    throw_bad_input(
        "Experts that are fetched from the files (--experts-in-memory) are computed with as they are stored; with "
        "weights held as {} all of them are in memory. Choose one of the two.",
        storage);
  }
  if (options.integer() && compute == ComputeMode::w8a8) {
    throw_bad_input(
        "The compute mode w8a8 multiplies weights that are stored in FP8; with weights held as {} choose int8, bf16 or "
        "fp32.",
        storage);
  }
}

IntegerFormat projection_format(const WeightOptions& options) {
  const bool four = options.storage == WeightStorage::int4;
  IntegerFormat format;
  format.bits = four ? 4 : 8;
  format.group = options.group != 0 ? options.group : four ? 32 : 128;
  format.zero_point = options.zero_point;
  return format;
}

IntegerFormat head_format(const WeightOptions& options) {
  IntegerFormat format = projection_format(options);
  if (options.storage == WeightStorage::int4) format.group = 128;
  format.bits = 8;
  return format;
}

WeightPlan plan_weights(const Checkpoint& checkpoint, ModelWeights& weights, const WeightOptions& options) {
  return Planner(checkpoint, weights, options).result();
}

void check_memory(const WeightPlan& plan, const SystemMemory& memory, const std::string& directory) {
  if (memory.available_bytes == 0 || plan.memory_bytes <= memory.available_bytes) return;
  const bool packed = std::any_of(plan.tensors.begin(), plan.tensors.end(),
                                  [](const HeldTensor& tensor) { return is_packed(tensor.source); });
  throw_failure("{}: held {} the weights take {:.1f} GB of memory, and this machine has {:.1f} GB available{}.",
                directory,
                packed ? std::string("in integers, as they are stored,")
                       : fmt::format("as \"{}\"", weight_storage_name(plan.options.storage)),
                static_cast<double>(plan.memory_bytes) / 1e9, static_cast<double>(memory.available_bytes) / 1e9,
                packed ? "" : "; \"mapped\" needs none");
}

void take_weights(const WeightPlan& plan, const Checkpoint& checkpoint, ModelWeights& weights, ThreadTeam& team,
                  const std::function<void(uint64_t, uint64_t)>& on_progress) {
  if (plan.options.storage == WeightStorage::mapped) return;
  weights.memory = HugeBuffer(plan.memory_bytes);
  Taker(plan, checkpoint, weights.memory.data(), team).run(on_progress);
  for (const HeldTensor& tensor : plan.tensors) {
    Weight held = tensor.held;
    held.data = weights.memory.data() + tensor.offset;
    if (tensor.source.scale_inv != nullptr && !tensor.integer) {
      held.scale_inv = reinterpret_cast<const float*>(weights.memory.data() + tensor.scale_offset);
    }
    for (Weight* weight : tensor.weights) *weight = held;
    for (TensorView* view : tensor.views) view->data = held.data;
  }
  weights.copies.clear();
  for (const auto& file : checkpoint.files()) file->release();
}

}  // namespace fathom
