#include "cli/rewriting.h"

#include <fmt/core.h>

#include <memory>

#include "base/interrupt.h"
#include "base/progress.h"

namespace fathom {

std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label) {
  std::unique_ptr<Progress> progress;
  uint64_t shown = 0;
  const RewriteResult result = rewrite_checkpoint(plan, team, [&](uint64_t done, uint64_t total) {
    check_interrupt();
    if (!progress) progress = std::make_unique<Progress>(label, total, "B");
    progress->advance(done - shown);
    shown = done;
  });
  progress.reset();
  const std::string kept = result.bytes_kept == 0 ? std::string()
                                                  : fmt::format(" ({:.2f} GB of them by an earlier run)",
                                                                static_cast<double>(result.bytes_kept) / 1e9);
  return fmt::format("{}: {} tensors in {} file{}, {:.2f} GB{}, written and checked in {:.1f} s\n", plan.out,
                     result.tensors, plan.shards.size(), plan.shards.size() == 1 ? "" : "s",
                     static_cast<double>(result.bytes) / 1e9, kept, result.seconds);
}

}  // namespace fathom
