#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "constrain/automaton.h"
#include "constrain/json_grammar.h"
#include "constrain/samples.h"
#include "constrain/schema_valid.h"
#include "support/errors.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

Json parsed(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    ADD_FAILURE() << error.what() << " in: " << text;
    return nullptr;
  }
}

void refuse(const char* schema, std::initializer_list<std::string> parts) {
  SCOPED_TRACE(schema);
  expect_error([&] { compile_automaton(json_schema_grammar(Json::parse(schema))); }, ErrorKind::bad_input, parts);
}

std::shared_ptr<const Constraint> constraint(const char* schema) {
  return constraint_of(json_schema_grammar(Json::parse(schema)));
}

const std::vector<const char*> schemas = {
    R"({})",
    R"(true)",
    R"({"type": "object"})",
    R"({"type": ["string", "null", "integer"], "maxLength": 4, "minimum": 3})",
    R"({"type": "string", "minLength": 2, "maxLength": 5})",
    R"({"type": "string", "minLength": 700, "maxLength": 1500})",
    R"({"type": "string", "minLength": 3})",
    R"({"type": "integer", "minimum": -17, "maximum": 1042})",
    R"({"type": "integer", "exclusiveMinimum": 99, "exclusiveMaximum": 101})",
    R"({"type": "integer", "minimum": -3.5, "maximum": 2.5})",
    R"({"type": "integer", "maximum": -100})",
    R"({"type": "integer", "multipleOf": 7, "minimum": -100, "maximum": 100000})",
    R"({"type": "integer", "multipleOf": 0.5})",
    R"({"type": "number", "minimum": 0.125, "maximum": 17.5})",
    R"({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})",
    R"({"type": "number", "exclusiveMinimum": -2.75, "maximum": 1e3})",
    R"({"type": "number", "maximum": -0.001})",
    R"({"type": "number", "multipleOf": 0.01, "minimum": 0})",
    R"({"type": "number", "multipleOf": 0.25, "minimum": -10, "maximum": 10})",
    R"({"type": "number", "minimum": 1e-7, "maximum": 1e40})",
    R"({"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4})",
    R"({"type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "null"}}}})",
    R"({"type": "array", "items": {"enum": ["x", "xy", "\"", "é\n", 1, -2.5, null, true, [], {}, {"a": [1, "b"]}]}})",
    R"({"type": "array", "maxItems": 0})",
    R"({"type": "string", "enum": ["a", "b", 3]})",
    R"({"const": {"k": [1, 2, {"z": null}]}})",
    R"({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}}})",
    R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}, "c": {"const": 3}}, "required": ["b"],
        "additionalProperties": false})",
    R"({"type": "object", "properties": {"a": {"const": 1}, "ab": {"const": 2}}, "required": ["z", "a"],
        "additionalProperties": {"type": "boolean"}})",
    R"({"type": "object", "additionalProperties": {"type": "integer"}})",
    R"({"type": "object", "properties": {"\"é\\": {"const": 1}, "": {"const": 2}}, "additionalProperties": true})",
    R"({"$defs": {"tree": {"type": "object", "properties": {"value": {"type": "integer"}, "children": {"type": "array",
        "items": {"$ref": "#/$defs/tree"}, "maxItems": 3}}, "required": ["value", "children"],
        "additionalProperties": false}}, "$ref": "#/$defs/tree"})",
    R"({"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "n": {"type": "number"}},
        "required": ["next"], "additionalProperties": false, "title": "t", "description": "d"})",
    R"({"definitions": {"a~b/c": {"type": "boolean"}}, "type": "array", "items": {"$ref": "#/definitions/a~0b~1c"}})",
};

TEST(JsonGrammar, SamplesAreJson) {
  std::mt19937_64 random(1);
  for (const auto& trie : tries()) {
    for (const bool object_only : {false, true}) {
      const auto any = constraint_of(json_grammar(object_only, {.leading_line_ends = true}), trie);
      for (int count = 0; count < (trie == tiny_trie() ? 500 : 60); ++count) {
        const std::string text = sample(any, random, 40);
        const Json value = parsed(text);
        if (HasFailure()) return;
        EXPECT_TRUE(!object_only || value.is_object()) << text;
      }
    }
  }
}

