#include "weights/cast.h"

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "formats/json.h"
#include "formats/packed_matrix.h"
#include "formats/tensor_table.h"
#include "kernels/norm.h"
#include "kernels/quantize.h"
#include "weights/tensor_values.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int64_t kBlock = 128;

}  // namespace

OutputTensor copied_tensor(const SafetensorsEntry& entry, const TensorReader& reader) {
  OutputTensor tensor{entry.name, entry.dtype, entry.shape, {}};
  tensor.make = [&reader, name = entry.name](int64_t first, int64_t count, std::byte* out) {
    reader.read(name, first, count, out);
  };
  return tensor;
}

OutputTensor tensor_as_bf16(const Checkpoint& checkpoint, const SafetensorsEntry& entry, const TensorReader& reader) {
  const SafetensorsEntry& scales = scales_of(checkpoint, entry);
  const Fp8Config fp8 = checkpoint.config().fp8.value_or(Fp8Config{});
  OutputTensor tensor{entry.name, DType::bf16, entry.shape, {}};
  const int64_t block_rows = fp8.block_rows;
  const int64_t block_cols = fp8.block_cols;
  tensor.row_step = block_rows;
  tensor.make = [&reader, name = entry.name, scale_name = scales.name, cols = entry.shape[1],
                 scale_cols = scales.shape[1], block_rows, block_cols](int64_t first, int64_t count, std::byte* out) {
    std::vector<uint8_t> codes(static_cast<size_t>(count * cols));
    const int64_t scale_rows = (count + block_rows - 1) / block_rows;
    std::vector<float> factors(static_cast<size_t>(scale_rows * scale_cols));
    reader.read(name, first, count, reinterpret_cast<std::byte*>(codes.data()));
    reader.read(scale_name, first / block_rows, scale_rows, reinterpret_cast<std::byte*>(factors.data()));
    dequantize_weight_bf16(codes.data(), factors.data(), count, cols, block_rows, block_cols,
                           reinterpret_cast<uint16_t*>(out));
  };
  return tensor;
}

namespace {

OutputTensor integers_to_bf16(const Checkpoint& checkpoint, const std::string& weight, const TensorReader& reader) {
  const auto source = std::make_shared<const ValueReader>(checkpoint, reader, weight);
  OutputTensor tensor{weight, DType::bf16, source->shape(), {}};
  tensor.make = [source](int64_t first, int64_t count, std::byte* out) {
    std::vector<std::byte> words(static_cast<size_t>(count) * row_bytes(DType::i32, source->entry().shape));
    std::vector<float> values(static_cast<size_t>(count * source->cols()));
    source->read_bytes(first, count, words.data());
    source->values(first, count, words.data(), values.data());
    convert_f32_to_bf16(values.data(), count * source->cols(), reinterpret_cast<uint16_t*>(out));
  };
  return tensor;
}

void add_cast_to_fp8(const SafetensorsEntry& entry, const TensorReader& reader, bool ue8m0,
                     std::vector<OutputTensor>& tensors) {
  const int64_t rows = entry.shape[0];
  const int64_t cols = entry.shape[1];
  const int64_t scale_cols = (cols + kBlock - 1) / kBlock;
  const Shape scales_shape = {(rows + kBlock - 1) / kBlock, scale_cols};
  const auto scales = std::make_shared<std::vector<float>>(static_cast<size_t>(element_count(scales_shape)));
  OutputTensor codes{entry.name, DType::f8_e4m3, entry.shape, {}};
  codes.row_step = kBlock;
  codes.make = [&reader, name = entry.name, dtype = entry.dtype, cols, scale_cols, ue8m0, scales](
                   int64_t first, int64_t count, std::byte* out) {
    const auto values = static_cast<size_t>(count * cols);
    std::vector<std::byte> stored(values * dtype_bytes(dtype));
    reader.read(name, first, count, stored.data());
    std::vector<float> weights(values);
    floats_of(dtype, stored.data(), values, weights.data());
    quantize_weight(weights.data(), count, cols, kBlock, kBlock, ue8m0, reinterpret_cast<uint8_t*>(out),
                    scales->data() + first / kBlock * scale_cols);
  };
  tensors.push_back(std::move(codes));
  OutputTensor made{scale_name_of(entry.name), DType::f32, scales_shape, {}};
  made.after_previous = true;
  made.make = [scales, scale_cols](int64_t first, int64_t count, std::byte* out) {
    std::memcpy(out, scales->data() + first * scale_cols, static_cast<size_t>(count * scale_cols) * sizeof(float));
  };
  tensors.push_back(std::move(made));
}

std::string cast_config(const Checkpoint& checkpoint, const CastOptions& options) {
  ordered_json config = read_config_json(checkpoint.directory());
  config.erase("quantization_config");
  if (options.to == CastTo::fp8) {
    ordered_json fp8 = {{"activation_scheme", "dynamic"},
                        {"fmt", "e4m3"},
                        {"quant_method", "fp8"},
                        {"weight_block_size", {kBlock, kBlock}}};
    if (options.ue8m0) fp8["scale_fmt"] = "ue8m0";
    config["quantization_config"] = std::move(fp8);
  }
  return config.dump(2) + "\n";
}

}  // namespace

