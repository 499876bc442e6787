#pragma once
#include <nlohmann/json_fwd.hpp>

#include "constrain/byte_grammar.h"

namespace fathom {

/// How JSON may be laid out. It is always UTF-8, with nothing behind the value, and every JSON reader can read it:
/// numbers have at most 18 digits on each side of the point and exponents at most two, so that none is beyond a double.
struct JsonLayout {
  /// Behind each of `{ [ , :` and before `}` and `]` may stand one blank, or a line end and at most 32 blanks or tabs.
  /// If false, nothing may stand there.
  bool whitespace = true;
  /// At most two line ends may stand before the value, as models write them after `</think>`.
  bool leading_line_ends = false;
};

/// Any JSON value (RFC 8259); only objects if `object_only`.
ByteGrammar json_grammar(bool object_only = false, const JsonLayout& layout = {});

/// The JSON values that a schema allows, of the part of JSON Schema that OpenAI's and DeepSeek's strict modes name:
///
/// - `type`, one or several; `enum` and `const`, alone or beside `type`; `anyOf`; `$ref` to `#` or a place in
///   this schema
/// - object: `properties`, `required`, `additionalProperties`. Properties come in the order of the schema, others
///   behind them, with names without control characters. Without `additionalProperties`, an object with `properties`
///   has no others: such objects are always valid. A name that is only required is a property like any other one.
/// - array: `items`, `minItems`, `maxItems`, `uniqueItems` if false
/// - string: `minLength`, `maxLength` (in characters), or `pattern` (see `json_pattern`), or `format`: date-time, time,
///   date, duration, email, hostname, ipv4, ipv6, uuid
/// - number and integer: `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf` (up to 1000
///   units of a power of ten). Numbers with one of these are written without an exponent.
/// - `title`, `description`, `default`, `examples`, `deprecated`, `readOnly`, `writeOnly`, `$comment`, `$schema`, `$id`
///   say nothing about the value and are passed over.
///
/// `bad_input` names the place ("#/properties/size") and the keyword of everything else, of contradictions, and of what
/// is too deep or too large; that a schema has no finite value may only be found by `compile_automaton`.
ByteGrammar json_schema_grammar(const nlohmann::ordered_json& schema, const JsonLayout& layout = {});

}  // namespace fathom
