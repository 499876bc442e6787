#include "weights/gguf_export.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "base/growing_file.h"
#include "base/number_formats.h"
#include "formats/json.h"
#include "formats/packed_matrix.h"
#include "formats/tensor_table.h"
#include "formats/tokenizer_json.h"
#include "weights/gguf_names.h"
#include "weights/gguf_tokens.h"
#include "weights/partial_output.h"
#include "weights/piece_writer.h"
#include "weights/tensor_values.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kReadBytes = uint64_t{16} << 20;
/// Values that a thread makes at a time: 8 MB of float32, and at most as much again of what they are made from.
constexpr int64_t kPieceValues = int64_t{1} << 21;
constexpr uint32_t kQuantizationVersion = 2;
constexpr float kGreatestHalf = 65504.0f;

// ---- Values of a checkpoint's tensors ----

/// Rows of a tensor as float32; FP8 as the BF16 that its cast has.
class RowReader {
 public:
  RowReader(const Checkpoint& checkpoint, const TensorReader& reader, const TensorSpec& spec)
      : reader_(reader), name_(spec.name) {
    if (is_packed(checkpoint, name_)) {
      packed_matrix(checkpoint, name_, spec.shape);
      integers_.emplace(checkpoint, reader, name_);
      cols_ = spec.shape[1];
      return;
    }
    const SafetensorsEntry& entry = *checkpoint.place(name_).entry;
    dtype_ = entry.dtype;
    if (entry.shape != spec.shape) {
      throw_bad_input("{}: {}: expected the shape {}, found {}", checkpoint.directory(), name_, shape_text(spec.shape),
                      shape_text(entry.shape));
    }
    cols_ = spec.shape.size() == 1 ? 1 : spec.shape[1];
    if (dtype_ == DType::f8_e4m3 && spec.shape.size() == 2) {
      const SafetensorsEntry& scales = scales_of(checkpoint, entry);
      const Fp8Config fp8 = checkpoint.config().fp8.value_or(Fp8Config{});
      scale_name_ = scales.name;
      block_rows_ = fp8.block_rows;
      block_cols_ = fp8.block_cols;
      scale_cols_ = scales.shape[1];
    } else if (dtype_ != DType::f32 && dtype_ != DType::bf16 && dtype_ != DType::f16) {
      throw_bad_input("{}: {}: expected F32, BF16, F16 or FP8 with scales, found {}", checkpoint.directory(), name_,
                      dtype_name(dtype_));
    }
  }

  void read(int64_t first, int64_t count, float* out) const {
    const auto values = static_cast<size_t>(count * cols_);
    if (integers_) {
      std::vector<std::byte> words(static_cast<size_t>(count) * row_bytes(DType::i32, integers_->entry().shape));
      integers_->read_bytes(first, count, words.data());
      return integers_->values(first, count, words.data(), out);
    }
    std::vector<std::byte> stored(values * dtype_bytes(dtype_));
    reader_.read(name_, first, count, stored.data());
    if (dtype_ == DType::f8_e4m3) {
      scale(first, count, stored.data(), out);
      return;
    }
    const GgmlType type = dtype_ == DType::f32 ? GgmlType::f32 : dtype_ == DType::f16 ? GgmlType::f16 : GgmlType::bf16;
    ggml_dequantize(type, stored.data(), count * cols_, out);
  }

  int64_t cols() const { return cols_; }

 private:
  void scale(int64_t first, int64_t count, const std::byte* codes, float* out) const {
    const int64_t first_block = first / block_rows_;
    const int64_t blocks = (first + count - 1) / block_rows_ - first_block + 1;
    std::vector<float> scales(static_cast<size_t>(blocks * scale_cols_));
    reader_.read(scale_name_, first_block, blocks, reinterpret_cast<std::byte*>(scales.data()));
    for (int64_t row = 0; row < count; ++row) {
      const float* row_scales = scales.data() + ((first + row) / block_rows_ - first_block) * scale_cols_;
      for (int64_t col = 0; col < cols_; ++col) {
        const int64_t at = row * cols_ + col;
        out[at] = round_to_bf16(e4m3_to_f32(static_cast<uint8_t>(codes[at])) * row_scales[col / block_cols_]);
      }
    }
  }