TEST(JsonGrammar, ReadsWhatJsonAllowsAndNothingElse) {
  const auto any = constraint_of(json_grammar());
  for (const char* text :
       {"0", "-0", "-12.5e+10", "1E9", "true", "null", "\"\"", R"("\u00e9\ud83d\ude00\"\\\/\b")", "\"é😀\"", "{}", "[]",
        "[ 1, [2,\n\t3], {} ]", R"({"a": {"b": [true, false]}, "a": 1})", "{\n  \"a\": 1\n}", "999999999999999999"}) {
    EXPECT_TRUE(is_sentence(any, text)) << text;
    EXPECT_NO_THROW(Json::parse(text)) << text;
  }
  for (const char* text : {"",
                           "01",
                           "+1",
                           "1.",
                           ".5",
                           "1e",
                           "1e999",
                           "0x1",
                           "tru",
                           "\"\n\"",
                           R"("\ud83d")",
                           R"("\ude00")",
                           R"("\ud83dx")",
                           R"("\ud83d\u0041")",
                           R"("\x41")",
                           "\"\xff\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xc0\xaf\"",
                           "{\"a\":}",
                           "{a:1}",
                           "[1,]",
                           "[,]",
                           "{\"a\":1,}",
                           "1 2",
                           "1 ",
                           "[1",
                           "   [1]",
                           "[          1]",
                           "NaN",
                           "'a'"}) {
    EXPECT_FALSE(is_sentence(any, text)) << text;
  }
}

TEST(JsonSchema, SamplesAreValid) {
  std::mt19937_64 random(2);
  for (const auto& trie : tries()) {
    for (const char* text : schemas) {
      SCOPED_TRACE(text);
      const Json schema = Json::parse(text);
      const auto constrained = constraint_of(json_schema_grammar(schema, {.whitespace = random() % 2 == 0}), trie);
      for (int count = 0; count < (trie == tiny_trie() ? 60 : 8); ++count) {
        const std::string sampled = sample(constrained, random, 30);
        const Json value = parsed(sampled);
        EXPECT_TRUE(valid_by_schema(value, schema, schema)) << sampled;
        if (HasFailure()) return;
      }
    }
  }
}

TEST(JsonSchema, BoundsAreExact) {
  for (const auto& [low, high] :
       std::vector<std::pair<int, int>>{{-17, 1042}, {0, 0}, {5, 5}, {-3, -1}, {9, 10}, {-1000, 7}}) {
    const auto range = constraint_of(
        json_schema_grammar(Json{{"type", "integer"}, {"minimum", low}, {"maximum", high}, {"multipleOf", 1}}));
    const auto sevens =
        constraint_of(json_schema_grammar(Json{{"type", "integer"}, {"exclusiveMinimum", low}, {"multipleOf", 7}}));
    for (int number = -1100; number <= 1100; ++number) {
      const std::string text = std::to_string(number);
      EXPECT_EQ(is_sentence(range, text), low <= number && number <= high) << text << " of " << low << " to " << high;
      EXPECT_EQ(is_sentence(sevens, text), low < number && number % 7 == 0) << text << " above " << low;
    }
  }
  const auto decimals = constraint(R"({"type": "number", "exclusiveMinimum": -0.35, "maximum": 1.05})");
  for (int cents = -300; cents <= 300; ++cents) {
    std::string text =
        std::to_string(std::abs(cents) / 100) + "." + std::to_string(std::abs(cents) % 100 + 100).substr(1);
    if (cents < 0) text = "-" + text;
    EXPECT_EQ(is_sentence(decimals, text), -35 < cents && cents <= 105) << text;
  }
  EXPECT_FALSE(is_sentence(decimals, "-0"));
  EXPECT_FALSE(is_sentence(decimals, "00.5"));
  EXPECT_FALSE(is_sentence(decimals, "1e0"));
  const auto prices = constraint(R"({"type": "number", "multipleOf": 0.05})");
  EXPECT_TRUE(is_sentence(prices, "12.35"));
  EXPECT_TRUE(is_sentence(prices, "12.3"));
  EXPECT_TRUE(is_sentence(prices, "-12"));
  EXPECT_FALSE(is_sentence(prices, "12.34"));
}

