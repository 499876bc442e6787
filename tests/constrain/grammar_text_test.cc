#include "constrain/grammar_text.h"

#include <gtest/gtest.h>

#include "constrain/automaton.h"
#include "constrain/samples.h"
#include "support/errors.h"

namespace fathom {
namespace {

struct Case {
  std::string grammar;
  std::vector<std::string> good;
  std::vector<std::string> bad;
};

TEST(GrammarText, ReadsWhatItDescribes) {
  const std::vector<Case> cases = {
      {R"G(# A list of points
          root  ::= "[" (point ("," point){0,9})? "]"
          point ::= "(" [0-9]+ "," [0-9]+ ")"   # two numbers
       )G",
       {"[]", "[(1,2)]", "[(1,2),(33,4)]"},
       {"", "[(1,2),]", "[(,2)]", "[(1,2)(3,4)]"}},
      {"root ::= \"a\\n\\\"\\x41\\u00e9\\U0001F600\" [\\-\\]x-z^] | [^a-z]{2}",
       {"a\n\"Aé😀-", "a\n\"Aé😀]", "a\n\"Aé😀y", "a\n\"Aé😀^", "é1"},
       {"a\n\"Aé😀w", "éa", "1", "123"}},
      {"a-1 ::= \"x\" root\n\n| \"y\"\nroot ::= a-1\nb_2 ::= root", {"y", "xy", "xxxy"}, {"x", "yx"}},
      {"root ::= . . .", {"aé😀", "\n\n\n"}, {"ab", "abcd"}},
      {"root ::= (\"a\" | \"b\" | )+ \"c\" \"\"", {"c", "abbac"}, {"ab", ""}},
      {"root ::= \"a\"{2} \"b\"{2,} \"c\"{0,1}", {"aabb", "aabbbbc"}, {"abb", "aab", "aabbcc"}},
      {"root ::= s\ns ::= \"(\" s \")\" s | \"\"", {"", "()", "(())()"}, {"(", "())"}},
  };
  for (const Case& one : cases) {
    const auto constraint = constraint_of(grammar_from_text(one.grammar));
    for (const std::string& text : one.good) EXPECT_TRUE(is_sentence(constraint, text)) << one.grammar << ": " << text;
    for (const std::string& text : one.bad) EXPECT_FALSE(is_sentence(constraint, text)) << one.grammar << ": " << text;
  }
}

TEST(GrammarText, RefusesWithLineAndColumn) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases = {
      {"", {"root"}},
      {"rot ::= \"a\"", {"root"}},
      {"root = \"a\"", {"line 1, column 6", "'::='"}},
      {"root ::= \"a\"\n  $", {"line 2, column 3", "'$'"}},
      {"root ::= a\nb ::= \"x\"", {"line 1, column 10", "\"a\" is not defined"}},
      {"root ::= \"a\"\nroot ::= \"b\"", {"line 2, column 1", "defined twice"}},
      {"root ::= \"a", {"column 10", "'\"'"}},
      {"root ::= [a", {"column 10", "']'"}},
      {"root ::= []", {"at least one"}},
      {"root ::= [z-a]", {"ascending"}},
      {"root ::= (\"a\"", {"column 10", "')'"}},
      {"root ::= \"a\")", {"column 13", "')'"}},
      {"root ::= \"\\q\"", {"column 11", "behind '\\'"}},
      {"root ::= \"\\ud800\"", {"surrogate"}},
      {"root ::= \"a\"{3,2}", {"in order"}},
      {"root ::= \"a\"{1000000}", {"100000"}},
      {"root ::= *", {"'*'"}},
      {std::string("root ::= \"\0\"", 12), {"NUL"}},
      {"root ::= \"\xff\"", {"UTF-8"}},
  };
  for (const auto& [text, parts] : cases) {
    SCOPED_TRACE(text);
    try {
      grammar_from_text(text);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in: " << error.what();
      }
    }
  }
  FATHOM_EXPECT_ERROR(grammar_from_text("root ::= " + std::string(300, '(') + "\"a\"" + std::string(300, ')')),
                      ErrorKind::bad_input, "200 deep");
  FATHOM_EXPECT_ERROR(grammar_from_text("root ::= \"a\"" + std::string(5000, '*')), ErrorKind::bad_input, "too deeply");
}

TEST(GrammarText, RefusesWhatHasNoEndOrBeginsWithItself) {
  const auto refuse = [](const char* text, std::initializer_list<std::string> parts) {
    SCOPED_TRACE(text);
    expect_error([&] { compile_automaton(grammar_from_text(text)); }, ErrorKind::bad_input, parts);
  };
  refuse("root ::= root", {"\"root\"", "no finite sentence"});
  refuse("root ::= \"a\" root", {"no finite sentence"});
  refuse("root ::= a b\na ::= \"x\"\nb ::= a b", {"no finite sentence"});
  refuse("root ::= expression\nexpression ::= expression \"+\" \"1\" | \"1\"", {"\"expression\"", "left recursion"});
  refuse("root ::= x \"1\"\nx ::= y root | \"2\"\ny ::= \"a\"?", {"left recursion"});
  refuse("root ::= (root | \"b\")*", {"left recursion"});
  EXPECT_TRUE(is_sentence(constraint_of(grammar_from_text("root ::= \"a\" | b\nb ::= \"x\" b")), "a"));

  std::string chain = "root ::= r0\n";
  for (int rule = 0; rule < 3000; ++rule) {
    chain += "r" + std::to_string(rule) + " ::= r" + std::to_string(rule + 1) + " \"x\"{9} | r" +
             std::to_string(rule + 1) + " \"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\"\n";
  }
  chain += "r3000 ::= \"z\"";
  FATHOM_EXPECT_ERROR(compile_automaton(grammar_from_text(chain)), ErrorKind::bad_input, "chain of rules");
}

}  // namespace
}  // namespace fathom
