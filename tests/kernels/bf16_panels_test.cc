#include "kernels/bf16_panels.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/number_formats.h"
#include "kernels/linear.h"

namespace fathom {
namespace {

// Panels give the bits of the row-major weight: whole panels and rows beside them, gathered tokens, more columns than a
// block of the sum has, more tokens than a run has.
TEST(Bf16Panels, SameBitsAsRowMajorWeights) {
  if (!has_bf16_panels()) GTEST_SKIP() << "this machine has no BF16 panels";
  struct Case {
    int64_t rows, cols, tokens, begin, end;
  };
  for (const Case& c : {Case{64, 32, 9, 0, 64}, Case{100, 96, 13, 0, 100}, Case{200, 256, 300, 3, 197},
                        Case{192, 1056, 50, 64, 192}, Case{130, 2080, 17, 0, 130}, Case{256, 64, 200, 32, 64}}) {
    ASSERT_TRUE(fits_bf16_panels(c.rows, c.cols));
    std::mt19937 random(3);
    std::normal_distribution<float> normal(0, 1);
    std::vector<uint16_t> rows(static_cast<size_t>(c.rows * c.cols));
    for (uint16_t& value : rows) value = f32_to_bf16(normal(random));
    std::vector<float> x(static_cast<size_t>(c.tokens * c.cols));
    for (float& value : x) value = normal(random);
    std::vector<int32_t> index;
    for (int64_t t = 0; t < c.tokens; ++t) index.push_back(static_cast<int32_t>(t * 7 % c.tokens));

    const Weight plain = dense_weight(DType::bf16, rows.data(), c.rows, c.cols, c.cols);
    std::vector<uint16_t> panels(rows.size());
    make_bf16_panels(rows.data(), c.cols, c.cols, 0, c.rows / kBf16PanelRows, panels.data());
    Weight twice = plain;
    twice.panels = panels.data();
    Operand operand;
    operand.prepare(x.data(), c.tokens, c.cols, c.cols, plain, OperandRounding::bf16, nullptr);
    const int64_t width = c.end - c.begin;
    std::vector<float> expected(static_cast<size_t>(c.tokens * width), 1.0f);
    std::vector<float> found(expected.size(), 2.0f);
    for (const int32_t* order : {static_cast<const int32_t*>(nullptr), static_cast<const int32_t*>(index.data())}) {
      linear_rows(operand.view(), order, c.tokens, plain, c.begin, c.end, expected.data(), width);
      linear_rows(operand.view(), order, c.tokens, twice, c.begin, c.end, found.data(), width);
      EXPECT_EQ(expected, found) << c.rows << " rows, " << c.cols << " columns, " << c.tokens << " tokens";
    }
  }
}

TEST(Bf16Panels, FitWholeStepsAndPanels) {
  EXPECT_FALSE(fits_bf16_panels(63, 64));
  EXPECT_FALSE(fits_bf16_panels(64, 48));
  EXPECT_TRUE(fits_bf16_panels(96, 64));
}

}  // namespace
}  // namespace fathom