TEST(JsonSchema, LengthsCountCharacters) {
  const auto five = constraint(R"({"type": "string", "minLength": 5, "maxLength": 5})");
  EXPECT_TRUE(is_sentence(five, "\"aé😀\\n\\ud83d\\ude00\""));
  EXPECT_FALSE(is_sentence(five, "\"aé😀\\n\""));
  EXPECT_FALSE(is_sentence(five, "\"aé😀\\nxx\""));
  for (const auto& [low, high] :
       std::vector<std::pair<size_t, size_t>>{{0, 513}, {0, 640}, {600, 1000}, {63, 767}, {1000, 1000}}) {
    const auto long_text =
        constraint_of(json_schema_grammar(Json{{"type", "string"}, {"minLength", low}, {"maxLength", high}}));
    for (const size_t length :
         {low - 1, low, low + 1, (low + high) / 2, high - 64, high - 1, high, high + 1, high + 64}) {
      if (length > 5000) continue;
      const std::string text = "\"" + std::string(length, 'x') + "\"";
      EXPECT_EQ(is_sentence(long_text, text), low <= length && length <= high)
          << length << " of " << low << " to " << high;
    }
  }
}

TEST(JsonSchema, PropertiesComeInOrderAndOthersHaveOtherNames) {
  const auto object =
      constraint(R"({"type": "object", "properties": {"b": {"const": 1}, "a": {"const": 2}, "bc": {"const": 3}},
      "required": ["a"], "additionalProperties": {"const": 4}})");
  for (const char* text : {R"({"a": 2})", R"({"b": 1, "a": 2})", R"({"b":1,"a":2,"bc":3,"b2":4,"":4,"ab":4})",
                           R"({"a": 2, "bb": 4, "\"": 4, "é": 4})"}) {
    EXPECT_TRUE(is_sentence(object, text)) << text;
  }
  for (const char* text : {R"({})", R"({"b": 1})", R"({"a": 2, "b": 1})", R"({"a": 2, "a": 4})", R"({"a": 2, "bc": 4})",
                           R"({"a": 2, "\u0061": 4})", R"({"a": 2, "x": 3})", R"({"a": 2,})", R"({,"a": 2})"}) {
    EXPECT_FALSE(is_sentence(object, text)) << text;
  }
}

