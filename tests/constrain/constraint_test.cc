#include "constrain/constraint.h"

#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "constrain/grammar_text.h"
#include "constrain/json_grammar.h"
#include "constrain/regex_grammar.h"
#include "constrain/samples.h"
#include "support/errors.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* program_grammar = R"G(
root  ::= line+
line  ::= name ws "=" ws sum ";" "\n"
sum   ::= term (ws [-+*/] ws term)*
term  ::= name | number | "(" ws sum ws ")" | "\"" char* "\""
char  ::= [^"\\\x00-\x1f] | "\\" ["\\nrt]
name  ::= [a-zA-Z_] [a-zA-Z0-9_]*
number ::= [0-9]+ ("." [0-9]+)?
ws    ::= " "*
)G";

constexpr const char* order_schema = R"({"type": "object", "properties": {
  "name": {"type": "string", "maxLength": 20}, "note": {"type": "string", "maxLength": 3000},
  "count": {"type": "integer", "minimum": -5, "maximum": 1200},
  "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 3},
  "when": {"type": "string", "format": "date-time"}, "kind": {"enum": ["a", "ab", 7, null, [1, {"x": "y"}]]},
  "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["count", "next"], "additionalProperties": false})";

std::vector<std::pair<std::string, ByteGrammar>> grammars() {
  std::vector<std::pair<std::string, ByteGrammar>> list;
  list.emplace_back("JSON", json_grammar());
  list.emplace_back("schema", json_schema_grammar(Json::parse(order_schema)));
  list.emplace_back("compact", json_schema_grammar(Json::parse(order_schema), {.whitespace = false}));
  list.emplace_back("regex", regex_grammar("(?:[A-Z][a-z]+ ){2,5}\\d{4}: .*|.{3,90}é[^a-f]+"));
  list.emplace_back("program", grammar_from_text(program_grammar));
  list.emplace_back("right recursion", grammar_from_text("root ::= \"a\" root | \"b\" root \"c\" | \"d\""));
  list.emplace_back("ambiguous",
                    grammar_from_text("root ::= x \".\"\nx ::= \"a\" x \"b\" | \"a\" x \"c\" | \"a\" y | \"a\"\n"
                                      "y ::= \"a\" x \"b\" | [ab]"));
  list.emplace_back("nullable", grammar_from_text("root ::= a b c a\na ::= \"x\"*\nb ::= (\"y\" root)?\nc ::= [xz]?"));
  return list;
}

TEST(Constraint, MaskIsExactlyWhatIsAccepted) {
  std::mt19937_64 random(1);
  for (auto& [name, grammar] : grammars()) {
    const auto constraint = constraint_of(grammar);
    for (int walk = 0; walk < 6; ++walk) {
      ConstraintState state(constraint);
      std::string text = name + ": ";
      for (int step = 0; step < 12; ++step) {
        if (step % 3 == walk % 3) expect_exact_mask(state, constraint->trie(), text);
        if (HasFatalFailure()) return;
        const std::vector<int32_t> tokens = allowed_tokens(state, constraint->trie());
        if (tokens.empty()) break;
        const int32_t token = draw(tokens, constraint->trie(), random);
        ASSERT_TRUE(state.accept(token));
        text += constraint->trie().bytes(token);
      }
    }
  }
}

TEST(Constraint, MaskIsExactWithTheRealVocabulary) {
  const auto trie = real_trie();
  if (trie == nullptr) GTEST_SKIP() << "The DeepSeek-V3 tokenizer is not in ../shared.";
  std::mt19937_64 random(2);
  for (auto& [name, grammar] : grammars()) {
    const auto constraint = constraint_of(grammar, trie);
    ConstraintState state(constraint);
    std::string text = name + ": ";
    for (int step = 0; step < 9; ++step) {
      if (step % 4 == 2) expect_exact_mask(state, *trie, text, 5);
      if (HasFatalFailure()) return;
      const std::vector<int32_t> tokens = allowed_tokens(state, *trie);
      if (tokens.empty()) break;
      const int32_t token = draw(tokens, *trie, random);
      ASSERT_TRUE(state.accept(token));
      text += trie->bytes(token);
    }
  }
}

