#include "cli/rewriting.h"

#include <fmt/core.h>

#include <functional>

#include "base/interrupt.h"

namespace fathom {

void ByteProgress::operator()(uint64_t done, uint64_t total) {
  check_interrupt();
  if (!progress_) progress_ = std::make_unique<Progress>(label_, total, "B");
  progress_->advance(done - shown_);
  shown_ = done;
}

std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label) {
  ByteProgress progress(label);
  const RewriteResult result = rewrite_checkpoint(plan, team, std::ref(progress));
  progress.finish();
  const std::string kept = result.bytes_kept == 0 ? std::string()
                                                  : fmt::format(" ({:.2f} GB of them by an earlier run)",
                                                                static_cast<double>(result.bytes_kept) / 1e9);
  return fmt::format("{}: {} tensors in {} file{}, {:.2f} GB{}, written and checked in {:.1f} s\n", plan.out,
                     result.tensors, plan.shards.size(), plan.shards.size() == 1 ? "" : "s",
                     static_cast<double>(result.bytes) / 1e9, kept, result.seconds);
}

}  // namespace fathom
