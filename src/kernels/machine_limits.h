#pragma once
#include <cstddef>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"

namespace fathom {

/// What this machine can do with all threads of a team, measured: the ceilings that kernels are judged by.
struct MachineLimits {
  double read_bytes_per_s = 0;  ///< streaming read of memory far larger than the caches
  double f32_ops_per_s = 0;     ///< fused multiply-adds of float32, 2 operations each
  double bf16_ops_per_s = 0;    ///< BF16 dot products; 0 where the instruction set has none
  double int8_ops_per_s = 0;    ///< INT8 dot products; 0 where the instruction set has none
};

/// Measures streaming reads again and again on the same memory, so that a figure can stand beside another of the same
/// moment.
class ReadBandwidth {
 public:
  /// Takes and touches `bytes` of memory, in huge pages where the system gives them.
  explicit ReadBandwidth(ThreadTeam& team, size_t bytes = size_t{1} << 30);
  ~ReadBandwidth();
  ReadBandwidth(const ReadBandwidth&) = delete;
  ReadBandwidth& operator=(const ReadBandwidth&) = delete;
  /// One pass over the memory, bytes per second.
  double measure();

 private:
  ThreadTeam& team_;
  size_t bytes_;
  std::byte* data_;
};

/// The arithmetic ceilings (about 50 ms each); `read_bytes_per_s` stays 0.
MachineLimits measure_arithmetic(ThreadTeam& team);

}  // namespace fathom
