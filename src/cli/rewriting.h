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

/// Runs a plan with a progress bar on a terminal; Ctrl-C stops it between two pieces. The result is a line that says
/// what was written.
std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label);

}  // namespace fathom
