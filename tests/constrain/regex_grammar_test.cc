#include "constrain/regex_grammar.h"

#include <gtest/gtest.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <chrono>

#include "constrain/automaton.h"
#include "constrain/samples.h"
#include "support/errors.h"
#include "support/sanitizer.h"

namespace fathom {
namespace {

class Pcre {
 public:
  explicit Pcre(const std::string& pattern) {
    int error = 0;
    size_t offset = 0;
    pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
    pcre2_set_compile_extra_options(context, PCRE2_EXTRA_ALT_BSUX);
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.c_str()), pattern.size(), PCRE2_UTF, &error, &offset,
                          context);
    pcre2_compile_context_free(context);
    match_ = code_ == nullptr ? nullptr : pcre2_match_data_create_from_pattern(code_, nullptr);
    EXPECT_NE(code_, nullptr) << pattern << " at " << offset;
  }
  ~Pcre() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  Pcre(const Pcre&) = delete;
  Pcre& operator=(const Pcre&) = delete;
  bool matches(const std::string& text) const {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.c_str()), text.size(), 0,
                       PCRE2_ANCHORED | PCRE2_ENDANCHORED, match_, nullptr) > 0;
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* match_;
};

const std::vector<std::string> patterns = {
    "abc",
    "",
    "a|b|",
    "^a(?:b|c)*d$",
    "^ab|cd$",
    "(a+)(b?)(c*)",
    "(a|a)*b",
    "(a*)*b",
    "((a?){3,5}b){2}",
    "[a-c]{2,4}[^a-c\\n]",
    "[^b]",
    "[^\\S]+[^\\s\\d]*",
    "[\\d\\-x]+",
    "[a\\]^-]*",
    "\\d{2,3}-\\w+\\s\\S",
    "\\D\\W",
    ".a.",
    "a{0}b{1}c{2,}?",
    "\\x61\\u00e9\\u{1F600}?[\\u0100-\\u{10FFF}]",
    "\\.\\*\\\\\\/\\t",
    "(?<name>a)(?:b)+?c??",
    "é+[à-ü]*😀",
    "(?:a{1,3}b{0,2}){1,4}",
    "[ab]*a[ab]{6}",
    "x*(xx|y)+",
};

/// Random text of letters that the patterns use.
std::string random_text(std::mt19937_64& random) {
  static const std::vector<std::string> letters = {"a", "b", "c", "d",  "x",  "y", "1", "2", "-", " ",  "é",
                                                   "ü", "😀", "ā", "\n", "\t", "]", "^", ".", "/", "\\", "_"};
  std::string text;
  const size_t length = random() % 8;
  const size_t variety = 2 + random() % (letters.size() - 1);
  for (size_t index = 0; index < length; ++index) text += letters[random() % std::min(variety, letters.size())];
  return text;
}

TEST(RegexGrammar, AgreesWithPcre) {
  std::mt19937_64 random(1);
  for (const std::string& pattern : patterns) {
    const Pcre reference(pattern);
    const auto constraint = constraint_of(regex_grammar(pattern));
    for (int count = 0; count < 300; ++count) {
      const std::string text = sample(constraint, random, static_cast<int>(random() % 12));
      ASSERT_TRUE(reference.matches(text)) << pattern << " and " << text;
    }
    for (int count = 0; count < 2000; ++count) {
      const std::string text = random_text(random);
      ASSERT_EQ(is_sentence(constraint, text), reference.matches(text)) << pattern << " and " << text;
    }
  }
}

TEST(RegexGrammar, SamplesWithTheRealVocabularyMatch) {
  if (real_trie() == nullptr) GTEST_SKIP() << "The DeepSeek-V3 tokenizer is not in ../shared.";
  std::mt19937_64 random(2);
  for (const std::string& pattern : patterns) {
    const Pcre reference(pattern);
    const auto constraint = constraint_of(regex_grammar(pattern), real_trie());
    for (int count = 0; count < 10; ++count) {
      const std::string text = sample(constraint, random, 8);
      ASSERT_TRUE(reference.matches(text)) << pattern << " and " << text;
    }
  }
}

