#include "base/dtype.h"

#include <gtest/gtest.h>

#include "base/tensor.h"

namespace fathom {
namespace {

TEST(DTypes, NamesAndSizesGoTogether) {
  for (int i = 0; i <= static_cast<int>(DType::boolean); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype);
  }
  EXPECT_EQ(dtype_name(DType::f8_e4m3), "F8_E4M3");
  EXPECT_EQ(dtype_bytes(DType::bf16), 2u);
  EXPECT_EQ(dtype_bytes(DType::f8_e8m0), 1u);
  EXPECT_EQ(dtype_bytes(DType::i64), 8u);
  EXPECT_EQ(dtype_bytes(DType::boolean), 1u);
  EXPECT_FALSE(dtype_from_name("f32"));
  EXPECT_FALSE(dtype_from_name("F8_E4M3FN"));
  EXPECT_FALSE(dtype_from_name(""));
}

TEST(Tensors, ShapesAndViews) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({3, 0, 2}), 0);
  EXPECT_EQ(shape_text({2, 3}), "[2, 3]");
  EXPECT_EQ(shape_text({}), "[]");
  const float data[6] = {0, 1, 2, 3, 4, 5};
  const TensorView view = tensor_view(DType::f32, {2, 3}, data);
  EXPECT_EQ(view.elements(), 6);
  EXPECT_EQ(view.bytes(), 24u);
  EXPECT_EQ(view.as<float>()[4], 4.0f);
}

}  // namespace
}  // namespace fathom
