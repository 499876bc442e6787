#pragma once
#include "kernels/cpu/isa.h"

namespace fathom {

/// Runs what follows in its scope on another instruction set.
class IsaGuard {
 public:
  explicit IsaGuard(Isa isa) : before_(active_isa()) { set_active_isa(isa); }
  ~IsaGuard() { set_active_isa(before_); }
  IsaGuard(const IsaGuard&) = delete;
  IsaGuard& operator=(const IsaGuard&) = delete;

 private:
  Isa before_;
};

/// The same for the way in which BF16 is multiplied.
class Bf16DotGuard {
 public:
  explicit Bf16DotGuard(Bf16Dot dot) : before_(active_bf16_dot()) { set_active_bf16_dot(dot); }
  ~Bf16DotGuard() { set_active_bf16_dot(before_); }
  Bf16DotGuard(const Bf16DotGuard&) = delete;
  Bf16DotGuard& operator=(const Bf16DotGuard&) = delete;

 private:
  Bf16Dot before_;
};

}  // namespace fathom
