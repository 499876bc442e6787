#include "train/train_cost.h"

#include <fmt/core.h>

namespace fathom {
namespace {

std::string bytes_text(uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  return bytes < 10'000'000'000 ? fmt::format("{:.1f} MB", value / 1e6) : fmt::format("{:.1f} GB", value / 1e9);
}

int64_t layer_weights(const ModelConfig& c, int64_t layer) {
  const int64_t heads = c.num_attention_heads;
  const int64_t query = heads * c.qk_head_dim();
  int64_t n = c.q_lora_rank ? *c.q_lora_rank * (c.hidden_size + query) : query * c.hidden_size;
  n += (c.kv_lora_rank + c.qk_rope_head_dim) * c.hidden_size;
  n += heads * (c.qk_nope_head_dim + c.v_head_dim) * c.kv_lora_rank;
  n += c.hidden_size * heads * c.v_head_dim;
  if (!c.is_moe_layer(layer)) return n + 3 * c.hidden_size * c.intermediate_size;
  const int64_t experts = c.num_experts_per_tok + c.n_shared_experts;
  return n + c.n_routed_experts * c.hidden_size + experts * 3 * c.hidden_size * c.moe_intermediate_size;
}

}  // namespace

int64_t active_weights(const ModelConfig& c) {
  int64_t n = c.vocab_size * c.hidden_size * (1 + c.num_nextn_predict_layers);
  n += c.num_nextn_predict_layers * 2 * c.hidden_size * c.hidden_size;
  for (int64_t layer = 0; layer < c.total_layers(); ++layer) n += layer_weights(c, layer);
  return n;
}

double training_operations(const ModelConfig& c, int64_t sequences, int64_t length) {
  const auto tokens = static_cast<double>(sequences * length);
  // Scores and mixing of a causal sequence.
  const double pairs = static_cast<double>(sequences) * 0.5 * static_cast<double>(length * (length + 1));
  const auto per_pair = static_cast<double>(2 * c.num_attention_heads * (c.qk_head_dim() + c.v_head_dim));
  return 6.0 * static_cast<double>(active_weights(c)) * tokens +
         3.0 * per_pair * pairs * static_cast<double>(c.total_layers());
}

std::string training_memory_text(const TrainingMemory& memory, uint64_t average_bytes) {
  std::string text =
      fmt::format("{}: masters {}, gradients {}, moments {}, compute copies {}, kept activations {}, workspace {}",
                  bytes_text(memory.total() + average_bytes), bytes_text(memory.masters), bytes_text(memory.gradients),
                  bytes_text(memory.moments), bytes_text(memory.compute_copies), bytes_text(memory.tape),
                  bytes_text(memory.workspace));
  if (average_bytes > 0) text += fmt::format(", moving average {}", bytes_text(average_bytes));
  return text;
}

}  // namespace fathom
