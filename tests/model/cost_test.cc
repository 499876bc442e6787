// The bytes and operations that benchmarks divide by, against sums over the table of tensors.
#include "model/cost.h"

#include <gtest/gtest.h>

#include "formats/tensor_table.h"
#include "kernels/integer_weight.h"
#include "support/golden.h"

namespace fathom {
namespace {

// Bytes of the main layers' matrices and the head; routed experts apart, per expert.
struct TableBytes {
  double shared = 0;
  double head = 0;
  double expert = 0;
  double elements = 0;  // of shared matrices, without kv_b_proj
  double kv_b_elements = 0;
  double expert_elements = 0;
};

TableBytes sum_table(const LoadedModel& model) {
  TableBytes sums;
  for (const TensorSpec& spec : tensor_table(model.config)) {
    if (spec.layer >= model.config.num_hidden_layers || spec.shape.size() != 2 || spec.role == TensorRole::embedding)
      continue;
    const TensorView view = model.checkpoint->tensor(spec.name);
    auto bytes = static_cast<double>(view.bytes());
    const std::string scale = spec.name + "_scale_inv";
    if (model.checkpoint->has(scale)) bytes += static_cast<double>(model.checkpoint->tensor(scale).bytes());
    const auto elements = static_cast<double>(view.elements());
    if (spec.role == TensorRole::head) {
      sums.head += bytes;
    } else if (spec.role == TensorRole::routed_expert) {
      if (spec.expert == 0 && spec.layer == model.config.first_k_dense_replace) {
        sums.expert += bytes;
        sums.expert_elements += elements;
      }
    } else {
      sums.shared += bytes;
      (spec.name.find("kv_b_proj") != std::string::npos ? sums.kv_b_elements : sums.elements) += elements;
    }
  }
  return sums;
}

TEST(ForwardCost, OfADecodeStepIsTheSumOverTheTable) {
  for (const char* name : {"bf16-tiny", "fp8-tiny", "noqlora"}) {
    SCOPED_TRACE(name);
    const std::string directory = golden_dir(name);
    if (directory.empty()) GTEST_SKIP() << "no golden data for " << name << " (../shared is not there)";
    const auto model = open_model(directory, ComputeMode::bf16);
    const ModelConfig& c = model->config;
    const TableBytes table = sum_table(*model);
    const Span span{nullptr, 99, 0, 1, AttentionForm::absorbed};
    const int64_t moe_layers = c.num_hidden_layers - c.first_k_dense_replace;
    const int64_t experts = c.num_experts_per_tok * moe_layers;
    const PassCost cost = forward_cost(*model, {&span, 1}, 1, experts);
    const auto width = static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
    const auto layers = static_cast<double>(c.num_hidden_layers);
    EXPECT_DOUBLE_EQ(cost.weight_bytes, table.shared + table.head + static_cast<double>(experts) * table.expert);
    EXPECT_DOUBLE_EQ(cost.cache_bytes, layers * 100 * width * 2);
    const double attention =
        layers * 2 * static_cast<double>(c.num_attention_heads) * 100 * (width + static_cast<double>(c.kv_lora_rank));
    const double head = static_cast<double>(c.vocab_size) * static_cast<double>(c.hidden_size);
    EXPECT_DOUBLE_EQ(cost.operations, 2 * (table.elements + table.kv_b_elements + head +
                                           static_cast<double>(experts) * table.expert_elements) +
                                          attention);
  }
}

TEST(ForwardCost, ExpandedAttentionRebuildsEveryPosition) {
  const std::string directory = golden_dir("bf16-tiny");
  if (directory.empty()) GTEST_SKIP() << "no golden data for bf16-tiny (../shared is not there)";
  const auto model = open_model(directory, ComputeMode::bf16);
  const ModelConfig& c = model->config;
  const Span absorbed{nullptr, 64, 0, 16, AttentionForm::absorbed};
  Span expanded = absorbed;
  expanded.form = AttentionForm::expanded;
  const double difference =
      forward_cost(*model, {&expanded, 1}, 0, 0).operations - forward_cost(*model, {&absorbed, 1}, 0, 0).operations;
  const double pairs = 16 * 64 + 16 * 17 / 2;
  const auto heads = static_cast<double>(c.num_attention_heads);
  const auto latent = static_cast<double>(c.kv_lora_rank);
  const double rebuild = 2 * 64 * latent * heads * static_cast<double>(c.qk_nope_head_dim + c.v_head_dim);
  const double per_pair =
      static_cast<double>(c.qk_head_dim() + c.v_head_dim) - (2 * latent + static_cast<double>(c.qk_rope_head_dim));
  EXPECT_DOUBLE_EQ(difference, static_cast<double>(c.num_hidden_layers) * (rebuild + 2 * heads * pairs * per_pair));
}

TEST(WeightBytes, OfIntegersAreThoseOfThePanels) {
  // Two panels of 16 rows: 3 groups of BF16 scales and of zeros, and the codes.
  EXPECT_DOUBLE_EQ(weight_bytes(integer_weight({4, 128, true}, nullptr, 17, 384)), 2 * (128 + 64 + 16 * 384 / 2));
}

}  // namespace
}  // namespace fathom
