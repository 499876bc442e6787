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

}  // namespace fathom
