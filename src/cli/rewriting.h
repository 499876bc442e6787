#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/progress.h"
#include "weights/rewrite.h"

namespace fathom {

/// Shows how far work is that reports the bytes done and all of them, on a terminal; Ctrl-C then stops it.
class ByteProgress {
 public:
  explicit ByteProgress(std::string label) : label_(std::move(label)) {}
  void operator()(uint64_t done, uint64_t total);
  /// Clears the line.
  void finish() { progress_.reset(); }

 private:
  std::string label_;
  std::unique_ptr<Progress> progress_;
  uint64_t shown_ = 0;
};

/// A line that says what was written: "OUT: 12 tensors in 2 files, 1.20 GB (0.40 GB of them by an earlier run), ...".
std::string written_line(const std::string& out, int64_t tensors, size_t files, uint64_t bytes, uint64_t bytes_kept,
                         double seconds);

/// Runs a plan with a progress bar on a terminal; Ctrl-C stops it between two pieces. The result is a
/// `written_line`.
std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label);

}  // namespace fathom
