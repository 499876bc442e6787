#pragma once
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "constrain/constraint.h"
#include "text/tokenizer.h"

namespace fathom {

/// The bundled model's vocabulary of 2048 tokens.
inline std::shared_ptr<const TokenTrie> tiny_trie() {
  static const auto trie =
      std::make_shared<const TokenTrie>(*Tokenizer::load(FATHOM_SOURCE_DIR "/models/fathom-tiny/tokenizer.json"));
  return trie;
}

/// DeepSeek-V3's vocabulary, or null where it is not there.
inline std::shared_ptr<const TokenTrie> real_trie() {
  static const auto trie = []() -> std::shared_ptr<const TokenTrie> {
    const char* shared = std::getenv("FATHOM_SHARED");
    const std::string path = (shared != nullptr ? std::string(shared) : std::string(FATHOM_SOURCE_DIR "/../shared")) +
                             "/golden/tokenizer/tokenizer.json";
    if (!std::filesystem::exists(path)) return nullptr;
    return std::make_shared<const TokenTrie>(*Tokenizer::load(path));
  }();
  return trie;
}

/// Those of the two that are there.
inline std::vector<std::shared_ptr<const TokenTrie>> tries() {
  std::vector<std::shared_ptr<const TokenTrie>> list{tiny_trie()};
  if (real_trie() != nullptr) list.push_back(real_trie());
  return list;
}

inline std::shared_ptr<const Constraint> constraint_of(ByteGrammar grammar,
                                                       std::shared_ptr<const TokenTrie> trie = tiny_trie()) {
  return std::make_shared<const Constraint>(std::move(grammar), std::move(trie));
}

inline int32_t byte_token(const TokenTrie& trie, uint8_t byte) {
  for (int32_t id = 0; id < trie.vocab_size(); ++id) {
    if (trie.bytes(id) == std::string_view(reinterpret_cast<const char*>(&byte), 1)) return id;
  }
  return -1;
}

/// The token of each byte of a vocabulary.
inline const std::array<int32_t, 256>& byte_tokens(const TokenTrie& trie) {
  static std::vector<std::pair<const TokenTrie*, std::array<int32_t, 256>>> known;
  for (const auto& [of, tokens] : known) {
    if (of == &trie) return tokens;
  }
  std::array<int32_t, 256> tokens{};
  for (int byte = 0; byte < 256; ++byte) tokens[byte] = byte_token(trie, static_cast<uint8_t>(byte));
  known.emplace_back(&trie, tokens);
  return known.back().second;
}

/// Whether every byte is accepted.
inline bool accept_text(ConstraintState& state, const TokenTrie& trie, std::string_view text) {
  const std::array<int32_t, 256> tokens = byte_tokens(trie);
  for (const char byte : text) {
    if (!state.accept(tokens[static_cast<uint8_t>(byte)])) return false;
  }
  return true;
}

/// Whether the text is a whole sentence.
inline bool is_sentence(const std::shared_ptr<const Constraint>& constraint, std::string_view text) {
  ConstraintState state(constraint);
  return accept_text(state, constraint->trie(), text) && state.may_end();
}

inline std::vector<uint64_t> mask_of(const ConstraintState& state, const TokenTrie& trie) {
  std::vector<uint64_t> bits((static_cast<size_t>(trie.vocab_size()) + 63) / 64, ~uint64_t{0});
  state.fill_mask(bits);
  return bits;
}

inline std::vector<int32_t> allowed_tokens(const ConstraintState& state, const TokenTrie& trie) {
  const std::vector<uint64_t> bits = mask_of(state, trie);
  std::vector<int32_t> tokens;
  for (int32_t id = 0; id < trie.vocab_size(); ++id) {
    if ((bits[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0) tokens.push_back(id);
  }
  return tokens;
}

/// A random allowed token; every other time the first byte is drawn before the token, so that rare signs come up.
inline int32_t draw(const std::vector<int32_t>& tokens, const TokenTrie& trie, std::mt19937_64& random) {
  if (random() % 2 == 0) return tokens[random() % tokens.size()];
  std::array<std::vector<int32_t>, 256> by_byte;
  std::vector<uint8_t> bytes;
  for (const int32_t token : tokens) {
    const auto byte = static_cast<uint8_t>(trie.bytes(token)[0]);
    if (by_byte[byte].empty()) bytes.push_back(byte);
    by_byte[byte].push_back(token);
  }
  const std::vector<int32_t>& list = by_byte[bytes[random() % bytes.size()]];
  return list[random() % list.size()];
}

/// Tokens of a random sentence: at most `budget` random ones, then the shortest way to the end.
inline std::vector<int32_t> sample_tokens(const std::shared_ptr<const Constraint>& constraint, std::mt19937_64& random,
                                          int budget) {
  const TokenTrie& trie = constraint->trie();
  ConstraintState state(constraint);
  std::vector<int32_t> sentence;
  std::string text;
  for (int step = 0; step < budget && !state.must_end(); ++step) {
    if (state.may_end() && random() % 8 == 0) return sentence;
    const std::vector<int32_t> tokens = allowed_tokens(state, trie);
    if (tokens.empty()) {
      ADD_FAILURE() << "no token may follow, and the sentence may not end: " << text;
      return sentence;
    }
    const int32_t token = draw(tokens, trie, random);
    EXPECT_TRUE(state.accept(token)) << "token " << token << " is in the mask and not accepted after: " << text;
    sentence.push_back(token);
    text += trie.bytes(token);
  }
  const std::string rest = state.shortest_completion();
  EXPECT_EQ(rest.size(), state.bytes_to_end()) << text;
  EXPECT_TRUE(accept_text(state, trie, rest)) << text << " + " << rest;
  EXPECT_TRUE(state.may_end()) << text << " + " << rest;
  for (const char byte : rest) sentence.push_back(byte_tokens(trie)[static_cast<uint8_t>(byte)]);
  return sentence;
}

/// The same as a text.
inline std::string sample(const std::shared_ptr<const Constraint>& constraint, std::mt19937_64& random, int budget) {
  std::string text;
  for (const int32_t token : sample_tokens(constraint, random, budget)) text += constraint->trie().bytes(token);
  return text;
}

/// Compares the mask with what `accept` says of every token, or of each that is `stride` further than the last.
inline void expect_exact_mask(const ConstraintState& state, const TokenTrie& trie, const std::string& where,
                              int32_t stride = 1) {
  const std::vector<uint64_t> bits = mask_of(state, trie);
  for (int32_t id = 0; id < trie.vocab_size(); id += stride) {
    ConstraintState copy = state;
    const bool in_mask = (bits[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0;
    const bool accepted = copy.accept(id);
    ASSERT_EQ(in_mask, accepted) << "token " << id << " \"" << trie.bytes(id) << "\" after: " << where;
    if (!accepted || copy.may_end() || stride > 1) continue;
    ASSERT_FALSE(allowed_tokens(copy, trie).empty()) << "nothing follows after: " << where << trie.bytes(id);
  }
}

}  // namespace fathom
