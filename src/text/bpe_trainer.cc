#include "text/bpe_trainer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <queue>
#include <unordered_set>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/utf8.h"
#include "formats/tokenizer_json.h"

namespace fathom {
namespace {

using ordered_json = nlohmann::ordered_json;

constexpr size_t bytes_count = 256;
/// Below this the nine tokens of tools and <|EOT|> would take a noticeable part of the vocabulary.
constexpr int64_t least_for_tools = 1024;

uint64_t key_of(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

bool is_digit(char character) {
  return character >= '0' && character <= '9';
}

/// The tokens in the order of their bytes' published ids: the printable characters' code points.
std::vector<uint8_t> byte_order() {
  std::vector<uint8_t> order(bytes_count);
  for (size_t byte = 0; byte < bytes_count; ++byte) order[byte] = static_cast<uint8_t>(byte);
  std::sort(order.begin(), order.end(), [](uint8_t a, uint8_t b) {
    return utf8_code_point(byte_character(a)) < utf8_code_point(byte_character(b));
  });
  return order;
}

struct Word {
  std::vector<int32_t> symbols;
  uint64_t count;
};

/// How often a pair occurs and in which words; a word stays in the list when its last occurrence is gone.
struct Pair {
  uint64_t count = 0;
  std::vector<uint32_t> words;
};

struct Candidate {
  uint64_t count;
  uint64_t key;
  /// The greatest count first, then the lowest left token, then the lowest right one.
  bool operator<(const Candidate& other) const { return count != other.count ? count < other.count : key > other.key; }
};

class PairTable {
 public:
  /// `allowed(token)`: a token that may be joined.
  explicit PairTable(std::vector<bool>& allowed) : allowed_(allowed) {}

  void add(int32_t left, int32_t right, uint32_t word, uint64_t count) {
    if (!allowed_[static_cast<size_t>(left)] || !allowed_[static_cast<size_t>(right)]) return;
    const uint64_t key = key_of(left, right);
    Pair& pair = pairs_[key];
    pair.count += count;
    if (pair.words.empty() || pair.words.back() != word) pair.words.push_back(word);
    changed_.push_back(key);
  }
  void remove(int32_t left, int32_t right, uint64_t count) {
    const auto found = pairs_.find(key_of(left, right));
    if (found != pairs_.end()) found->second.count -= count;
  }
  /// Offers the pairs that grew since the last call.
  void offer() {
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const uint64_t key : changed_) queue_.push({pairs_[key].count, key});
    changed_.clear();
  }
  /// The best pair, taken out; false if none occurs twice.
  bool take(uint64_t& key, std::vector<uint32_t>& words) {
    while (!queue_.empty()) {
      const Candidate top = queue_.top();
      queue_.pop();
      const auto found = pairs_.find(top.key);
      if (found == pairs_.end() || found->second.count < 2) continue;
      if (found->second.count != top.count) {  // it lost occurrences since it was offered
        if (found->second.count < top.count) queue_.push({found->second.count, top.key});
        continue;
      }
      key = top.key;
      words = std::move(found->second.words);
      pairs_.erase(found);
      std::sort(words.begin(), words.end());
      words.erase(std::unique(words.begin(), words.end()), words.end());
      return true;
    }
    return false;
  }

 private:
  std::vector<bool>& allowed_;
  std::unordered_map<uint64_t, Pair> pairs_;
  std::priority_queue<Candidate> queue_;
  std::vector<uint64_t> changed_;
};

/// Joins every occurrence of the pair in one word, from the left, and keeps the counts of the neighbours' pairs.
void join(Word& word, uint32_t index, int32_t left, int32_t right, int32_t joined, PairTable& pairs) {
  std::vector<int32_t>& symbols = word.symbols;
  size_t to = 0;
  for (size_t from = 0; from < symbols.size(); ++from) {
    if (from + 1 == symbols.size() || symbols[from] != left || symbols[from + 1] != right) {
      symbols[to++] = symbols[from];
      continue;
    }
    // What is before `to` is already joined, what is behind `from` is not yet.
    if (to > 0) {
      pairs.remove(symbols[to - 1], left, word.count);
      pairs.add(symbols[to - 1], joined, index, word.count);
    }
    if (from + 2 < symbols.size()) {
      pairs.remove(right, symbols[from + 2], word.count);
      pairs.add(joined, symbols[from + 2], index, word.count);
    }
    symbols[to++] = joined;
    ++from;
  }
  symbols.resize(to);
}

}  // namespace

BpeTrainer::BpeTrainer(bool merge_digits) : merge_digits_(merge_digits) {
  const ordered_json layout =
      byte_level_tokenizer_json(ordered_json::object(), ordered_json::array(), ordered_json::array());
  pre_tokenizer_ = PreTokenizer::from_json(nlohmann::json(layout["pre_tokenizer"]), "the trainer's own layout");
}

void BpeTrainer::add_text(std::string_view text, std::string_view source) {
  if (const size_t valid = utf8_valid_prefix(text); valid != text.size()) {
    throw_bad_input("{}: expected UTF-8 text, found the byte 0x{:02x} at offset {}", source,
                    static_cast<uint8_t>(text[valid]), valid);
  }
  size_t begin = 0;
  for (size_t at = text.find('<'); at != std::string_view::npos; at = text.find('<', at)) {
    size_t length = 0;
    const auto look = [&](std::string_view token) {
      if (text.substr(at, token.size()) == token) length = std::max(length, token.size());
    };
    for (const char* token : {bos_token_text, eos_token_text, pad_token_text}) look(token);
    for (const char* token : deepseek_control_tokens) look(token);
    if (length == 0) {
      ++at;
      continue;
    }
    add_plain(text.substr(begin, at - begin));
    at += length;
    begin = at;
  }
  add_plain(text.substr(begin));
}

void BpeTrainer::add_plain(std::string_view text) {
  split_.clear();
  pre_tokenizer_.split(text, split_);
  for (const std::string_view piece : split_) ++counts_[std::string(piece)];
  pieces_ += split_.size();
}

TrainedBpe BpeTrainer::train(size_t tokens, const std::function<void(size_t, size_t)>& progress) const {
  TrainedBpe result;
  std::vector<bool> allowed;
  std::vector<int32_t> token_of_byte(bytes_count);
  std::unordered_set<std::string> known;
  for (const uint8_t byte : byte_order()) {
    token_of_byte[byte] = static_cast<int32_t>(result.tokens.size());
    known.emplace(1, static_cast<char>(byte));
    result.tokens.emplace_back(1, static_cast<char>(byte));
    allowed.push_back(merge_digits_ || !is_digit(static_cast<char>(byte)));
  }

  // The order of a hash table must not be seen in the result: only sums of counts are.
  std::vector<Word> words;
  words.reserve(counts_.size());
  for (const auto& [piece, count] : counts_) {
    Word word{{}, count};
    for (const char character : piece) word.symbols.push_back(token_of_byte[static_cast<uint8_t>(character)]);
    if (word.symbols.size() > 1) words.push_back(std::move(word));
  }
  PairTable pairs(allowed);
  for (size_t index = 0; index < words.size(); ++index) {
    const std::vector<int32_t>& symbols = words[index].symbols;
    for (size_t at = 0; at + 1 < symbols.size(); ++at) {
      pairs.add(symbols[at], symbols[at + 1], static_cast<uint32_t>(index), words[index].count);
    }
  }
  pairs.offer();

  uint64_t key = 0;
  std::vector<uint32_t> places;
  while (result.tokens.size() < tokens && pairs.take(key, places)) {
    check_interrupt();
    const auto left = static_cast<int32_t>(key >> 32);
    const auto right = static_cast<int32_t>(key & 0xffffffffu);
    const std::string bytes = result.tokens[static_cast<size_t>(left)] + result.tokens[static_cast<size_t>(right)];
    // A second spelling of a token ("ab" "c" after "a" "bc") is not learned: one merge per token, as in the published
    // file.
    if (!known.insert(bytes).second) continue;
    const auto joined = static_cast<int32_t>(result.tokens.size());
    result.tokens.push_back(bytes);
    allowed.push_back(true);
    result.merges.emplace_back(left, right);
    for (const uint32_t index : places) join(words[index], index, left, right, joined, pairs);
    pairs.offer();
    if (progress) progress(result.tokens.size(), tokens);
  }
  return result;
}

std::vector<std::string> control_tokens_for(int64_t vocab_size) {
  std::vector<std::string> tokens;
  for (const std::string token : deepseek_control_tokens) {
    const bool of_tools = token.find("tool") != std::string::npos || token == "<|EOT|>";
    if (!of_tools || vocab_size >= least_for_tools) tokens.push_back(token);
  }
  return tokens;
}

size_t trainable_tokens(int64_t vocab_size) {
  const auto fixed = static_cast<int64_t>(3 + control_tokens_for(vocab_size).size());
  const int64_t least = fixed + static_cast<int64_t>(bytes_count);
  if (vocab_size < least) {
    throw_bad_input("A vocabulary of {} tokens is too small: the 256 bytes and the control tokens are {}", vocab_size,
                    least);
  }
  return static_cast<size_t>(vocab_size - fixed);
}

ordered_json trained_tokenizer_json(const TrainedBpe& bpe, const std::vector<std::string>& control_tokens) {
  ordered_json vocab = ordered_json::object();
  ordered_json added = ordered_json::array();
  int64_t id = 0;
  for (const char* content : {bos_token_text, eos_token_text, pad_token_text}) {
    vocab[content] = id;
    added.push_back(added_token_json(id++, content, true, false));
  }
  std::vector<std::string> spelled;
  for (const std::string& token : bpe.tokens) {
    std::string text;
    for (const char byte : token) text += byte_character(static_cast<uint8_t>(byte));
    spelled.push_back(text);
    vocab[text] = id++;
  }
  for (const std::string& content : control_tokens) {
    added.push_back(added_token_json(id++, content, content == "<|EOT|>", true));
  }
  ordered_json merges = ordered_json::array();
  for (const auto& [left, right] : bpe.merges) {
    merges.push_back(spelled[static_cast<size_t>(left)] + " " + spelled[static_cast<size_t>(right)]);
  }
  return byte_level_tokenizer_json(vocab, added, merges);
}

}  // namespace fathom
