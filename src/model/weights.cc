#include "model/weights.h"

#include <fmt/core.h>

#include <cstring>

#include "base/error.h"
#include "base/number_formats.h"
#include "formats/packed_matrix.h"
#include "kernels/norm.h"
#include "kernels/router.h"

namespace fathom {
namespace {

class Loader {
 public:
  Loader(const TensorSource& source, const ModelConfig& config, const Checkpoint* checkpoint, bool aligned,
         bool experts_apart)
      : source_(source), config_(config), checkpoint_(checkpoint), aligned_(aligned), experts_apart_(experts_apart) {}

  ModelWeights load() {
    if (config_.n_routed_experts > kGreatestExpertCount) {
      throw_bad_input("{}: n_routed_experts is {}; Fathom routes among at most {}.", source_.name,
                      config_.n_routed_experts, kGreatestExpertCount);
    }
    weights_.embed_tokens = matrix("model.embed_tokens.weight", config_.vocab_size, config_.hidden_size);
    weights_.norm = gain("model.norm.weight", config_.hidden_size);
    weights_.lm_head = config_.tie_word_embeddings ? as_weight(weights_.embed_tokens)
                                                   : weight("lm_head.weight", config_.vocab_size, config_.hidden_size);
    for (int64_t i = 0; i < config_.total_layers(); ++i) {
      weights_.layers.push_back(layer(i));
      // A few kilobytes of scales were converted and a page of the file beside each was mapped: over all experts of a
      // large model these are gigabytes.
      if (checkpoint_ != nullptr && !aligned_) {
        for (const auto& file : checkpoint_->files()) file->release();
      }
    }
    return std::move(weights_);
  }

 private:
  TensorView shaped(const std::string& name, const Shape& shape) {
    if (!source_.has(name) && source_.has(name + "_packed")) {
      throw_bad_input("{}: tensor {} is stored in integers; this one has to be F32, BF16, F16{}.", source_.name, name,
                      shape.size() == 2 ? " (kv_b_proj also F8_E4M3)" : "");
    }
    TensorView view = source_.tensor(name);
    if (view.shape != shape) {
      throw_bad_input("{}: tensor {} has shape {}; config.json calls for {}.", source_.name, name,
                      shape_text(view.shape), shape_text(shape));
    }
    return view;
  }

  // The format does not promise alignment. Where a file lacks it, a copy has it.
  TensorView aligned(TensorView view) {
    if (!describe_only_ && reinterpret_cast<uintptr_t>(view.data) % dtype_bytes(view.dtype) != 0) {
      Buffer& copy = weights_.copies.emplace_back();
      copy.reserve(view.bytes());
      std::memcpy(copy.as<std::byte>(), view.data, view.bytes());
      view.data = copy.as<std::byte>();
    }
    return view;
  }
  TensorView aligned_if_asked(TensorView view) { return aligned_ ? aligned(std::move(view)) : view; }

  [[noreturn]] void refuse_type(const std::string& name, DType dtype, std::string_view expected) {
    throw_bad_input("{}: tensor {} is {}; expected {}.", source_.name, name, dtype_name(dtype), expected);
  }

  TensorView unquantized(const std::string& name, const Shape& shape) {
    TensorView view = aligned_if_asked(shaped(name, shape));
    if (view.dtype != DType::f32 && view.dtype != DType::bf16 && view.dtype != DType::f16) {
      refuse_type(name, view.dtype, "F32, BF16 or F16");
    }
    return view;
  }
  TensorView gain(const std::string& name, int64_t n) { return unquantized(name, {n}); }
  TensorView matrix(const std::string& name, int64_t rows, int64_t cols) { return unquantized(name, {rows, cols}); }

  static Weight as_weight(const TensorView& view) {
    return dense_weight(view.dtype, view.data, view.shape[0], view.shape[1], view.shape[1]);
  }

  bool has_matrix(const std::string& name) const {
    return source_.has(name) || (checkpoint_ != nullptr && is_packed(*checkpoint_, name));
  }