  const TensorReader& reader_;
  std::string name_, scale_name_;
  std::optional<ValueReader> integers_;
  DType dtype_ = DType::f32;
  int64_t cols_ = 1, scale_cols_ = 0, block_rows_ = 1, block_cols_ = 1;
};

// ---- Types ----

class Types {
 public:
  explicit Types(GgmlType wanted) : wanted_(wanted) {}

  GgmlType choose(const TensorSpec& spec, int64_t row_values) {
    if (spec.shape.size() == 1 || spec.role == TensorRole::router) return GgmlType::f32;
    GgmlType type = wanted_;
    const bool head = spec.role == TensorRole::head || spec.role == TensorRole::mtp_head;
    if (head && (type == GgmlType::q4_0 || type == GgmlType::q4_k)) type = GgmlType::q6_k;
    const GgmlType first = type;
    if (row_values % ggml_block_values(type) != 0) type = type == GgmlType::q4_k ? GgmlType::q5_0 : GgmlType::q8_0;
    if (row_values % ggml_block_values(type) != 0) type = GgmlType::bf16;
    if (type != first) ++replaced_[{row_values, first, type}];
    return type;
  }

  void add_notes(std::vector<std::string>& notes) const {
    for (const auto& [what, count] : replaced_) {
      const auto& [values, from, to] = what;
      notes.push_back(fmt::format("{} tensor{} with rows of {} values, not whole blocks of {}: {}", count,
                                  count == 1 ? "" : "s", values, ggml_type_name(from), ggml_type_name(to)));
    }
  }

 private:
  GgmlType wanted_;
  std::map<std::tuple<int64_t, GgmlType, GgmlType>, int> replaced_;
};

/// The number that general.file_type has for it.
uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::f32:
      return 0;
    case GgmlType::f16:
      return 1;
    case GgmlType::q4_0:
      return 2;
    case GgmlType::q8_0:
      return 7;
    case GgmlType::q4_k:
      return 14;
    case GgmlType::q6_k:
      return 18;
    case GgmlType::bf16:
      return 32;
    default:
      throw_bad_input("--type {}: expected f32, f16, bf16, q8_0, q4_0, q4_k or q6_k", ggml_type_name(type));
  }
}

// ---- Tensors ----

struct Source {
  const Checkpoint& checkpoint;
  const TensorReader& reader;
  const ModelConfig& config;
  Types& types;
};

GgufOutputTensor plain(const Source& source, const TensorSpec& spec) {
  const auto rows = std::make_shared<RowReader>(source.checkpoint, source.reader, spec);
  GgufOutputTensor tensor{gguf_tensor_name(spec), source.types.choose(spec, spec.shape.back()), spec.shape, {}};
  const bool flat = spec.shape.size() == 1;  // one row here, one value a row there
  tensor.make = [rows, flat, values = spec.shape.back()](int64_t first, int64_t count, float* out) {
    rows->read(flat ? 0 : first, flat ? values : count, out);
  };
  return tensor;
}

/// Keys' half of kv_b_proj, transposed per head: row (head, c) is column c of the head's qk_nope_head_dim rows.
GgufOutputTensor k_b(const Source& source, const TensorSpec& spec) {
  const auto rows = std::make_shared<RowReader>(source.checkpoint, source.reader, spec);
  const ModelConfig& config = source.config;
  const int64_t nope = config.qk_nope_head_dim, rank = config.kv_lora_rank, pitch = nope + config.v_head_dim;
  GgufOutputTensor tensor{gguf_layer_tensor_name(spec.layer, "attn_k_b.weight"),
                          source.types.choose(spec, nope),
                          {config.num_attention_heads, rank, nope},
                          {}};
  tensor.make = [rows, nope, rank, pitch](int64_t first, int64_t count, float* out) {
    std::vector<float> head_rows(static_cast<size_t>(nope * rank));
    int64_t have = -1;
    for (int64_t row = first; row < first + count; ++row) {
      const int64_t head = row / rank, column = row % rank;
      if (head != have) rows->read(head * pitch, nope, head_rows.data());
      have = head;
      for (int64_t i = 0; i < nope; ++i) *out++ = head_rows[static_cast<size_t>(i * rank + column)];
    }
  };
  return tensor;
}

