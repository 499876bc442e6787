#pragma once
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace fathom {

/// A tokenizer for tests: ids 0 to 255 are the bytes, 256 is "ab" (a merge, so that one text has two spellings), then
/// `added` tokens.
inline std::unique_ptr<Tokenizer> byte_tokenizer(const std::vector<std::string>& added = {}) {
  // Byte-level BPE spells bytes that do not print as characters from U+0100 on, in order.
  nlohmann::json vocabulary;
  int next_stand_in = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    const int character = prints ? byte : next_stand_in++;
    std::string utf8;
    if (character < 0x80) {
      utf8 = static_cast<char>(character);
    } else {
      utf8 = {static_cast<char>(0xc0 | (character >> 6)), static_cast<char>(0x80 | (character & 0x3f))};
    }
    vocabulary[utf8] = byte;
  }
  vocabulary["ab"] = 256;
  nlohmann::json added_tokens = nlohmann::json::array();
  int id = 257;
  for (const std::string& content : added) {
    added_tokens.push_back({{"id", id++},
                            {"content", content},
                            {"single_word", false},
                            {"lstrip", false},
                            {"rstrip", false},
                            {"normalized", false},
                            {"special", content.find("sentence") != std::string::npos}});
  }
  const nlohmann::json json = {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", added_tokens},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}}}}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"vocab", vocabulary},
        {"merges", {"a b"}}}}};
  return Tokenizer::from_json(json.dump(), "byte tokenizer");
}

}  // namespace fathom
