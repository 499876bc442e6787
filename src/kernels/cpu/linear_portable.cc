#include "base/number_formats.h"
#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"
#include "kernels/cpu/vectors.h"

namespace fathom {
namespace {

struct PortableVec : PortableVector {
  static constexpr int max_tokens = 2;
  static float sum(F a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }
  static F load_e4m3(const uint8_t* p) { return load_e4m3_n(p, width); }
  static F load_e4m3_n(const uint8_t* p, int n) {
    return make([p, n](int i) { return i < n ? e4m3_to_f32(p[i]) : 0.0f; });
  }
};

void linear_rows_portable(const OperandView& x, const int32_t* row_index, int64_t T, const Weight& w, int64_t row_begin,
                          int64_t row_end, float* y, int64_t y_stride, const NextRows& next) {
  ask_for_heads(next);
  linear_rows_generic<PortableVec>(x, row_index, T, w, row_begin, row_end, y, y_stride);
}

OperandForm operand_form(const Weight&, OperandRounding) {
  return OperandForm::f32;
}

}  // namespace

const LinearKernels& linear_kernels_portable() {
  static const LinearKernels kernels = {linear_rows_portable, linear_transposed_rows_generic<PortableVec>,
                                        operand_form};
  return kernels;
}

}  // namespace fathom
