#include "base/number_formats.h"
#include "kernels/cpu/linear_generic.h"
#include "kernels/cpu/linear_kernels.h"

namespace fathom {
namespace {

// A "register" of 8 floats that any compiler can turn into what the machine has.
struct PortableVec {
  static constexpr int width = 8;
  static constexpr int max_tokens = 2;
  struct F {
    float v[width];
  };
  template <class Function>
  static F make(Function function) {
    F out;
    for (int i = 0; i < width; ++i) out.v[i] = function(i);
    return out;
  }
  static F zero() {
    return make([](int) { return 0.0f; });
  }
  static F set1(float a) {
    return make([a](int) { return a; });
  }
  static F load(const float* p) {
    return make([p](int i) { return p[i]; });
  }
  static F load_n(const float* p, int n) {
    return make([p, n](int i) { return i < n ? p[i] : 0.0f; });
  }
  static F mul(F a, F b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F fma(F a, F b, F c) {
    return make([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  static float sum(F a) { return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7])); }
  static F round_bf16(F a) {
    return make([&](int i) { return round_to_bf16(a.v[i]); });
  }
  static void store(float* p, F a) { std::copy(a.v, a.v + width, p); }
  static void store_n(float* p, F a, int n) { std::copy(a.v, a.v + n, p); }
  static F load_bf16(const uint16_t* p) { return load_bf16_n(p, width); }
  static F load_bf16_n(const uint16_t* p, int n) {
    return make([p, n](int i) { return i < n ? bf16_to_f32(p[i]) : 0.0f; });
  }
  static F load_f16(const uint16_t* p) { return load_f16_n(p, width); }
  static F load_f16_n(const uint16_t* p, int n) {
    return make([p, n](int i) { return i < n ? f16_to_f32(p[i]) : 0.0f; });
  }
  static F load_e4m3(const uint8_t* p) { return load_e4m3_n(p, width); }
  static F load_e4m3_n(const uint8_t* p, int n) {
    return make([p, n](int i) { return i < n ? e4m3_to_f32(p[i]) : 0.0f; });
  }
};

OperandForm operand_form(const Weight&, OperandRounding) {
  return OperandForm::f32;
}

}  // namespace

const LinearKernels& linear_kernels_portable() {
  static const LinearKernels kernels = {linear_rows_generic<PortableVec>, linear_transposed_rows_generic<PortableVec>,
                                        operand_form, nullptr};
  return kernels;
}

}  // namespace fathom