TEST(Constraint, SamplesAreSentences) {
  std::mt19937_64 random(3);
  for (const auto& trie : tries()) {
    for (auto& [name, grammar] : grammars()) {
      const auto constraint = constraint_of(grammar, trie);
      for (int count = 0; count < (trie == tiny_trie() ? 60 : 8); ++count) {
        const std::string text = sample(constraint, random, 30);
        EXPECT_TRUE(is_sentence(constraint, text)) << name << ": " << text;
        if (HasFailure()) return;
      }
    }
  }
}

TEST(Constraint, ACopyIsAnotherState) {
  const auto constraint = constraint_of(json_grammar());
  const TokenTrie& trie = constraint->trie();
  ConstraintState state(constraint);
  ASSERT_TRUE(accept_text(state, trie, R"({"a": [1, )"));
  const std::vector<uint64_t> before = mask_of(state, trie);
  ConstraintState draft = state;
  ASSERT_TRUE(accept_text(draft, trie, R"({"b": ["]]]"]}]})"));
  EXPECT_TRUE(draft.must_end());
  EXPECT_FALSE(state.may_end());
  EXPECT_EQ(mask_of(state, trie), before);
  EXPECT_FALSE(accept_text(state, trie, "}"));
  EXPECT_EQ(mask_of(state, trie), before);
  EXPECT_TRUE(accept_text(state, trie, "2]}"));
  EXPECT_TRUE(state.must_end());
}

TEST(Constraint, KnowsWhenItMayAndMustEnd) {
  ConstraintState state(constraint_of(grammar_from_text("root ::= \"a\" \"b\"?")));
  EXPECT_FALSE(state.may_end());
  EXPECT_EQ(state.bytes_to_end(), 1u);
  ASSERT_TRUE(accept_text(state, *tiny_trie(), "a"));
  EXPECT_TRUE(state.may_end());
  EXPECT_FALSE(state.must_end());
  ASSERT_TRUE(accept_text(state, *tiny_trie(), "b"));
  EXPECT_TRUE(state.must_end());
  EXPECT_TRUE(allowed_tokens(state, *tiny_trie()).empty());
  EXPECT_EQ(state.shortest_completion(), "");

  const ConstraintState empty(constraint_of(grammar_from_text("root ::= \"\"")));
  EXPECT_TRUE(empty.must_end());
  EXPECT_TRUE(allowed_tokens(empty, *tiny_trie()).empty());
}

