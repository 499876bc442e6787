#include "formats/inspect.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "formats/tensor_table.h"
#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

// The numbers of the DeepSeek-V3 paper and README_WEIGHTS.md, as worked out from the dimensions.
TEST(ParameterCounts, OfDeepSeekV3) {
  const ParameterCounts counts = count_parameters(*model_preset("deepseek-v3"));
  EXPECT_EQ(counts.main, 671'026'419'200);
  EXPECT_EQ(counts.active, 37'552'297'472);
  EXPECT_EQ(counts.active_without_embedding, 36'625'618'432);
  EXPECT_EQ(counts.active_without_embedding_and_head, 35'698'939'392);
  EXPECT_EQ(counts.embedding, 926'679'040);
  EXPECT_EQ(counts.head, 926'679'040);
  EXPECT_EQ(counts.mtp_unique, 11'610'068'224);
  EXPECT_EQ(counts.mtp_stored, 13'463'426'304);
  EXPECT_EQ(counts.stored, 684'489'845'504);
  EXPECT_EQ(counts.distinct, 682'636'487'424);
}

TEST(ParameterCounts, OfDeepSeekV2) {
  EXPECT_EQ(count_parameters(*model_preset("deepseek-v2-lite")).main, 15'706'484'224);
  // The 236B model: spec of the demo's config_236B.json.
  ModelConfig config = *model_preset("deepseek-v2-lite");
  config.hidden_size = 5120;
  config.intermediate_size = 12288;
  config.moe_intermediate_size = 1536;
  config.num_hidden_layers = 60;
  config.num_attention_heads = 128;
  config.n_routed_experts = 160;
  config.q_lora_rank = 1536;
  config.n_group = 8;
  config.topk_group = 3;
  EXPECT_EQ(count_parameters(config).main, 235'741'434'880);
}

TEST(ParameterCounts, TiedAndDense) {
  ModelConfig config = *model_preset("tiny");
  const ParameterCounts untied = count_parameters(config);
  config.tie_word_embeddings = true;
  const ParameterCounts tied = count_parameters(config);
  EXPECT_EQ(tied.head, 0);
  EXPECT_EQ(tied.main, untied.main - untied.head);
  EXPECT_EQ(tied.active_without_embedding, untied.active_without_embedding);
  EXPECT_EQ(tied.active_without_embedding_and_head, untied.active_without_embedding_and_head);
  config.n_routed_experts = 0;
  const ParameterCounts dense = count_parameters(config);
  EXPECT_EQ(dense.active, dense.main);
  EXPECT_EQ(dense.router, 0);
}

TEST(Inspect, ThePublishedCheckpointFromItsConfig) {
  const InspectReport report = inspect("deepseek-v3", 4096);
  EXPECT_FALSE(report.has_weights);
  EXPECT_EQ(report.tensors, 91'991);
  EXPECT_EQ(report.tensor_bytes, 688'574'839'360u);
  EXPECT_EQ(report.formats.at("F8_E4M3").bytes, 680'571'043'840u);
  EXPECT_EQ(report.formats.at("F8_E4M3").tensors, 45'808);
  EXPECT_EQ(report.formats.at("BF16").bytes, 7'837'573'120u);
  EXPECT_EQ(report.formats.at("F32").bytes, 60'416u + 166'161'984u);
  EXPECT_EQ(report.cache_values_per_token, 576 * 61);
  EXPECT_EQ(report.mtp_cache_values_per_token, 576);
  EXPECT_EQ(inspect_json(report)["cache"]["main"]["bf16_bytes"], int64_t{70'272} * 4096);
  EXPECT_NE(inspect_text(report).find("671,026,419,200   671.03 B"), std::string::npos);
}

TEST(Inspect, ACheckpoint) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const InspectReport report = inspect(directory);
  EXPECT_TRUE(report.has_weights);
  EXPECT_EQ(report.files, 3);
  EXPECT_EQ(report.tensors, 207);
  EXPECT_EQ(report.tensor_bytes, 2'594'624u);
  EXPECT_EQ(report.context, 32768);
  EXPECT_TRUE(report.problems.fatal.empty());
  const auto json = inspect_json(report);
  EXPECT_EQ(json["weights"]["formats"]["BF16"]["tensors"], 204);
  EXPECT_TRUE(json["fatal"].empty());
  // The config alone.
  EXPECT_EQ(inspect(directory + "/config.json").parameters.main, report.parameters.main);
}

TEST(Inspect, RefusesBadArguments) {
  FATHOM_EXPECT_ERROR(inspect("deepseek-v3", 0), ErrorKind::bad_input, "--context");
  FATHOM_EXPECT_ERROR(inspect("deepseek-v3", int64_t{1} << 31), ErrorKind::bad_input, "--context");
  FATHOM_EXPECT_ERROR(inspect("/none/at/all"), ErrorKind::bad_input, "/none/at/all");
}

TEST(TensorTable, NamesAndShapesOfTheHub) {
  const ModelConfig config = *model_preset("deepseek-v3");
  std::map<std::string, TensorSpec> table;
  for (const TensorSpec& spec : tensor_table(config)) {
    EXPECT_TRUE(table.emplace(spec.name, spec).second) << spec.name;
  }
  EXPECT_EQ(table.size(), 46'183u);
  const auto shape = [&](const char* name) { return table.at(name).shape; };
  EXPECT_EQ(shape("model.embed_tokens.weight"), (Shape{129280, 7168}));
  EXPECT_EQ(shape("model.layers.5.self_attn.q_b_proj.weight"), (Shape{24576, 1536}));
  EXPECT_EQ(shape("model.layers.5.self_attn.kv_a_proj_with_mqa.weight"), (Shape{576, 7168}));
  EXPECT_EQ(shape("model.layers.5.self_attn.kv_b_proj.weight"), (Shape{32768, 512}));
  EXPECT_EQ(shape("model.layers.5.self_attn.o_proj.weight"), (Shape{7168, 16384}));
  EXPECT_EQ(shape("model.layers.2.mlp.down_proj.weight"), (Shape{7168, 18432}));
  EXPECT_EQ(shape("model.layers.3.mlp.experts.255.gate_proj.weight"), (Shape{2048, 7168}));
  EXPECT_EQ(shape("model.layers.61.eh_proj.weight"), (Shape{7168, 14336}));
  EXPECT_TRUE(table.at("model.layers.61.shared_head.head.weight").optional);
  EXPECT_FALSE(table.at("model.layers.61.eh_proj.weight").quantizable);
  EXPECT_FALSE(table.at("model.layers.4.mlp.gate.weight").quantizable);
  EXPECT_EQ(table.at("model.layers.4.mlp.experts.7.up_proj.weight").expert, 7);
  EXPECT_EQ(scale_shape({576, 7168}, Fp8Config{}), (Shape{5, 56}));
  EXPECT_EQ(scale_shape({1, 129}, Fp8Config{}), (Shape{1, 2}));
}

TEST(TensorTable, FollowsTheConfig) {
  ModelConfig config = *model_preset("deepseek-v2-lite");
  bool q_proj = false;
  for (const TensorSpec& spec : tensor_table(config)) {
    EXPECT_EQ(spec.name.find("q_a_proj"), std::string::npos);
    EXPECT_NE(spec.role, TensorRole::router_bias);
    q_proj = q_proj || spec.name == "model.layers.0.self_attn.q_proj.weight";
    if (spec.role == TensorRole::shared_expert) {
      EXPECT_EQ(std::max(spec.shape[0], spec.shape[1]), 2 * 1408);
    }
  }
  EXPECT_TRUE(q_proj);
  config.tie_word_embeddings = true;
  EXPECT_TRUE(tensor_table(config).back().optional);
  EXPECT_NE(stored_tensors(config).back().name, "lm_head.weight");
}

}  // namespace
}  // namespace fathom
