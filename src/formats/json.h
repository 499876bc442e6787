#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace fathom {

/// Parses JSON from outside.
///
/// `source` names where the text came from, for the sentence. Refused with `bad_input`: malformed text (line and column
/// are named), nesting deeper than `max_depth`, a key that occurs twice in one object, text that is not UTF-8.
nlohmann::json parse_json(std::string_view text, std::string_view source, int max_depth = 64);

/// The same, with the keys of objects in their order; at most 4096 in each.
nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view source, int max_depth = 64);

/// Reads and parses a whole JSON file of at most `max_bytes`.
nlohmann::json read_json_file(const std::string& path, size_t max_bytes = size_t{256} << 20);

}  // namespace fathom
