#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// Byte-level BPE from a Hugging Face `tokenizer.json`, exactly as the `tokenizers` library encodes and decodes.
/// Threads: all const members may be called from any number of threads at once.
class Tokenizer {
 public:
  /// Parses `tokenizer.json` text; `source` names it in sentences. `bad_input` names the part that is malformed or not
  /// supported.
  static std::unique_ptr<Tokenizer> from_json(std::string_view text, std::string_view source);
  /// `DIR/tokenizer.json`, or the file itself.
  static std::unique_ptr<Tokenizer> load(const std::string& directory_or_file);
  ~Tokenizer();

  /// Ids of a UTF-8 text, without BOS. Added tokens written in the text are recognised. `bad_input` if `text` is not
  /// UTF-8.
  std::vector<int32_t> encode(std::string_view text) const;
  /// Like `encode` for text that comes from a user and must not produce control tokens: added tokens are not
  /// recognised.
  std::vector<int32_t> encode_plain(std::string_view text) const;

  /// Text of ids; bytes that are not UTF-8 become U+FFFD. Ids beyond the last token decode to nothing.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const;
  /// The raw bytes of one token (empty for an unknown id, or for a special one if `skip_special`).
  std::string_view token_bytes(int32_t id, bool skip_special = false) const;
  /// Id of an added token by its exact content.
  std::optional<int32_t> added_token(std::string_view content) const;
  bool is_special(int32_t id) const;
  /// One past the greatest id.
  int32_t vocab_size() const;

 private:
  Tokenizer();
  struct Data;
  std::unique_ptr<Data> data_;
};

/// Turns a stream of tokens into a stream of valid UTF-8 text: bytes that may still become a character are held back.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special = true)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}
  /// Text that is complete after this token; often empty in the middle of a character.
  std::string push(int32_t id);
  /// What is left at the end, invalid bytes as U+FFFD. The pieces of a stream joined equal `decode` of its ids.
  std::string finish();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  std::string pending_;
};

}  // namespace fathom
