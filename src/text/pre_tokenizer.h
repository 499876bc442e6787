#pragma once
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string_view>
#include <vector>

namespace fathom {

/// The splitting half of byte-level BPE: one text to pieces, by a sequence of known regular expressions.
///
/// Each step splits every piece of the step before on its own ("Isolated": matches and the gaps between them are
/// pieces), so a lookahead sees the end of the piece and not what follows it in the text. Threads: `split` from any
/// number of threads at once.
class PreTokenizer {
 public:
  PreTokenizer();
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;

  /// From the field `pre_tokenizer` of tokenizer.json. `bad_input` names a kind, pattern or setting that is not known.
  static PreTokenizer from_json(const nlohmann::json& field, std::string_view source);

  /// Appends the pieces of a valid UTF-8 text; joined they are the text.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  struct Step;
  void add_step(const char* pattern);
  void run(size_t step, std::string_view text, std::vector<std::string_view>& pieces) const;

  std::vector<std::unique_ptr<Step>> steps_;
};

/// True if the text, valid UTF-8, starts (ends) with a word character in the sense of `\w` of the Hugging Face library.
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

}  // namespace fathom
