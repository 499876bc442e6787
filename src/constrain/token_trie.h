#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace fathom {

/// The tokens of a vocabulary that spell text, as trees over their bytes; made once and shared by all constraints.
///
/// Most tokens are plain: whole characters that may stand in a JSON string as they are and that `.` of a pattern reads
/// (U+0020 and up without `"`, `\`, DEL, U+2028 and U+2029). Where a grammar reads any plain character n times in a
/// row, all plain tokens of at most n characters are allowed, and only the others must be looked at: `slices` keeps
/// both.
///
/// Added tokens are not in it, special or not: they steer the model (`<｜User｜>` is not special in DeepSeek's files),
/// and what they spell can be written with ordinary tokens. Neither are tokens without bytes.
///
/// Except for *control tokens* that whoever makes the tree lists: each of them is spelled as one byte that occurs in no
/// UTF-8 text, and so comes up only where a grammar names it, as `literal` of its `control_byte`. No other token of the
/// tree holds such a byte: ordinary tokens that do are left out, with and without a list.
class TokenTrie {
 public:
  /// A byte after the bytes of the nodes above it. Nodes stand in the order in which a walk meets them.
  struct Node {
    uint32_t skip;   ///< index of the first node that is not below this one
    int32_t token;   ///< the token that ends here, or −1
    uint16_t depth;  ///< 1 for the first byte of a token
    uint8_t byte;
  };
  /// Of two tokens with the same bytes the node has the lower id.
  struct Twin {
    int32_t token;
    int32_t lower;
  };

  /// The plain tokens of at most `characters` characters, and a tree of all other tokens.
  struct Slice {
    uint32_t characters;
    std::vector<uint64_t> plain;  ///< bit i: token i, which is the lowest of its twins
    std::vector<Node> others;
  };

  static constexpr size_t most_control_tokens = 13;
  /// The byte that stands for the control token at this place of the list.
  static uint8_t control_byte(size_t place);

  /// `bad_input` for more control tokens than there are bytes, one that is listed twice, or an unknown id.
  explicit TokenTrie(const Tokenizer& tokenizer, const std::vector<int32_t>& control = {});
  /// From the bytes of each token, by id; an empty one is left out. `bad_input` also if a token is longer than 65535
  /// bytes.
  explicit TokenTrie(std::vector<std::string> tokens, const std::vector<int32_t>& control = {});

  std::span<const Node> nodes() const { return nodes_; }
  /// By descending number of characters.
  std::span<const Slice> slices() const { return slices_; }
  std::span<const Twin> twins() const { return twins_; }
  /// One past the greatest id.
  int32_t vocab_size() const { return static_cast<int32_t>(begin_.size()) - 1; }
  /// Empty for a token that is not in the tree, and for an unknown id.
  std::string_view bytes(int32_t token) const;
  /// Whether the byte is a token by itself.
  bool has_byte(uint8_t byte) const { return single_[byte]; }

 private:
  void build(std::vector<std::string> tokens, const std::vector<int32_t>& control);

  std::vector<Node> nodes_;
  std::vector<Slice> slices_;
  std::vector<Twin> twins_;
  std::string text_;
  std::vector<uint32_t> begin_;  // [vocab_size + 1] into text_
  std::array<bool, 256> single_{};
};

}  // namespace fathom
