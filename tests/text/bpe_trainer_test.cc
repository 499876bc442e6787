#include "text/bpe_trainer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "data/random.h"
#include "data/story.h"
#include "formats/tokenizer_json.h"
#include "support/errors.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

std::string stories(int count) {
  std::string text;
  Random random(7);
  for (int i = 0; i < count; ++i) text += make_story(random).text + "\n\n";
  return text;
}

TrainedBpe train(const std::vector<std::string>& texts, size_t tokens, bool merge_digits = false) {
  BpeTrainer trainer(merge_digits);
  for (const std::string& text : texts) trainer.add_text(text, "test");
  return trainer.train(tokens);
}

std::unique_ptr<Tokenizer> tokenizer_of(const TrainedBpe& bpe) {
  return Tokenizer::from_json(trained_tokenizer_json(bpe, control_tokens_for(4096)).dump(), "trained");
}

/// Counts every pair of every piece anew for each merge.
std::vector<std::string> plain_merges(const std::string& text, size_t merges) {
  const auto layout = byte_level_tokenizer_json(nlohmann::ordered_json::object(), nlohmann::ordered_json::array(),
                                                nlohmann::ordered_json::array());
  const PreTokenizer split = PreTokenizer::from_json(nlohmann::json(layout["pre_tokenizer"]), "test");
  std::vector<std::string_view> pieces;
  split.split(text, pieces);
  std::vector<std::vector<std::string>> words;
  for (const std::string_view piece : pieces) {
    words.emplace_back();
    for (const char byte : piece) words.back().emplace_back(1, byte);
  }
  // A token's number: bytes by the code point of their published spelling, then as learned.
  std::map<std::string, size_t> number;
  std::vector<std::pair<std::string, std::string>> bytes;
  for (int byte = 0; byte < 256; ++byte) {
    std::string spelled = byte_character(static_cast<uint8_t>(byte));
    if (spelled.size() == 1) spelled.insert(0, 1, '\0');  // below every two-byte character
    bytes.emplace_back(spelled, std::string(1, static_cast<char>(byte)));
  }
  std::sort(bytes.begin(), bytes.end());
  for (const auto& [spelled, byte] : bytes) number.emplace(byte, number.size());
  std::vector<std::string> result;
  while (result.size() < merges) {
    std::map<std::pair<std::string, std::string>, int> counts;
    for (const auto& word : words) {
      for (size_t i = 0; i + 1 < word.size(); ++i) {
        if (number.count(word[i] + word[i + 1]) == 0 && !isdigit(word[i][0]) && !isdigit(word[i + 1][0])) {
          ++counts[{word[i], word[i + 1]}];
        }
      }
    }
    std::pair<std::string, std::string> best;
    int most = 1;
    for (const auto& [pair, count] : counts) {
      const auto order = [&](const std::pair<std::string, std::string>& p) {
        return std::pair(number.at(p.first), number.at(p.second));
      };
      if (count > most || (count == most && !best.first.empty() && order(pair) < order(best))) {
        best = pair;
        most = count;
      }
    }
    if (most < 2) break;
    for (auto& word : words) {
      std::vector<std::string> next;
      for (size_t i = 0; i < word.size(); ++i) {
        if (i + 1 < word.size() && word[i] == best.first && word[i + 1] == best.second) {
          next.push_back(best.first + best.second);
          ++i;
        } else {
          next.push_back(word[i]);
        }
      }
      word = next;
    }
    number.emplace(best.first + best.second, number.size());
    result.push_back(best.first + "|" + best.second);
  }
  return result;
}

TEST(BpeTrainer, LearnsWhatAPlainTrainerLearns) {
  for (const std::string& text :
       {stories(4), std::string("aaaa aaa aaaaaa abab ababab bab banana bandana\n\n\nxyxyx 1212 1212 1a1a")}) {
    const size_t merges = text.size() > 1000 ? 300 : 40;
    const TrainedBpe bpe = train({text}, 256 + merges);
    std::vector<std::string> learned;
    for (const auto& [left, right] : bpe.merges) {
      learned.push_back(bpe.tokens[static_cast<size_t>(left)] + "|" + bpe.tokens[static_cast<size_t>(right)]);
    }
    EXPECT_EQ(learned, plain_merges(text, merges));
    EXPECT_EQ(bpe.tokens.size(), 256 + bpe.merges.size());
  }
}

