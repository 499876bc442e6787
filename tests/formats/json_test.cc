#include "formats/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace fathom {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

/// The sentence of the refusal, which must blame the input; empty if the text was accepted.
std::string refusal(std::string_view text, int max_depth = 64) {
  try {
    parse_json(text, "config.json", max_depth);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  return "";
}

TEST(Json, ReadsEveryKindOfValue) {
  const nlohmann::json json =
      parse_json(R"({"a":[1,-2,2.5,true,false,null,"x\u00e9\ud83d\ude00"],"b":{"c":{},"d":[]}})", "t");
  EXPECT_EQ(json["a"].size(), 7u);
  EXPECT_TRUE(json["a"][0].is_number_unsigned());
  EXPECT_EQ(json["a"][1], -2);
  EXPECT_DOUBLE_EQ(json["a"][2].get<double>(), 2.5);
  EXPECT_EQ(json["a"][6], "x\xc3\xa9\xf0\x9f\x98\x80");
  EXPECT_TRUE(json["b"]["c"].is_object());
  EXPECT_TRUE(json["b"]["d"].is_array());
  EXPECT_EQ(parse_json(" 7 ", "t"), 7);
}

TEST(Json, NamesLineAndColumnOfMalformedText) {
  EXPECT_THAT(refusal("{\"a\": 1,\n \"b\" 2}"),
              AllOf(HasSubstr("config.json: line 2, column 6"), HasSubstr("not valid JSON")));
  EXPECT_THAT(refusal(""), HasSubstr("line 1, column 1"));
  EXPECT_THAT(refusal("[1,]"), HasSubstr("line 1, column 4"));
  EXPECT_THAT(refusal("[1] x"), HasSubstr("line 1, column 5"));
  EXPECT_THAT(refusal("{\"a\":1"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("[1e999]"), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal("nan"), HasSubstr("not valid JSON"));
}

TEST(Json, RefusesRepeatedKeys) {
  EXPECT_THAT(refusal("{\"a\":1,\n\"b\":2,\"a\":3}"), AllOf(HasSubstr("line 2"), HasSubstr("\"a\" occurs twice")));
  EXPECT_THAT(refusal(R"({"x":{"k":1,"k":1}})"), HasSubstr("\"k\" occurs twice"));
  EXPECT_EQ(refusal(R"({"x":{"k":1},"y":{"k":1},"k":[{"k":2},{"k":3}]})"), "");
}

TEST(Json, LimitsTheDepth) {
  EXPECT_EQ(refusal(std::string(64, '[') + std::string(64, ']')), "");
  EXPECT_THAT(refusal(std::string(65, '[') + std::string(65, ']')), HasSubstr("deeper than 64 levels"));
  EXPECT_THAT(refusal(std::string(1 << 20, '[')), HasSubstr("deeper than 64 levels"));
  EXPECT_THAT(refusal("{\"a\":{\"b\":1}}", 1), HasSubstr("deeper than 1 levels"));
  EXPECT_EQ(refusal("{\"a\":{\"b\":1}}", 2), "");
}

TEST(Json, RefusesTextThatIsNotUtf8) {
  for (const std::string_view bad : {"[\"\xff\"]", "[\"\xc3\"]", "[\"\xed\xa0\x80\"]", "{\"\xc0\xaf\":1}", "\xff"}) {
    const std::string sentence = refusal(bad);
    EXPECT_THAT(sentence, HasSubstr("line 1, column"));
    EXPECT_THAT(sentence, Not(HasSubstr("\xff"))) << "the sentence itself must be UTF-8";
  }
  EXPECT_THAT(refusal("[\"\\ud800\"]"), HasSubstr("not valid JSON"));
}

TEST(Json, ReadsAFileAndNamesIt) {
  const std::string path = testing::TempDir() + "json_test.json";
  std::ofstream(path) << "{\"a\":";
  try {
    read_json_file(path);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path));
  }
  std::ofstream(path) << "{\"a\":5}";
  EXPECT_EQ(read_json_file(path)["a"], 5);
  EXPECT_THROW(read_json_file(path, 3), Error);
  EXPECT_THROW(read_json_file(path + ".missing"), Error);
}

}  // namespace
}  // namespace fathom
