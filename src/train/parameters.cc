#include "train/parameters.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/error.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/number_formats.h"
#include "formats/safetensors.h"
#include "kernels/gradients.h"
#include "kernels/norm.h"
#include "kernels/paired_product.h"
#include "kernels/quantize.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// Every tensor starts on a cache line of every copy, the FP8 one included.
constexpr int64_t kAlignment = 64;
// Block of the FP8 weights.
constexpr int64_t kBlock = 128;

int64_t blocks(int64_t n) {
  return (n + kBlock - 1) / kBlock;
}

void take_arrays(Parameters& parameters) {
  const auto bytes = static_cast<size_t>(parameters.size) * sizeof(float);
  parameters.masters.reserve(bytes);
  parameters.gradients.reserve(bytes);
  std::memset(parameters.masters.as<std::byte>(), 0, bytes);
  std::memset(parameters.gradients.as<std::byte>(), 0, bytes);
}

void load_fp8(const Checkpoint& checkpoint, const Parameter& parameter, const TensorView& view, float* out) {
  const ModelConfig& config = checkpoint.config();
  if (!config.fp8) {
    throw_bad_input("{}: tensor {} is F8_E4M3, but config.json has no quantization_config.weight_block_size.",
                    checkpoint.directory(), parameter.name);
  }
  const std::string name = parameter.name + "_scale_inv";
  const TensorView scale = checkpoint.tensor(name);
  const Shape shape = scale_shape(parameter.shape, *config.fp8);
  if (scale.shape != shape || scale.dtype != DType::f32) {
    throw_bad_input("{}: tensor {} is {} {}; expected F32 {}.", checkpoint.directory(), name, dtype_name(scale.dtype),
                    shape_text(scale.shape), shape_text(shape));
  }
  const int64_t cols = parameter.shape[1];
  for (int64_t i = 0; i < view.elements(); ++i) {
    const int64_t block = i / cols / config.fp8->block_rows * shape[1] + i % cols / config.fp8->block_cols;
    float factor;
    std::memcpy(&factor, scale.data + static_cast<size_t>(block) * sizeof(float), sizeof factor);
    out[i] = e4m3_to_f32(view.as<uint8_t>()[i]) * factor;
  }
}

TensorView expected_tensor(const Checkpoint& checkpoint, const std::string& name, const Shape& shape) {
  TensorView view = checkpoint.tensor(name);
  if (view.shape != shape) {
    throw_bad_input("{}: tensor {} has shape {}; config.json calls for {}.", checkpoint.directory(), name,
                    shape_text(view.shape), shape_text(shape));
  }
  return view;
}

void load_tensor(const Checkpoint& checkpoint, const Parameter& parameter, float* out) {
  const TensorView view = expected_tensor(checkpoint, parameter.name, parameter.shape);
  switch (view.dtype) {
    case DType::f32:
    case DType::bf16:
    case DType::f16: {
      // The format does not promise alignment.
      Buffer copy;
      copy.reserve(view.bytes());
      std::memcpy(copy.as<std::byte>(), view.data, view.bytes());
      convert_to_f32(tensor_view(view.dtype, view.shape, copy.as<std::byte>()), out);
      return;
    }
    case DType::f8_e4m3:
      if (parameter.matrix()) return load_fp8(checkpoint, parameter, view, out);
      [[fallthrough]];
    default:
      throw_bad_input("{}: tensor {} is {}; expected F32, BF16, F16 or F8_E4M3.", checkpoint.directory(),
                      parameter.name, dtype_name(view.dtype));
  }
}