TEST(JsonSchema, FormatsAndPatterns) {
  const std::vector<std::tuple<const char*, std::vector<const char*>, std::vector<const char*>>> cases = {
      {"date",
       {"2024-02-29", "2000-02-29", "1999-12-31"},
       {"2023-02-29", "1900-02-29", "2024-04-31", "2024-13-01", "24-01-01"}},
      {"time", {"23:59:59Z", "00:00:00.123+01:30"}, {"24:00:00Z", "12:00:00", "12:60:00Z"}},
      {"date-time", {"2024-02-29T12:00:00Z"}, {"2024-02-29 12:00:00Z", "2024-02-30T12:00:00Z"}},
      {"duration", {"P1D", "PT5M", "P1Y2M3DT4H5M6S", "P3W"}, {"P", "PT", "1D", "P1S", "P1DT"}},
      {"email", {"a.b+c@example.org", "x@y"}, {"a@", "@b", "a..b@c", "a b@c", "a@-b"}},
      {"hostname", {"example.org", "a-b.c"}, {"-a", "a-", "a..b", ""}},
      {"ipv4", {"0.0.0.0", "255.249.1.19"}, {"256.0.0.1", "1.2.3", "01.2.3.4"}},
      {"ipv6",
       {"::", "::1", "1::", "2001:db8::ff00:42:8329", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::"},
       {":", "1:2:3:4:5:6:7", "1::2::3", "1:2:3:4:5:6:7:8:9", "12345::"}},
      {"uuid",
       {"123e4567-e89b-12d3-a456-426614174000"},
       {"123e4567e89b12d3a456426614174000", "g23e4567-e89b-12d3-a456-426614174000"}},
  };
  for (const auto& [format, good, bad] : cases) {
    const auto text = constraint_of(json_schema_grammar(Json{{"type", "string"}, {"format", format}}));
    for (const char* one : good) EXPECT_TRUE(is_sentence(text, Json(one).dump())) << format << ": " << one;
    for (const char* one : bad) EXPECT_FALSE(is_sentence(text, Json(one).dump())) << format << ": " << one;
  }
  const auto search = constraint(R"({"type": "string", "pattern": "a\\.b|^c\"|d\\\\$|\\n"})");
  for (const char* text : {R"("xxa.byy")", R"("c\"xx")", R"("xd\\")", R"("\n")"})
    EXPECT_TRUE(is_sentence(search, text)) << text;
  for (const char* text : {R"("axb")", R"("xc\"")", R"("d\\x")", R"("d")", "\"\n\""})
    EXPECT_FALSE(is_sentence(search, text)) << text;
}

