#include "train/measure_training.h"

#include <gtest/gtest.h>

#include "train/train_cost.h"

namespace fathom {
namespace {

TEST(MeasureTraining, TheBenchModelHasTwentyMillionActiveWeights) {
  EXPECT_NEAR(static_cast<double>(active_weights(training_bench_model())), 20e6, 2e6);
}

TEST(MeasureTraining, CountsAndTimes) {
  ModelConfig config = training_bench_model();
  config.vocab_size = 64;
  config.hidden_size = 64;
  config.intermediate_size = config.moe_intermediate_size = 32;
  ThreadTeam team(1);
  for (const ComputeMode mode : {ComputeMode::bf16, ComputeMode::w8a8}) {
    uint64_t planned = 0;
    const TrainOptions options{mode, DType::bf16, 2, 16};
    const TrainingMeasurement m =
        measure_training(config, options, 2, team, [&](const TrainingMemory& memory) { planned = memory.total(); });
    EXPECT_EQ(planned, training_memory(config, options, 1).total());
    EXPECT_EQ(m.tokens, 32);
    EXPECT_EQ(m.operations, training_operations(config, 2, 16));
    ASSERT_EQ(m.repeats.size(), 2u);
    for (const TrainingRepeat& repeat : m.repeats) {
      EXPECT_GT(repeat.forward_backward_seconds, 0);
      EXPECT_GT(repeat.optimizer_seconds, 0);
      EXPECT_GT(repeat.peak_ops_per_s, 0);
    }
    EXPECT_GT(m.tokens_per_s(), 0);
    const Spread peak = m.peak_fraction();
    EXPECT_GT(peak.least, 0);
    EXPECT_LE(peak.least, peak.median);
    EXPECT_LE(peak.median, peak.greatest);
  }
}

}  // namespace
}  // namespace fathom