TEST(Constraint, RefusesUnknownSpecialAndAddedTokens) {
  const auto tokenizer = Tokenizer::load(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json");
  const auto constraint = constraint_of(grammar_from_text("root ::= .*"));
  ConstraintState state(constraint);
  EXPECT_FALSE(state.accept(-1));
  EXPECT_FALSE(state.accept(constraint->trie().vocab_size()));
  const std::vector<uint64_t> bits = mask_of(state, constraint->trie());
  for (const char* added : {"<｜User｜>", "</think>", "<｜end▁of▁sentence｜>"}) {
    const std::optional<int32_t> id = tokenizer->added_token(added);
    ASSERT_TRUE(id.has_value()) << added;
    EXPECT_FALSE(state.accept(*id)) << added;
    EXPECT_EQ(bits[static_cast<size_t>(*id) / 64] >> (*id % 64) & 1, 0u) << added;
  }
}

TEST(Constraint, BeginsAfterGivenTokens) {
  const auto constraint = constraint_of(grammar_from_text("root ::= \"yes\" | \"no\""));
  const TokenTrie& trie = constraint->trie();
  ConstraintState state(constraint, {5, 5, 6});
  for (const int32_t token : {7, 5, 5, 5, 2000000}) {
    EXPECT_TRUE(state.accept(token));
    EXPECT_FALSE(state.started());
    EXPECT_FALSE(state.may_end());
    EXPECT_EQ(mask_of(state, trie)[3], ~uint64_t{0});
  }
  for (const int32_t token : {5, 5, 5, 6}) {
    EXPECT_FALSE(state.started());
    EXPECT_TRUE(state.accept(token));
  }
  EXPECT_TRUE(state.started());
  EXPECT_FALSE(accept_text(state, trie, "m"));
  EXPECT_TRUE(accept_text(state, trie, "no"));
  EXPECT_TRUE(state.must_end());
}

TEST(Constraint, TokensWithTheSameBytesAreAllAllowed) {
  const auto trie =
      std::make_shared<const TokenTrie>(std::vector<std::string>{"ab", "a", "", "ab", "b", "a", "abc", "c"});
  const auto constraint = constraint_of(grammar_from_text("root ::= \"ab\""), trie);
  ConstraintState state(constraint);
  EXPECT_EQ(allowed_tokens(state, *trie), (std::vector<int32_t>{0, 1, 3, 5}));
  EXPECT_TRUE(state.accept(5));
  EXPECT_EQ(allowed_tokens(state, *trie), (std::vector<int32_t>{4}));
  const auto any = constraint_of(grammar_from_text("root ::= [a-c]*"), trie);
  EXPECT_EQ(allowed_tokens(ConstraintState(any), *trie), (std::vector<int32_t>{0, 1, 3, 4, 5, 6, 7}));
}

TEST(Constraint, NeedsATokenForEveryByte) {
  const auto trie = std::make_shared<const TokenTrie>(std::vector<std::string>{"a", "ab"});
  FATHOM_EXPECT_ERROR(constraint_of(grammar_from_text("root ::= \"ab\""), trie), ErrorKind::bad_input,
                      "single byte 0x62");
}

TEST(Constraint, NestsAsDeeplyAsASequenceIsLong) {
  const auto constraint = constraint_of(json_grammar());
  ConstraintState state(constraint);
  const int32_t bracket = byte_token(constraint->trie(), '[');
  for (int depth = 0; depth < 200'000; ++depth) ASSERT_TRUE(state.accept(bracket));
  EXPECT_EQ(state.bytes_to_end(), 200'000u);
  EXPECT_FALSE(allowed_tokens(state, constraint->trie()).empty());
}

TEST(Constraint, AmbiguityCostsPolynomiallyAndEndsInASentence) {
  const auto start = std::chrono::steady_clock::now();
  for (const char* text : {"root ::= (\"a\" | \"a\")* \"b\"", "root ::= ((\"a\"*)*)* \"b\"",
                           "root ::= x\nx ::= \"a\" x \"b\" | \"a\" x \"c\" | \"a\" y \"b\" | \"a\"\ny ::= \"a\" x "
                           "\"c\" | \"a\" y \"b\" | \"b\"",
                           "root ::= ((\"a\"? ){0,60}){0,60} \"b\"", "root ::= (\"a\"{0,1000}){0,1000} \"b\"",
                           "root ::= [a-z] root [a-z] | [a-z]"}) {
    const auto constraint = constraint_of(grammar_from_text(text));
    ConstraintState state(constraint);
    try {
      for (int step = 0; step < 150; ++step) {
        ASSERT_TRUE(accept_text(state, constraint->trie(), "a")) << text;
        if (step % 10 != 0) continue;
        ASSERT_FALSE(allowed_tokens(state, constraint->trie()).empty()) << text;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      EXPECT_NE(std::string(error.what()).find("too ambiguous"), std::string::npos) << error.what();
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, kSanitized ? 120 : 20);
}

TEST(Constraint, IsSharedByThreads) {
  const auto constraint = constraint_of(json_schema_grammar(Json::parse(order_schema)));
  std::vector<std::string> alone;
  std::vector<std::string> together(4);
  byte_tokens(constraint->trie());
  for (size_t thread = 0; thread < together.size(); ++thread) {
    std::mt19937_64 random(thread);
    alone.push_back(sample(constraint_of(json_schema_grammar(Json::parse(order_schema))), random, 60));
  }
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < together.size(); ++thread) {
    threads.emplace_back([&, thread] {
      std::mt19937_64 random(thread);
      together[thread] = sample(constraint, random, 60);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together, alone);
}

}  // namespace
}  // namespace fathom
