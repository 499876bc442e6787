#include "data/pack.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "data/random.h"
#include "data/story.h"
#include "data/token_dataset.h"
#include "data/training_chat.h"
#include "formats/tokenizer_json.h"
#include "support/errors.h"
#include "text/bpe_trainer.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

class Pack : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) /
            (std::string("pack_") + testing::UnitTest::GetInstance()->current_test_info()->name() + "_" +
             std::to_string(getpid()));
    fs::create_directories(root_ / "tokenizer");
    Random random(1);
    BpeTrainer trainer;
    for (int i = 0; i < 60; ++i) {
      stories_.push_back(make_story(random).text);
      trainer.add_text(stories_.back(), "test");
    }
    const auto json = trained_tokenizer_json(trainer.train(600), control_tokens_for(4096));
    write("tokenizer/tokenizer.json", json.dump());
    write("tokenizer/tokenizer_config.json",
          tokenizer_config_json(eos_token_text, 4096, deepseek_v31_chat_template).dump());
    tokenizer_ = Tokenizer::load(path("tokenizer"));
    options_.tokenizer_directory = path("tokenizer");
    options_.out = path("out");
    options_.sequence_length = 256;
    options_.fim_rate = 0;
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string path(const std::string& name) const { return (root_ / name).string(); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(path(name)) << text; }
  void write_stories() {
    std::string lines;
    for (const std::string& story : stories_) lines += nlohmann::json{{"text", story}}.dump() + "\n";
    write("corpus.jsonl", lines);
    options_.files = {path("corpus.jsonl")};
  }
  std::vector<std::vector<int32_t>> sequences(const std::string& split = "train") const {
    const TokenDataset dataset(options_.out, split);
    std::vector<std::vector<int32_t>> all(static_cast<size_t>(dataset.sequences()));
    for (size_t i = 0; i < all.size(); ++i) {
      all[i].resize(static_cast<size_t>(dataset.sequence_length() + 1));
      dataset.sequence(static_cast<int64_t>(i), all[i]);
    }
    return all;
  }
  /// The documents in the sequences, by their text; cut ones are missing.
  std::multiset<std::string> documents() const {
    std::multiset<std::string> found;
    for (const std::vector<int32_t>& sequence : sequences()) {
      for (auto begin = sequence.begin(); (begin = std::find(begin, sequence.end(), 0)) != sequence.end();) {
        const auto end = std::find(begin, sequence.end(), 1);
        if (end != sequence.end()) found.insert(tokenizer_->decode(std::vector<int32_t>(begin + 1, end)));
        begin = end;
      }
    }
    return found;
  }

  fs::path root_;
  std::vector<std::string> stories_;
  std::unique_ptr<Tokenizer> tokenizer_;
  PackOptions options_;
};

TEST_F(Pack, EveryDocumentIsThereOnceAndWhole) {
  options_.sequence_length = 1024;
  write_stories();
  const PackResult result = pack_corpus(options_);
  EXPECT_EQ(result.cut_documents, 0);
  EXPECT_EQ(documents(), std::multiset<std::string>(stories_.begin(), stories_.end()));
  const TokenDataset dataset(options_.out);
  EXPECT_EQ(dataset.sequences(), result.train.sequences);
  EXPECT_EQ(dataset.padding(), result.train.padding);
  EXPECT_EQ(result.train.tokens + result.train.padding, dataset.sequences() * 1025);
  dataset.check_tokenizer(path("tokenizer"));
  EXPECT_FALSE(TokenDataset::has_split(options_.out, "validation"));
}

TEST_F(Pack, LongDocumentsAreCutWithOneTokenInCommon) {
  std::string text;
  for (const std::string& story : stories_) text += story + "\n\n";
  write("long.txt", text);
  options_.files = {path("long.txt")};
  EXPECT_EQ(pack_corpus(options_).cut_documents, 1);
  std::vector<int32_t> ids = tokenizer_->encode(text);
  ids.insert(ids.begin(), 0);
  ids.push_back(1);
  // Each piece is found at its place in the document.
  std::map<std::vector<int32_t>, int> pieces;
  for (size_t at = 0; at + 1 < ids.size(); at += 256) {
    std::vector<int32_t> piece(ids.begin() + static_cast<std::ptrdiff_t>(at),
                               ids.begin() + static_cast<std::ptrdiff_t>(std::min(at + 257, ids.size())));
    piece.resize(257, 2);
    ++pieces[piece];
  }
  std::map<std::vector<int32_t>, int> found;
  for (const std::vector<int32_t>& sequence : sequences()) ++found[sequence];
  EXPECT_EQ(found, pieces);
}

