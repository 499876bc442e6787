#pragma once
#include <string>

#include "weights/rewrite.h"

namespace fathom {

/// Runs a plan with a progress bar on a terminal; Ctrl-C stops it between two pieces. The result is a line that says
/// what was written.
std::string rewrite_with_progress(const RewritePlan& plan, ThreadTeam& team, const std::string& label);

}  // namespace fathom
