#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/thread_team.h"
#include "formats/gguf.h"
#include "weights/rewrite.h"

namespace fathom {

struct GgufExportOptions {
  std::string out;  ///< the file; with `split_bytes` "NAME.gguf" becomes NAME-00001-of-0000N.gguf
  GgmlType type = GgmlType::bf16;
  bool mtp = false;          ///< with the MTP layers
  uint64_t split_bytes = 0;  ///< most bytes of tensors in a file (at least one tensor); 0: one file
};

/// A tensor to be written, and how its values come about.
struct GgufOutputTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  Shape shape;
  /// Rows [first, first + count) as float32; from several threads at once, in any order.
  std::function<void(int64_t first, int64_t count, float* out)> make;
};

struct GgufExportPlan {
  std::string out;
  struct File {
    std::string path;
    GgufValues values;
    std::vector<GgufOutputTensor> tensors;
  };
  std::vector<File> files;
  std::vector<std::string> notes;  ///< what the reader of the result should know, as sentences
};

/// A checkpoint (F32, F16, BF16 or FP8, which is cast to BF16 first) as a GGUF file of architecture "deepseek2", as
/// llama.cpp's converter writes it: keys, tokenizer, names, experts stacked, `kv_b_proj` split and transposed for the
/// absorbed form of attention.
///
/// Matrices get `type`; norms, router, its bias and everything with one axis stay F32. The head gets Q6_K for q4_0 and
/// q4_k. Where rows are not whole blocks q4_k becomes q5_0 and q6_k q8_0, and where they are not multiples of 32, bf16.
/// `bad_input` for a config that the architecture cannot say (moe_layer_freq, YaRN with two different mscales), a
/// tokenizer whose splits have no name in GGUF, and a tensor that is missing or has another shape.
///
/// `reader` and its checkpoint outlive the plan.
GgufExportPlan plan_gguf_export(const Checkpoint& checkpoint, const TensorReader& reader,
                                const GgufExportOptions& options);

struct GgufExportResult {
  uint64_t bytes = 0;
  int64_t tensors = 0;
  double seconds = 0;
};

/// Writes the plan's files into `OUT.partial`, a directory, reads them again and compares with what was computed, and
/// gives them their names. Memory does not depend on the sizes of tensors or files: two buffers of 64 MB, and 16 MB a
/// thread. A run that fails or is stopped leaves nothing.
///
/// `bad_input` if a file of that name is there, or a value is not finite or, for other types than f32 and bf16, larger
/// than 65504; `failure` if the disk cannot hold the files (before anything is written), a write fails, or a file does
/// not read back as it was written. `on_progress` hears bytes written and checked, of twice the plan's, and may throw.
GgufExportResult write_gguf(const GgufExportPlan& plan, ThreadTeam& team,
                            const std::function<void(uint64_t done, uint64_t total)>& on_progress = {});

}  // namespace fathom
