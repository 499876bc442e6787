#include "weights/quantize.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "formats/json.h"
#include "formats/packed_matrix.h"
#include "kernels/norm.h"
#include "weights/cast.h"
#include "weights/tensor_values.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// Rows that a thread quantises at once: those that are lanes of a vector.
constexpr int64_t kRows = kPanelRows;

// Codes of matrices that stand before their scales: so much that all threads have work, so little that the scales that
// wait stay below 20 MB.
constexpr uint64_t kRunBytes = uint64_t{128} << 20;

/// Scales and zero points of a matrix between the making of its codes and of themselves. They take memory only then.
class Pending {
 public:
  Pending(int64_t rows, int64_t groups, const IntegerFormat& format) : rows_(rows), groups_(groups), format_(format) {}

  void open() {
    const std::scoped_lock lock(mutex_);
    scales_.resize(static_cast<size_t>(rows_ * groups_));
    if (format_.zero_point) zeros_.resize(scales_.size());
    left_ = rows_ + (format_.zero_point ? packed_zero_words(format_, rows_) : 0);
  }
  uint16_t* scales(int64_t row) { return scales_.data() + row * groups_; }
  uint8_t* zeros(int64_t row) { return zeros_.empty() ? nullptr : zeros_.data() + row * groups_; }

  void copy_scales(int64_t first, int64_t count, std::byte* out) {
    std::memcpy(out, scales(first), static_cast<size_t>(count * groups_) * sizeof(uint16_t));
    taken(count);
  }

  /// Words [first, first + count) of the packed zero points.
  void pack_zeros(int64_t first, int64_t count, std::byte* out) {
    const int64_t per_word = rows_per_zero_word(format_);
    for (int64_t w = first; w < first + count; ++w) {
      for (int64_t g = 0; g < groups_; ++g, out += 4) {
        uint32_t word = 0;
        for (int64_t i = 0; i < std::min(per_word, rows_ - w * per_word); ++i) {
          word |= static_cast<uint32_t>(zeros(w * per_word + i)[g]) << (i * format_.bits);
        }
        std::memcpy(out, &word, sizeof(word));
      }
    }
    taken(count);
  }

 private:
  void taken(int64_t count) {
    const std::scoped_lock lock(mutex_);
    left_ -= count;
    if (left_ > 0) return;
    scales_ = {};
    zeros_ = {};
  }