  // A matrix that may also be stored in integers.
  Weight weight(const std::string& name, int64_t rows, int64_t cols) {
    if (checkpoint_ == nullptr || !is_packed(*checkpoint_, name)) return float_weight(name, rows, cols);
    const PackedMatrix matrix = packed_matrix(*checkpoint_, name, {rows, cols});
    const auto data = [&](const SafetensorsEntry& entry) { return checkpoint_->tensor(entry.name).data; };
    Weight result = dense_weight(DType::i32, data(*matrix.words), rows, cols, packed_words(matrix.format, cols));
    result.bits = matrix.format.bits;
    result.group = matrix.format.group;
    result.zero_point = matrix.format.zero_point;
    result.packed_scales = data(*matrix.scales);
    if (matrix.zeros != nullptr) result.packed_zeros = data(*matrix.zeros);
    return result;
  }

  Weight float_weight(const std::string& name, int64_t rows, int64_t cols) {
    const TensorView view = aligned_if_asked(shaped(name, {rows, cols}));
    Weight result = as_weight(view);
    if (describe_only_) result.data = nullptr;
    switch (view.dtype) {
      case DType::f32:
      case DType::bf16:
      case DType::f16:
        return result;
      case DType::f8_e4m3:
        break;
      default:
        refuse_type(name, view.dtype, "F32, BF16, F16 or F8_E4M3");
    }
    if (!config_.fp8) {
      throw_bad_input("{}: tensor {} is F8_E4M3, but config.json has no quantization_config.weight_block_size.",
                      source_.name, name);
    }
    result.block_rows = config_.fp8->block_rows;
    result.block_cols = config_.fp8->block_cols;
    result.scale_inv =
        scales(name + "_scale_inv", (rows + result.block_rows - 1) / result.block_rows, result.scale_cols());
    return result;
  }

  const float* scales(const std::string& name, int64_t rows, int64_t cols) {
    const TensorView view = aligned(shaped(name, {rows, cols}));
    if (describe_only_ && (view.dtype == DType::f32 || view.dtype == DType::bf16 || view.dtype == DType::f16 ||
                           view.dtype == DType::f8_e8m0)) {
      return nullptr;
    }
    if (view.dtype == DType::f32) return view.as<float>();
    Buffer& copy = weights_.copies.emplace_back();
    copy.reserve(static_cast<size_t>(view.elements()) * sizeof(float));
    auto* out = copy.as<float>();
    if (view.dtype == DType::bf16 || view.dtype == DType::f16) {
      convert_to_f32(view, out);
    } else if (view.dtype == DType::f8_e8m0) {
      for (int64_t i = 0; i < view.elements(); ++i) out[i] = e8m0_to_f32(view.as<uint8_t>()[i]);
    } else {
      refuse_type(name, view.dtype, "F32, BF16, F16 or F8_E8M0");
    }
    return out;
  }

  LayerWeights layer(int64_t i) {
    const std::string prefix = fmt::format("model.layers.{}.", i);
    LayerWeights result;
    if (config_.is_mtp_layer(i)) result.mtp = mtp(prefix);
    result.input_layernorm = gain(prefix + "input_layernorm.weight", config_.hidden_size);
    result.post_attention_layernorm = gain(prefix + "post_attention_layernorm.weight", config_.hidden_size);
    result.attention = attention(prefix + "self_attn.");
    if (config_.is_moe_layer(i)) {
      result.moe = moe(prefix + "mlp.");
    } else {
      result.mlp = mlp(prefix + "mlp.", config_.intermediate_size);
    }
    return result;
  }

  AttentionWeights attention(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t heads = config_.num_attention_heads;
    AttentionWeights result;
    if (config_.q_lora_rank) {
      result.q_a_proj = weight(prefix + "q_a_proj.weight", *config_.q_lora_rank, hidden);
      result.q_a_layernorm = gain(prefix + "q_a_layernorm.weight", *config_.q_lora_rank);
      result.q_b_proj = weight(prefix + "q_b_proj.weight", heads * config_.qk_head_dim(), *config_.q_lora_rank);
    } else {
      result.q_proj = weight(prefix + "q_proj.weight", heads * config_.qk_head_dim(), hidden);
    }
    result.kv_a_proj_with_mqa =
        weight(prefix + "kv_a_proj_with_mqa.weight", config_.kv_lora_rank + config_.qk_rope_head_dim, hidden);
    result.kv_a_layernorm = gain(prefix + "kv_a_layernorm.weight", config_.kv_lora_rank);
    result.kv_b_proj = float_weight(prefix + "kv_b_proj.weight",
                                    heads * (config_.qk_nope_head_dim + config_.v_head_dim), config_.kv_lora_rank);
    result.o_proj = weight(prefix + "o_proj.weight", hidden, heads * config_.v_head_dim);
    return result;
  }

