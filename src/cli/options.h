#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "engine/generate.h"
#include "engine/generation_config.h"
#include "engine/session.h"
#include "model/transformer.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace CLI {
class App;
}

namespace fathom {

class LoadDisplay;

/// `--compute`, `--weights`, `--weights-group`, `--weights-zero-point`, `--experts-in-memory`, `--cache-type`: how
/// weights and latents are held and computed with.
struct WeightArguments {
  std::string compute;  ///< empty: what `default_compute` says
  std::string weights = "mapped";
  int64_t group = 0;
  bool zero_point = false;
  std::string cache_type;          ///< empty: what the compute mode has
  uint64_t experts_in_memory = 0;  ///< bytes; 0: experts are held like the other weights

  void add_to(CLI::App& command);
  WeightOptions options() const;
  std::optional<ComputeMode> compute_mode() const;
  /// `bad_input` for bf16 with a mode that has a float32 cache.
  bool fp8_cache() const;
  /// For commands that open a model without a session; `display` outlives the opening.
  OpenOptions open_options(LoadDisplay& display) const;
};

/// Shows on a terminal what opening a model will take, and how far it is; clears its line at the end of its scope.
/// Silent without a terminal, and for mapped weights.
class LoadDisplay {
 public:
  LoadDisplay();
  ~LoadDisplay();
  void plan(const WeightPlan& plan, std::optional<uint64_t> cache_bytes);
  void progress(uint64_t done, uint64_t total);

 private:
  std::unique_ptr<Progress> bar_;
  uint64_t done_ = 0;
};

/// "weights 11.7 GB as int8 in memory (huge pages), 1.9 GB mapped; cache up to 0.2 GB".
std::string plan_text(const WeightPlan& plan, std::optional<uint64_t> cache_bytes);

/// `--model`, `--threads`, `--context`, `--drafts`, `--cache-dir` and WeightArguments: how a command opens a model.
struct ModelArguments {
  std::string directory;
  WeightArguments weights;
  int threads = 0;
  std::optional<int64_t> context;
  std::optional<int64_t> drafts;
  std::string cache_directory;
  uint64_t cache_directory_bytes = uint64_t{10} << 30;

  void add_to(CLI::App& command);
  /// `context` where the user gave none: `default_context`, but no more than the model has positions. Without `drafts`,
  /// one where the model has an MTP layer and all of its experts at hand.
  std::unique_ptr<Session> open(int64_t default_context) const;
};

/// `--temperature` to `--seed`: how tokens are drawn. What the user leaves out comes from the checkpoint's
/// `generation_config.json` if that says `do_sample` (temperature, 0.6 if it names none; top_p; top_k), else it is
/// greedy.
struct SamplingArguments {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> logit_bias;

  void add_to(CLI::App& command);
  /// `bad_input` if the directory is none, or an option is out of its range.
  SamplingOptions resolve(const std::string& directory, uint64_t default_seed) const;
};

/// `DIR/tokenizer.json`, or nothing where the checkpoint has none.
std::unique_ptr<Tokenizer> load_tokenizer_if_present(const std::string& directory);

/// The format that `--format` names ("v3", "r1", "v31") or, without it, the checkpoint's own. `bad_input` if the
/// checkpoint has no template, or one that Fathom does not know: the sentence says which, and to use `fathom generate`
/// for plain completion.
ChatFormat chat_format(const std::string& directory, const TokenizerConfig& config, const std::string& name);

/// Checks that the template of the format can be written with this tokenizer. `bad_input` names the missing control
/// token.
void check_chat_tokens(const std::string& directory, const Tokenizer& tokenizer, const TokenizerConfig& config);

/// Token ids from "1,2,3" (blanks allowed). `bad_input` names the piece that is none.
std::vector<int32_t> parse_ids(const std::string& text, const std::string& source);

/// Numbers from "1,4,16", each within [least, most]. `bad_input` names the option and the piece that is none.
std::vector<int64_t> parse_numbers(const std::string& text, const char* option, int64_t least, int64_t most);

/// The ids of a UTF-8 text of at most 1 GiB. `bad_input` names the file if it cannot be read, is no UTF-8 or empty.
std::vector<int32_t> text_ids(const std::string& path, const Tokenizer& tokenizer);

/// The token that begins a window of a text, where the checkpoint's tokenizer_config.json says that there is one.
std::optional<int32_t> window_bos(const std::string& directory, const Tokenizer& tokenizer);

/// Throws `bad_input` naming the position if an id is outside [0, vocab_size).
void check_ids(const std::vector<int32_t>& ids, int64_t vocab_size, const std::string& source);

/// Exit code of a command that the user stopped with Ctrl-C, as shells report it.
inline constexpr int kInterruptedExitCode = 130;

}  // namespace fathom
