#pragma once
#include <cstddef>
#include <string_view>

#include "base/buffer.h"
#include "base/thread_team.h"

namespace fathom {

/// Kinds of arithmetic that have a ceiling of their own.
enum class Arithmetic { f32, bf16, int8 };

/// "f32", "bf16", "int8".
std::string_view arithmetic_name(Arithmetic kind);

/// What this machine can do with all threads of a team, measured: the ceilings that kernels are judged by.
struct MachineLimits {
  double read_bytes_per_s = 0;  ///< streaming read of memory far larger than the caches
  double f32_ops_per_s = 0;     ///< fused multiply-adds of float32, 2 operations each
  double bf16_ops_per_s = 0;    ///< BF16 dot products; 0 where the instruction set has none
  double int8_ops_per_s = 0;    ///< INT8 dot products; 0 where the instruction set has none

  /// The ceiling of a kind; of float32 where the instruction set has no instruction of that kind, for then the kernels
  /// have none either. Products of BF16 can be taken in float32 as well: the faster of the two is theirs.
  double ops_per_s(Arithmetic kind) const;
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
  /// Bytes of memory that it holds.
  size_t bytes() const { return bytes_; }

 private:
  ThreadTeam& team_;
  size_t bytes_;
  std::byte* data_;
};

/// Operations per second of one kind, the best of three loops of about 2 ms; 0 where the instruction set has none.
double measure_arithmetic(ThreadTeam& team, Arithmetic kind);

/// The ceiling of a kind at this moment, as MachineLimits::ops_per_s.
double measure_ceiling(ThreadTeam& team, Arithmetic kind);

/// All ceilings of this moment, about 40 ms.
MachineLimits measure_limits(ThreadTeam& team, ReadBandwidth& bandwidth);

}  // namespace fathom
