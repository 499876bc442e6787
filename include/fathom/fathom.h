#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

/// Fathom as a library: open a checkpoint of the DeepSeek-V3 family, tokenize, generate.
///
/// Errors are exceptions derived from `std::runtime_error` whose `what()` is a whole sentence. The library never prints
/// and never exits. One `Model` is used by one thread at a time; different models are independent.
namespace fathom {

/// "0.1.0"
std::string_view version();

/// True if an exception that this library threw means that what the caller gave was wrong (a file, a field, an option);
/// false if the input was fine and the work could not be done.
bool is_bad_input(const std::exception& error);

struct ModelOptions {
  std::string compute;     ///< "fp32", "bf16", "int8" or "w8a8"; empty: "bf16", or "int8" where weights are integers
  int threads = 0;         ///< 0: one per hardware thread
  int64_t context = 4096;  ///< most tokens of prompt and answer together; at most the model's own limit
  /// How weights are held: "mapped" (in the checkpoint's files), "memory" (the same values, copied into huge pages),
  /// "int8" or "int4" (brought to integers while loading).
  std::string weights = "mapped";
  int64_t weights_group = 0;        ///< integers: columns that share a scale, 128 or 32; 0: 128 for int8, 32 for int4
  bool weights_zero_point = false;  ///< integers: each group has a zero point beside its scale
};

struct GenerateOptions {
  int64_t max_new_tokens = 256;
  double temperature = 0;  ///< 0: always the likeliest token
  double top_p = 1;
  int64_t top_k = 0;  ///< 0: off
  double min_p = 0;
  double repetition_penalty = 1;
  double presence_penalty = 0;
  double frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<std::string> stop;  ///< the text ends before the first of these
  bool ignore_eos = false;
};

struct GenerateResult {
  std::vector<int32_t> tokens;
  std::string text;           ///< empty where the checkpoint has no tokenizer
  std::string finish_reason;  ///< "stop", "length" or "cancelled"
};

/// A checkpoint directory in the Hugging Face layout, opened.
class Model {
 public:
  explicit Model(const std::string& directory, const ModelOptions& options = {});
  ~Model();
  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;

  bool has_tokenizer() const;
  /// Ids of a UTF-8 text; with the begin-of-text token in front if `add_bos` and the checkpoint has one.
  std::vector<int32_t> tokenize(std::string_view text, bool add_bos = false) const;
  std::string detokenize(const std::vector<int32_t>& ids) const;
  /// Ids of one message to the model, in the checkpoint's chat format; the text cannot bring in control tokens.
  std::vector<int32_t> chat_prompt(const std::string& message, const std::string& system = {}) const;

  /// Completes a prompt. `on_text` gets valid UTF-8 as it becomes certain; false from it ends the generation. A prompt
  /// that begins like the sequence before it (a conversation that goes on) is computed from where they part.
  GenerateResult generate(const std::vector<int32_t>& prompt, const GenerateOptions& options = {},
                          const std::function<bool(std::string_view text)>& on_text = {});

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