// Random numbers as a function of (seed, name, index): splitmix64 (Steele, Lea, Flood 2014) behind FNV-1a.
void fill_normal(uint64_t seed, const std::string& name, double deviation, int64_t n, float* out) {
  const uint64_t key = mix64(hash_text(name) ^ mix64(seed + 0x9e3779b97f4a7c15u));
  const auto uniform = [&](int64_t i) {  // in (0, 1)
    const uint64_t word = mix64(key + (static_cast<uint64_t>(i) + 1) * 0x9e3779b97f4a7c15u);
    return (static_cast<double>(word >> 11) + 0.5) * 0x1p-53;
  };
  // Box and Muller: a pair of uniform numbers gives a pair of normal ones.
  for (int64_t i = 0; i < n; i += 2) {
    const double radius = deviation * std::sqrt(-2 * std::log(uniform(i)));
    const double angle = 2 * M_PI * uniform(i + 1);
    out[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < n) out[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
}

// Offset of an element that lies in one of the copies.
int64_t offset_in(const std::byte* data, const Buffer& buffer, DType dtype) {
  return (data - buffer.as<std::byte>()) / static_cast<int64_t>(dtype_bytes(dtype));
}

// The flat array that plain views of this type point into.
const Buffer& plain_array(const Parameters& parameters, const ComputeCopies& copies, DType dtype) {
  if (dtype == DType::f8_e4m3) return copies.codes;
  return dtype == DType::f32 ? parameters.masters : copies.plain;
}

bool copies_are_paired(ComputeMode compute) {
  return compute != ComputeMode::fp32 && has_paired_product();
}

bool is_paired(bool copies_paired, const Parameter& parameter) {
  return copies_paired && parameter.matrix() && parameter.shape[0] % 2 == 0 && parameter.role != TensorRole::router;
}

// Whether some FP8 matrix is not paired.
bool turns_codes(const Parameters& parameters, bool copies_paired) {
  return std::ranges::any_of(parameters.list, [&](const Parameter& parameter) {
    return parameter.quantizable && !is_paired(copies_paired, parameter);
  });
}

// kv_b_proj is FP8 in w8a8, but its products are those of the attention core: BF16 of code × scale.
bool is_cast(const Parameter& parameter) {
  return parameter.name.ends_with(".kv_b_proj.weight");
}

// Paired rows of the codes' values, or of the cast matrix.
void pair_codes(const Parameter& parameter, const uint8_t* codes, const float* scale, uint16_t* out) {
  const int64_t rows = parameter.shape[0];
  const int64_t cols = parameter.shape[1];
  std::vector<uint16_t> values(static_cast<size_t>(2 * cols));
  std::vector<float> ones;
  if (!is_cast(parameter)) ones.assign(static_cast<size_t>(blocks(cols)), 1.0f);
  for (int64_t r = 0; r < rows; r += 2) {
    const float* factors = is_cast(parameter) ? scale + r / kBlock * blocks(cols) : ones.data();
    dequantize_weight_bf16(codes + r * cols, factors, 2, cols, kBlock, kBlock, values.data());
    pair_rows(DType::bf16, values.data(), cols, nullptr, 2, cols, 0, 1, out + r * cols);
  }
}

void turn_codes(const Parameter& parameter, const uint8_t* codes, const float* scale, ComputeCopies& copies) {
  const int64_t rows = parameter.shape[0];
  const int64_t cols = parameter.shape[1];
  auto* turned_codes = copies.codes_turned.as<uint8_t>() + parameter.offset;
  float* turned_scale = copies.scale_turned.as<float>() + parameter.scale_offset;
  constexpr int64_t kTile = 32;
  for (int64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (int64_t c0 = 0; c0 < cols; c0 += kTile) {
      for (int64_t c = c0; c < std::min(cols, c0 + kTile); ++c) {
        for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r) turned_codes[c * rows + r] = codes[r * cols + c];
      }
    }
  }
  for (int64_t r = 0; r < blocks(rows); ++r) {
    for (int64_t c = 0; c < blocks(cols); ++c) turned_scale[c * blocks(rows) + r] = scale[r * blocks(cols) + c];
  }
}

void quantize_parameter(const Parameter& parameter, const float* master, ComputeCopies& copies) {
  auto* codes = copies.codes.as<uint8_t>() + parameter.offset;
  float* scale = copies.scale.as<float>() + parameter.scale_offset;
  quantize_weight(master, parameter.shape[0], parameter.shape[1], kBlock, kBlock, false, codes, scale);
  if (is_paired(copies.paired, parameter)) {
    pair_codes(parameter, codes, scale, copies.turned.as<uint16_t>() + parameter.offset);
  } else {
    turn_codes(parameter, codes, scale, copies);
  }
}

void write_json(const fs::path& path, const nlohmann::json& json) {
  OutputFile file(path.string());
  file.write(json.dump(2) + "\n");
  file.commit();
}

}  // namespace

int64_t Parameters::trained_elements() const {
  int64_t sum = 0;
  for (const Parameter& parameter : list) sum += parameter.elements();
  return sum;
}