GgufOutputTensor v_b(const Source& source, const TensorSpec& spec) {
  const auto rows = std::make_shared<RowReader>(source.checkpoint, source.reader, spec);
  const ModelConfig& config = source.config;
  const int64_t nope = config.qk_nope_head_dim, v = config.v_head_dim, rank = config.kv_lora_rank;
  GgufOutputTensor tensor{gguf_layer_tensor_name(spec.layer, "attn_v_b.weight"),
                          source.types.choose(spec, rank),
                          {config.num_attention_heads, v, rank},
                          {}};
  tensor.make = [rows, nope, v, rank](int64_t first, int64_t count, float* out) {
    for (int64_t row = first, end = first + count; row < end;) {
      const int64_t head = row / v, in_head = row % v, here = std::min(v - in_head, end - row);
      rows->read(head * (nope + v) + nope + in_head, here, out + (row - first) * rank);
      row += here;
    }
  };
  return tensor;
}

/// One projection of all experts of a layer.
GgufOutputTensor stacked(const Source& source, const std::vector<const TensorSpec*>& experts) {
  auto rows = std::make_shared<std::vector<RowReader>>();
  for (const TensorSpec* spec : experts) rows->emplace_back(source.checkpoint, source.reader, *spec);
  const Shape& shape = experts[0]->shape;
  GgufOutputTensor tensor{gguf_tensor_name(*experts[0]),
                          source.types.choose(*experts[0], shape[1]),
                          {std::ssize(experts), shape[0], shape[1]},
                          {}};
  tensor.make = [rows, each = shape[0], cols = shape[1]](int64_t first, int64_t count, float* out) {
    for (int64_t row = first, end = first + count; row < end;) {
      const int64_t expert = row / each, in_expert = row % each, here = std::min(each - in_expert, end - row);
      (*rows)[static_cast<size_t>(expert)].read(in_expert, here, out + (row - first) * cols);
      row += here;
    }
  };
  return tensor;
}

std::vector<GgufOutputTensor> all_tensors(const Source& source, const std::vector<TensorSpec>& table) {
  std::vector<GgufOutputTensor> tensors;
  std::map<std::string, std::vector<const TensorSpec*>> experts;  // of the layer that is being read
  for (const TensorSpec& spec : table) {
    if (spec.expert >= 0) {
      std::vector<const TensorSpec*>& list = experts[gguf_tensor_name(spec)];
      list.push_back(&spec);
      if (std::ssize(list) == source.config.n_routed_experts) tensors.push_back(stacked(source, list));
      continue;
    }
    if (spec.optional && (!has_values(source.checkpoint, spec.name) || spec.role == TensorRole::head)) continue;
    if (is_kv_b_proj(spec)) {
      tensors.push_back(k_b(source, spec));
      tensors.push_back(v_b(source, spec));
    } else {
      tensors.push_back(plain(source, spec));
    }
  }
  return tensors;
}

// ---- Keys ----

void check_config(const std::string& directory, const ModelConfig& config) {
  if (config.n_routed_experts > 0 && config.moe_layer_freq != 1) {
    throw_bad_input("{}: moe_layer_freq: expected 1, as GGUF's deepseek2 knows no other, found {}", directory,
                    config.moe_layer_freq);
  }
  if (config.yarn && config.yarn->mscale != config.yarn->mscale_all_dim) {
    throw_bad_input("{}: rope_scaling.mscale: expected mscale_all_dim ({}), as GGUF has one number for both, found {}",
                    directory, config.yarn->mscale_all_dim, config.yarn->mscale);
  }
}

uint32_t to_u32(int64_t value) {
  return static_cast<uint32_t>(value);  // a config's numbers are far below
}

