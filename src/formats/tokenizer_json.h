#pragma once
#include <array>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace fathom {

/// How DeepSeek-V3 spells its first three tokens (ids 0, 1, 2).
inline constexpr const char* bos_token_text = "<｜begin▁of▁sentence｜>";
inline constexpr const char* eos_token_text = "<｜end▁of▁sentence｜>";
inline constexpr const char* pad_token_text = "<｜▁pad▁｜>";

/// Control tokens behind the vocabulary, in the order of the published file; <think> and </think> as in R1.
inline constexpr std::array deepseek_control_tokens = {
    "<｜fim▁hole｜>",
    "<｜fim▁begin｜>",
    "<｜fim▁end｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
    "<think>",
    "</think>",
};

/// The chat templates of DeepSeek-V3 and V3.1 as published in their tokenizer_config.json (MIT licence).
extern const char* const deepseek_v3_chat_template;
extern const char* const deepseek_v31_chat_template;

/// The character that stands for a byte in byte-level vocabularies (GPT-2's bytes_to_unicode): printable bytes of
/// Latin-1 are themselves, the others follow from U+0100.
std::string byte_character(uint8_t byte);

/// An entry of `added_tokens`.
nlohmann::ordered_json added_token_json(int64_t id, const std::string& content, bool special, bool normalized);

/// A whole tokenizer.json in the layout of the published one: byte-level BPE behind the three splits of DeepSeek-V3.
/// `vocab` token → id, `added` entries of `added_token_json`, `merges` strings "LEFT RIGHT".
nlohmann::ordered_json byte_level_tokenizer_json(const nlohmann::ordered_json& vocab,
                                                 const nlohmann::ordered_json& added,
                                                 const nlohmann::ordered_json& merges);

/// A tokenizer_config.json: bos DeepSeek-V3's, `eos` also for padding, as published.
nlohmann::ordered_json tokenizer_config_json(const char* eos, int64_t model_max_length, const char* chat_template);

}  // namespace fathom
