#pragma once
#include <memory>
#include <string>
#include <vector>

#include "formats/gguf.h"
#include "weights/rewrite.h"

namespace fathom {

/// A model in one GGUF file or in all of its split files (NAME-00001-of-0000N.gguf), opened: headers read.
class GgufModel {
 public:
  /// `path`: the file, or any of the split ones. `bad_input` if one is missing, says another number, or a tensor is in
  /// two of them.
  explicit GgufModel(const std::string& path);

  /// The first file, which has the keys.
  const GgufFile& keys() const { return *files_[0]; }
  const std::vector<std::unique_ptr<GgufFile>>& files() const { return files_; }
  /// Nothing if no file has it.
  const GgufTensor* find(std::string_view name) const;
  /// Values of rows [first, first + count), [count, row_values]; any number of threads at once.
  void read(const GgufTensor& tensor, int64_t first, int64_t count, float* to) const;

 private:
  std::vector<std::unique_ptr<GgufFile>> files_;
  std::vector<std::unique_ptr<PieceReader>> readers_;
};

struct GgufImportOptions {
  std::string out;
  bool f32 = false;  ///< matrices and norms in float32 instead of BF16
  uint64_t shard_bytes = uint64_t{5'000'000'000};
};

struct GgufImportPlan {
  RewritePlan rewrite;
  std::vector<std::string> notes;
};

/// A GGUF file of architecture "deepseek2" as a Hugging Face checkpoint: config.json, tokenizer.json and
/// tokenizer_config.json from its keys, every tensor dequantised.
///
/// Both forms of kv_b_proj are read, experts with gate and up fused too, and the MTP layer where the file has it. The
/// router's bias is float32. What GGUF does not say: the method of choice follows from what is there (a bias:
/// noaux_tc; else groups: group_limited_greedy; else greedy); without keys about groups there are none but for the
/// published shapes of DeepSeek-V3 (8, 4) and V2 (8, 3), with a note; mscale is mscale_all_dim.
/// `bad_input` names the key or tensor that is missing, has another type or shape, or says something that Fathom does
/// not compute (biases, another scaling of positions, another gating function, a temperature of attention).
///
/// `model` outlives the plan.
GgufImportPlan plan_gguf_import(const GgufModel& model, const GgufImportOptions& options);

}  // namespace fathom