void add_model_keys(const ModelConfig& config, bool mtp, GgufValues& values) {
  const auto add = [&](const char* key, GgufValue value) {
    values.emplace_back(std::string("deepseek2.") + key, std::move(value));
  };
  const auto add_whole = [&](const char* key, int64_t value) { add(key, GgufValue::of_u32(to_u32(value))); };
  const auto add_number = [&](const char* key, double value) {
    add(key, GgufValue::of_f32(static_cast<float>(value)));
  };
  const bool moe = config.n_routed_experts > 0;
  add_whole("block_count", mtp ? config.total_layers() : config.num_hidden_layers);
  add_whole("context_length", config.max_position_embeddings);
  add_whole("embedding_length", config.hidden_size);
  add_whole("feed_forward_length", config.intermediate_size);
  add_whole("attention.head_count", config.num_attention_heads);
  add_whole("attention.head_count_kv", 1);  // absorbed, all heads share one latent
  add_number("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  if (config.q_lora_rank) add_whole("attention.q_lora_rank", *config.q_lora_rank);
  add_whole("attention.kv_lora_rank", config.kv_lora_rank);
  add_whole("attention.key_length", config.kv_lora_rank + config.qk_rope_head_dim);
  add_whole("attention.value_length", config.kv_lora_rank);
  add_whole("attention.key_length_mla", config.qk_head_dim());
  add_whole("attention.value_length_mla", config.v_head_dim);
  add_whole("rope.dimension_count", config.qk_rope_head_dim);
  add_number("rope.freq_base", config.rope_theta);
  if (config.yarn) {
    add("rope.scaling.type", GgufValue::of_string("yarn"));
    add_number("rope.scaling.factor", config.yarn->factor);
    add_whole("rope.scaling.original_context_length", config.yarn->original_max_position_embeddings);
    add_number("rope.scaling.yarn_log_multiplier", 0.1 * config.yarn->mscale_all_dim);
    add_number("rope.scaling.yarn_beta_fast", config.yarn->beta_fast);
    add_number("rope.scaling.yarn_beta_slow", config.yarn->beta_slow);
  }
  add_whole("leading_dense_block_count", moe ? config.first_k_dense_replace : config.num_hidden_layers);
  add_whole("vocab_size", config.vocab_size);
  add_whole("expert_feed_forward_length", moe ? config.moe_intermediate_size : config.intermediate_size);
  add_whole("expert_shared_count", config.n_shared_experts);
  if (moe) {
    add_whole("expert_count", config.n_routed_experts);
    add_whole("expert_used_count", config.num_experts_per_tok);
    add_whole("expert_group_count", config.n_group);
    add_whole("expert_group_used_count", config.topk_group);
    add_whole("expert_gating_func", config.scoring_func == ScoringFunc::sigmoid ? 2 : 1);
    add_number("expert_weights_scale", config.routed_scaling_factor);
    add("expert_weights_norm", GgufValue::of_bool(config.norm_topk_prob));
  }
  if (mtp) add_whole("nextn_predict_layers", config.num_nextn_predict_layers);
}

// ---- Files ----

/// "NAME.gguf" → "NAME-00002-of-00003.gguf".
std::string split_path(const std::string& out, size_t file, size_t files) {
  const std::string base = out.ends_with(".gguf") ? out.substr(0, out.size() - 5) : out;
  return fmt::format("{}-{:05}-of-{:05}.gguf", base, file + 1, files);
}

uint64_t tensor_bytes(const GgufOutputTensor& tensor) {
  return static_cast<uint64_t>(element_count(tensor.shape) / tensor.shape.back()) *
         static_cast<uint64_t>(ggml_row_bytes(tensor.type, tensor.shape.back()));
}

void distribute(std::vector<GgufOutputTensor> tensors, GgufValues values, const GgufExportOptions& options,
                GgufExportPlan& plan) {
  const auto count = static_cast<int32_t>(tensors.size());
  plan.files.emplace_back();
  uint64_t filled = 0;
  for (GgufOutputTensor& tensor : tensors) {
    const uint64_t bytes = tensor_bytes(tensor);
    if (options.split_bytes > 0 && filled > 0 && filled + bytes > options.split_bytes) {
      plan.files.emplace_back();
      filled = 0;
    }
    filled += bytes;
    plan.files.back().tensors.push_back(std::move(tensor));
  }
  plan.files[0].values = std::move(values);
  for (size_t file = 0; file < plan.files.size(); ++file) {
    plan.files[file].path = options.split_bytes > 0 ? split_path(options.out, file, plan.files.size()) : options.out;
    if (options.split_bytes == 0) continue;
    GgufValues& keys = plan.files[file].values;
    keys.emplace_back("split.no", GgufValue::of_u16(static_cast<uint16_t>(file)));
    keys.emplace_back("split.count", GgufValue::of_u16(static_cast<uint16_t>(plan.files.size())));
    keys.emplace_back("split.tensors.count", GgufValue::of_i32(count));
  }
  if (plan.files.size() > 0xffff) {
    throw_bad_input("--split-size: {} bytes make {} files, more than 65535", options.split_bytes, plan.files.size());
  }
}

// ---- Writing ----

/// Rows [first, first + count) of a tensor in its type, and `padding` bytes of zero behind them.
void make_rows(const GgufOutputTensor& tensor, int64_t first, int64_t count, uint64_t padding, std::byte* out) {
  const int64_t cols = tensor.shape.back();
  std::vector<float> values(static_cast<size_t>(count * cols));
  tensor.make(first, count, values.data());
  const bool wide = tensor.type == GgmlType::f32 || tensor.type == GgmlType::bf16;
  for (size_t i = 0; i < values.size(); ++i) {
    if (wide ? std::isfinite(values[i]) : std::fabs(values[i]) <= kGreatestHalf) continue;
    throw_bad_input("{}: the value {} at [{}, {}] cannot be written as {}", tensor.name, values[i],
                    first + static_cast<int64_t>(i) / cols, static_cast<int64_t>(i) % cols,
                    ggml_type_name(tensor.type));
  }
  const auto row_bytes = static_cast<size_t>(ggml_row_bytes(tensor.type, cols));
  ggml_quantize(tensor.type, values.data(), count * cols, out);
  std::memset(out + static_cast<size_t>(count) * row_bytes, 0, padding);
}

std::vector<OutputPiece> pieces_of(const std::vector<GgufOutputTensor>& tensors, const GgufHeader& header) {
  std::vector<OutputPiece> pieces;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const GgufTensor& place = header.tensors[i];
    // The last tensor is padded, too, as other writers do.
    const uint64_t over = place.bytes() % header.alignment;
    const uint64_t behind = over == 0 ? 0 : header.alignment - over;
    const int64_t at_once = std::max<int64_t>(1, kPieceValues / place.row_values());
    for (int64_t row = 0; row < place.rows(); row += at_once) {
      const int64_t count = std::min(at_once, place.rows() - row);
      const uint64_t padding = row + count == place.rows() ? behind : 0;
      pieces.push_back({static_cast<uint64_t>(count) * place.row_bytes() + padding,
                        [&tensor = tensors[i], row, count, padding](std::byte* out) {
                          make_rows(tensor, row, count, padding, out);
                        }});
    }
  }
  return pieces;
}

