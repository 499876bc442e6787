#include "kernels/cpu/isa.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>

#include "base/error.h"

namespace fathom {
namespace {

Isa read_environment() {
  const char* cap = std::getenv("FATHOM_ISA");
  if (cap == nullptr || *cap == '\0') return machine_isa();
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
    if (isa_name(isa) == cap) return std::min(isa, machine_isa());
  }
  throw_bad_input("FATHOM_ISA must be portable, avx2, avx512 or avx512bf16; it is \"{}\".", cap);
}

// The first who asks may be several threads of a team.
std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = read_environment();
  return isa;
}

std::atomic<Bf16Dot>& chosen_dot() {
#if defined(__x86_64__)
  static std::atomic<Bf16Dot> dot =
      __builtin_cpu_is("intel") || active_isa() < Isa::avx512bf16 ? Bf16Dot::fma : Bf16Dot::instruction;
#else
  static std::atomic<Bf16Dot> dot = Bf16Dot::instruction;
#endif
  return dot;
}

}  // namespace

Bf16Dot active_bf16_dot() {
  return chosen_dot().load(std::memory_order_relaxed);
}

void set_active_bf16_dot(Bf16Dot dot) {
  chosen_dot().store(dot, std::memory_order_relaxed);
}

Isa machine_isa() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::avx512bf16;
  if (avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::portable;
}

Isa active_isa() {
  return chosen().load(std::memory_order_relaxed);
}

void set_active_isa(Isa isa) {
  chosen().store(std::min(isa, machine_isa()), std::memory_order_relaxed);
}

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::portable:
      return "portable";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
  }
  return "?";
}

}  // namespace fathom