TEST_F(Pack, TheSameSeedGivesTheSameShards) {
  write_stories();
  options_.fim_rate = 0.5;
  pack_corpus(options_);
  const auto first = sequences();
  options_.out = path("again");
  pack_corpus(options_);
  EXPECT_EQ(first, sequences());
  options_.out = path("other");
  options_.seed = 1;
  pack_corpus(options_);
  EXPECT_NE(first, sequences());
}

TEST_F(Pack, FillInTheMiddleJoinsToTheText) {
  options_.sequence_length = 1024;
  options_.fim_rate = 1;
  write_stories();
  EXPECT_EQ(pack_corpus(options_).fim_documents, static_cast<int64_t>(stories_.size()));
  std::multiset<std::string> joined;
  for (const std::string& document : documents()) {
    const std::string begin = "<｜fim▁begin｜>";
    const std::string hole = "<｜fim▁hole｜>";
    const std::string end = "<｜fim▁end｜>";
    ASSERT_TRUE(document.starts_with(begin)) << document;
    const size_t a = document.find(hole);
    const size_t b = document.find(end);
    const std::string prefix = document.substr(begin.size(), a - begin.size());
    const std::string suffix = document.substr(a + hole.size(), b - a - hole.size());
    std::string whole = prefix;
    whole += document.substr(b + end.size());
    whole += suffix;
    joined.insert(std::move(whole));
  }
  EXPECT_EQ(joined, std::multiset<std::string>(stories_.begin(), stories_.end()));
}

TEST_F(Pack, HeldOutDocumentsStayHeldOut) {
  options_.validation = 0.3;
  options_.sequence_length = 1024;
  write_stories();
  const PackResult result = pack_corpus(options_);
  EXPECT_GT(result.validation.documents, 5);
  EXPECT_EQ(result.validation.documents + result.train.documents, static_cast<int64_t>(stories_.size()));
  const auto train = documents();
  EXPECT_EQ(static_cast<int64_t>(train.size()), result.train.documents);
  EXPECT_EQ(TokenDataset(options_.out, "validation").sequences(), result.validation.sequences);
}

TEST_F(Pack, ConversationsAreWrittenAsTheyAreAskedFor) {
  const std::vector<ChatMessage> messages = {
      {"user", "<｜User｜>?"}, {"assistant", "<think>no</think>a"}, {"user", "b"}, {"assistant", "<think>t</think>c"}};
  const TokenizerConfig config = read_tokenizer_config(path("tokenizer"));
  const auto ids = training_chat_ids(*tokenizer_, config, ChatFormat::deepseek_v31, messages);
  EXPECT_EQ(tokenizer_->decode(ids),
            "<｜begin▁of▁sentence｜><｜User｜><｜User｜>?<｜Assistant｜></think>a<｜end▁of▁sentence｜>"
            "<｜User｜>b<｜Assistant｜><think>t</think>c<｜end▁of▁sentence｜>");
  // The user's own "<｜User｜>" is characters.
  EXPECT_EQ(std::count(ids.begin(), ids.end(), *tokenizer_->added_token("<｜User｜>")), 2);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), *tokenizer_->added_token("<think>")), 1);
}

TEST_F(Pack, BadInputIsOneSentence) {
  write_stories();
  pack_corpus(options_);
  FATHOM_EXPECT_ERROR(pack_corpus(options_), ErrorKind::bad_input, "out", "empty directory");
  options_.out = path("second");
  const auto refused = [&](const char* lines, std::initializer_list<std::string> parts) {
    write("bad.jsonl", lines);
    options_.files = {path("bad.jsonl")};
    expect_error([&] { pack_corpus(options_); }, ErrorKind::bad_input, parts);
    EXPECT_FALSE(fs::exists(options_.out));
    EXPECT_FALSE(fs::exists(options_.out + ".partial"));
  };
  refused("", {"bad.jsonl", "found none"});
  refused("{\"text\": \"a\"}\n{\"x\": 1}\n", {"line 2", "neither"});
  refused("{\"text\": 3}\n", {"line 1", "expected a string"});
  refused("[]\n", {"line 1", "expected an object"});
  refused("{\"messages\": []}\n", {"line 1", "at least one"});
}

