#include "text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/error.h"
#include "base/utf8.h"
#include "support/sanitizer.h"
#include "text/pre_tokenizer.h"

namespace fathom {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string golden_directory() {
  const char* shared = std::getenv("FATHOM_SHARED");
  return (shared != nullptr ? std::string(shared) : std::string(FATHOM_SOURCE_DIR "/../shared")) + "/golden/tokenizer";
}

/// Loaded once for all tests; null where the file is not there.
const Tokenizer* real_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer =
      std::filesystem::exists(golden_directory() + "/tokenizer.json") ? Tokenizer::load(golden_directory()) : nullptr;
  return tokenizer.get();
}

#define NEED_REAL_TOKENIZER()                    \
  const Tokenizer* tokenizer = real_tokenizer(); \
  if (tokenizer == nullptr) GTEST_SKIP() << "The DeepSeek-V3 tokenizer is not in " << golden_directory() << "."

std::vector<Json> golden_lines(const std::string& name) {
  std::ifstream file(golden_directory() + "/" + name);
  std::vector<Json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(Json::parse(line));
  return lines;
}

/// Spelling of a byte in tokenizer.json, written down here a second time.
std::string spelled(const std::string& bytes) {
  static const std::vector<int> others = [] {
    std::vector<int> list;
    for (int byte = 0; byte < 256; ++byte) {
      if (!((byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174)) list.push_back(byte);
    }
    return list;
  }();
  std::string out;
  for (const char character : bytes) {
    const auto byte = static_cast<uint8_t>(character);
    const auto other = std::find(others.begin(), others.end(), byte);
    const int point = other == others.end() ? byte : 256 + static_cast<int>(other - others.begin());
    if (point < 0x80) {
      out += static_cast<char>(point);
    } else {
      out += static_cast<char>(0xc0 | point >> 6);
      out += static_cast<char>(0x80 | (point & 0x3f));
    }
  }
  return out;
}

/// A small tokenizer: ids 0 to 255 are the bytes, then "ab" 256, "bc" 257, "abc" 258 (from ab + c), "aa" 259, "aaaa"
/// 260.
Json small_json() {
  Json json = Json::parse(R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
    "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},
    "post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
    "model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
             "fuse_unk":false,"byte_fallback":false,"vocab":{},"merges":[]}})");
  for (int byte = 0; byte < 256; ++byte)
    json["model"]["vocab"][spelled(std::string(1, static_cast<char>(byte)))] = byte;
  int32_t id = 256;
  for (const char* token : {"ab", "bc", "abc", "aa", "aaaa"}) json["model"]["vocab"][token] = id++;
  json["model"]["merges"] = {"b c", "a b", "ab c", "a a", "aa aa"};
  return json;
}

Json added(int32_t id, const std::string& content, const char* set = "") {
  Json token = {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                {"rstrip", false}, {"normalized", false}, {"special", true}};
  if (*set != '\0') token[set] = !token[set].get<bool>();
  return token;
}

std::unique_ptr<Tokenizer> build(const Json& json) {
  return Tokenizer::from_json(json.dump(), "tokenizer.json");
}

std::string refusal(const Json& json) {
  try {
    build(json);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    return error.what();
  }
  return "accepted";
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids, bool skip_special) {
  StreamDecoder decoder(tokenizer, skip_special);
  std::string text;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(utf8_valid_prefix(piece), piece.size()) << "half a character was emitted";
    text += piece;
  }
  return text + decoder.finish();
}

