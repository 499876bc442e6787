#include "serve/json_fields.h"

#include <algorithm>
#include <cmath>

namespace fathom {
namespace {

/// What was found, short enough for a sentence and without repeating a prompt.
std::string shown(const JsonFields::Json& value) {
  constexpr size_t kLongest = 40;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string() && value.get_ref<const std::string&>().size() > kLongest) return "a long text";
  return value.dump(-1, ' ', false, JsonFields::Json::error_handler_t::replace);
}

}  // namespace

JsonFields::JsonFields(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object_.is_object()) {
    throw_invalid(path_, "{}: expected an object, found {}.", path_.empty() ? "The body" : path_, shown(object_));
  }
}

std::string JsonFields::path(std::string_view name) const {
  return path_.empty() ? std::string(name) : path_ + "." + std::string(name);
}

bool JsonFields::has(const char* name) const {
  const auto found = object_.find(name);
  return found != object_.end() && !found->is_null();
}

const JsonFields::Json* JsonFields::take(const char* name) {
  taken_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

const JsonFields::Json& JsonFields::need(const char* name) {
  const Json* value = take(name);
  if (value == nullptr) throw_invalid(path(name), "{} is missing.", path(name));
  return *value;
}

std::optional<std::string> JsonFields::text(const char* name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) throw_invalid(path(name), "{}: expected a string, found {}.", path(name), shown(*value));
  return value->get<std::string>();
}

std::string JsonFields::needed_text(const char* name) {
  need(name);
  return *text(name);
}

std::optional<bool> JsonFields::boolean(const char* name) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) {
    throw_invalid(path(name), "{}: expected true or false, found {}.", path(name), shown(*value));
  }
  return value->get<bool>();
}

std::optional<int64_t> JsonFields::integer(const char* name, int64_t least, int64_t most) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  // Some clients write every number as a float: 16.0 is an integer, too.
  const bool whole = value->is_number_float() && std::trunc(value->get<double>()) == value->get<double>() &&
                     std::abs(value->get<double>()) < 9e15;
  if (!value->is_number_integer() && !whole) {
    throw_invalid(path(name), "{}: expected an integer, found {}.", path(name), shown(*value));
  }
  const bool beyond = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  const int64_t number = beyond  ? INT64_MAX
                         : whole ? static_cast<int64_t>(value->get<double>())
                                 : value->get<int64_t>();
  if (beyond || number < least || number > most) {
    throw_out_of_range(path(name), "{}: expected an integer from {} to {}, found {}.", path(name), least, most,
                       shown(*value));
  }
  return number;
}

std::optional<double> JsonFields::number(const char* name, double least, double most) {
  const Json* value = take(name);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) throw_invalid(path(name), "{}: expected a number, found {}.", path(name), shown(*value));
  const auto number = value->get<double>();
  if (!(number >= least && number <= most)) {
    throw_out_of_range(path(name), "{}: expected a number from {} to {}, found {}.", path(name), least, most,
                       shown(*value));
  }
  return number;
}

std::vector<std::string> JsonFields::texts(const char* name, size_t most) {
  const Json* value = take(name);
  if (value == nullptr) return {};
  std::vector<std::string> result;
  const auto add = [&](const Json& one) {
    if (!one.is_string()) {
      throw_invalid(path(name), "{}: expected a string or a list of strings, found {}.", path(name), shown(one));
    }
    if (one.get_ref<const std::string&>().empty()) {
      throw_invalid(path(name), "{}: a string in it is empty.", path(name));
    }
    result.push_back(one.get<std::string>());
  };
  if (value->is_array()) {
    for (const Json& one : *value) add(one);
  } else {
    add(*value);
  }
  if (result.size() > most) {
    throw_out_of_range(path(name), "{}: expected at most {} strings, found {}.", path(name), most, result.size());
  }
  return result;
}

void JsonFields::only(const char* name, const std::vector<Json>& allowed, std::string_view reason) {
  const Json* value = take(name);
  if (value == nullptr || std::find(allowed.begin(), allowed.end(), *value) != allowed.end()) return;
  throw_invalid(path(name), "{} cannot be {}: {}.", path(name), shown(*value), reason);
}

void JsonFields::finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (taken_.contains(name) || value.is_null()) continue;
    const std::string shown_name = path(std::string_view(name).substr(0, 60));
    throw_invalid(shown_name, "{} is not a field that this server knows here.", shown_name);
  }
}

}  // namespace fathom
