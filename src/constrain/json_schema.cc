#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "constrain/decimal_range.h"
#include "constrain/json_grammar.h"
#include "constrain/json_parts.h"
#include "constrain/regex_grammar.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;
using Node = ByteGrammar::Node;

constexpr uint32_t largest_count = 1'000'000;
/// Together with 18 digits before the point, what bounds and multiples may have behind it.
constexpr size_t most_fraction_digits = 15;
constexpr size_t most_whole_digits = 18;

constexpr std::array ignored_keywords = {"title",      "description", "default",   "examples",
                                         "deprecated", "readOnly",    "writeOnly", "$comment",
                                         "$schema",    "$id",         "$defs",     "definitions"};

struct TypeKeywords {
  std::string_view type;
  std::vector<std::string_view> keywords;
};

const std::vector<TypeKeywords>& types() {
  static const std::vector<std::string_view> bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
                                                       "multipleOf"};
  static const std::vector<TypeKeywords> list = {
      {"object", {"properties", "required", "additionalProperties"}},
      {"array", {"items", "minItems", "maxItems", "uniqueItems"}},
      {"string", {"minLength", "maxLength", "pattern", "format"}},
      {"number", bounds},
      {"integer", bounds},
      {"boolean", {}},
      {"null", {}},
  };
  return list;
}

struct Format {
  std::string_view name;
  std::string pattern;
};

const std::vector<Format>& formats() {
  static const std::vector<Format> list = [] {
    const std::string day = R"((?:0[1-9]|[12]\d|3[01]))";
    const std::string leap_year = R"((?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00))";
    const std::string date = R"((?:\d{4}-(?:(?:0[13578]|1[02])-)" + day +
                             R"(|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|02-(?:0[1-9]|1\d|2[0-8]))|)" + leap_year +
                             "-02-29)";
    const std::string time = R"((?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d))";
    const std::string clock = R"(T(?:\d{1,9}H(?:\d{1,9}M(?:\d{1,9}S)?)?|\d{1,9}M(?:\d{1,9}S)?|\d{1,9}S))";
    const std::string days = R"((?:\d{1,9}D|\d{1,9}M(?:\d{1,9}D)?|\d{1,9}Y(?:\d{1,9}M(?:\d{1,9}D)?)?))";
    // At most six labels of 40 letters: never more than the 253 that a name may have.
    const std::string label = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,38}[A-Za-z0-9])?";
    const std::string host = label + "(?:\\." + label + "){0,5}";
    const std::string atom = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}";
    const std::string byte = R"((?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d))";
    const std::string group = "[0-9A-Fa-f]{1,4}";
    std::string ipv6 = "(?:" + group + ":){7}" + group;
    for (int before = 0; before <= 7; ++before) {  // groups before "::", at least one of eight left out
      ipv6 += "|";
      if (before > 0) ipv6 += fmt::format("(?:{0}:){{{1}}}{0}", group, before - 1);
      ipv6 += "::";
      if (before < 7) ipv6 += fmt::format("(?:{0}(?::{0}){{0,{1}}})?", group, 6 - before);
    }
    return std::vector<Format>{
        {"date-time", date + "T" + time},
        {"date", date},
        {"time", time},
        {"duration", "P(?:\\d{1,9}W|" + days + "(?:" + clock + ")?|" + clock + ")"},
        {"email", atom + "(?:\\." + atom + "){0,2}@" + host},
        {"hostname", host},
        {"ipv4", byte + "(?:\\." + byte + "){3}"},
        {"ipv6", ipv6},
        {"uuid", "[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"},
    };
  }();
  return list;
}