using OnBytes = std::function<void(uint64_t bytes)>;

/// A file as it will be: its head, the pieces behind it, and its size.
struct Layout {
  explicit Layout(const GgufExportPlan::File& file) : name(fs::path(file.path).filename().string()) {
    GgufHeader header;
    header.values = file.values;
    for (const GgufOutputTensor& tensor : file.tensors) {
      header.tensors.push_back({tensor.name, tensor.type, tensor.shape});
    }
    head = gguf_header_bytes(header);
    pieces = pieces_of(file.tensors, header);
    bytes = head.size();
    for (const OutputPiece& piece : pieces) bytes += piece.bytes;
  }
  std::string growing_name() const { return name + ".partial"; }  ///< until it is whole

  std::string name, head;
  std::vector<OutputPiece> pieces;
  uint64_t bytes = 0;
};

uint64_t end_of(const std::vector<WrittenSegment>& segments) {
  return segments.empty() ? 0 : segments.back().end;
}

uint64_t size_of(const fs::path& path) {
  std::error_code error;
  const uint64_t bytes = fs::file_size(path, error);
  return error ? 0 : bytes;
}

bool is_whole(const PartialOutput& partial, const Layout& file) {
  return end_of(partial.segments(file.name)) == file.bytes && size_of(partial.path(file.name)) == file.bytes;
}

/// What an earlier run wrote of a file and this one keeps: as far as the disk has it (a crash of the machine may have
/// taken some), and up to the end of a piece (which another version may have made of another size).
std::vector<WrittenSegment> kept_segments(const PartialOutput& partial, const Layout& file) {
  std::vector<WrittenSegment> segments = partial.segments(file.name);
  if (is_whole(partial, file)) return segments;
  const uint64_t size = size_of(partial.path(file.growing_name()));
  std::vector<uint64_t> ends = {file.head.size()};
  for (const OutputPiece& piece : file.pieces) ends.push_back(ends.back() + piece.bytes);
  const auto usable = [&](uint64_t end) { return end <= size && std::binary_search(ends.begin(), ends.end(), end); };
  while (!segments.empty() && !usable(segments.back().end)) segments.pop_back();
  return segments;
}