TEST(TokenizerGolden, EncodesEveryText) {
  NEED_REAL_TOKENIZER();
  const std::vector<Json> lines = golden_lines("encode.jsonl");
  ASSERT_GT(lines.size(), 300u);
  for (const Json& line : lines) {
    const std::string text = line["text"];
    const Ids ids = line["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->encode(text), ids) << line["category"] << ": " << line["text"].dump();
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_EQ(stream(*tokenizer, ids, false), text);
  }
}

TEST(TokenizerGolden, EncodesEveryConversation) {
  NEED_REAL_TOKENIZER();
  const std::vector<Json> lines = golden_lines("chat.jsonl");
  ASSERT_FALSE(lines.empty());
  for (const Json& line : lines) EXPECT_EQ(tokenizer->encode(line["text"].get<std::string>()), line["ids"].get<Ids>());
}

TEST(TokenizerGolden, DecodesEveryListOfIds) {
  NEED_REAL_TOKENIZER();
  const std::vector<Json> lines = golden_lines("decode.jsonl");
  ASSERT_GT(lines.size(), 60u);
  for (const Json& line : lines) {
    const Ids ids = line["ids"].get<Ids>();
    EXPECT_EQ(tokenizer->decode(ids), line["text"].get<std::string>()) << line["ids"].dump();
    EXPECT_EQ(tokenizer->decode(ids, true), line["text_skip_special"].get<std::string>()) << line["ids"].dump();
    EXPECT_EQ(stream(*tokenizer, ids, true), line["text_skip_special"].get<std::string>()) << line["ids"].dump();
  }
}

/// Ids from the Hugging Face library (tokenizers 0.23.2) for what its Unicode 16 tables and PCRE2's differ in.
TEST(TokenizerGolden, SplitsByUnicode16) {
  NEED_REAL_TOKENIZER();
  EXPECT_THAT(tokenizer->encode("\xe2\x90\xa7 \xe2\x90\xa7"), ElementsAre(161, 241, 103, 1327, 241, 103));  // U+2427
  EXPECT_THAT(tokenizer->encode(" \xe1\xb2\x89"), ElementsAre(8751, 113, 234));                             // U+1C89
  EXPECT_EQ(tokenizer->encode("\xe1\xa0\x8e\xe2\x80\x80").size(), 4u);  // U+180E U+2000: two pieces, not one blank run
}

TEST(TokenizerGolden, PlainTextMakesNoControlTokens) {
  NEED_REAL_TOKENIZER();
  const std::string text = "<｜User｜>hi<｜end▁of▁sentence｜><|EOT|>";
  EXPECT_EQ(tokenizer->encode(text).size(), 4u);
  const Ids plain = tokenizer->encode_plain(text);
  EXPECT_EQ(tokenizer->decode(plain), text);
  EXPECT_EQ(tokenizer->decode(plain, true), text);
  for (const int32_t id : plain) EXPECT_TRUE(id > 2 && id < 128000) << id;
}

TEST(TokenizerGolden, KnowsItsTokens) {
  NEED_REAL_TOKENIZER();
  EXPECT_EQ(tokenizer->vocab_size(), 128815);
  EXPECT_EQ(tokenizer->added_token("<｜begin▁of▁sentence｜>"), 0);
  EXPECT_EQ(tokenizer->added_token("<｜Assistant｜>"), 128804);
  EXPECT_EQ(tokenizer->added_token("Assistant"), std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(128804));
  EXPECT_FALSE(tokenizer->is_special(-1));
  EXPECT_FALSE(tokenizer->is_special(129279));
  EXPECT_EQ(tokenizer->token_bytes(223), " ");
  EXPECT_EQ(tokenizer->token_bytes(1), "<｜end▁of▁sentence｜>");
  EXPECT_EQ(tokenizer->token_bytes(1, true), "");
  EXPECT_EQ(tokenizer->token_bytes(129000), "");
}

/// PCRE2 gives up after ten million steps unless it is told otherwise, and gives a run of blanks back one by one.
TEST(PreTokenizerRuns, OfAnyLengthAreOnePiece) {
  const Json json = Json::parse(std::ifstream(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json"));
  const PreTokenizer splitter = PreTokenizer::from_json(json.at("pre_tokenizer"), "tokenizer.json");
  const std::string run(11'000'000, ' ');
  const auto pieces_of = [&](const std::string& text) {
    std::vector<std::string_view> pieces;
    splitter.split(text, pieces);
    std::vector<size_t> lengths;
    for (const std::string_view piece : pieces) lengths.push_back(piece.size());
    return lengths;
  };
  EXPECT_EQ(pieces_of(run), (std::vector<size_t>{run.size()}));
  EXPECT_EQ(pieces_of(run + "x"), (std::vector<size_t>{run.size() - 1, 2}));
  EXPECT_EQ(pieces_of("x" + run + "\n" + run), (std::vector<size_t>{1, run.size() + 1, run.size()}));
}

/// A quadratic merge of a megabyte would take minutes; the bound is far above the half second measured.
TEST(TokenizerGolden, LongPiecesAreNotQuadratic) {
  NEED_REAL_TOKENIZER();
  for (const char* unit : {"a", "\n", " ", "!", "中", "<", "7", "e\xcc\x81", "aB"}) {
    std::string text;
    while (text.size() < (1u << 20)) text += unit;
    const auto start = std::chrono::steady_clock::now();
    const Ids ids = tokenizer->encode(text);
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(tokenizer->decode(ids), text);
    if (!kSanitized) {
      EXPECT_LT(time.count(), 20.0) << unit;
    }
  }
}

TEST(TokenizerGolden, StreamsRandomIds) {
  NEED_REAL_TOKENIZER();
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Ids ids;
    for (uint32_t left = random() % 12; left > 0; --left) {
      // Single bytes often, so that broken characters of every kind occur.
      ids.push_back(static_cast<int32_t>(random() % 3 != 0 ? 3 + random() % 256 : random() % 129280));
    }
    for (const bool skip : {false, true}) {
      EXPECT_EQ(stream(*tokenizer, ids, skip), tokenizer->decode(ids, skip)) << Json(ids).dump();
    }
  }
}

TEST(TokenizerGolden, ThreadsAgree) {
  NEED_REAL_TOKENIZER();
  const std::vector<Json> lines = golden_lines("encode.jsonl");
  std::vector<int> wrong(3, 0);
  std::vector<std::thread> threads;
  for (size_t thread = 0; thread < wrong.size(); ++thread) {
    threads.emplace_back([&, thread] {
      for (const Json& line : lines) {
        wrong[thread] += tokenizer->encode(line["text"].get<std::string>()) != line["ids"].get<Ids>();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0));
}

TEST(Tokenizer, MergesByRank) {
  const auto tokenizer = build(small_json());
  EXPECT_THAT(tokenizer->encode(""), ElementsAre());
  EXPECT_THAT(tokenizer->encode("abc"), ElementsAre('a', 257));  // "b c" has the lower rank
  EXPECT_THAT(tokenizer->encode("abab"), ElementsAre(256, 256));
  EXPECT_THAT(tokenizer->encode("aaaaaaa"), ElementsAre(260, 259, 'a'));
  EXPECT_THAT(tokenizer->encode(std::string("\0\x7f", 2)), ElementsAre(0, 127));
  EXPECT_THAT(tokenizer->encode("é"), ElementsAre(0xc3, 0xa9));
}

TEST(Tokenizer, LongAndShortPiecesMergeAlike) {
  const auto tokenizer = build(small_json());
  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    std::string unit;
    for (uint32_t left = 1 + random() % 40; left > 0; --left) unit += "abc"[random() % 3];
    // "#" takes part in no merge, so the parts around it are merged independently, in a piece too long for the short
    // path.
    std::string text;
    Ids expected;
    for (int copy = 0; copy < 4; ++copy) {
      text += unit + "#";
      const Ids part = tokenizer->encode(unit + "#");
      expected.insert(expected.end(), part.begin(), part.end());
    }
    EXPECT_EQ(tokenizer->encode(text), expected) << text;
  }
}

TEST(Tokenizer, PairsAndHeadersInMerges) {
  Json json = small_json();
  json["model"]["merges"] = Json::parse(R"([["a","b"],["b","c"]])");
  EXPECT_THAT(build(json)->encode("abc"), ElementsAre(256, 'c'));
  json["model"]["merges"] = {"#version: 0.2", "a b", "b c", "a b"};  // the later rank of a repeated pair counts
  EXPECT_THAT(build(json)->encode("abc"), ElementsAre('a', 257));
}

TEST(Tokenizer, IgnoreMergesTakesWholePieces) {
  Json json = small_json();
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(build(json)->encode("abc"), ElementsAre(258));
  EXPECT_THAT(build(json)->encode("abcab"), ElementsAre('a', 257, 256));
}

TEST(Tokenizer, BytesWithoutATokenAreDroppedOrUnknown) {
  Json json = small_json();
  json["model"]["vocab"].erase("X");
  EXPECT_THAT(build(json)->encode("aXXb"), ElementsAre(256));
  json["model"]["unk_token"] = "!";
  EXPECT_THAT(build(json)->encode("aXXb"), ElementsAre('a', '!', '!', 'b'));
  json["model"]["fuse_unk"] = true;
  EXPECT_THAT(build(json)->encode("XXaXXb"), ElementsAre('!', 'a', '!', 'b'));
}

// The expectations of the next four come from the Hugging Face library with the same settings.
TEST(Tokenizer, AddedTokensLeftmostLongest) {
  Json json = small_json();
  json["added_tokens"] = {added(261, "<x"), added(262, "<xy>", "normalized"), added(263, "xy>z")};
  EXPECT_THAT(build(json)->encode("a<xy>z"), ElementsAre('a', 261, 'y', '>', 'z'))
      << "tokens that are not normalized are searched first";
  json["added_tokens"] = {added(261, "<x"), added(262, "<xy>")};
  EXPECT_THAT(build(json)->encode("<xy><x"), ElementsAre(262, 261));
  EXPECT_THAT(build(json)->encode_plain("<x"), ElementsAre('<', 'x'));
}

TEST(Tokenizer, AddedTokensStrip) {
  Json json = small_json();
  Json both = added(261, "<x>", "lstrip");
  both["rstrip"] = true;
  json["added_tokens"] = {both, added(262, " b")};
  const auto tokenizer = build(json);
  EXPECT_THAT(tokenizer->encode("a  <x>   c"), ElementsAre('a', 261, 'c'));
  EXPECT_THAT(tokenizer->encode("a  <x>   b"), ElementsAre('a', 261, 262));
  EXPECT_THAT(tokenizer->encode("a\xe3\x80\x80<x>\xc2\xa0"), ElementsAre('a', 261));
  EXPECT_THAT(tokenizer->encode("a <x> <x>"), ElementsAre('a', 261, 261));
}

TEST(Tokenizer, AddedTokensSingleWord) {
  Json json = small_json();
  json["added_tokens"] = {added(261, "<x>", "single_word")};
  const auto tokenizer = build(json);
  EXPECT_THAT(tokenizer->encode("a<x>"), ElementsAre('a', '<', 'x', '>'));
  EXPECT_THAT(tokenizer->encode("<x>\xcc\x81").size(), 5u) << "a combining mark is a word character";
  EXPECT_THAT(tokenizer->encode("- <x>!"), ElementsAre('-', ' ', 261, '!'));
}

TEST(Tokenizer, AddedTokensDecode) {
  Json json = small_json();
  json["added_tokens"] = {added(261, "<｜x｜>"), added(262, "Ġa"), added(263, "<y>", "special")};
  const auto tokenizer = build(json);
  EXPECT_EQ(tokenizer->decode({'h', 261, 262, 263, 'i'}), "h<｜x｜> a<y>i");
  EXPECT_EQ(tokenizer->decode({'h', 261, 262, 263, 'i'}, true), "h<y>i");
  EXPECT_EQ(tokenizer->decode({-5, 264, 1 << 30, 'i'}), "i");
  EXPECT_EQ(tokenizer->vocab_size(), 264);
}

/// Unicode 3.9, "U+FFFD substitution of maximal subparts"; what Rust's String::from_utf8_lossy gives.
TEST(Tokenizer, ReplacesMaximalSubparts) {
  const auto tokenizer = build(small_json());
  const auto text = [&](std::string_view bytes) {
    Ids ids;
    for (const char byte : bytes) ids.push_back(static_cast<uint8_t>(byte));
    const std::string decoded = tokenizer->decode(ids);
    EXPECT_EQ(stream(*tokenizer, ids, true), decoded);
    return decoded;
  };
  const std::string r = "\xef\xbf\xbd";
  EXPECT_EQ(text("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64"),
            "a" + r + r + r + "b" + r + "c" + r + r + "d");
  EXPECT_EQ(text("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(text("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(text("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(text("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"), r + r + r + r + "A");
  EXPECT_EQ(text("a\xf0\x9f\x98"), "a" + r);
  EXPECT_EQ(text("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
}

TEST(StreamDecoder, HoldsBackHalfACharacter) {
  const auto tokenizer = build(small_json());
  StreamDecoder decoder(*tokenizer);
  EXPECT_EQ(decoder.push(0xf0), "");
  EXPECT_EQ(decoder.push(0x9f), "");
  EXPECT_EQ(decoder.push(0x98), "");
  EXPECT_EQ(decoder.push(0x80), "\xf0\x9f\x98\x80");
  EXPECT_EQ(decoder.push(0xe4), "");
  EXPECT_EQ(decoder.push('x'), "\xef\xbf\xbdx");
  EXPECT_EQ(decoder.push(0xe4), "");
  EXPECT_EQ(decoder.finish(), "\xef\xbf\xbd");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const auto tokenizer = build(small_json());
  EXPECT_THROW(tokenizer->encode("ab\xff"), Error);
  EXPECT_THROW(tokenizer->encode_plain("\xed\xa0\x80"), Error);
  try {
    tokenizer->encode("abc\xc3");
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("0xc3"), HasSubstr("offset 3")));
  }
}

TEST(Tokenizer, TwoTokenizersOnOneThreadDoNotMixTheirMemory) {
  const auto first = build(small_json());
  Json json = small_json();
  json["model"]["merges"] = Json::array();
  const auto second = build(json);
  for (int round = 0; round < 3; ++round) {
    EXPECT_THAT(first->encode("ab"), ElementsAre(256));
    EXPECT_THAT(second->encode("ab"), ElementsAre('a', 'b'));
  }
}

struct Refused {
  const char* name;
  void (*change)(Json&);
  const char* sentence;
};

class TokenizerRefuses : public testing::TestWithParam<Refused> {};

TEST_P(TokenizerRefuses, NamesThePart) {
  Json json = small_json();
  GetParam().change(json);
  EXPECT_THAT(refusal(json), AllOf(HasSubstr("tokenizer.json"), HasSubstr(GetParam().sentence)));
}

INSTANTIATE_TEST_SUITE_P(
    All, TokenizerRefuses,
    testing::Values(
        Refused{"Top", [](Json& j) { j = Json::array(); }, "expected an object, found array"},
        Refused{"Version", [](Json& j) { j["version"] = "2.0"; }, "version"},
        Refused{"Truncation", [](Json& j) { j["truncation"] = Json::object(); }, "truncation"},
        Refused{"Normalizer",
                [](Json& j) {
                  j["normalizer"] = {{"type", "NFC"}};
                },
                "\"NFC\""},
        Refused{"NormalizerInList",
                [](Json& j) {
                  j["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "Lowercase"}}}}};
                },
                "\"Lowercase\""},
        Refused{"NoPreTokenizer", [](Json& j) { j["pre_tokenizer"] = nullptr; }, "\"pre_tokenizer\" is missing"},
        Refused{"PreTokenizer",
                [](Json& j) {
                  j["pre_tokenizer"] = {{"type", "Metaspace"}};
                },
                "\"Metaspace\""},
        Refused{"PrefixSpace", [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; }, "add_prefix_space"},
        Refused{
            "Pattern",
            [](Json& j) {
              j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
            },
            "\"(a+)+$\" is none of the patterns"},
        Refused{"Behavior",
                [](Json& j) {
                  j["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "x"}}}, {"behavior", "Removed"}};
                },
                "\"Removed\""},
        Refused{"AfterByteLevel",
                [](Json& j) {
                  j["pre_tokenizer"] = {{"type", "Sequence"},
                                        {"pretokenizers", {j["pre_tokenizer"], {{"type", "Digits"}}}}};
                },
                "after ByteLevel"},
        Refused{"NoByteLevel",
                [](Json& j) {
                  j["pre_tokenizer"] = {{"type", "Digits"}};
                },
                "expected ByteLevel"},
        Refused{"Decoder",
                [](Json& j) {
                  j["decoder"] = {{"type", "Fuse"}};
                },
                "\"Fuse\""},
        Refused{"NoDecoder", [](Json& j) { j["decoder"] = nullptr; }, "\"decoder\" is missing"},
        Refused{"Model", [](Json& j) { j["model"]["type"] = "Unigram"; }, "Unigram"},
        Refused{"Dropout", [](Json& j) { j["model"]["dropout"] = 0.1; }, "dropout"},
        Refused{"Prefix", [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; }, "continuing_subword_prefix"},
        Refused{"ByteFallback", [](Json& j) { j["model"]["byte_fallback"] = true; }, "byte_fallback"},
        Refused{"FlagType", [](Json& j) { j["model"]["ignore_merges"] = "yes"; },
                "expected true or false, found string"},
        Refused{"Unknown", [](Json& j) { j["model"]["unk_token"] = "<unk>"; }, "\"<unk>\" is not in the vocabulary"},
        Refused{"VocabType", [](Json& j) { j["model"]["vocab"] = 3; }, "expected an object, found number"},
        Refused{"IdNegative", [](Json& j) { j["model"]["vocab"]["ab"] = -1; }, "the id of \"ab\" is -1"},
        Refused{"IdHuge", [](Json& j) { j["model"]["vocab"]["ab"] = 1 << 24; }, "the id of \"ab\" is 16777216"},
        Refused{"IdWraps", [](Json& j) { j["model"]["vocab"]["ab"] = 18446744073709551615u; }, "the id of \"ab\""},
        Refused{"IdFraction", [](Json& j) { j["model"]["vocab"]["ab"] = 1.5; }, "not a whole number"},
        Refused{"IdTwice", [](Json& j) { j["model"]["vocab"]["ab"] = 3; }, "both have the id 3"},
        Refused{"IdSparse", [](Json& j) { j["model"]["vocab"]["ab"] = 10000000; }, "there are only 261 tokens"},
        Refused{"MergesType", [](Json& j) { j["model"]["merges"] = "a b"; }, "expected a list, found string"},
        Refused{"MergeUnknown",
                [](Json& j) {
                  j["model"]["merges"] = {"a b", "ab zz"};
                },
                "merges[1]: the token \"zz\""},
        Refused{"MergeResult", [](Json& j) { j["model"]["merges"] = {"c c"}; }, "merges[0]: the token \"cc\""},
        Refused{"MergeForm", [](Json& j) { j["model"]["merges"] = {"a b c"}; }, "merges[0]: expected two tokens"},
        Refused{"MergeMixed",
                [](Json& j) {
                  j["model"]["merges"] = {{"a", "b"}, "b c"};
                },
                "merges[1]: expected a pair"},
        Refused{"AddedType", [](Json& j) { j["added_tokens"] = 1; }, "added_tokens: expected a list"},
        Refused{"AddedField",
                [](Json& j) {
                  j["added_tokens"] = {{{"id", 261}, {"content", "x"}}};
                },
                "\"single_word\""},
        Refused{"AddedTwice",
                [](Json& j) {
                  j["added_tokens"] = {added(261, "<x>"), added(261, "<x>")};
                },
                "listed twice"},
        Refused{"AddedId", [](Json& j) { j["added_tokens"] = {added(300, "<x>")}; }, "would give it 261"},
        Refused{"AddedLong", [](Json& j) { j["added_tokens"] = {added(261, std::string(2000, 'x'))}; }, "2000 bytes"}),
    [](const testing::TestParamInfo<Refused>& param) { return param.param.name; });

TEST(Tokenizer, RefusesWhatIsNotJson) {
  EXPECT_THROW(Tokenizer::from_json("", "t"), Error);
  EXPECT_THROW(Tokenizer::from_json(std::string(100000, '['), "t"), Error);
  EXPECT_THROW(Tokenizer::load("/nonexistent/tokenizer.json"), Error);
}

TEST(Utf8, StepsThroughEveryCodePoint) {
  std::string text;
  size_t characters = 0;
  for (uint32_t point = 0; point < 0x110000; ++point) {
    if (point >= 0xd800 && point <= 0xdfff) continue;
    char bytes[4];
    size_t count = 0;
    if (point < 0x80) {
      bytes[count++] = static_cast<char>(point);
    } else {
      if (point >= 0x10000) bytes[count++] = static_cast<char>(0xf0 | point >> 18);
      if (point >= 0x800)
        bytes[count++] =
            static_cast<char>((point >= 0x10000 ? 0x80 : 0xe0) | (point >> 12 & (point >= 0x10000 ? 0x3f : 0x0f)));
      bytes[count++] = static_cast<char>((point >= 0x800 ? 0x80 : 0xc0) | (point >> 6 & 0x3f));
      bytes[count++] = static_cast<char>(0x80 | (point & 0x3f));
    }
    const std::string_view character(bytes, count);
    ASSERT_EQ(utf8_step(character).kind, Utf8Step::Kind::character) << point;
    ASSERT_EQ(utf8_step(character).bytes, count) << point;
    ASSERT_EQ(utf8_code_point(character), point);
    text += character;
    ++characters;
  }
  EXPECT_EQ(characters, 0x110000u - 2048);
  EXPECT_EQ(utf8_valid_prefix(text), text.size());
  EXPECT_EQ(utf8_valid_prefix(std::string("12345678\xc3\xa9\xed\xa0\x80")), 10u);
}

}  // namespace
}  // namespace fathom
