#pragma once
#include <string_view>

namespace fathom {

/// Instruction sets that have kernels of their own, worst first.
enum class Isa {
  portable,  ///< plain C++
  avx2,      ///< AVX2, FMA, F16C
  avx512,    ///< AVX-512 F/BW/VL/DQ/VBMI/VNNI and BF16 dot products (Zen 4, Sapphire Rapids and later)
};

/// The best set that this machine has, capped by the environment variable FATHOM_ISA (portable, avx2 or avx512) if that
/// is set; decided once. `bad_input` if the variable holds another word.
Isa active_isa();
std::string_view isa_name(Isa isa);

/// For tests: runs what follows on another instruction set, not better than the machine's. Not while kernels run.
void set_active_isa(Isa isa);
Isa machine_isa();

}  // namespace fathom
