#include "constrain/token_trie.h"

#include <gtest/gtest.h>

#include <set>

#include "constrain/grammar_text.h"
#include "constrain/json_grammar.h"
#include "constrain/json_parts.h"
#include "constrain/regex_grammar.h"
#include "constrain/samples.h"
#include "support/errors.h"

namespace fathom {
namespace {

const Tokenizer& tiny_tokenizer() {
  static const auto tokenizer = Tokenizer::load(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json");
  return *tokenizer;
}

const std::vector<int32_t>& control_tokens_of_tiny() {
  static const std::vector<int32_t> ids = {*tiny_tokenizer().added_token("<｜tool▁call▁begin｜>"),
                                           *tiny_tokenizer().added_token("<｜tool▁sep｜>"),
                                           *tiny_tokenizer().added_token("<｜end▁of▁sentence｜>")};
  return ids;
}

std::shared_ptr<const TokenTrie> control_trie() {
  static const auto trie = std::make_shared<const TokenTrie>(tiny_tokenizer(), control_tokens_of_tiny());
  return trie;
}

std::string control(size_t place) {
  return {static_cast<char>(TokenTrie::control_byte(place))};
}

/// ( begin, letters, separator, JSON )* end
ByteGrammar mixed_grammar() {
  ByteGrammar grammar;
  JsonParts parts(grammar, {});
  const auto letters = grammar.repeat(grammar.characters({0x20, 0x10ffff}), 0, 40);
  const auto call =
      grammar.sequence({grammar.literal(control(0)), letters, grammar.literal(control(1)), parts.any_value()});
  grammar.root = grammar.declare("mixed");
  grammar.define(grammar.root, grammar.sequence({grammar.repeat(call, 0, ByteGrammar::no_limit),
                                                 grammar.literal(control(2) + "\n")}));
  return grammar;
}

TEST(ControlTokens, AreBytesThatNoTextHas) {
  std::set<uint8_t> bytes;
  for (size_t place = 0; place < TokenTrie::most_control_tokens; ++place) {
    const uint8_t byte = TokenTrie::control_byte(place);
    EXPECT_TRUE(byte == 0xc0 || byte == 0xc1 || byte >= 0xf5) << int{byte};
    bytes.insert(byte);
  }
  EXPECT_EQ(bytes.size(), TokenTrie::most_control_tokens);

  const auto trie = control_trie();
  for (size_t place = 0; place < control_tokens_of_tiny().size(); ++place) {
    EXPECT_EQ(trie->bytes(control_tokens_of_tiny()[place]), control(place));
    EXPECT_TRUE(trie->has_byte(TokenTrie::control_byte(place)));
  }
  EXPECT_FALSE(trie->has_byte(TokenTrie::control_byte(3))) << "only what is listed";
  EXPECT_FALSE(tiny_trie()->has_byte(TokenTrie::control_byte(0)));
  for (int32_t id = 0; id < trie->vocab_size(); ++id) {
    const bool listed = std::find(control_tokens_of_tiny().begin(), control_tokens_of_tiny().end(), id) !=
                        control_tokens_of_tiny().end();
    for (size_t place = 0; place < TokenTrie::most_control_tokens && !listed; ++place) {
      EXPECT_EQ(trie->bytes(id).find(control(place)), std::string_view::npos) << "token " << id;
    }
    for (const TokenTrie::Slice& slice : trie->slices()) {
      EXPECT_FALSE(listed && (slice.plain[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0) << "token " << id;
    }
  }
}

TEST(ControlTokens, TokensThatHoldTheirBytesAreLeftOut) {
  const std::vector<std::string> tokens = {"a", "b\xf5", "\xf5", "\xf5", "<x>", "\xc0", "\xff\xfe", "\xf4"};
  const TokenTrie trie(tokens, {4});
  EXPECT_EQ(trie.bytes(4), "\xf5");
  for (const int32_t id : {1, 2, 3, 5, 6}) EXPECT_EQ(trie.bytes(id), "") << id;
  EXPECT_EQ(trie.bytes(7), "\xf4");
  EXPECT_TRUE(trie.has_byte(0xf5));
  EXPECT_FALSE(trie.has_byte(0xc0));
  EXPECT_TRUE(trie.twins().empty());
}

TEST(ControlTokens, RefusesListsThatAreWrong) {
  std::vector<std::string> tokens(20, "x");
  std::vector<int32_t> many;
  for (int32_t id = 0; id < 14; ++id) many.push_back(id);
  FATHOM_EXPECT_ERROR(TokenTrie(tokens, many), ErrorKind::bad_input, "at most 13", "14");
  many.pop_back();
  EXPECT_NO_THROW(TokenTrie(tokens, many));
  FATHOM_EXPECT_ERROR(TokenTrie(tokens, {3, 3}), ErrorKind::bad_input, "token 3", "twice");
  FATHOM_EXPECT_ERROR(TokenTrie(tokens, {20}), ErrorKind::bad_input, "token 20", "0 to 19");
  FATHOM_EXPECT_ERROR(TokenTrie(tokens, {-1}), ErrorKind::bad_input, "token -1");
}

TEST(ControlTokens, ComeUpOnlyWhereAGrammarNamesThem) {
  std::mt19937_64 random(1);
  for (const ByteGrammar& grammar :
       {json_grammar(), regex_grammar(".*"), regex_grammar("[^a]{3,}\\W*"), grammar_from_text("root ::= .*"),
        grammar_from_text("root ::= [^x] [\\x00-\\U0010ffff]*")}) {
    const auto constraint = constraint_of(grammar, control_trie());
    for (int walk = 0; walk < 5; ++walk) {
      ConstraintState state(constraint);
      for (int step = 0; step < 20 && !state.must_end(); ++step) {
        const std::vector<int32_t> tokens = allowed_tokens(state, *control_trie());
        for (const int32_t token : control_tokens_of_tiny()) {
          ASSERT_EQ(std::count(tokens.begin(), tokens.end(), token), 0);
          ConstraintState copy = state;
          ASSERT_FALSE(copy.accept(token));
        }
        ASSERT_TRUE(state.accept(draw(tokens, *control_trie(), random)));
      }
    }
  }
}

TEST(ControlTokens, MixWithTextInAGrammar) {
  const auto constraint = constraint_of(mixed_grammar(), control_trie());
  ConstraintState state(constraint);
  EXPECT_EQ(allowed_tokens(state, *control_trie()),
            (std::vector<int32_t>{control_tokens_of_tiny()[2], control_tokens_of_tiny()[0]}));
  EXPECT_EQ(state.shortest_completion(), control(2) + "\n");
  EXPECT_TRUE(is_sentence(constraint, control(0) + "é" + control(1) + "[1, {\"a\": 2}]" + control(2) + "\n"));
  EXPECT_FALSE(is_sentence(constraint, control(0) + "é" + control(1) + "[1" + control(2) + "\n"));
  EXPECT_FALSE(is_sentence(constraint, control(1) + control(2) + "\n"));

  std::mt19937_64 random(2);
  for (int walk = 0; walk < 4; ++walk) {
    ConstraintState at(constraint);
    std::string text;
    for (int step = 0; step < 16; ++step) {
      if (step % 2 == walk % 2) expect_exact_mask(at, *control_trie(), text);
      if (HasFatalFailure()) return;
      const std::vector<int32_t> tokens = allowed_tokens(at, *control_trie());
      if (tokens.empty()) break;
      const int32_t token = draw(tokens, *control_trie(), random);
      ASSERT_TRUE(at.accept(token));
      text += control_trie()->bytes(token);
    }
  }
  for (int count = 0; count < 3000; ++count) {
    const std::string text = sample(constraint, random, 25);
    ASSERT_TRUE(is_sentence(constraint, text)) << text;
    ASSERT_EQ(std::count(text.begin(), text.end(), control(0)[0]), std::count(text.begin(), text.end(), control(1)[0]));
    ASSERT_EQ(std::count(text.begin(), text.end(), control(2)[0]), 1);
  }
}

TEST(ControlTokens, AGrammarThatNamesOneNeedsAListWithIt) {
  FATHOM_EXPECT_ERROR(constraint_of(mixed_grammar()), ErrorKind::bad_input, "single byte 0xf");
}

TEST(ControlTokens, MixWithTheRealVocabulary) {
  const auto plain = real_trie();
  if (plain == nullptr) GTEST_SKIP() << "The DeepSeek-V3 tokenizer is not in ../shared.";
  // <｜tool▁call▁begin｜>, <｜tool▁sep｜> and the end of a sentence.
  static std::shared_ptr<const TokenTrie> trie;
  std::vector<std::string> tokens;
  for (int32_t id = 0; id < plain->vocab_size(); ++id) tokens.emplace_back(plain->bytes(id));
  trie = std::make_shared<const TokenTrie>(tokens, std::vector<int32_t>{128808, 128814, 1});
  const auto constraint = constraint_of(mixed_grammar(), trie);
  std::mt19937_64 random(3);
  for (int count = 0; count < 40; ++count) {
    const std::string text = sample(constraint, random, 20);
    ASSERT_TRUE(is_sentence(constraint, text)) << text;
  }
  ConstraintState state(constraint);
  ASSERT_TRUE(state.accept(128808));
  expect_exact_mask(state, *trie, "begin", 3);
}

}  // namespace
}  // namespace fathom