TEST_F(Pack, DamagedDatasetsAreRefused) {
  write_stories();
  pack_corpus(options_);
  const std::string description = path("out/data.json");
  std::ifstream in(description);
  const nlohmann::json good = nlohmann::json::parse(in);
  const auto with = [&](const char* field, const nlohmann::json& value) {
    nlohmann::json json = good;
    json[field] = value;
    std::ofstream(description) << json.dump();
  };
  with("version", 2);
  FATHOM_EXPECT_ERROR(TokenDataset(path("out")), ErrorKind::bad_input, "version", "found 2");
  with("sequence_length", 128);
  FATHOM_EXPECT_ERROR(TokenDataset(path("out")), ErrorKind::bad_input, "tokens", "[", "129]", "257]");
  with("vocab_size", 300);
  {
    const TokenDataset dataset(path("out"));
    std::vector<int32_t> row(257);
    FATHOM_EXPECT_ERROR(dataset.sequence(0, row), ErrorKind::bad_input, "sequence 0", "below 300");
  }
  with("tokenizer", "fnv1a64:0");
  FATHOM_EXPECT_ERROR(TokenDataset(path("out")).check_tokenizer(path("tokenizer")), ErrorKind::bad_input,
                      "another tokenizer");
  with("format", "other");
  FATHOM_EXPECT_ERROR(TokenDataset(path("out")), ErrorKind::bad_input, "fathom-tokens");
  with("version", 1);
  FATHOM_EXPECT_ERROR(TokenDataset(path("out"), "validation"), ErrorKind::bad_input, "validation");
  const std::string shard = path("out/train-00000.safetensors");
  fs::resize_file(shard, fs::file_size(shard) - 100);
  FATHOM_EXPECT_ERROR(TokenDataset(path("out")), ErrorKind::bad_input, "train-00000", "truncated");
}

TEST(BestFit, BinsHoldEveryPieceOnceAndNoMoreThanTheyCan) {
  std::vector<uint32_t> lengths;
  Random draw(3);
  for (int i = 0; i < 2000; ++i) lengths.push_back(static_cast<uint32_t>(draw.between(1, 100)));
  Random random(1);
  std::vector<int> seen(lengths.size());
  uint64_t filled = 0;
  const auto bins = best_fit_bins(lengths, 100, random);
  for (const auto& bin : bins) {
    uint32_t sum = 0;
    for (const uint32_t piece : bin) {
      ++seen[piece];
      sum += lengths[piece];
    }
    EXPECT_LE(sum, 100u);
    filled += sum;
  }
  EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), 2000);
  EXPECT_GT(static_cast<double>(filled) / static_cast<double>(bins.size() * 100), 0.98);
}

TEST(EpochOrder, EachEpochIsAPermutationOfItsOwn) {
  std::vector<uint32_t> sorted(1000);
  std::iota(sorted.begin(), sorted.end(), 0u);
  const std::vector<uint32_t> first = epoch_order(1000, 7, 0);
  std::vector<uint32_t> order = first;
  std::sort(order.begin(), order.end());
  EXPECT_EQ(order, sorted);
  EXPECT_EQ(first, epoch_order(1000, 7, 0));
  EXPECT_NE(first, epoch_order(1000, 7, 1));
  EXPECT_NE(first, epoch_order(1000, 8, 0));
}

TEST_F(Pack, AShuffledRunIsResumedAtAnyPosition) {
  write_stories();
  pack_corpus(options_);
  const TokenDataset dataset(options_.out);
  const auto count = static_cast<uint64_t>(dataset.sequences());
  ShuffledSequences whole(dataset, 5);
  std::vector<std::vector<int32_t>> rows(2 * count, std::vector<int32_t>(257));
  for (uint64_t i = 0; i < rows.size(); ++i) whole.read(i, rows[i]);
  for (const uint64_t position : {count - 1, count, uint64_t{3}}) {
    ShuffledSequences resumed(dataset, 5);
    std::vector<int32_t> row(257);
    resumed.read(position, row);
    EXPECT_EQ(row, rows[position]);
  }
  std::multiset<std::vector<int32_t>> epoch(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(count));
  const auto all = sequences();
  EXPECT_EQ(epoch, std::multiset<std::vector<int32_t>>(all.begin(), all.end()));
}

}  // namespace
}  // namespace fathom
