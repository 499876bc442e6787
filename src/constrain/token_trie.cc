#include "constrain/token_trie.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"

namespace fathom {
namespace {

/// Number of characters of a plain token, 0 for any other.
uint32_t plain_characters(std::string_view token) {
  uint32_t count = 0;
  for (; !token.empty(); ++count) {
    const Utf8Step step = utf8_step(token);
    if (step.kind != Utf8Step::Kind::character) return 0;
    const uint32_t character = utf8_code_point(token);
    if (character < 0x20 || character == '"' || character == '\\' || character == 0x7f || character == 0x2028 ||
        character == 0x2029) {
      return 0;
    }
    token.remove_prefix(step.bytes);
  }
  return count;
}

/// 0xC0, 0xC1 and 0xF5 to 0xFF begin nothing and continue nothing in UTF-8.
bool is_control_byte(char byte) {
  const auto value = static_cast<uint8_t>(byte);
  return value == 0xc0 || value == 0xc1 || value >= 0xf5;
}

/// Leaves the control tokens as their bytes, and no other token with such a byte.
void spell_control_tokens(std::vector<std::string>& tokens, const std::vector<int32_t>& control) {
  if (control.size() > TokenTrie::most_control_tokens) {
    throw_bad_input("A grammar can name at most {} control tokens, found {}.", TokenTrie::most_control_tokens,
                    control.size());
  }
  for (std::string& token : tokens) {
    if (std::any_of(token.begin(), token.end(), is_control_byte)) token.clear();
  }
  for (size_t place = 0; place < control.size(); ++place) {
    const int32_t id = control[place];
    if (id < 0 || static_cast<size_t>(id) >= tokens.size()) {
      throw_bad_input("The control token {} is not in the vocabulary: expected 0 to {}.", id,
                      static_cast<int64_t>(tokens.size()) - 1);
    }
    std::string& token = tokens[static_cast<size_t>(id)];
    if (token.size() == 1 && is_control_byte(token[0])) throw_bad_input("The control token {} is listed twice.", id);
    token.assign(1, static_cast<char>(TokenTrie::control_byte(place)));
  }
}

/// The tree of the tokens in `order`, which are sorted by their bytes and then by id.
std::vector<TokenTrie::Node> tree_of(const std::vector<std::string>& tokens, const std::vector<int32_t>& order,
                                     std::vector<TokenTrie::Twin>* twins) {
  std::vector<TokenTrie::Node> nodes;
  std::vector<uint32_t> path;  // nodes of the previous token's bytes
  const std::string* previous = nullptr;
  for (const int32_t id : order) {
    const std::string& token = tokens[id];
    size_t common = 0;
    if (previous != nullptr) {
      while (common < std::min(previous->size(), token.size()) && (*previous)[common] == token[common]) ++common;
      if (common == token.size()) {
        if (twins != nullptr) twins->push_back({id, nodes[path.back()].token});
        continue;
      }
    }
    for (; path.size() > common; path.pop_back()) nodes[path.back()].skip = static_cast<uint32_t>(nodes.size());
    for (size_t at = common; at < token.size(); ++at) {
      path.push_back(static_cast<uint32_t>(nodes.size()));
      nodes.push_back({0, -1, static_cast<uint16_t>(at + 1), static_cast<uint8_t>(token[at])});
    }
    nodes.back().token = id;
    previous = &token;
  }
  for (const uint32_t node : path) nodes[node].skip = static_cast<uint32_t>(nodes.size());
  return nodes;
}

}  // namespace

uint8_t TokenTrie::control_byte(size_t place) {
  return static_cast<uint8_t>(place < 11 ? 0xf5 + place : 0xc0 + (place - 11));
}

TokenTrie::TokenTrie(const Tokenizer& tokenizer, const std::vector<int32_t>& control) {
  std::vector<std::string> tokens;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const std::string_view bytes = tokenizer.token_bytes(id, true);
    tokens.emplace_back(tokenizer.added_token(bytes) == id ? std::string_view() : bytes);
  }
  build(std::move(tokens), control);
}

TokenTrie::TokenTrie(std::vector<std::string> tokens, const std::vector<int32_t>& control) {
  build(std::move(tokens), control);
}

std::string_view TokenTrie::bytes(int32_t token) const {
  if (token < 0 || token >= vocab_size()) return {};
  return std::string_view(text_).substr(begin_[token], begin_[token + 1] - begin_[token]);
}

void TokenTrie::build(std::vector<std::string> tokens, const std::vector<int32_t>& control) {
  spell_control_tokens(tokens, control);
  std::vector<int32_t> order;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].size() > std::numeric_limits<uint16_t>::max()) {
      throw_bad_input("Token {} has {} bytes: expected at most {}.", id, tokens[id].size(),
                      std::numeric_limits<uint16_t>::max());
    }
    begin_.push_back(static_cast<uint32_t>(text_.size()));
    text_ += tokens[id];
    if (tokens[id].size() == 1) single_[static_cast<uint8_t>(tokens[id][0])] = true;
    if (!tokens[id].empty()) order.push_back(static_cast<int32_t>(id));
  }
  begin_.push_back(static_cast<uint32_t>(text_.size()));
  std::sort(order.begin(), order.end(), [&](int32_t left, int32_t right) {
    const int compared = tokens[left].compare(tokens[right]);
    return compared != 0 ? compared < 0 : left < right;
  });

  nodes_ = tree_of(tokens, order, &twins_);

  std::vector<uint32_t> characters;
  characters.reserve(tokens.size());
  for (const std::string& token : tokens) characters.push_back(plain_characters(token));
  for (const uint32_t most : {32u, 8u}) {
    Slice slice{most, std::vector<uint64_t>((tokens.size() + 63) / 64, 0), {}};
    std::vector<int32_t> others;
    for (const int32_t id : order) {
      if (characters[id] == 0 || characters[id] > most) {
        others.push_back(id);
      } else {
        slice.plain[static_cast<size_t>(id) / 64] |= uint64_t{1} << (id % 64);
      }
    }
    for (const Twin& twin : twins_)
      slice.plain[static_cast<size_t>(twin.token) / 64] &= ~(uint64_t{1} << (twin.token % 64));
    slice.others = tree_of(tokens, others, nullptr);
    slices_.push_back(std::move(slice));
  }
}

}  // namespace fathom
