#pragma once
#include <string_view>

namespace fathom {

/// Instruction sets that have kernels of their own, worst first.
enum class Isa {
  portable,    ///< plain C++
  avx2,        ///< AVX2, FMA, F16C
  avx512,      ///< AVX-512 F/BW/VL/DQ/VBMI/VNNI (Ice Lake and later)
  avx512bf16,  ///< the same and BF16 dot products (Zen 4, Sapphire Rapids and later)
};

/// The best set that this machine has, capped by the environment variable FATHOM_ISA (portable, avx2, avx512
/// or avx512bf16) if that
/// is set; decided once. `bad_input` if the variable holds another word.
Isa active_isa();
std::string_view isa_name(Isa isa);

/// How kernels of Isa::avx512bf16 multiply BF16. Both give the same bits on Intel's cores, where few tokens meet the
/// instruction and many are multiplied the other way: the instruction is two fused multiply-adds, the odd
/// element's first, that read and write subnormals as 0. Kernels of Isa::avx512 make these two on the way
/// (`instruction`, where few tokens meet the weights) or beforehand (`fma`).
enum class Bf16Dot {
  instruction,  ///< VDPBF16PS: twice the rate of float32 on Zen 4
  fma,          ///< of values widened to float32: on Intel's cores the instruction has half the rate of these
};
Bf16Dot active_bf16_dot();
/// For tests and comparisons, as set_active_isa.
void set_active_bf16_dot(Bf16Dot dot);

/// For tests: runs what follows on another instruction set, not better than the machine's. Not while kernels run.
void set_active_isa(Isa isa);
Isa machine_isa();

}  // namespace fathom