/// Writes what is missing of one file.
void write_file(PartialOutput& partial, const Layout& file, uint64_t record_bytes, ThreadTeam& team,
                const OnBytes& on_bytes) {
  std::vector<WrittenSegment> segments = kept_segments(partial, file);
  on_bytes(end_of(segments));
  if (is_whole(partial, file)) return;
  uint64_t written = end_of(segments);
  std::vector<OutputPiece> missing;
  uint64_t begin = file.head.size();
  for (const OutputPiece& piece : file.pieces) {
    if (begin >= written) missing.push_back(piece);
    begin += piece.bytes;
  }
  GrowingFile out(partial.path(file.growing_name()).string(), written);
  ContentHash hash;
  const auto record = [&] {
    if (written == end_of(segments)) return;
    out.sync();  // first the bytes, then the word that they are there
    segments.push_back({written, hash.take()});
    partial.set_segments(file.name, segments);
  };
  const auto write = [&](const void* data, size_t bytes) {
    out.write(data, bytes);
    hash.update(data, bytes);
    written += bytes;
    if (written - end_of(segments) >= record_bytes) record();
  };
  try {
    if (written == 0) {
      write(file.head.data(), file.head.size());
      on_bytes(file.head.size());
    }
    write_pieces(missing, team, write, on_bytes, std::min(uint64_t{64} << 20, record_bytes));
  } catch (...) {
    try {
      record();
    } catch (...) {
      // The first failure is the one to be told; a later run begins at what was recorded before.
    }
    throw;
  }
  record();
  std::error_code error;
  fs::rename(partial.path(file.growing_name()), partial.path(file.name), error);
  if (error) throw_failure("{}: cannot get its name, {}", partial.path(file.name).string(), error.message());
}

/// Reads a file again. One that does not hold what was written is cut before the first segment that differs, for the
/// next run to go on from there.
void check_file(PartialOutput& partial, const Layout& file, const OnBytes& on_bytes) {
  const std::string path = partial.path(file.name).string();
  const uint64_t size = size_of(path);
  const PieceReader reader(path);
  std::vector<std::byte> buffer(std::min<uint64_t>(kReadBytes, file.bytes));
  ContentHash hash;
  std::vector<WrittenSegment> good;
  for (const WrittenSegment& segment : partial.segments(file.name)) {
    if (size < segment.end) break;
    for (uint64_t at = end_of(good); at < segment.end;) {
      const uint64_t bytes = std::min<uint64_t>(buffer.size(), segment.end - at);
      reader.read(at, buffer.data(), bytes);
      hash.update(buffer.data(), bytes);
      at += bytes;
      on_bytes(bytes);
    }
    const bool last = segment.end == file.bytes;
    if (hash.take() != segment.hash || (last && size != segment.end)) break;
    good.push_back(segment);
  }
  if (end_of(good) == file.bytes) return;
  partial.set_segments(file.name, good);
  std::error_code error;
  fs::rename(path, partial.path(file.growing_name()), error);
  throw_failure("{}: the file does not hold what was written into it; repeat the command to write it again", path);
}

}  // namespace