std::string joined(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

/// A name as a part of a JSON pointer.
std::string pointer_part(std::string_view name) {
  std::string part = "/";
  for (const char character : name.substr(0, 200)) {
    if (character == '~') {
      part += "~0";
    } else if (character == '/') {
      part += "~1";
    } else {
      part += static_cast<uint8_t>(character) < 0x20 ? '?' : character;
    }
  }
  return part;
}

bool has_type(const Json& value, std::string_view type) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_boolean();
  if (type == "null") return value.is_null();
  if (type == "number") return value.is_number();
  return value.is_number_integer() ||
         (value.is_number_float() && std::floor(value.get<double>()) == value.get<double>());
}

class SchemaReader {
 public:
  SchemaReader(const Json& root, JsonParts& parts) : root_(root), grammar_(parts.grammar()), parts_(parts) {}

  Node read() {
    const ByteGrammar::Rule whole = grammar_.declare("#");
    rules_.emplace("#", whole);
    pending_.push_back({"#", &root_, whole});
    while (!pending_.empty()) {
      const Pending next = pending_.back();
      pending_.pop_back();
      grammar_.define(next.rule, value(*next.schema, next.path, 0));
    }
    return grammar_.reference(whole);
  }

 private:
  struct Pending {
    std::string path;
    const Json* schema;
    ByteGrammar::Rule rule;
  };

  [[noreturn]] static void fail(const std::string& path, const std::string& sentence) {
    throw_bad_input("The JSON schema at \"{}\": {}", path, sentence);
  }

  static bool has(const Json& schema, std::string_view keyword) { return schema.find(keyword) != schema.end(); }

  static std::string shown(const Json& value) {
    std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return text.size() > 80 ? text.substr(0, 77) + "..." : text;
  }

  /// Every keyword but those that say nothing about the value.
  static std::vector<std::string_view> constraints(const Json& schema) {
    std::vector<std::string_view> keywords;
    for (const auto& item : schema.items()) {
      if (std::find(ignored_keywords.begin(), ignored_keywords.end(), item.key()) == ignored_keywords.end()) {
        keywords.push_back(schema.find(item.key()).key());
      }
    }
    return keywords;
  }

  static void refuse_beside(const Json& schema, const std::string& path, std::string_view keyword,
                            std::initializer_list<std::string_view> allowed) {
    for (const std::string_view other : constraints(schema)) {
      if (other == keyword || std::find(allowed.begin(), allowed.end(), other) != allowed.end()) continue;
      fail(path, fmt::format("\"{}\" beside \"{}\" is not supported.", pointer_part(other).substr(1), keyword));
    }
  }

  Node value(const Json& schema, const std::string& path, int depth) {
    if (depth > deepest_grammar_input) {
      fail(path.substr(0, 100), fmt::format("expected at most {} levels.", deepest_grammar_input));
    }
    if (schema.is_boolean()) {
      if (schema.get<bool>()) return parts_.any_value();
      fail(path, "the schema false allows no value at all.");
    }
    if (!schema.is_object()) fail(path, fmt::format("expected an object, found {}.", shown(schema)));
    const std::vector<std::string_view> keywords = constraints(schema);
    if (keywords.empty()) return parts_.any_value();
    for (const std::string_view keyword : keywords) check_known(path, keyword);
    if (has(schema, "$ref")) return reference(schema, path);
    if (has(schema, "anyOf")) return any_of(schema, path, depth);
    if (has(schema, "enum") || has(schema, "const")) return listed(schema, path);
    return typed(schema, path, depth);
  }

  static void check_known(const std::string& path, std::string_view keyword) {
    constexpr std::array general = {"type", "enum", "const", "anyOf", "$ref"};
    if (std::find(general.begin(), general.end(), keyword) != general.end()) return;
    for (const TypeKeywords& type : types()) {
      if (std::find(type.keywords.begin(), type.keywords.end(), keyword) != type.keywords.end()) return;
    }
    fail(path, fmt::format("the keyword \"{}\" is not supported.", pointer_part(keyword).substr(1)));
  }

