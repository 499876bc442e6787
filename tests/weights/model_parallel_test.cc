#include "weights/model_parallel.h"

#include <gtest/gtest.h>

#include <cstring>

#include "formats/tensor_table.h"
#include "support/errors.h"
#include "weights/tiny_checkpoints.h"

namespace fathom {
namespace {

void split(const std::string& from, const SplitOptions& options) {
  const Checkpoint checkpoint(from);
  const TensorReader reader(checkpoint);
  ThreadTeam team(2);
  rewrite_checkpoint(plan_split(checkpoint, reader, options), team);
}

void join(const std::string& from, const std::string& out) {
  const SplitCheckpoint checkpoint(from);
  ThreadTeam team(2);
  rewrite_checkpoint(plan_join(checkpoint, out, 1 << 20), team);
}

TEST(ModelParallel, NamesTensorsAsTheDemoDoes) {
  using Part = DemoTensor::Part;
  const auto expect = [](const std::string& name, const std::string& demo, Part part, int64_t expert = -1) {
    const DemoTensor found = demo_tensor(name);
    EXPECT_EQ(found.name, demo);
    EXPECT_EQ(found.part, part) << name;
    EXPECT_EQ(found.expert, expert) << name;
    EXPECT_EQ(hugging_face_name(demo), name);
  };
  expect("model.embed_tokens.weight", "embed.weight", Part::rows);
  expect("lm_head.weight", "head.weight", Part::rows);
  expect("model.norm.weight", "norm.weight", Part::whole);
  expect("model.layers.0.input_layernorm.weight", "layers.0.attn_norm.weight", Part::whole);
  expect("model.layers.60.post_attention_layernorm.weight", "layers.60.ffn_norm.weight", Part::whole);
  expect("model.layers.3.self_attn.q_a_proj.weight_scale_inv", "layers.3.attn.wq_a.scale", Part::whole);
  expect("model.layers.3.self_attn.q_a_layernorm.weight", "layers.3.attn.q_norm.weight", Part::whole);
  expect("model.layers.3.self_attn.q_b_proj.weight", "layers.3.attn.wq_b.weight", Part::rows);
  expect("model.layers.3.self_attn.kv_a_proj_with_mqa.weight", "layers.3.attn.wkv_a.weight", Part::whole);
  expect("model.layers.3.self_attn.kv_a_layernorm.weight", "layers.3.attn.kv_norm.weight", Part::whole);
  expect("model.layers.3.self_attn.kv_b_proj.weight", "layers.3.attn.wkv_b.weight", Part::rows);
  expect("model.layers.3.self_attn.o_proj.weight", "layers.3.attn.wo.weight", Part::cols);
  expect("model.layers.0.mlp.gate_proj.weight", "layers.0.ffn.w1.weight", Part::rows);
  expect("model.layers.0.mlp.down_proj.weight_scale_inv", "layers.0.ffn.w2.scale", Part::cols);
  expect("model.layers.3.mlp.gate.weight", "layers.3.ffn.gate.weight", Part::whole);
  expect("model.layers.3.mlp.gate.e_score_correction_bias", "layers.3.ffn.gate.bias", Part::whole);
  expect("model.layers.3.mlp.shared_experts.up_proj.weight", "layers.3.ffn.shared_experts.w3.weight", Part::rows);
  expect("model.layers.3.mlp.experts.255.down_proj.weight", "layers.3.ffn.experts.255.w2.weight", Part::expert, 255);
  for (const TensorSpec& spec : tensor_table(*model_preset("deepseek-v3"))) {
    ASSERT_EQ(hugging_face_name(demo_tensor(spec.name).name), spec.name);
  }
  FATHOM_EXPECT_ERROR(demo_tensor("model.layers.0.strange.weight"), ErrorKind::bad_input, "strange");
  FATHOM_EXPECT_ERROR(hugging_face_name("weight"), ErrorKind::bad_input, "weight");
}

TEST(ModelParallel, RanksHoldTheirSlices) {
  const TemporaryDirectory directory;
  split(tiny_checkpoint(false), {2, false, directory.file("out")});
  const Checkpoint from(tiny_checkpoint(false));
  const SplitCheckpoint parts(directory.file("out"));
  ASSERT_EQ(parts.ranks, 2);
  const auto view = [&](size_t rank, const std::string& name) {
    const SafetensorsEntry* entry = parts.files[rank]->find(name);
    EXPECT_NE(entry, nullptr) << name;
    return parts.files[rank]->view(*entry);
  };
  const TensorView o_proj = from.tensor("model.layers.1.self_attn.o_proj.weight");
  const TensorView embedding = from.tensor("model.embed_tokens.weight");
  for (size_t rank = 0; rank < 2; ++rank) {
    const TensorView cols = view(rank, "layers.1.attn.wo.weight");
    const auto half = static_cast<size_t>(o_proj.shape[1]);  // bytes of half a row of BF16
    ASSERT_EQ(cols.shape, (Shape{o_proj.shape[0], o_proj.shape[1] / 2}));
    for (size_t row = 0; row < static_cast<size_t>(o_proj.shape[0]); ++row) {
      ASSERT_EQ(std::memcmp(cols.data + row * half, o_proj.data + row * 2 * half + rank * half, half), 0);
    }
    const TensorView rows = view(rank, "embed.weight");
    ASSERT_EQ(rows.bytes() * 2, embedding.bytes());
    EXPECT_EQ(std::memcmp(rows.data, embedding.data + rank * rows.bytes(), rows.bytes()), 0);
  }
  const int64_t experts = from.config().n_routed_experts;
  const std::string last = std::to_string(experts - 1);
  EXPECT_EQ(parts.files[0]->find("layers.1.ffn.experts." + last + ".w1.weight"), nullptr);
  EXPECT_NE(parts.files[1]->find("layers.1.ffn.experts." + last + ".w1.weight"), nullptr);
  // Without --mtp its layer is left out, and the joined checkpoint says so.
  for (const SafetensorsEntry& entry : parts.files[0]->entries())
    EXPECT_EQ(entry.name.find("eh_proj"), std::string::npos);
  join(directory.file("out"), directory.file("joined"));
  EXPECT_EQ(Checkpoint(directory.file("joined")).config().num_nextn_predict_layers, 0);
}

TEST(ModelParallel, JoiningIsTheInverse) {
  for (const bool fp8 : {false, true}) {
    for (const int64_t ranks : {1, 2}) {
      SCOPED_TRACE(testing::Message() << (fp8 ? "FP8, " : "BF16, ") << ranks << " ranks");
      const TemporaryDirectory directory;
      const Checkpoint from(tiny_checkpoint(fp8));
      try {
        split(tiny_checkpoint(fp8), {ranks, true, directory.file("split")});
      } catch (const Error& error) {
        // Scales of a small model need not be as many as ranks.
        ASSERT_TRUE(fp8 && ranks > 1) << error.what();
        EXPECT_NE(std::string(error.what()).find("cannot share evenly"), std::string::npos);
        continue;
      }
      join(directory.file("split"), directory.file("joined"));
      const Checkpoint to(directory.file("joined"));
      EXPECT_EQ(to.config().num_nextn_predict_layers, from.config().num_nextn_predict_layers);
      size_t tensors = 0;
      for (const auto& file : from.files()) {
        for (const SafetensorsEntry& entry : file->entries()) {
          ++tensors;
          const TensorView before = from.tensor(entry.name);
          const TensorView after = to.tensor(entry.name);
          ASSERT_EQ(after.dtype, before.dtype) << entry.name;
          ASSERT_EQ(after.shape, before.shape) << entry.name;
          ASSERT_EQ(std::memcmp(after.data, before.data, before.bytes()), 0) << entry.name;
        }
      }
      size_t joined = 0;
      for (const auto& file : to.files()) joined += file->entries().size();
      EXPECT_EQ(joined, tensors);
    }
  }
}

TEST(ModelParallel, SaysWhatCannotBe) {
  const TemporaryDirectory directory;
  FATHOM_EXPECT_ERROR(split(tiny_checkpoint(false), {3, false, directory.file("out")}), ErrorKind::bad_input,
                      "3 ranks cannot share");
  FATHOM_EXPECT_ERROR(SplitCheckpoint(directory.path()), ErrorKind::bad_input, "no model0-mp*.safetensors");
  split(tiny_checkpoint(false), {2, false, directory.file("out")});
  std::filesystem::remove(directory.file("out") + "/model1-mp2.safetensors");
  FATHOM_EXPECT_ERROR(SplitCheckpoint(directory.file("out")), ErrorKind::bad_input, "rank 1 is missing");
  // Values that all ranks should have alike.
  split(tiny_checkpoint(false), {2, false, directory.file("other")});
  {
    const SplitCheckpoint parts(directory.file("other"));
    const SafetensorsEntry* norm = parts.files[1]->find("norm.weight");
    std::fstream file(parts.files[1]->path(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(norm->begin));
    file.put('\x7f');
  }
  FATHOM_EXPECT_ERROR(join(directory.file("other"), directory.file("joined")), ErrorKind::bad_input, "norm.weight",
                      "other values");
  EXPECT_FALSE(std::filesystem::exists(directory.file("joined")));
}

}  // namespace
}  // namespace fathom
