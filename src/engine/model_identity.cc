#include "engine/model_identity.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/cpu/isa.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace fathom {
namespace {

constexpr uint64_t kBlock = 4096;
constexpr uint64_t kBlocks = 16;

std::string file_identity(const SafetensorsFile& file) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (const SafetensorsEntry& entry : file.entries()) {
    XXH3_128bits_update(&state, entry.name.data(), entry.name.size());
    XXH3_128bits_update(&state, &entry.begin, sizeof(entry.begin));
  }
  const uint64_t bytes = file.bytes();
  for (uint64_t i = 0; i < kBlocks; ++i) {
    const uint64_t begin = bytes <= kBlock ? 0 : (bytes - kBlock) / (kBlocks - 1) * i;
    XXH3_128bits_update(&state, file.data() + begin, std::min(kBlock, bytes - begin));
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return fmt::format("{} {} {:016x}{:016x}", std::filesystem::path(file.path()).filename().string(), bytes, hash.high64,
                     hash.low64);
}

}  // namespace

std::string model_identity(const LoadedModel& model) {
  const ModelConfig& c = model.config;
  const WeightOptions& held = model.held;
  std::string text =
      fmt::format("{} layers, {} MTP layers, latents {} + {}, cache {}, compute {}, weights {} in groups of {}{}, {}\n",
                  c.num_hidden_layers, c.num_nextn_predict_layers, c.kv_lora_rank, c.qk_rope_head_dim,
                  dtype_name(model.cache_dtype()), compute_mode_name(model.compute), weight_storage_name(held.storage),
                  held.group, held.zero_point ? " with zero points" : "", isa_name(active_isa()));
  text += fmt::format("rope {} {} {}, routing {} {} {} {} {}\n", c.rope_theta, model.rope.softmax_scale,
                      c.max_position_embeddings, c.n_group, c.topk_group, c.num_experts_per_tok,
                      c.routed_scaling_factor, c.norm_topk_prob);
  for (const auto& file : model.checkpoint->files()) text += file_identity(*file) + "\n";
  return text;
}

}  // namespace fathom
