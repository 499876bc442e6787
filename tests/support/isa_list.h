#pragma once
#include <vector>

#include "kernels/cpu/isa.h"

namespace fathom {

/// The instruction sets that this machine has, worst first.
inline std::vector<Isa> isas_here() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::portable, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
    if (isa <= machine_isa()) isas.push_back(isa);
  }
  return isas;
}

}  // namespace fathom