Parameters plan_parameters(const ModelConfig& config) {
  Parameters parameters;
  parameters.config = config;
  for (const TensorSpec& spec : tensor_table(config)) {
    if (spec.optional) continue;  // shared with the main embedding or head
    if (spec.role == TensorRole::router_bias) {
      parameters.biases.push_back(
          {spec.name, spec.layer, std::vector<float>(static_cast<size_t>(config.n_routed_experts), 0.0f)});
      continue;
    }
    Parameter parameter{spec.name, spec.shape, spec.role, spec.layer, spec.expert, spec.quantizable};
    parameter.offset = parameters.size;
    parameters.size += (parameter.elements() + kAlignment - 1) / kAlignment * kAlignment;
    if (parameter.quantizable) {
      parameter.scale_offset = parameters.scales;
      parameters.scales += blocks(spec.shape[0]) * blocks(spec.shape[1]);
    }
    parameters.list.push_back(std::move(parameter));
  }
  return parameters;
}

Parameters load_parameters(const Checkpoint& checkpoint) {
  if (checkpoint.config().integers) {
    throw_bad_input(
        "{}: its weights are stored in integers, which cannot be trained; begin with the checkpoint that it was made "
        "of, "
        "or cast this one to bf16 first.",
        checkpoint.directory());
  }
  Parameters parameters = plan_parameters(checkpoint.config());
  take_arrays(parameters);
  for (const Parameter& parameter : parameters.list) load_tensor(checkpoint, parameter, parameters.master(parameter));
  for (RouterBias& bias : parameters.biases) {
    const Parameter as_parameter{bias.name, {static_cast<int64_t>(bias.values.size())}, TensorRole::router_bias};
    load_tensor(checkpoint, as_parameter, bias.values.data());
  }
  return parameters;
}

Parameters initial_parameters(const ModelConfig& config, uint64_t seed, double deviation) {
  Parameters parameters = plan_parameters(config);
  take_arrays(parameters);
  for (const Parameter& parameter : parameters.list) {
    float* master = parameters.master(parameter);
    if (parameter.matrix()) {
      fill_normal(seed, parameter.name, deviation, parameter.elements(), master);
    } else {
      std::fill_n(master, parameter.elements(), 1.0f);
    }
  }
  return parameters;
}

void write_checkpoint(const Parameters& parameters, DType dtype, bool fp8, const std::string& out) {
  constexpr uint64_t kShardBytes = 4'000'000'000;
  if (fs::exists(out)) throw_bad_input("{}: the checkpoint's directory exists already; name another one.", out);
  ModelConfig config = parameters.config;
  config.torch_dtype = dtype == DType::f32 ? "float32" : "bfloat16";
  config.fp8 = fp8 ? std::optional<Fp8Config>(Fp8Config{}) : std::nullopt;

  // What each file holds: a row is a parameter or a bias.
  struct Row {
    const Parameter* parameter;
    const RouterBias* bias;
    bool scale;
    SafetensorsWriter::Declared declared;
    uint64_t bytes;
  };
  std::vector<Row> rows;
  const auto add = [&](const Parameter* parameter, const RouterBias* bias, bool scale, const std::string& name,
                       DType type, const Shape& shape) {
    const auto bytes = static_cast<uint64_t>(element_count(shape)) * dtype_bytes(type);
    rows.push_back({parameter, bias, scale, {name, type, shape}, bytes});
  };
  for (const Parameter& parameter : parameters.list) {
    if (fp8 && parameter.quantizable) {
      add(&parameter, nullptr, false, parameter.name, DType::f8_e4m3, parameter.shape);
      add(&parameter, nullptr, true, parameter.name + "_scale_inv", DType::f32,
          scale_shape(parameter.shape, *config.fp8));
    } else {
      add(&parameter, nullptr, false, parameter.name, dtype, parameter.shape);
    }
  }
  for (const RouterBias& bias : parameters.biases) {
    add(nullptr, &bias, false, bias.name, DType::f32, {static_cast<int64_t>(bias.values.size())});
  }
  std::vector<std::vector<const Row*>> shards(1);
  uint64_t filled = 0;
  uint64_t total = 0;
  for (const Row& row : rows) {
    if (filled > 0 && filled + row.bytes > kShardBytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&row);
    filled += row.bytes;
    total += row.bytes;
  }

  const std::string partial = out + ".partial";
  fs::remove_all(partial);
  make_directories(partial);
  nlohmann::json places = nlohmann::json::object();
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<uint16_t> halves;
  const auto quantized = [&](const Parameter& parameter) {
    codes.resize(static_cast<size_t>(parameter.elements()));
    scales.resize(static_cast<size_t>(blocks(parameter.shape[0]) * blocks(parameter.shape[1])));
    quantize_weight(parameters.master(parameter), parameter.shape[0], parameter.shape[1], kBlock, kBlock, false,
                    codes.data(), scales.data());
  };
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    std::vector<const Row*>& own = shards[shard];
    // Wide types first: then every tensor is aligned to its type, as readers that map files like it.
    std::stable_sort(own.begin(), own.end(), [](const Row* a, const Row* b) {
      return dtype_bytes(a->declared.dtype) > dtype_bytes(b->declared.dtype);
    });
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", shard + 1, shards.size());
    std::vector<SafetensorsWriter::Declared> declared;
    for (const Row* row : own) {
      declared.push_back(row->declared);
      places[row->declared.name] = name;
    }
    SafetensorsWriter file((fs::path(partial) / name).string(), declared, {{"format", "pt"}});
    for (const Row* row : own) {
      const void* data = nullptr;
      if (row->bias != nullptr) {
        data = row->bias->values.data();
      } else if (row->scale) {
        quantized(*row->parameter);
        data = scales.data();
      } else if (row->declared.dtype == DType::f8_e4m3) {
        quantized(*row->parameter);
        data = codes.data();
      } else if (row->declared.dtype == DType::bf16) {
        halves.resize(static_cast<size_t>(row->parameter->elements()));
        convert_f32_to_bf16(parameters.master(*row->parameter), row->parameter->elements(), halves.data());
        data = halves.data();
      } else {
        data = parameters.master(*row->parameter);
      }
      file.write(data, row->bytes);
    }
    file.commit();
  }
  write_json(fs::path(partial) / "model.safetensors.index.json",
             {{"metadata", {{"total_size", total}}}, {"weight_map", places}});
  write_json(fs::path(partial) / "config.json", model_config_json(config));
  std::error_code error;
  fs::rename(partial, out, error);
  if (error) throw_failure("{}: cannot be renamed to {}, {}", partial, out, error.message());
}