  Node reference(const Json& schema, const std::string& path) {
    refuse_beside(schema, path, "$ref", {});
    const Json& target = schema.at("$ref");
    if (!target.is_string()) fail(path, fmt::format("expected a text for \"$ref\", found {}.", shown(target)));
    const std::string name = target.get<std::string>();
    const auto known = rules_.find(name);
    if (known != rules_.end()) return grammar_.reference(known->second);
    if (!name.starts_with("#/")) {
      fail(path, fmt::format("expected \"$ref\" to be \"#\" or to begin with \"#/\", found {}.", shown(target)));
    }
    const Json* place = nullptr;
    try {
      place = &root_.at(Json::json_pointer(name.substr(1)));
    } catch (const Json::exception&) {
      fail(path, fmt::format("\"$ref\" leads to {}, which is not in the schema.", shown(target)));
    }
    const ByteGrammar::Rule rule = grammar_.declare(name);
    rules_.emplace(name, rule);
    pending_.push_back({name, place, rule});
    return grammar_.reference(rule);
  }

  Node any_of(const Json& schema, const std::string& path, int depth) {
    refuse_beside(schema, path, "anyOf", {});
    const Json& list = schema.at("anyOf");
    if (!list.is_array() || list.empty()) {
      fail(path, fmt::format("expected a list of schemas for \"anyOf\", found {}.", shown(list)));
    }
    std::vector<Node> alternatives;
    for (size_t index = 0; index < list.size(); ++index) {
      alternatives.push_back(value(list[index], fmt::format("{}/anyOf/{}", path, index), depth + 1));
    }
    return grammar_.choice(std::move(alternatives));
  }

  std::vector<std::string_view> type_names(const Json& schema, const std::string& path) {
    const Json& type = schema.at("type");
    std::vector<std::string_view> names;
    const auto add = [&](const Json& name) {
      if (name.is_string()) {
        for (const TypeKeywords& known : types()) {
          if (known.type == name.get_ref<const std::string&>()) {
            names.push_back(known.type);
            return;
          }
        }
      }
      fail(path,
           fmt::format("expected \"type\" to be object, array, string, number, integer, boolean or null, found {}.",
                       shown(name)));
    };
    if (type.is_array()) {
      if (type.empty()) fail(path, "expected at least one name for \"type\", found an empty list.");
      for (const Json& name : type) add(name);
    } else {
      add(type);
    }
    return names;
  }

  Node listed(const Json& schema, const std::string& path) {
    const std::string keyword = has(schema, "enum") ? "enum" : "const";
    refuse_beside(schema, path, keyword, {"type"});
    Json values = schema.at(keyword);
    if (keyword == "const") values = Json::array({values});
    if (!values.is_array() || values.empty()) {
      fail(path, fmt::format("expected a list with at least one value for \"enum\", found {}.", shown(values)));
    }
    std::vector<Node> alternatives;
    for (const Json& one : values) {
      bool fits = !has(schema, "type");
      if (!fits) {
        for (const std::string_view type : type_names(schema, path)) fits = fits || has_type(one, type);
      }
      if (fits) alternatives.push_back(parts_.exactly(one));
    }
    if (alternatives.empty()) fail(path, fmt::format("no value of \"{}\" has the type that \"type\" names.", keyword));
    return grammar_.choice(std::move(alternatives));
  }

  Node typed(const Json& schema, const std::string& path, int depth) {
    if (!has(schema, "type")) {
      fail(path, fmt::format("expected \"type\" beside \"{}\".", constraints(schema).front()));
    }
    const std::vector<std::string_view> names = type_names(schema, path);
    for (const std::string_view keyword : constraints(schema)) {
      if (keyword == "type") continue;
      bool belongs = false;
      for (const TypeKeywords& type : types()) {
        if (std::find(names.begin(), names.end(), type.type) == names.end()) continue;
        belongs = belongs || std::find(type.keywords.begin(), type.keywords.end(), keyword) != type.keywords.end();
      }
      if (!belongs) fail(path, fmt::format("\"{}\" does not belong to the type {}.", keyword, joined(names)));
    }
    std::vector<Node> alternatives;
    for (const std::string_view name : names) {
      if (name == "object") alternatives.push_back(object(schema, path, depth));
      if (name == "array") alternatives.push_back(array(schema, path, depth));
      if (name == "string") alternatives.push_back(string(schema, path));
      if (name == "number" || name == "integer") alternatives.push_back(number(schema, path, name == "integer"));
      if (name == "boolean")
        alternatives.insert(alternatives.end(), {grammar_.literal("true"), grammar_.literal("false")});
      if (name == "null") alternatives.push_back(grammar_.literal("null"));
    }
    return grammar_.choice(std::move(alternatives));
  }

