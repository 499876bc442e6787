#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/thread_team.h"

namespace fathom {

/// A few MB of a file that is being written.
struct OutputPiece {
  uint64_t bytes = 0;
  std::function<void(std::byte* out)> make;  ///< fills them; on any thread, beside others
  bool after_all = false;                    ///< everything before it is made first
};

/// Makes pieces on the whole team and hands them to `write` in their order, as much at once as one buffer of
/// `batch_bytes` holds (at least one piece): one is written, on a thread of its own, while the other is filled.
/// `on_bytes` hears of bytes that are made, on this thread, and may throw to stop. What any of them throws ends the
/// work, after the write that is under way.
void write_pieces(const std::vector<OutputPiece>& pieces, ThreadTeam& team,
                  const std::function<void(const void* data, size_t bytes)>& write,
                  const std::function<void(uint64_t bytes)>& on_bytes, uint64_t batch_bytes = uint64_t{64} << 20);

}  // namespace fathom