  const int64_t rows_, groups_;
  const IntegerFormat format_;
  std::mutex mutex_;
  std::vector<uint16_t> scales_;
  std::vector<uint8_t> zeros_;
  int64_t left_ = 0;
};

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const TensorReader& reader, const QuantizeOptions& options)
      : checkpoint_(checkpoint), reader_(reader), options_(options), head_(options.format) {
    if (options.head == HeadFormat::int8) {
      if (options.format.bits == 4) head_.group = 128;
      head_.bits = 8;
    }
    for (TensorSpec& spec : tensor_table(checkpoint.config())) specs_.emplace(spec.name, std::move(spec));
  }

  QuantizePlan plan() {
    for (const auto& file : checkpoint_.files()) {
      OutputShard shard;
      shard.file = fs::path(file->path()).filename().string();
      for (const SafetensorsEntry& entry : file->entries()) add(entry, shard);
      end_run(shard);
      // First in the file, so that 8-byte numbers lie at multiples of 8: some readers insist.
      shard.tensors.insert(shard.tensors.begin(), shapes_.begin(), shapes_.end());
      shapes_.clear();
      if (!shard.tensors.empty()) plan_.rewrite.shards.push_back(std::move(shard));
    }
    if (plan_.tensors.empty()) {
      throw_bad_input("{}: no matrix in it can be brought to integers", checkpoint_.directory());
    }
    plan_.rewrite.out = options_.out;
    plan_.rewrite.identity = identity();
    plan_.rewrite.texts = {{"config.json", config()},
                           {"model.safetensors.index.json", index_json(plan_.rewrite.shards)}};
    plan_.rewrite.copies = companion_files(checkpoint_.directory());
    return std::move(plan_);
  }

 private:
  static bool is_head(TensorRole role) { return role == TensorRole::head || role == TensorRole::mtp_head; }

  void add(const SafetensorsEntry& entry, OutputShard& shard) {
    if (is_scale_of_another(checkpoint_, entry.name)) return;
    const auto found = specs_.find(entry.name);
    const TensorSpec* spec = found == specs_.end() ? nullptr : &found->second;
    // A tied head is the embedding, whatever a file stores under its name.
    const bool tied = spec != nullptr && spec->role == TensorRole::head && checkpoint_.config().tie_word_embeddings;
    const bool kept =
        spec == nullptr || !may_be_packed(*spec) || tied || (is_head(spec->role) && options_.head == HeadFormat::keep);
    if (!kept) {
      quantize(entry, *spec, shard);
    } else if (entry.dtype == DType::f8_e4m3 && entry.shape.size() == 2) {
      shard.tensors.push_back(tensor_as_bf16(checkpoint_, entry, reader_));
    } else {
      shard.tensors.push_back(copied_tensor(entry, reader_));
    }
  }

  void quantize(const SafetensorsEntry& entry, const TensorSpec& spec, OutputShard& shard) {
    if (entry.shape != spec.shape) {
      throw_bad_input("{}: {}: expected the shape {}, found {}", checkpoint_.directory(), printable_name(entry.name),
                      shape_text(spec.shape), shape_text(entry.shape));
    }
    { const ValueReader checked(checkpoint_, reader_, entry.name); }
    const int64_t rows = entry.shape[0];
    const int64_t cols = entry.shape[1];
    const IntegerFormat format = is_head(spec.role) ? head_ : options_.format;
    const int64_t groups = packed_groups(format, cols);
    const PackedNames names(entry.name);
    const auto tensor = std::make_shared<QuantizedTensor>(entry.name, spec.role, entry.shape, format);
    const auto pending = std::make_shared<Pending>(rows, groups, format);
    plan_.tensors.push_back(tensor);

    OutputTensor words{names.words, DType::i32, {rows, packed_words(format, cols)}, {}};
    words.row_step = kRows;
    words.make = [reader = &reader_, from = &checkpoint_, tensor, pending, calibration = options_.calibration,
                  choice = options_.scales](int64_t first, int64_t count, std::byte* out) {
      pending->open();
      const float* importance = calibration != nullptr ? calibration->importance(tensor->name) : nullptr;
      tensor->add(first, count,
                  quantize_piece(*from, *reader, *tensor, importance, choice, first, count, *pending, out));
    };
    run_bytes_ += static_cast<uint64_t>(words.shape[0] * words.shape[1]) * 4;
    shard.tensors.push_back(std::move(words));

    scales_.push_back(
        {names.scales, DType::bf16, {rows, groups}, [pending](int64_t first, int64_t count, std::byte* out) {
           pending->copy_scales(first, count, out);
         }});
    if (format.zero_point) {
      zeros_.push_back(
          {names.zeros,
           DType::i32,
           {packed_zero_words(format, rows), groups},
           [pending](int64_t first, int64_t count, std::byte* out) { pending->pack_zeros(first, count, out); }});
    }
    shapes_.push_back(
        {names.shape, DType::i64, {2}, [shape = entry.shape](int64_t first, int64_t count, std::byte* out) {
           std::memcpy(out, shape.data() + first, static_cast<size_t>(count) * sizeof(int64_t));
         }});
    if (run_bytes_ >= kRunBytes) end_run(shard);
  }

  // Scales follow the codes of several matrices: what is made of codes waits for all before it, and waiting for each
  // matrix would leave threads idle.
  void end_run(OutputShard& shard) {
    // Words of 4 bytes before numbers of 2, likewise.
    std::vector<OutputTensor>& first = zeros_.empty() ? scales_ : zeros_;
    if (!first.empty()) first.front().after_previous = true;
    for (std::vector<OutputTensor>* waiting : {&zeros_, &scales_}) {
      std::move(waiting->begin(), waiting->end(), std::back_inserter(shard.tensors));
      waiting->clear();
    }
    run_bytes_ = 0;
  }

  static QuantizationError quantize_piece(const Checkpoint& checkpoint, const TensorReader& reader,
                                          const QuantizedTensor& tensor, const float* importance, ScaleChoice choice,
                                          int64_t first, int64_t count, Pending& pending, std::byte* out) {
    const ValueReader source(checkpoint, reader, tensor.name);
    const int64_t cols = source.cols();
    const auto stride = static_cast<size_t>(packed_words(tensor.format, cols)) * sizeof(uint32_t);
    std::vector<std::byte> bytes(static_cast<size_t>(kRows) * row_bytes(source.entry().dtype, source.entry().shape));
    std::vector<float> values(static_cast<size_t>(kRows * cols));
    QuantizationError sum;
    for (int64_t row = first; row < first + count; row += kRows) {
      const int64_t rows = std::min(kRows, first + count - row);
      source.read_bytes(row, rows, bytes.data());
      source.values(row, rows, bytes.data(), values.data());
      sum += quantize_rows(values.data(), rows, cols, importance, tensor.format, choice,
                           out + static_cast<size_t>(row - first) * stride, pending.scales(row), pending.zeros(row));
    }
    if (!sum.finite) {
      throw_bad_input("{}: {} holds numbers that are not finite", checkpoint.directory(), printable_name(tensor.name));
    }
    return sum;
  }

  std::string identity() const {
    const IntegerFormat& format = options_.format;
    return fmt::format("quantize to int{} in groups of {}{}, {} scales, head {} {} {}\n{}{}", format.bits, format.group,
                       format.zero_point ? " with zero points" : "",
                       options_.scales == ScaleChoice::search ? "searched" : "nearest",
                       options_.head == HeadFormat::keep ? "kept" : "in integers", head_.bits, head_.group,
                       options_.calibration_identity, source_identity(checkpoint_.directory(), checkpoint_.files()));
  }

  std::string config() const {
    IntegerConfig integers;
    std::vector<std::string> heads;
    bool body = false;
    for (const auto& tensor : plan_.tensors) {
      if (is_head(tensor->role)) heads.push_back(tensor->name.substr(0, tensor->name.rfind(".weight")));
      body = body || !is_head(tensor->role);
    }
    std::sort(heads.begin(), heads.end());
    const bool apart = head_.bits != options_.format.bits || head_.group != options_.format.group;
    // Before the others: some readers take the first group that fits.
    if (!heads.empty() && (apart || !body)) integers.groups.push_back({head_, heads});
    if (body) integers.groups.push_back({options_.format, {"Linear"}});
    integers.ignore = {"re:.*self_attn[.]kv_b_proj$", "re:.*mlp[.]gate$"};
    if (heads.empty()) integers.ignore.insert(integers.ignore.end(), {"lm_head", "re:.*shared_head[.]head$"});
    nlohmann::ordered_json config = read_config_json(checkpoint_.directory());
    config["quantization_config"] = integer_config_json(integers);
    return config.dump(2) + "\n";
  }

  const Checkpoint& checkpoint_;
  const TensorReader& reader_;
  const QuantizeOptions& options_;
  IntegerFormat head_;
  std::unordered_map<std::string, TensorSpec> specs_;
  std::vector<OutputTensor> shapes_, zeros_, scales_;  // of the current shard, and of the current run
  uint64_t run_bytes_ = 0;
  QuantizePlan plan_;
};

}  // namespace

std::optional<QuantizationError> QuantizedTensor::error() const {
  const std::scoped_lock lock(mutex_);
  QuantizationError sum;
  int64_t rows = 0;
  for (const auto& [first, piece] : pieces_) {
    rows += piece.rows;
    sum += piece.error;
  }
  if (rows != shape[0]) return std::nullopt;
  return sum;
}

void QuantizedTensor::add(int64_t first, int64_t count, const QuantizationError& error) {
  const std::scoped_lock lock(mutex_);
  pieces_[first] = {count, error};
}

QuantizePlan plan_quantize(const Checkpoint& checkpoint, const TensorReader& reader, const QuantizeOptions& options) {
  if (checkpoint.config().integers) {
    throw_bad_input("{}: its weights are stored in integers already; quantize the checkpoint that it was made of",
                    checkpoint.directory());
  }
  return Planner(checkpoint, reader, options).plan();
}

}  // namespace fathom
