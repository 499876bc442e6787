#pragma once
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

namespace fathom {

inline size_t characters(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xc0) != 0x80; }));
}

/// Whether a value satisfies a schema of the supported part, without formats and patterns: written down a second time.
inline bool valid_by_schema(const nlohmann::ordered_json& value, const nlohmann::ordered_json& schema,
                            const nlohmann::ordered_json& root) {
  using Json = nlohmann::ordered_json;
  if (schema.is_boolean()) return schema.get<bool>();
  if (schema.contains("$ref")) {
    return valid_by_schema(value, root.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))), root);
  }
  if (schema.contains("anyOf")) {
    const Json& list = schema["anyOf"];
    return std::any_of(list.begin(), list.end(), [&](const Json& one) { return valid_by_schema(value, one, root); });
  }
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("enum") &&
      std::find(schema["enum"].begin(), schema["enum"].end(), value) == schema["enum"].end()) {
    return false;
  }
  if (schema.contains("type")) {
    const Json names = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    bool fits = false;
    for (const Json& name : names) {
      const std::string type = name;
      fits = fits || (type == "object" && value.is_object()) || (type == "array" && value.is_array()) ||
             (type == "string" && value.is_string()) || (type == "boolean" && value.is_boolean()) ||
             (type == "null" && value.is_null()) || (type == "number" && value.is_number()) ||
             (type == "integer" && value.is_number_integer());
    }
    if (!fits) return false;
  }
  if (value.is_string()) {
    const size_t length = characters(value.get<std::string>());
    if (length < schema.value("minLength", 0u) || length > schema.value("maxLength", 1u << 30)) return false;
  }
  if (value.is_number()) {
    const double number = value;
    if (schema.contains("minimum") && number < schema["minimum"].get<double>()) return false;
    if (schema.contains("maximum") && number > schema["maximum"].get<double>()) return false;
    if (schema.contains("exclusiveMinimum") && number <= schema["exclusiveMinimum"].get<double>()) return false;
    if (schema.contains("exclusiveMaximum") && number >= schema["exclusiveMaximum"].get<double>()) return false;
    if (schema.contains("multipleOf")) {
      const double quotient = number / schema["multipleOf"].get<double>();
      if (std::abs(quotient - std::round(quotient)) > 1e-9 * std::max(1.0, std::abs(quotient))) return false;
    }
  }
  if (value.is_array()) {
    if (value.size() < schema.value("minItems", 0u) || value.size() > schema.value("maxItems", 1u << 30)) return false;
    for (const Json& item : value) {
      if (schema.contains("items") && !valid_by_schema(item, schema["items"], root)) return false;
    }
  }
  if (value.is_object()) {
    for (const auto& name : schema.value("required", Json::array())) {
      if (!value.contains(name.get<std::string>())) return false;
    }
    for (const auto& [name, member] : value.items()) {
      const Json properties = schema.value("properties", Json::object());
      const Json member_schema =
          properties.contains(name) ? properties[name] : schema.value("additionalProperties", Json(true));
      if (!valid_by_schema(member, member_schema, root)) return false;
    }
  }
  return true;
}

}  // namespace fathom
