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
  /// The command, its options and the source (see `source_identity`); with the files' heads it decides about all bytes.
  std::string identity;
  uint64_t record_bytes = uint64_t{256} << 20;  ///< so much is written before it is recorded, for a run that goes on
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
  uint64_t bytes_kept = 0;  ///< of these, written by an earlier run
  int64_t tensors = 0;
  double seconds = 0;
};

/// Writes the plan's files into `OUT.partial`, a directory, reads them again and compares with what was computed, and
/// gives them their names. Memory does not depend on the sizes of tensors or files: two buffers of 64 MB, and 16 MB a
/// thread.
///
/// A run that ends early leaves `OUT.partial` behind, and the same plan goes on from the last bytes that it recorded
/// there: all of them if the run could say that it ends, at most `record_bytes` and two buffers less if it was killed.
/// Errors: `bad_input` if a file of that name is there, OUT.partial is another plan's or in use, or a value is not
/// finite or, for other types than f32 and bf16, larger than 65504; `failure` if the disk cannot hold what is missing
/// (before anything is written), a write fails, or a file does not read back as it was written. `on_progress` hears
/// bytes written and checked, of twice the plan's, and may throw to stop.
GgufExportResult write_gguf(const GgufExportPlan& plan, ThreadTeam& team,
                            const std::function<void(uint64_t done, uint64_t total)>& on_progress = {});

}  // namespace fathom