  std::optional<uint32_t> count(const Json& schema, const std::string& path, const std::string& keyword) {
    if (!has(schema, keyword)) return std::nullopt;
    const Json& number = schema.at(keyword);
    if (!number.is_number_integer() || number < 0 || number > largest_count) {
      fail(path, fmt::format("expected \"{}\" to be a whole number from 0 to {}, found {}.", keyword, largest_count,
                             shown(number)));
    }
    return number.get<uint32_t>();
  }

  /// `minimum` and `maximum` from two keywords.
  std::pair<uint32_t, uint32_t> counts(const Json& schema, const std::string& path, const std::string& least,
                                       const std::string& most) {
    const uint32_t minimum = count(schema, path, least).value_or(0);
    const uint32_t maximum = count(schema, path, most).value_or(ByteGrammar::no_limit);
    if (minimum > maximum) fail(path, fmt::format("\"{}\" {} is more than \"{}\" {}.", least, minimum, most, maximum));
    return {minimum, maximum};
  }

  Node string(const Json& schema, const std::string& path) {
    const bool has_length = has(schema, "minLength") || has(schema, "maxLength");
    const bool has_pattern = has(schema, "pattern");
    const bool has_format = has(schema, "format");
    if (has_length + has_pattern + has_format > 1) {
      fail(path, "of \"pattern\", \"format\" and a length (\"minLength\", \"maxLength\") only one is supported.");
    }
    Node inside = 0;
    if (has_pattern || has_format) {
      const std::string keyword = has_pattern ? "pattern" : "format";
      const Json& text = schema.at(keyword);
      if (!text.is_string()) fail(path, fmt::format("expected a text for \"{}\", found {}.", keyword, shown(text)));
      inside = has_pattern ? pattern(text.get<std::string>(), path) : format(text.get<std::string>(), path);
    } else if (has_length) {
      const auto [minimum, maximum] = counts(schema, path, "minLength", "maxLength");
      return parts_.string_of(minimum, maximum);
    } else {
      return parts_.string();
    }
    return grammar_.sequence({grammar_.literal("\""), inside, grammar_.literal("\"")});
  }

  Node pattern(const std::string& text, const std::string& path) {
    return json_pattern(grammar_, text, parts_.character(),
                        fmt::format("The JSON schema at \"{}\", \"pattern\"", path));
  }

  Node format(const std::string& name, const std::string& path) {
    std::vector<std::string_view> known;
    for (const Format& one : formats()) {
      if (one.name == name) {
        return json_pattern(grammar_, "^(?:" + one.pattern + ")$", parts_.character(), "The format " + name);
      }
      known.push_back(one.name);
    }
    fail(path,
         fmt::format("the \"format\" {} is not supported: expected one of {}.", shown(Json(name)), joined(known)));
  }

  /// A bound or a multiple, exactly as it is written. Nothing if it has too many digits before the point.
  std::optional<Decimal> decimal(const Json& schema, const std::string& path, const std::string& keyword) {
    const Json& number = schema.at(keyword);
    if (!number.is_number()) fail(path, fmt::format("expected a number for \"{}\", found {}.", keyword, shown(number)));
    std::optional<Decimal> value = parse_decimal(number.dump(), 400);
    if (!value || value->fraction.size() > most_fraction_digits) {
      fail(path, fmt::format("expected \"{}\" to have at most {} digits behind the point, found {}.", keyword,
                             most_fraction_digits, shown(number)));
    }
    if (value->whole.size() > most_whole_digits) return std::nullopt;
    return value;
  }

