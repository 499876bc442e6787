#include "cli/expert_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace fathom {

std::string expert_store_report(const ExpertCounters& counters, int64_t tokens, double seconds) {
  const double found = static_cast<double>(counters.hits) / static_cast<double>(std::max<int64_t>(counters.lookups, 1));
  const double per_token = static_cast<double>(counters.bytes_read) / static_cast<double>(std::max<int64_t>(tokens, 1));
  const double waited = seconds > 0 ? counters.seconds_waited / seconds : 0;
  const bool large = per_token >= 1e8;
  return fmt::format("experts: {:.0f} % found in memory, {:.2f} {} read per token, waited {:.0f} % of the time",
                     100 * found, per_token / (large ? 1e9 : 1e6), large ? "GB" : "MB", 100 * waited);
}

nlohmann::ordered_json expert_store_json(const ExpertCounters& counters) {
  return {{"lookups", counters.lookups},
          {"hits", counters.hits},
          {"guesses", counters.guesses},
          {"right_guesses", counters.right_guesses},
          {"guessed_hits", counters.guessed_hits},
          {"bytes_read", counters.bytes_read},
          {"seconds_waited", counters.seconds_waited}};
}

}  // namespace fathom