void write_parameters(const Parameters& parameters, bool gradients, const std::string& path) {
  std::vector<std::pair<std::string, TensorView>> views;
  for (const Parameter& parameter : parameters.list) {
    const float* data = gradients ? parameters.gradient(parameter) : parameters.master(parameter);
    views.emplace_back(parameter.name, tensor_view(DType::f32, parameter.shape, data));
  }
  for (const RouterBias& bias : parameters.biases) {
    if (gradients) break;
    views.emplace_back(bias.name,
                       tensor_view(DType::f32, {static_cast<int64_t>(bias.values.size())}, bias.values.data()));
  }
  write_safetensors(path, views);
}

void reserve_copies(const Parameters& parameters, ComputeMode compute, ComputeCopies& copies) {
  copies.compute = compute;
  copies.paired = copies_are_paired(compute);
  const auto size = static_cast<size_t>(parameters.size);
  if (compute == ComputeMode::fp32) {
    copies.turned.reserve(size * sizeof(float));
    return;
  }
  copies.plain.reserve(size * sizeof(uint16_t));
  copies.turned.reserve(size * sizeof(uint16_t));
  if (compute != ComputeMode::w8a8) return;
  copies.codes.reserve(size);
  if (turns_codes(parameters, copies.paired)) copies.codes_turned.reserve(size);
  copies.scale.reserve(static_cast<size_t>(parameters.scales) * sizeof(float));
  copies.scale_turned.reserve(static_cast<size_t>(parameters.scales) * sizeof(float));
}

uint64_t compute_copy_bytes(const Parameters& plan, ComputeMode compute) {
  const auto size = static_cast<uint64_t>(plan.size);
  if (compute == ComputeMode::fp32) return size * sizeof(float);
  uint64_t bytes = 2 * size * sizeof(uint16_t);
  if (compute == ComputeMode::w8a8) {
    bytes += (turns_codes(plan, copies_are_paired(compute)) ? 2 : 1) * size;
    bytes += 2 * static_cast<uint64_t>(plan.scales) * sizeof(float);
  }
  return bytes;
}