  static bool less(const Decimal& left, const Decimal& right) {
    if (left.negative != right.negative) return left.negative;
    const Decimal& small = left.negative ? right : left;
    const Decimal& large = left.negative ? left : right;
    if (small.whole.size() != large.whole.size()) return small.whole.size() < large.whole.size();
    return std::tie(small.whole, small.fraction) < std::tie(large.whole, large.fraction);
  }

  /// One end of the range: the tighter of the two keywords.
  void bound(const Json& schema, const std::string& path, bool is_low, DecimalRange& range) {
    for (const bool excluded : {false, true}) {
      const std::string keyword =
          is_low ? (excluded ? "exclusiveMinimum" : "minimum") : (excluded ? "exclusiveMaximum" : "maximum");
      if (!has(schema, keyword)) continue;
      const std::optional<Decimal> value = decimal(schema, path, keyword);
      if (!value) {
        // Beyond every number that is written: no bound at all, or one that nothing can meet.
        if ((schema.at(keyword).get<double>() < 0) == is_low) continue;
        fail(path, fmt::format("expected \"{}\" to have at most {} digits before the point, found {}.", keyword,
                               most_whole_digits, shown(schema.at(keyword))));
      }
      std::optional<Decimal>& end = is_low ? range.low : range.high;
      bool& end_excluded = is_low ? range.low_excluded : range.high_excluded;
      if (!end || *end == *value || (is_low ? less(*end, *value) : less(*value, *end))) {
        end = value;
        end_excluded = excluded;
      }
    }
  }

  Node number(const Json& schema, const std::string& path, bool integer) {
    DecimalRange range;
    bound(schema, path, true, range);
    bound(schema, path, false, range);
    const bool multiple = has(schema, "multipleOf");
    if (!range.low && !range.high && !multiple) return integer ? parts_.integer() : parts_.number();
    if (multiple) read_multiple(schema, path, range);
    if (range.low && range.high && less(*range.high, *range.low)) {
      fail(path, "the least number is greater than the greatest.");
    }
    if (!integer) {
      size_t whole = 1;
      size_t fraction = 0;
      for (const std::optional<Decimal>* end : {&range.low, &range.high}) {
        if (!*end) continue;
        whole = std::max(whole, (*end)->whole.size());
        fraction = std::max(fraction, (*end)->fraction.size());
      }
      // As a double, a number with so few digits is on the same side of an excluded bound as it is exactly.
      fraction = std::max(fraction, std::min<size_t>(6, 15 - std::min<size_t>(15, whole)));
      range.fraction_digits = multiple ? range.multiple_scale : static_cast<uint32_t>(fraction);
      range.whole_digits = 15;
    }
    return grammar_.shared(path, decimal_range(grammar_, range));
  }

  void read_multiple(const Json& schema, const std::string& path, DecimalRange& range) {
    const std::optional<Decimal> value = decimal(schema, path, "multipleOf");
    if (!value || value->zero() || value->negative) {
      fail(path, fmt::format("expected \"multipleOf\" to be greater than 0 and of at most {} digits, found {}.",
                             most_whole_digits, shown(schema.at("multipleOf"))));
    }
    const std::string digits = value->whole + value->fraction;
    const uint64_t units = digits.size() > most_whole_digits ? largest_multiple + 1 : std::stoull(digits);
    if (units > largest_multiple) {
      fail(path, fmt::format("expected \"multipleOf\" to be at most {} units of its last digit, found {}.",
                             largest_multiple, shown(schema.at("multipleOf"))));
    }
    range.multiple = static_cast<uint32_t>(units);
    range.multiple_scale = static_cast<uint32_t>(value->fraction.size());
  }

