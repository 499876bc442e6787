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

std::string written_line(const std::string& out, int64_t tensors, size_t files, uint64_t bytes, uint64_t bytes_kept,
                         double seconds) {
  const auto gb = [](uint64_t count) { return static_cast<double>(count) / 1e9; };
  const std::string kept =
      bytes_kept == 0 ? std::string() : fmt::format(" ({:.2f} GB of them by an earlier run)", gb(bytes_kept));
  return fmt::format("{}: {} tensors in {} file{}, {:.2f} GB{}, written and checked in {:.1f} s\n", out, tensors, files,
                     files == 1 ? "" : "s", gb(bytes), kept, seconds);
}

std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label) {
  ByteProgress progress(label);
  const RewriteResult result = rewrite_checkpoint(plan, team, std::ref(progress));
  progress.finish();
  return written_line(plan.out, result.tensors, plan.shards.size(), result.bytes, result.bytes_kept, result.seconds);
}

}  // namespace fathom
