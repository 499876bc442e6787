// The bytes and operations that benchmarks divide by, against sums over the table of tensors.
#include "model/cost.h"

#include <gtest/gtest.h>

#include "formats/model_config.h"
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
    EXPECT_DOUBLE_EQ(cost.operations(), 2 * (table.elements + table.kv_b_elements + head +
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
  const double difference = forward_cost(*model, {&expanded, 1}, 0, 0).attention.total() -
                            forward_cost(*model, {&absorbed, 1}, 0, 0).attention.total();
  const double pairs = 16 * 64 + 16 * 17 / 2;
  const auto heads = static_cast<double>(c.num_attention_heads);
  const auto latent = static_cast<double>(c.kv_lora_rank);
  const double rebuild = 2 * 64 * latent * heads * static_cast<double>(c.qk_nope_head_dim + c.v_head_dim);
  const double per_pair =
      static_cast<double>(c.qk_head_dim() + c.v_head_dim) - (2 * latent + static_cast<double>(c.qk_rope_head_dim));
  EXPECT_DOUBLE_EQ(difference, static_cast<double>(c.num_hidden_layers) * (rebuild + 2 * heads * pairs * per_pair));
}

// A weight of which only shape and format are looked at.
Weight shape_only(DType dtype, int64_t rows, int64_t cols) {
  static const std::byte somewhere[4] = {};
  static const float scale = 1;
  Weight weight = dense_weight(dtype, somewhere, rows, cols, cols);
  if (dtype == DType::f8_e4m3) {
    weight.scale_inv = &scale;
    weight.block_rows = weight.block_cols = 128;
  }
  return weight;
}

// The widths of DeepSeek-V3 (report, §4.2) in one dense layer and three of experts, FP8 as published: router and head
// in BF16.
LoadedModel v3_slice(ComputeMode compute) {
  LoadedModel model;
  model.config = *model_preset("v3-slice");
  model.compute = compute;
  const auto fp8 = [](int64_t rows, int64_t cols) { return shape_only(DType::f8_e4m3, rows, cols); };
  for (int i = 0; i < 4; ++i) {
    LayerWeights layer;
    layer.attention.q_a_proj = fp8(1536, 7168);
    layer.attention.q_b_proj = fp8(128 * 192, 1536);
    layer.attention.kv_a_proj_with_mqa = fp8(576, 7168);
    layer.attention.kv_b_proj = fp8(128 * 256, 512);
    layer.attention.o_proj = fp8(7168, 128 * 128);
    if (i == 0) {
      layer.mlp = MlpWeights{fp8(18432, 7168), fp8(18432, 7168), fp8(7168, 18432)};
    } else {
      const MlpWeights expert = {fp8(2048, 7168), fp8(2048, 7168), fp8(7168, 2048)};
      layer.moe = MoeWeights{shape_only(DType::bf16, 64, 7168), {}, std::vector<MlpWeights>(64, expert), expert};
    }
    model.weights.layers.push_back(std::move(layer));
  }
  model.weights.lm_head = shape_only(DType::bf16, 129280, 7168);
  return model;
}

// Elements of one layer's matrices outside attention's inside, of the report's table: q_a, q_b, kv_a, o.
constexpr double kProjections = 1536.0 * 7168 + 24576.0 * 1536 + 576.0 * 7168 + 7168.0 * 16384;
constexpr double kKvB = 32768.0 * 512;
constexpr double kExpert = 3 * 2048.0 * 7168;
constexpr double kDense = 3 * 18432.0 * 7168;
constexpr double kGate = 64.0 * 7168;
constexpr double kHead = 129280.0 * 7168;

TEST(ForwardCost, OfADecodeStepOfV3SliceByHand) {
  const LoadedModel model = v3_slice(ComputeMode::bf16);
  const Span span{nullptr, 4096, 0, 1, AttentionForm::absorbed};
  const PassCost cost = forward_cost(model, {&span, 1}, 1, 3 * 8);
  // A float32 scale per 128 × 128; the 576 rows of kv_a make five rows of blocks.
  const double attention_scales = 12 * 56 + 192 * 12 + 5 * 56 + 256 * 4 + 56 * 128;
  const double expert_scales = 3 * 16 * 56;
  const double dense_scales = 3 * 144 * 56;
  EXPECT_DOUBLE_EQ(cost.weight_bytes, 4 * (kProjections + kKvB + 4 * attention_scales) + kDense + 4 * dense_scales +
                                          27 * (kExpert + 4 * expert_scales) + 3 * 2 * kGate + 2 * kHead);
  EXPECT_DOUBLE_EQ(cost.weight_bytes, 4190548864.0);
  EXPECT_DOUBLE_EQ(cost.cache_bytes, 4 * 4097 * 576 * 2);
  EXPECT_DOUBLE_EQ(cost.products.bf16, 2 * (4 * kProjections + kDense + 27 * kExpert + kHead));
  EXPECT_DOUBLE_EQ(cost.products.f32, 2 * 3 * kGate);  // the router is float32 in every mode
  EXPECT_DOUBLE_EQ(cost.products.int8, 0);
  // Queries and results pass kv_b_proj once; every head meets 4,097 positions of 576 and mixes 512 of each.
  EXPECT_DOUBLE_EQ(cost.attention.bf16, 4 * 2 * (kKvB + 128.0 * 4097 * (576 + 512)));
  EXPECT_DOUBLE_EQ(cost.attention.total(), cost.attention.bf16);
}

TEST(ForwardCost, OfAPrefillOfV3SliceByHand) {
  const LoadedModel model = v3_slice(ComputeMode::bf16);
  const Span span{nullptr, 0, 0, 256, AttentionForm::expanded};
  const PassCost cost = forward_cost(model, {&span, 1}, 1, 3 * 64);
  EXPECT_DOUBLE_EQ(cost.products.bf16, 2 * (256 * (4 * kProjections + kDense + 27 * kExpert) + kHead));
  EXPECT_DOUBLE_EQ(cost.attention.bf16, 4 * 2 * (256 * kKvB + 128.0 * (256 * 257 / 2) * (192 + 128)));
}

TEST(ForwardCost, SequencesShareWeightsButNotCaches) {
  const LoadedModel model = v3_slice(ComputeMode::bf16);
  const Span spans[] = {{nullptr, 99, 0, 1, AttentionForm::absorbed}, {nullptr, 199, 1, 1, AttentionForm::absorbed}};
  const PassCost both = forward_cost(model, spans, 2, 40);
  const PassCost first = forward_cost(model, {spans, 1}, 1, 40);
  EXPECT_DOUBLE_EQ(both.weight_bytes, first.weight_bytes);
  EXPECT_DOUBLE_EQ(both.cache_bytes, 4 * 300 * 576 * 2);
  EXPECT_DOUBLE_EQ(both.products.total(), 2 * first.products.total());
}

TEST(ForwardCost, TheModeSaysWhichArithmeticCounts) {
  const Span span{nullptr, 0, 0, 1, AttentionForm::absorbed};
  const double projections = 2 * (4 * kProjections + kDense + 27 * kExpert);
  const PassCost int8 = forward_cost(v3_slice(ComputeMode::int8), {&span, 1}, 1, 24);
  EXPECT_DOUBLE_EQ(int8.products.int8, projections);
  EXPECT_DOUBLE_EQ(int8.products.bf16, 2 * kHead);
  EXPECT_EQ(int8.attention.total(), int8.attention.bf16);
  const PassCost fp32 = forward_cost(v3_slice(ComputeMode::fp32), {&span, 1}, 1, 24);
  EXPECT_DOUBLE_EQ(fp32.products.f32, projections + 2 * kHead + 2 * 3 * kGate);
  EXPECT_EQ(fp32.attention.total(), fp32.attention.f32);
  EXPECT_DOUBLE_EQ(fp32.cache_bytes, 4 * 576 * 4);
  const PassCost w8a8 = forward_cost(v3_slice(ComputeMode::w8a8), {&span, 1}, 1, 24);
  EXPECT_DOUBLE_EQ(w8a8.products.bf16, projections);
  EXPECT_DOUBLE_EQ(w8a8.products.f32, 2 * kHead + 2 * 3 * kGate);
}

TEST(PassCeiling, AddsAttentionToTheLongerOfReadingAndMultiplying) {
  PassCost cost;
  cost.weight_bytes = 100;
  cost.cache_bytes = 10;
  cost.products = {20, 60, 0};
  cost.attention = {0, 30, 0};
  const MachineLimits limits = {10, 5, 10, 20};
  const PassCeiling ceiling = pass_ceiling(cost, limits);
  EXPECT_DOUBLE_EQ(ceiling.weights_s, 10);
  EXPECT_DOUBLE_EQ(ceiling.products_s, 4 + 6);
  EXPECT_DOUBLE_EQ(ceiling.cache_s, 1);
  EXPECT_DOUBLE_EQ(ceiling.attention_s, 3);
  EXPECT_DOUBLE_EQ(ceiling.seconds(), 14);
  cost.products.f32 = 45;
  EXPECT_DOUBLE_EQ(pass_ceiling(cost, limits).seconds(), 9 + 6 + 1 + 3);
}

TEST(PassCeiling, WithoutAnInstructionTheFloatRateCounts) {
  Operations operations = {0, 10, 30};
  EXPECT_DOUBLE_EQ(operations.seconds({1, 5, 0, 0}), 8);
  EXPECT_DOUBLE_EQ(operations.seconds({1, 5, 10, 15}), 3);
}

TEST(WeightBytes, OfIntegersAreThoseOfThePanels) {
  // Two panels of 16 rows: 3 groups of BF16 scales and of zeros, and the codes.
  EXPECT_DOUBLE_EQ(weight_bytes(integer_weight({4, 128, true}, nullptr, 17, 384)), 2 * (128 + 64 + 16 * 384 / 2));
}

}  // namespace
}  // namespace fathom