void make_copies(const Parameters& parameters, ComputeCopies& copies, ThreadTeam& team) {
  // An item is a tensor: hundreds of them, the largest few per cent of all.
  team.parallel_for(static_cast<int64_t>(parameters.list.size()), [&](int64_t i, int) {
    const Parameter& parameter = parameters.list[static_cast<size_t>(i)];
    const float* master = parameters.master(parameter);
    if (copies.compute == ComputeMode::w8a8 && parameter.quantizable) {
      quantize_parameter(parameter, master, copies);
      return;
    }
    const bool wide = copies.compute == ComputeMode::fp32;
    if (!wide) {
      convert_f32_to_bf16(master, parameter.elements(), copies.plain.as<uint16_t>() + parameter.offset);
    }
    if (!parameter.matrix()) return;
    const int64_t rows = parameter.shape[0];
    const int64_t cols = parameter.shape[1];
    std::byte* out = copies.turned.as<std::byte>() + parameter.offset * (wide ? 4 : 2);
    if (is_paired(copies.paired, parameter)) {
      pair_rows(DType::f32, master, cols, nullptr, rows, cols, 0, rows / 2, reinterpret_cast<uint16_t*>(out));
    } else {
      turn(DType::f32, master, cols, nullptr, rows, cols, wide ? TurnedForm::f32 : TurnedForm::bf16, out, rows, rows);
    }
  });
}

ModelWeights weights_of(const Parameters& parameters, const ComputeCopies& copies) {
  std::unordered_map<std::string, TensorView> views;
  for (const Parameter& parameter : parameters.list) {
    const int64_t at = parameter.offset;
    if (copies.compute == ComputeMode::fp32) {
      views[parameter.name] = tensor_view(DType::f32, parameter.shape, parameters.masters.as<float>() + at);
    } else if (copies.compute == ComputeMode::w8a8 && parameter.quantizable) {
      views[parameter.name] = tensor_view(DType::f8_e4m3, parameter.shape, copies.codes.as<uint8_t>() + at);
      views[parameter.name + "_scale_inv"] =
          tensor_view(DType::f32, {blocks(parameter.shape[0]), blocks(parameter.shape[1])},
                      copies.scale.as<float>() + parameter.scale_offset);
    } else {
      views[parameter.name] = tensor_view(DType::bf16, parameter.shape, copies.plain.as<uint16_t>() + at);
    }
  }
  for (const RouterBias& bias : parameters.biases) {
    views[bias.name] = tensor_view(DType::f32, {static_cast<int64_t>(bias.values.size())}, bias.values.data());
  }
  ModelConfig config = parameters.config;
  if (copies.compute == ComputeMode::w8a8) config.fp8 = Fp8Config{};
  return bind_weights(config, {"the model in training", [&](const std::string& name) { return views.contains(name); },
                               [&](const std::string& name) {
                                 const auto found = views.find(name);
                                 if (found == views.end())
                                   throw_bad_input("The model in training has no tensor {}.", name);
                                 return found->second;
                               }});
}

TurnedWeight turned(const Weight& weight, const Parameters& parameters, const ComputeCopies& copies, bool router) {
  const int64_t offset = offset_in(weight.data, plain_array(parameters, copies, weight.dtype), weight.dtype);
  const bool fp8 = weight.dtype == DType::f8_e4m3;
  const bool paired = copies.paired && weight.rows % 2 == 0 && !router;
  const Buffer& array = fp8 && !paired ? copies.codes_turned : copies.turned;
  const auto bytes = fp8 && paired ? sizeof(uint16_t) : dtype_bytes(weight.dtype);
  const std::byte* data = array.as<std::byte>() + static_cast<size_t>(offset) * bytes;
  TurnedWeight result{dense_weight(weight.dtype, data, weight.cols, weight.rows, weight.rows)};
  if (fp8) {
    result.turned.scale_inv = copies.scale_turned.as<float>() + (weight.scale_inv - copies.scale.as<float>());
    result.turned.block_rows = weight.block_cols;
    result.turned.block_cols = weight.block_rows;
  }
  if (paired) {
    result.pairs = reinterpret_cast<const uint16_t*>(data);
    result.scales = weight.scale_inv;
  }
  return result;
}

float* gradient_of(const Weight& weight, Parameters& parameters, const ComputeCopies& copies) {
  return parameters.gradients.as<float>() +
         offset_in(weight.data, plain_array(parameters, copies, weight.dtype), weight.dtype);
}

float* gradient_of(const TensorView& tensor, Parameters& parameters, const ComputeCopies& copies) {
  return parameters.gradients.as<float>() +
         offset_in(tensor.data, plain_array(parameters, copies, tensor.dtype), tensor.dtype);
}

}  // namespace fathom