  Node array(const Json& schema, const std::string& path, int depth) {
    if (has(schema, "uniqueItems") && schema.at("uniqueItems") != false) {
      fail(path, "the keyword \"uniqueItems\" is supported only if it is false.");
    }
    const auto [minimum, maximum] = counts(schema, path, "minItems", "maxItems");
    const Node open = grammar_.literal("[");
    const Node close = grammar_.literal("]");
    const Node none = grammar_.sequence({open, parts_.space(), close});
    if (maximum == 0) return none;
    const Node item = has(schema, "items")
                          ? grammar_.shared(path + "/items", value(schema.at("items"), path + "/items", depth + 1))
                          : parts_.any_value();
    const uint32_t least = std::max<uint32_t>(minimum, 1) - 1;
    const uint32_t most = maximum == ByteGrammar::no_limit ? maximum : maximum - 1;
    const Node more = grammar_.sequence({grammar_.literal(","), parts_.space(), item});
    const Node some =
        grammar_.sequence({open, parts_.space(), item, grammar_.repeat(more, least, most), parts_.space(), close});
    return minimum == 0 ? grammar_.choice({none, some}) : some;
  }

  Node object(const Json& schema, const std::string& path, int depth) {
    struct Property {
      std::string name;
      Node value;
      bool required;
    };
    std::set<std::string> required;
    if (has(schema, "required")) {
      const Json& names = schema.at("required");
      if (!names.is_array()) fail(path, fmt::format("expected a list for \"required\", found {}.", shown(names)));
      for (const Json& name : names) {
        if (!name.is_string()) fail(path, fmt::format("expected a text in \"required\", found {}.", shown(name)));
        required.insert(name.get<std::string>());
      }
    }
    const Json others = has(schema, "additionalProperties") ? schema.at("additionalProperties") : Json(true);
    const bool closed = others.is_boolean() && !others.get<bool>();
    std::vector<Property> properties;
    if (has(schema, "properties")) {
      const Json& list = schema.at("properties");
      if (!list.is_object()) fail(path, fmt::format("expected an object for \"properties\", found {}.", shown(list)));
      for (const auto& [name, property] : list.items()) {
        const Node node = value(property, path + "/properties" + pointer_part(name), depth + 1);
        properties.push_back({name, node, required.erase(name) > 0});
      }
    }
    std::optional<Node> other_value;
    if (!closed && (!required.empty() || has(schema, "additionalProperties") || !has(schema, "properties"))) {
      const std::string place = path + "/additionalProperties";
      other_value = grammar_.shared(place, value(others, place, depth + 1));
    }
    for (const std::string& name : required) {
      if (closed) {
        fail(path, fmt::format("\"required\" names {}, which is not in \"properties\", and \"additionalProperties\" is "
                               "false.",
                               shown(Json(name))));
      }
      properties.push_back({name, *other_value, true});
    }

    std::vector<Node> members;
    std::vector<std::string> names;
    for (const Property& property : properties) {
      names.push_back(property.name);
      const Node key = grammar_.literal(json_text(property.name) + ":");
      const Node member = grammar_.sequence({key, parts_.space(), property.value});
      members.push_back(property.required ? member : grammar_.shared(path + pointer_part(property.name), member));
    }
    // Closed unless asked for: others are always allowed to be absent.
    std::optional<Node> other;
    if (!closed && (has(schema, "additionalProperties") || !has(schema, "properties"))) {
      other = grammar_.shared(path, grammar_.sequence({other_name(names), parts_.space(), *other_value}));
    }
    std::vector<bool> is_required;
    for (const Property& property : properties) is_required.push_back(property.required);
    return braces(members, is_required, other);
  }