TEST(BpeTrainer, DoesNotDependOnTheOrderOfTexts) {
  std::vector<std::string> texts;
  Random random(3);
  for (int i = 0; i < 40; ++i) texts.push_back(make_story(random).text);
  const TrainedBpe first = train(texts, 900);
  std::reverse(texts.begin(), texts.end());
  const TrainedBpe second = train(texts, 900);
  EXPECT_EQ(first.tokens, second.tokens);
  EXPECT_EQ(first.merges, second.merges);
  EXPECT_EQ(first.tokens.size(), 900u);
}

TEST(BpeTrainer, TheTokenizerGoesThereAndBack) {
  const auto tokenizer = tokenizer_of(train({stories(20)}, 800));
  Random random(99);
  for (int i = 0; i < 50; ++i) {
    const std::string text = make_story(random).text;
    const std::vector<int32_t> ids = tokenizer->encode(text);
    EXPECT_EQ(tokenizer->decode(ids), text);
    EXPECT_LT(ids.size(), text.size() / 2);
  }
  for (const std::string text : {"", "深い海 ü \t\r\n  x", "1234567 89", "\xf0\x9f\x90\xad!"}) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST(BpeTrainer, DigitsStandAloneUnlessAskedOtherwise) {
  const std::string text = "12 12 12 127 127 x1 x1 x1 1990 1990";
  for (const std::string& token : train({text}, 400).tokens) {
    EXPECT_TRUE(token.size() == 1 || token.find_first_of("0123456789") == std::string::npos) << token;
  }
  const TrainedBpe merged = train({text}, 400, true);
  EXPECT_EQ(std::count(merged.tokens.begin(), merged.tokens.end(), "127"), 1);
}

TEST(BpeTrainer, NothingIsLearnedFromControlTokens) {
  const TrainedBpe with = train({"<｜User｜>ab ab<｜Assistant｜><think>ab</think>ab<｜end▁of▁sentence｜>"}, 300);
  EXPECT_EQ(with.tokens.size(), 257u);  // "ab"; " ab" occurs once
  for (const std::string& token : with.tokens) EXPECT_EQ(token.find("User"), std::string::npos);
}

TEST(BpeTrainer, TheFilesHaveThePublishedLayout) {
  const auto json = trained_tokenizer_json(train({stories(5)}, 500), control_tokens_for(4096));
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"version", "truncation", "padding", "added_tokens", "normalizer",
                                            "pre_tokenizer", "post_processor", "decoder", "model"}));
  EXPECT_EQ(json["model"]["vocab"]["<｜begin▁of▁sentence｜>"], 0);
  EXPECT_EQ(json["model"]["vocab"]["<｜end▁of▁sentence｜>"], 1);
  EXPECT_EQ(json["model"]["vocab"]["<｜▁pad▁｜>"], 2);
  EXPECT_EQ(json["model"]["vocab"]["!"], 3);
  EXPECT_EQ(json["model"]["vocab"]["Ń"], 258);  // the last byte, as published
  EXPECT_EQ(json["model"]["merges"].size(), 244u);
  const auto tokenizer = Tokenizer::from_json(json.dump(), "trained");
  EXPECT_EQ(tokenizer->vocab_size(), 3 + 500 + 17);
  for (const char* token : {"<｜User｜>", "<think>", "<｜fim▁hole｜>"}) {
    EXPECT_EQ(tokenizer->encode(token), std::vector<int32_t>{*tokenizer->added_token(token)});
  }
  EXPECT_EQ(recognise_chat_template(deepseek_v31_chat_template), ChatFormat::deepseek_v31);
  EXPECT_EQ(recognise_chat_template(deepseek_v3_chat_template), ChatFormat::deepseek_v3);
}

TEST(BpeTrainer, SmallVocabulariesHaveNoTokensOfTools) {
  EXPECT_EQ(control_tokens_for(512).size(), 7u);
  EXPECT_EQ(control_tokens_for(1024).size(), 17u);
  EXPECT_EQ(trainable_tokens(512), 502u);
  FATHOM_EXPECT_ERROR(trainable_tokens(265), ErrorKind::bad_input, "265", "266");
}

TEST(BpeTrainer, RefusesWhatIsNotText) {
  BpeTrainer trainer;
  FATHOM_EXPECT_ERROR(trainer.add_text("ab\xff", "file.txt"), ErrorKind::bad_input, "file.txt", "0xff", "offset 2");
}

}  // namespace
}  // namespace fathom
