#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/pre_tokenizer.h"

namespace fathom {

/// What byte-level BPE learned: a vocabulary behind the 256 bytes.
struct TrainedBpe {
  std::vector<std::string> tokens;                  ///< bytes of each; the first 256 are the bytes themselves
  std::vector<std::pair<int32_t, int32_t>> merges;  ///< indices into `tokens`, in the order in which they were learned
};

/// Learns byte-level BPE from texts cut by DeepSeek-V3's pre-tokenizer.
///
/// Each step joins the most frequent pair of neighbours. Of pairs that are equally frequent the one with the lower left
/// token wins, then the one with the lower right token (in the order of `TrainedBpe::tokens`), so that the result
/// depends on the counts of pieces alone, not on the order of the texts. A pair that spells a token there already is
/// is not joined. Memory grows with the distinct pieces.
class BpeTrainer {
 public:
  /// Without `merge_digits` no ASCII digit is ever joined with anything: a number is read digit by digit, as a small
  /// model learns arithmetic best. DeepSeek-V3's own vocabulary has numbers up to three digits.
  explicit BpeTrainer(bool merge_digits = false);

  /// Counts the pieces of a text. What is spelled like a control token is left out, and no piece reaches across it.
  /// `bad_input` if the text is not UTF-8; `source` names it.
  void add_text(std::string_view text, std::string_view source);

  uint64_t pieces() const { return pieces_; }
  size_t distinct_pieces() const { return counts_.size(); }

  /// At most `tokens` tokens, fewer if no pair occurs twice any more. `progress(done, total)` after each.
  TrainedBpe train(size_t tokens, const std::function<void(size_t, size_t)>& progress = {}) const;

 private:
  void add_plain(std::string_view text);

  bool merge_digits_;
  PreTokenizer pre_tokenizer_;
  std::vector<std::string_view> split_;
  std::unordered_map<std::string, uint64_t> counts_;
  uint64_t pieces_ = 0;
};

/// The control tokens of a vocabulary of this size: those of chat and fill-in-the-middle, and from 1,024 tokens on
/// those of tools, in the published order. bos, eos and pad are not among them.
std::vector<std::string> control_tokens_for(int64_t vocab_size);
/// Tokens that BPE may fill: `vocab_size` without bos, eos, pad and control tokens. `bad_input` if the 256 bytes do not
/// fit.
size_t trainable_tokens(int64_t vocab_size);

/// tokenizer.json in the published layout: bos, eos, pad (0, 1, 2), the bytes, learned tokens, control tokens.
nlohmann::ordered_json trained_tokenizer_json(const TrainedBpe& bpe, const std::vector<std::string>& control_tokens);

}  // namespace fathom
