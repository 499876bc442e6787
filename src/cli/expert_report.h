#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/expert_store.h"

namespace fathom {

/// "experts: 73 % found in memory, 1.21 GB read per token, waited 38 % of the time": what a store did while `tokens`
/// tokens were computed in `seconds`.
std::string expert_store_report(const ExpertCounters& counters, int64_t tokens, double seconds);

/// The counters under their own names.
nlohmann::ordered_json expert_store_json(const ExpertCounters& counters);

}  // namespace fathom
