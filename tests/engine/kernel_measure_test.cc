#include "engine/kernel_measure.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(KernelMeasurement, TheLongerOfReadingAndComputingIsTheCeiling) {
  KernelMeasurement row;
  row.bytes = 100;
  row.operations.add(Arithmetic::bf16, 400);
  row.repeats = {{20, {10, 5, 20, 0}}, {40, {10, 5, 80, 0}}, {25, {10, 5, 20, 0}}};
  EXPECT_DOUBLE_EQ(row.least_seconds(row.repeats[0].limits), 20);
  EXPECT_DOUBLE_EQ(row.least_seconds(row.repeats[1].limits), 10);
  EXPECT_DOUBLE_EQ(row.seconds(), 25);
  EXPECT_DOUBLE_EQ(row.ceiling_fraction().greatest, 1);
  EXPECT_DOUBLE_EQ(row.ceiling_fraction().median, 0.8);
  EXPECT_DOUBLE_EQ(row.ceiling_fraction().least, 0.25);
  EXPECT_EQ(row.bound(), "read");  // at the middle repeat's ceilings
  row.repeats = {{20, {10, 5, 20, 0}}};
  EXPECT_EQ(row.bound(), "bf16");
}

TEST(KernelMeasure, CountsBytesAndOperationsOfEachProduct) {
  ThreadTeam team(1);
  ReadBandwidth bandwidth(team, size_t{4} << 20);
  MomentaryLimits limits(team, bandwidth);
  KernelMeasureOptions options;
  options.repeats = 1;
  options.weight_bytes = size_t{7168} * 256;
  options.only = "linear FP8, bf16";
  std::vector<KernelMeasurement> rows;
  measure_kernels(options, team, limits, [&](const KernelMeasurement& row) { rows.push_back(row); });
  ASSERT_EQ(rows.size(), 5u);
  const int64_t tokens[] = {1, 4, 16, 64, 512};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].tokens, tokens[i]);
    // Two blocks of 128 rows, with a scale per 128 columns.
    EXPECT_DOUBLE_EQ(rows[i].bytes, 2 * (7168 * 128 + 4 * 56));
    EXPECT_DOUBLE_EQ(rows[i].operations.bf16, 2.0 * static_cast<double>(tokens[i]) * 7168 * 256);
    EXPECT_GT(rows[i].seconds(), 0);
  }
}

TEST(KernelMeasure, RowsCanBeChosen) {
  ThreadTeam team(2);
  ReadBandwidth bandwidth(team, size_t{4} << 20);
  MomentaryLimits limits(team, bandwidth);
  KernelMeasureOptions options;
  options.repeats = 1;
  options.only = "sampling";
  std::vector<std::string> variants;
  measure_kernels(options, team, limits, [&](const KernelMeasurement& row) {
    EXPECT_EQ(row.kernel, "sampling");
    EXPECT_EQ(row.bytes, 129280 * 4);
    variants.push_back(row.variant);
  });
  EXPECT_EQ(variants,
            (std::vector<std::string>{"129280 logits, greedy", "129280 logits, top-p 0.95, temperature 0.6"}));
}

}  // namespace
}  // namespace fathom
