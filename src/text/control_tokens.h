#pragma once
#include <string_view>

/// How the control tokens of DeepSeek's chat formats are spelled in `tokenizer.json` and in the templates.
namespace fathom::control_tokens {

inline constexpr std::string_view end_of_sentence = "<｜end▁of▁sentence｜>";
inline constexpr std::string_view user_mark = "<｜User｜>";
inline constexpr std::string_view assistant_mark = "<｜Assistant｜>";
inline constexpr std::string_view think_begin = "<think>";
inline constexpr std::string_view think_end = "</think>";

// A block of calls, one call in it, and what stands between its type or name and what follows.
inline constexpr std::string_view calls_begin = "<｜tool▁calls▁begin｜>";
inline constexpr std::string_view calls_end = "<｜tool▁calls▁end｜>";
inline constexpr std::string_view call_begin = "<｜tool▁call▁begin｜>";
inline constexpr std::string_view call_end = "<｜tool▁call▁end｜>";
inline constexpr std::string_view tool_sep = "<｜tool▁sep｜>";

inline constexpr std::string_view outputs_begin = "<｜tool▁outputs▁begin｜>";
inline constexpr std::string_view outputs_end = "<｜tool▁outputs▁end｜>";
inline constexpr std::string_view output_begin = "<｜tool▁output▁begin｜>";
inline constexpr std::string_view output_end = "<｜tool▁output▁end｜>";

}  // namespace fathom::control_tokens