TEST(JsonSchema, RefusesWithPlaceAndKeyword) {
  for (const char* keyword : {"oneOf",
                              "allOf",
                              "not",
                              "if",
                              "then",
                              "else",
                              "prefixItems",
                              "contains",
                              "patternProperties",
                              "propertyNames",
                              "minProperties",
                              "maxProperties",
                              "dependentRequired",
                              "dependentSchemas",
                              "unevaluatedProperties",
                              "contentEncoding",
                              "$dynamicRef",
                              "$anchor",
                              "nullable",
                              "foo"}) {
    const Json schema = {{"type", "object"}, {"properties", {{"a/b", {{"type", "string"}, {keyword, 1}}}}}};
    refuse(schema.dump().c_str(), {"#/properties/a~1b", "\"" + std::string(keyword) + "\"", "not supported"});
  }
  refuse(R"([])", {"\"#\"", "expected an object"});
  refuse(R"(false)", {"\"#\"", "false"});
  refuse(R"({"type": "strin"})", {"\"#\"", "strin"});
  refuse(R"({"type": []})", {"\"type\""});
  refuse(R"({"type": "array", "items": {"type": 3}})", {"#/items", "3"});
  refuse(R"({"properties": {}})", {"expected \"type\" beside \"properties\""});
  refuse(R"({"type": "integer", "minLength": 3})", {"\"minLength\" does not belong to the type integer"});
  refuse(R"({"type": "array", "uniqueItems": true})", {"uniqueItems"});
  refuse(R"({"type": "array", "minItems": 3, "maxItems": 2})", {"\"minItems\" 3", "\"maxItems\" 2"});
  refuse(R"({"type": "string", "minLength": 3, "maxLength": 2})", {"minLength", "maxLength"});
  refuse(R"({"type": "string", "minLength": -1})", {"minLength", "-1"});
  refuse(R"({"type": "string", "maxLength": 2000000})", {"maxLength", "1000000"});
  refuse(R"({"type": "string", "format": "uri"})", {"\"format\"", "uri"});
  refuse(R"({"type": "string", "format": "date", "minLength": 3})", {"only one"});
  refuse(R"J({"type": "string", "pattern": "a(?=b)"})J", {"\"pattern\"", "column 2", "lookahead"});
  refuse(R"({"type": "number", "multipleOf": 0})", {"multipleOf"});
  refuse(R"({"type": "number", "multipleOf": 1.2345})", {"multipleOf", "1000 units"});
  refuse(R"({"type": "number", "minimum": "3"})", {"minimum"});
  refuse(R"({"type": "number", "minimum": 3, "maximum": 2})", {"least number"});
  refuse(R"({"type": "number", "minimum": 1e30})", {"minimum", "digits"});
  refuse(R"({"type": "number", "minimum": 1e-30})", {"minimum", "digits"});
  refuse(R"({"type": "number", "exclusiveMinimum": 3, "maximum": 3})", {"no finite sentence"});
  refuse(R"({"type": "integer", "minimum": 1.2, "maximum": 1.8})", {"no finite sentence"});
  refuse(R"({"enum": []})", {"\"enum\"", "at least one"});
  refuse(R"({"enum": [1], "type": "string"})", {"\"enum\"", "type"});
  refuse(R"({"enum": [1], "minimum": 0})", {"\"minimum\" beside \"enum\""});
  refuse(R"({"anyOf": []})", {"anyOf"});
  refuse(R"({"anyOf": [{"type": "null"}], "type": "null"})", {"\"type\" beside \"anyOf\""});
  refuse(R"({"$ref": "#/$defs/x"})", {"$ref", "#/$defs/x", "not in the schema"});
  refuse(R"({"$ref": "http://example.org/x"})", {"$ref", "http"});
  refuse(R"({"$ref": "#", "type": "object"})", {"beside \"$ref\""});
  refuse(R"({"$ref": "#"})", {"no finite sentence"});
  refuse(R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", {"begin with itself", "\"#\""});
  refuse(R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", {"no finite sentence"});
  refuse(R"({"type": "array", "items": {"$ref": "#"}, "minItems": 1})", {"no finite sentence"});
  refuse(R"({"type": "object", "properties": {}, "required": ["a"], "additionalProperties": false})",
         {"\"required\"", "\"a\"", "additionalProperties"});
  refuse(R"({"type": "object", "required": "a"})", {"\"required\""});
  refuse(R"({"type": "object", "properties": [1]})", {"\"properties\""});
}

TEST(JsonSchema, HostileSchemasAreRefusedOrCompiledQuickly) {
  const auto start = std::chrono::steady_clock::now();
  Json deep = {{"type", "null"}};
  for (int level = 0; level < 1000; ++level) deep = Json{{"type", "array"}, {"items", std::move(deep)}};
  FATHOM_EXPECT_ERROR(json_schema_grammar(deep), ErrorKind::bad_input, "200 levels");

  Json nested = {{"type", "string"}};
  for (int level = 0; level < 100; ++level)
    nested = Json{{"type", "array"}, {"items", std::move(nested)}, {"maxItems", 900000}};
  try {
    compile_automaton(json_schema_grammar(nested));
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("too large"), std::string::npos) << error.what();
  }

  Json wide = {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}};
  for (int index = 0; index < 1000; ++index) {
    wide["properties"]["property_" + std::to_string(index)] = {{"type", "string"}, {"maxLength", 100 + index % 3}};
  }
  const auto constrained = constraint_of(json_schema_grammar(wide));
  std::mt19937_64 random(5);
  EXPECT_TRUE(valid_by_schema(parsed(sample(constrained, random, 100)), wide, wide));

  Json list = {{"enum", Json::array()}};
  for (int index = 0; index < 5000; ++index) list["enum"].push_back("value " + std::to_string(index * 7919));
  EXPECT_TRUE(is_sentence(constraint_of(json_schema_grammar(list)), "\"value 7919\""));

  Json references = {{"$defs", Json::object()}, {"$ref", "#/$defs/0"}};
  for (int index = 0; index < 5000; ++index) {
    references["$defs"][std::to_string(index)] = {{"$ref", "#/$defs/" + std::to_string(index + 1)}};
  }
  references["$defs"]["5000"] = {{"type", "null"}};
  EXPECT_TRUE(is_sentence(constraint_of(json_schema_grammar(references)), "null"));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, kSanitized ? 60 : 8);
}

}  // namespace
}  // namespace fathom