GgufExportPlan plan_gguf_export(const Checkpoint& checkpoint, const TensorReader& reader,
                                const GgufExportOptions& options) {
  ModelConfig config = checkpoint.config();
  const uint32_t type_number = file_type(options.type);
  check_config(checkpoint.directory(), config);
  GgufExportPlan plan;
  plan.out = options.out;
  plan.identity = fmt::format("gguf export, type {}, {} MTP, split {}\n{}", ggml_type_name(options.type),
                              options.mtp ? "with" : "without", options.split_bytes,
                              source_identity(checkpoint.directory(), checkpoint.files()));
  const bool mtp = options.mtp && config.num_nextn_predict_layers > 0;
  if (options.mtp && !mtp) {
    throw_bad_input("{}: --mtp: the checkpoint has no MTP layer (num_nextn_predict_layers is 0)",
                    checkpoint.directory());
  }
  if (!mtp && config.num_nextn_predict_layers > 0) {
    plan.notes.push_back("the MTP layer is left out (--mtp writes it; only new readers know it)");
  }
  if (config.n_routed_experts > 0 && config.n_shared_experts == 0) {
    plan.notes.push_back("the model has no shared experts; llama.cpp expects some");
  }
  if (config.topk_method == TopkMethod::group_limited_greedy && config.n_group > 1) {
    plan.notes.push_back(
        "experts are chosen by group_limited_greedy; llama.cpp ranks groups by their two best experts instead of one");
  }
  if (config.eos_token_ids.size() > 1) {
    plan.notes.push_back(fmt::format("of {} eos_token_ids GGUF holds the first", config.eos_token_ids.size()));
  }

  GgufValues values;
  const std::string name = fs::absolute(checkpoint.directory()).lexically_normal().filename().string();
  values.emplace_back("general.architecture", GgufValue::of_string("deepseek2"));
  values.emplace_back("general.type", GgufValue::of_string("model"));
  values.emplace_back("general.name", GgufValue::of_string(name.empty() ? "model" : printable_name(name)));
  values.emplace_back("general.file_type", GgufValue::of_u32(type_number));
  values.emplace_back("general.quantization_version", GgufValue::of_u32(kQuantizationVersion));
  values.emplace_back("general.alignment", GgufValue::of_u32(32));
  add_model_keys(config, mtp, values);
  add_gguf_tokens(checkpoint.directory(), config, values, plan.notes);

  if (!mtp) config.num_nextn_predict_layers = 0;
  Types types(options.type);
  const std::vector<TensorSpec> table = tensor_table(config);
  std::vector<GgufOutputTensor> tensors = all_tensors({checkpoint, reader, config, types}, table);
  types.add_notes(plan.notes);
  distribute(std::move(tensors), std::move(values), options, plan);
  return plan;
}

GgufExportResult write_gguf(const GgufExportPlan& plan, ThreadTeam& team,
                            const std::function<void(uint64_t done, uint64_t total)>& on_progress) {
  const auto start = std::chrono::steady_clock::now();
  GgufExportResult result;
  std::vector<Layout> files;
  ContentHash heads;
  for (const GgufExportPlan::File& file : plan.files) {
    files.emplace_back(file);
    heads.update(files.back().head.data(), files.back().head.size());
    result.tensors += std::ssize(file.tensors);
  }
  PartialOutput partial(fs::absolute(plan.out).lexically_normal(), plan.identity + "\nheads " + heads.take());

  // A run that was stopped while it gave files their names leaves some with it.
  std::vector<bool> has_name;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string& path = plan.files[i].path;
    has_name.push_back(partial.checked() && !fs::exists(partial.path(files[i].name)) && file_exists(path) &&
                       size_of(path) == files[i].bytes);
    if (!has_name[i] && file_exists(path)) {
      partial.remove_if_unused();
      throw_bad_input("{}: expected no file of this name, found one", path);
    }
    result.bytes += files[i].bytes;
    result.bytes_kept += has_name[i] ? files[i].bytes : end_of(kept_segments(partial, files[i]));
  }
  partial.require_free(result.bytes - result.bytes_kept);

  uint64_t done = 0;
  const auto advance = [&](uint64_t bytes) {
    done += bytes;
    if (on_progress) on_progress(done, 2 * result.bytes);
  };
  for (size_t i = 0; i < files.size(); ++i) {
    has_name[i] ? advance(files[i].bytes) : write_file(partial, files[i], plan.record_bytes, team, advance);
  }
  for (size_t i = 0; i < files.size(); ++i) {
    has_name[i] ? advance(files[i].bytes) : check_file(partial, files[i], advance);
  }
  partial.set_checked();
  for (size_t i = 0; i < files.size(); ++i) {
    if (has_name[i]) continue;
    std::error_code error;
    fs::rename(partial.path(files[i].name), plan.files[i].path, error);
    if (error) throw_failure("{}: cannot get its name, {}", plan.files[i].path, error.message());
  }
  partial.remove_records();
  std::error_code ignored;  // a file that somebody else put there keeps the directory
  fs::remove(partial.directory(), ignored);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace fathom