  MlpWeights mlp(const std::string& prefix, int64_t inner) {
    MlpWeights result = {weight(prefix + "gate_proj.weight", inner, config_.hidden_size),
                         weight(prefix + "up_proj.weight", inner, config_.hidden_size),
                         weight(prefix + "down_proj.weight", config_.hidden_size, inner)};
    // They meet the same activations, prepared once.
    if (result.gate_proj.dtype != result.up_proj.dtype) {
      throw_bad_input("{}: {}gate_proj and up_proj are stored in different formats; they must share theirs.",
                      source_.name, prefix);
    }
    return result;
  }

  MoeWeights moe(const std::string& prefix) {
    MoeWeights result;
    result.gate = as_weight(matrix(prefix + "gate.weight", config_.n_routed_experts, config_.hidden_size));
    if (config_.topk_method == TopkMethod::noaux_tc) {
      const TensorView bias = aligned(gain(prefix + "gate.e_score_correction_bias", config_.n_routed_experts));
      result.e_score_correction_bias.resize(static_cast<size_t>(config_.n_routed_experts));
      convert_to_f32(bias, result.e_score_correction_bias.data());
    }
    describe_only_ = experts_apart_;
    for (int64_t e = 0; e < config_.n_routed_experts; ++e) {
      result.experts.push_back(mlp(fmt::format("{}experts.{}.", prefix, e), config_.moe_intermediate_size));
      const MlpWeights& first = result.experts.front();
      const MlpWeights& last = result.experts.back();
      if (last.gate_proj.dtype != first.gate_proj.dtype || last.up_proj.dtype != first.gate_proj.dtype ||
          last.down_proj.dtype != first.down_proj.dtype) {
        throw_bad_input(
            "{}: {}experts.{} is stored in another format than expert 0; one layer's experts must share theirs.",
            source_.name, prefix, e);
      }
    }
    describe_only_ = false;
    if (config_.n_shared_experts > 0) {
      result.shared_experts = mlp(prefix + "shared_experts.", config_.n_shared_experts * config_.moe_intermediate_size);
    }
    return result;
  }

  MtpWeights mtp(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    if (!has_matrix(prefix + "eh_proj.weight")) {
      throw_bad_input(
          "{}: config.json says num_nextn_predict_layers is {}, but the files hold no {}eh_proj.weight; where the MTP "
          "layer "
          "was left out, set it to 0.",
          source_.name, config_.num_nextn_predict_layers, prefix);
    }
    MtpWeights result;
    result.enorm = gain(prefix + "enorm.weight", hidden);
    result.hnorm = gain(prefix + "hnorm.weight", hidden);
    result.eh_proj = weight(prefix + "eh_proj.weight", hidden, 2 * hidden);
    result.shared_head_norm = gain(prefix + "shared_head.norm.weight", hidden);
    const std::string embedding = prefix + "embed_tokens.weight";
    const std::string head = prefix + "shared_head.head.weight";
    result.embed_tokens =
        source_.has(embedding) ? matrix(embedding, config_.vocab_size, hidden) : weights_.embed_tokens;
    result.shared_head = has_matrix(head) ? weight(head, config_.vocab_size, hidden) : weights_.lm_head;
    return result;
  }

  const TensorSource& source_;
  const ModelConfig& config_;
  const Checkpoint* checkpoint_;  // whose files are let go meanwhile; may be null
  const bool aligned_;
  const bool experts_apart_;
  bool describe_only_ = false;  // the current tensors are checked, and not used
  ModelWeights weights_;
};

}  // namespace

ModelWeights load_weights(const Checkpoint& checkpoint, bool aligned, bool experts_apart) {
  const TensorSource source = {checkpoint.directory(), [&](const std::string& name) { return checkpoint.has(name); },
                               [&](const std::string& name) { return checkpoint.tensor(name); }};
  return Loader(source, checkpoint.config(), &checkpoint, aligned, experts_apart).load();
}

ModelWeights bind_weights(const ModelConfig& config, const TensorSource& source) {
  return Loader(source, config, nullptr, true, false).load();
}

}  // namespace fathom