nlohmann::ordered_json read_config_json(const std::string& directory) {
  constexpr size_t kLargestConfig = size_t{16} << 20;
  const std::string path = (fs::path(directory) / "config.json").string();
  return parse_ordered_json(read_file(path, kLargestConfig), path);
}

RewritePlan plan_cast(const Checkpoint& checkpoint, const TensorReader& reader, const CastOptions& options) {
  const bool to_fp8 = options.to == CastTo::fp8;
  if (to_fp8 && checkpoint.config().integers) {
    throw_bad_input(
        "{}: its weights are stored in integers, and FP8 of them would be rounded twice; cast the checkpoint that it "
        "was "
        "made of, or this one to bf16 first",
        checkpoint.directory());
  }
  std::unordered_set<std::string> quantizable;
  for (const TensorSpec& spec : tensor_table(checkpoint.config())) {
    if (spec.quantizable) quantizable.insert(spec.name);
  }
  RewritePlan plan;
  plan.out = options.out;
  plan.identity = fmt::format("cast to {}{}\n{}", to_fp8 ? "fp8" : "bf16", options.ue8m0 ? " ue8m0" : "",
                              source_identity(checkpoint.directory(), checkpoint.files()));
  int64_t changed = 0;
  for (const auto& file : checkpoint.files()) {
    OutputShard shard;
    shard.file = fs::path(file->path()).filename().string();
    for (const SafetensorsEntry& entry : file->entries()) {
      const bool is_scale = is_scale_of_another(checkpoint, entry.name);
      if (to_fp8) {
        if (entry.dtype == DType::f8_e4m3 || is_scale) {
          throw_bad_input("{}: {} says that the checkpoint is in FP8 already", checkpoint.directory(),
                          printable_name(entry.name));
        }
        const bool floats = entry.dtype == DType::bf16 || entry.dtype == DType::f16 || entry.dtype == DType::f32;
        if (quantizable.contains(entry.name) && floats && entry.shape.size() == 2) {
          add_cast_to_fp8(entry, reader, options.ue8m0, shard.tensors);
          ++changed;
          continue;
        }
      } else {
        if (is_scale) continue;
        if (const std::optional<std::string> weight = packed_weight_of(checkpoint, entry.name)) {
          if (entry.name != PackedNames(*weight).words) continue;
          shard.tensors.push_back(integers_to_bf16(checkpoint, *weight, reader));
          ++changed;
          continue;
        }
        if (entry.dtype == DType::f8_e4m3 && entry.shape.size() == 2) {
          shard.tensors.push_back(tensor_as_bf16(checkpoint, entry, reader));
          ++changed;
          continue;
        }
      }
      shard.tensors.push_back(copied_tensor(entry, reader));
    }
    plan.shards.push_back(std::move(shard));
  }
  if (changed == 0) {
    throw_bad_input("{}: no matrix in it is {}: there is nothing to cast", checkpoint.directory(),
                    to_fp8 ? "one that is stored in FP8" : "in FP8 or in integers");
  }
  plan.texts = {{"config.json", cast_config(checkpoint, options)},
                {"model.safetensors.index.json", index_json(plan.shards)}};
  plan.copies = companion_files(checkpoint.directory());
  return plan;
}

}  // namespace fathom