TEST(RegexGrammar, RefusesByNameAndPlace) {
  const std::vector<std::pair<const char*, std::vector<std::string>>> cases = {
      {"ab(?=c)", {"column 3", "lookahead"}},
      {"(?!c)", {"lookahead"}},
      {"(?<=c)", {"lookbehind"}},
      {"(?<!c)", {"lookbehind"}},
      {"(a)\\1", {"column 4", "backreference"}},
      {"\\k<a>", {"backreference"}},
      {"a\\b", {"column 2", "\\b"}},
      {"\\B", {"\\B"}},
      {"\\p{L}", {"\\p"}},
      {"\\A", {"\\A"}},
      {"(?i)a", {"kind of group"}},
      {"(?>a)", {"kind of group"}},
      {"(*UTF)", {"kind of group"}},
      {"a++", {"possessive"}},
      {"a**", {"cannot be repeated"}},
      {"*a", {"repeat"}},
      {"a|+", {"repeat"}},
      {"{2}", {"repeat"}},
      {"a{2,1}", {"in order"}},
      {"a{200000}", {"100000"}},
      {"a{x}", {"number"}},
      {"a{,3}", {"number"}},
      {"a^", {"column 2", "'^'"}},
      {"(^a)", {"'^'"}},
      {"a$b", {"column 3", "'$'"}},
      {"(a$)", {"'$'"}},
      {"(a", {"column 1", "')'"}},
      {"a)", {"column 2", "')'"}},
      {"[a", {"']'"}},
      {"[]", {"empty class"}},
      {"[^\\s\\S]", {"at least one"}},
      {"[b-a]", {"ascending"}},
      {"[\\d-z]", {"single"}},
      {"[[:alpha:]]", {"POSIX"}},
      {"\\", {"the end"}},
      {"\\x4", {"hexadecimal"}},
      {"\\ud800", {"surrogate"}},
      {"\\u{110000}", {"Unicode"}},
      {"a\xff", {"UTF-8"}},
      {"[^\\x00-\\u{10ffff}]", {"at least one"}},
  };
  for (const auto& [pattern, parts] : cases) {
    SCOPED_TRACE(pattern);
    try {
      regex_grammar(pattern);
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const std::string& part : parts) {
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << part << " in: " << error.what();
      }
    }
  }
  FATHOM_EXPECT_ERROR(regex_grammar(std::string(300, '(') + std::string(300, ')')), ErrorKind::bad_input, "200 deep");
  const std::string long_group = "(?:" + std::string(300, 'x') + "|y){90000}";
  FATHOM_EXPECT_ERROR(compile_automaton(regex_grammar(long_group + long_group + long_group)), ErrorKind::bad_input,
                      "too large");
}

TEST(RegexGrammar, HostilePatternsFinishQuickly) {
  const auto start = std::chrono::steady_clock::now();
  std::mt19937_64 random(3);
  for (const char* pattern : {"(a|a)*", "(a*)*", "((a|b)*)*c", "(((a{1000}){1000}){1000})|b", "(a?){500}a{500}|b",
                              "([ab]*a[ab]{200}|c)", ".{0,300}[0-9].{0,300}", "(.|..|...)*x", ".{100000}|b"}) {
    SCOPED_TRACE(pattern);
    try {
      const auto constraint = constraint_of(regex_grammar(pattern));
      ConstraintState state(constraint);
      for (int step = 0; step < 40; ++step) {
        const std::vector<int32_t> tokens = allowed_tokens(state, constraint->trie());
        if (tokens.empty()) break;
        ASSERT_TRUE(state.accept(tokens[random() % tokens.size()]));
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what();
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_LT(seconds, kSanitized ? 120 : 20);
}

}  // namespace
}  // namespace fathom
