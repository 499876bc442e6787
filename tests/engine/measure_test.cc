#include "engine/measure.h"

#include <gtest/gtest.h>

#include "support/errors.h"
#include "support/golden.h"

namespace fathom {
namespace {

TEST(Spread, IsLeastMedianGreatest) {
  EXPECT_EQ(spread({3, 1, 2}).least, 1);
  EXPECT_EQ(spread({3, 1, 2}).median, 2);
  EXPECT_EQ(spread({3, 1, 2}).greatest, 3);
  EXPECT_EQ(spread({4, 1, 2, 3}).median, 2.5);
  EXPECT_EQ(spread({}).median, 0);
}

// A ratio is taken in each repeat with that repeat's ceilings: a host that halves everything changes nothing.
TEST(Measurement, FractionsAreOfTheSameMoment) {
  Measurement m;
  m.tokens = 4;
  PassCost cost;
  cost.weight_bytes = 100;
  cost.cache_bytes = 20;
  cost.products.bf16 = 40;
  cost.attention.bf16 = 10;
  for (const double speed : {1.0, 0.5, 2.0}) {
    m.repeats.push_back({20 / speed, cost, {10 * speed, 1, 10 * speed, 0}});
  }
  EXPECT_DOUBLE_EQ(m.seconds(), 20);
  EXPECT_DOUBLE_EQ(m.tokens_per_s(), 0.2);
  EXPECT_DOUBLE_EQ(m.read_fraction().median, 0.5);     // 10 s of reading weights
  EXPECT_DOUBLE_EQ(m.peak_fraction().median, 0.25);    // 5 s of arithmetic
  EXPECT_DOUBLE_EQ(m.ceiling_fraction().least, 0.65);  // 10 + 2 + 1 s
  EXPECT_DOUBLE_EQ(m.ceiling_fraction().greatest, 0.65);
  EXPECT_DOUBLE_EQ(m.mean_cost().weight_bytes, 100);
  EXPECT_DOUBLE_EQ(m.mean_cost().attention.bf16, 10);
}

TEST(MeasureDecode, StartsEveryRepeatAtTheSameDepth) {
  FATHOM_GOLDEN_OR_SKIP(directory, "bf16-tiny");
  const auto model = open_model(directory, ComputeMode::bf16);
  ThreadTeam team(2);
  ReadBandwidth bandwidth(team, size_t{4} << 20);
  MomentaryLimits limits(team, bandwidth);
  const Measurement m = measure_decode(*model, 2, 65, 3, 2, team, limits);
  ASSERT_EQ(m.repeats.size(), 2u);
  const ModelConfig& c = model->config;
  const auto width = static_cast<double>(c.kv_lora_rank + c.qk_rope_head_dim);
  for (const Repeat& repeat : m.repeats) {
    // Positions 66, 67, 68 of both sequences.
    EXPECT_DOUBLE_EQ(repeat.cost.cache_bytes, 2 * 67 * width * 2 * static_cast<double>(c.num_hidden_layers));
    EXPECT_GT(repeat.seconds, 0);
    EXPECT_GT(repeat.limits.read_bytes_per_s, 0);
  }
  EXPECT_EQ(m.tokens, 2);
  FATHOM_EXPECT_ERROR(measure_decode(*model, 1, c.max_position_embeddings, 1, 1, team, limits), ErrorKind::bad_input,
                      "max_position_embeddings");
}

TEST(MeasureFirstToken, TellsWhatTheChildSaid) {
  const std::vector<std::string> none;
  const FirstToken token = measure_first_token("/bin/sh", {"-c", "echo token"}, none, false);
  EXPECT_GT(token.seconds, 0);
  FATHOM_EXPECT_ERROR(measure_first_token("/bin/sh", {"-c", "echo no such luck >&2; exit 3"}, none, false),
                      ErrorKind::failure, "no such luck");
  FATHOM_EXPECT_ERROR(measure_first_token("/nonexistent", {}, none, false), ErrorKind::failure, "/nonexistent");
  FATHOM_EXPECT_ERROR(measure_first_token("/bin/sh", {"-c", "echo token"}, {"/nonexistent"}, true), ErrorKind::failure,
                      "/nonexistent");
}

TEST(ResidentMemory, SeesWhatIsTaken) {
  constexpr size_t kBytes = size_t{64} << 20;
  const ResidentMemory before = resident_memory();
  const std::vector<char> taken(kBytes, 1);
  const ResidentMemory after = resident_memory();
  EXPECT_GE(after.anonymous + (size_t{4} << 20), before.anonymous + kBytes);
  EXPECT_GE(after.peak, after.anonymous);
  EXPECT_GT(after.mapped, 0u);  // the program itself
  EXPECT_EQ(taken.back(), 1);
}

}  // namespace
}  // namespace fathom