  /// `{` … `}` around members in this order, of which those that are not required may be absent; then others.
  Node braces(const std::vector<Node>& members, const std::vector<bool>& required, const std::optional<Node>& other) {
    // Two rails from the start to the end, state 2 + 2i before member i with none written, 3 + 2i with some.
    const auto none = [](size_t index) { return static_cast<uint32_t>(2 + 2 * index); };
    const auto some = [](size_t index) { return static_cast<uint32_t>(3 + 2 * index); };
    const Node nothing = grammar_.empty();
    const Node comma = grammar_.sequence({grammar_.literal(","), parts_.space()});
    std::vector<ByteGrammar::Edge> edges{{0, none(0), nothing}};
    bool may_be_empty = true;
    for (size_t index = 0; index < members.size(); ++index) {
      if (may_be_empty) edges.push_back({none(index), some(index + 1), members[index]});
      if (index > 0) edges.push_back({some(index), some(index + 1), grammar_.sequence({comma, members[index]})});
      if (required[index]) {
        may_be_empty = false;
        continue;
      }
      if (may_be_empty) edges.push_back({none(index), none(index + 1), nothing});
      if (index > 0) edges.push_back({some(index), some(index + 1), nothing});
    }
    const size_t end = members.size();
    if (other) {
      if (may_be_empty) edges.push_back({none(end), some(end), *other});
      edges.push_back({some(end), some(end), grammar_.sequence({comma, *other})});
    }
    const Node close = grammar_.literal("}");
    if (may_be_empty) edges.push_back({none(end), 1, close});
    edges.push_back({some(end), 1, grammar_.sequence({parts_.space(), close})});
    const Node inside = grammar_.graph(some(end) + 1, edges);
    return grammar_.sequence({grammar_.literal("{"), parts_.space(), inside});
  }

  /// A name in quotation marks with the colon behind it, other than the given ones. Every name can be written in one
  /// way only, so that none of those is spelled in disguise.
  Node other_name(const std::vector<std::string>& names) {
    struct Branch {
      std::map<uint32_t, uint32_t> next;
      bool taken = false;
    };
    std::vector<Branch> branches(1);
    for (const std::string& name : names) {
      uint32_t at = 0;
      for (std::string_view rest = name; !rest.empty(); rest.remove_prefix(utf8_step(rest).bytes)) {
        const auto [place, is_new] = branches[at].next.emplace(utf8_code_point(rest), branches.size());
        at = place->second;
        if (is_new) branches.emplace_back();
      }
      branches[at].taken = true;
    }
    const CharacterSet all(0x20, 0x10ffff);
    const Node close = grammar_.literal("\":");
    const uint32_t free = 2;
    const auto state = [](uint32_t branch) { return branch + 3; };
    std::vector<ByteGrammar::Edge> edges{
        {0, state(0), grammar_.literal("\"")}, {free, free, grammar_.json_characters(all)}, {free, 1, close}};
    for (uint32_t index = 0; index < branches.size(); ++index) {
      CharacterSet rest = all;
      for (const auto& [character, next] : branches[index].next) {
        rest = rest.without({character, character});
        edges.push_back({state(index), state(next), grammar_.json_characters({character, character})});
      }
      edges.push_back({state(index), free, grammar_.json_characters(rest)});
      if (!branches[index].taken) edges.push_back({state(index), 1, close});
    }
    return grammar_.graph(state(static_cast<uint32_t>(branches.size())), edges);
  }

  const Json& root_;
  ByteGrammar& grammar_;
  JsonParts& parts_;
  std::map<std::string, ByteGrammar::Rule> rules_;  // by "$ref"
  std::vector<Pending> pending_;
};

}  // namespace

ByteGrammar::Node json_schema_node(JsonParts& parts, const nlohmann::ordered_json& schema) {
  return SchemaReader(schema, parts).read();
}

ByteGrammar json_schema_grammar(const nlohmann::ordered_json& schema, const JsonLayout& layout) {
  ByteGrammar grammar;
  JsonParts parts(grammar, layout);
  grammar.root = grammar.declare("json");
  const Node value = json_schema_node(parts, schema);
  grammar.define(grammar.root, grammar.sequence({parts.before_value(), value}));
  return grammar;
}

}  // namespace fathom
