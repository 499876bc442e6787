// Counts of training: weights and operations against the published shapes.
#include "train/train_cost.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

// 36,625,618,432 active parameters with the head and without the embedding (spec §1.9); norms and router biases, which
// no product reads, are 999,424 + 7,168 + 14,848 of them.
TEST(TrainCost, ActiveWeightsOfV3) {
  ModelConfig v3 = *model_preset("deepseek-v3");
  v3.num_nextn_predict_layers = 0;
  const int64_t main_model = 36'625'618'432 - 999'424 - 7'168 - 14'848;
  EXPECT_EQ(active_weights(v3), main_model);
  // The MTP layer: one MoE layer (585,318,656 with its norms and biases), eh_proj, and the head once more.
  v3.num_nextn_predict_layers = 1;
  const int64_t layer = 585'318'656 - 2 * 7168 - 1536 - 512 - 256;
  EXPECT_EQ(active_weights(v3), main_model + layer + 2 * 7168 * 7168 + 926'679'040);
}

TEST(TrainCost, OperationsOfAStep) {
  ModelConfig c = *model_preset("deepseek-v3");
  // Without attention's pairs a token costs 6 operations per weight; 128 heads of 192 + 128 meet each pair twice (a
  // multiplication, an addition) in 62 layers, three times over.
  const double weights = 6.0 * static_cast<double>(active_weights(c));
  EXPECT_DOUBLE_EQ(training_operations(c, 1, 1), weights + 3.0 * 2 * 128 * 320 * 62);
  EXPECT_DOUBLE_EQ(training_operations(c, 3, 4), 12 * weights + 3 * 10 * 3.0 * 2 * 128 * 320 * 62);
}

TEST(TrainCost, MemoryIsNamed) {
  TrainingMemory memory;
  memory.masters = 3'000'000;
  memory.tape = 20'000'000'000;
  EXPECT_EQ(training_memory_text(memory),
            "20.0 GB: masters 3.0 MB, gradients 0.0 MB, moments 0.0 MB, compute copies 0.0 MB, kept activations 20.0 "
            "GB, workspace 0.0 MB");
  EXPECT_NE(training_memory_text(memory, 5'000'000).find("moving average 5.0 MB"), std::string::npos);
}

}  // namespace
}  // namespace fathom
