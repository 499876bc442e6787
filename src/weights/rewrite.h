#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/file.h"
#include "base/tensor.h"
#include "base/thread_team.h"
#include "formats/checkpoint.h"

namespace fathom {

/// Reads tensors of a file row by row, by reads and not through the mapping, whose pages would count as this process's
/// memory. Any number of threads at once.
class FileTensorReader {
 public:
  /// `file` outlives it.
  /// `forgets`: what lies well behind the last read leaves the page cache. Reads then run through the file once.
  explicit FileTensorReader(const SafetensorsFile& file, bool forgets = false)
      : file_(file), reader_(file.path()), forgets_(forgets) {}
  const SafetensorsFile& file() const { return file_; }
  /// Rows [first, first + count) along the first axis (a scalar has one row). `failure` if they cannot be read.
  void read(const SafetensorsEntry& entry, int64_t first, int64_t count, std::byte* to) const;

 private:
  const SafetensorsFile& file_;
  PieceReader reader_;
  const bool forgets_;
  mutable std::atomic<uint64_t> forgotten_{0};  // bytes from the file's beginning
};

/// The same for the tensors of a checkpoint. Of one that with as much written again would fill most of the machine's
/// memory the page cache does not keep what was read: the system would spend longer making room than copying.
class TensorReader {
 public:
  /// `checkpoint` outlives it.
  explicit TensorReader(const Checkpoint& checkpoint);
  /// `bad_input` for an unknown tensor.
  void read(std::string_view name, int64_t first, int64_t count, std::byte* to) const;

 private:
  const Checkpoint& checkpoint_;
  std::vector<std::unique_ptr<FileTensorReader>> readers_;
};

/// Rows along the first axis, 1 for a scalar; and the bytes of one.
int64_t row_count(const Shape& shape);
uint64_t row_bytes(DType dtype, const Shape& shape);

/// A tensor to be written, and how its bytes come about.
struct OutputTensor {
  std::string name;
  DType dtype = DType::bf16;
  Shape shape;
  /// Makes rows [first, first + count) into `out`. `first` is a multiple of `row_step`; calls for distinct rows come
  /// from several threads at once, in any order. What it throws ends the work.
  std::function<void(int64_t first, int64_t count, std::byte* out)> make;
  int64_t row_step = 1;
  /// It is made of what making the tensor before it leaves behind (the scales of codes): not before that is whole.
  bool after_previous = false;
};

struct OutputShard {
  std::string file;
  std::vector<OutputTensor> tensors;
  uint64_t bytes() const;  ///< of the tensors
};

/// A directory of safetensors files to be written.
struct RewritePlan {
  std::string out;
  /// Everything that decides about the bytes: the command, its options, the source (see `source_identity`).
  std::string identity;
  std::vector<OutputShard> shards;
  std::vector<std::pair<std::string, std::string>> texts;  ///< name and contents of small files
  std::vector<std::string> copies;                         ///< paths of files that are taken over as they are
};

struct RewriteResult {
  uint64_t bytes = 0;       ///< of all shards
  uint64_t bytes_kept = 0;  ///< of these, written by an earlier run
  int64_t tensors = 0;
  double seconds = 0;
};

/// Writes the plan into `OUT.partial`, reads every shard again and compares it with what was computed, and gives the
/// directory its name. Memory does not depend on the sizes of tensors or files: two buffers of 64 MB, and what `make`
/// takes.
///
/// A run that ends early leaves `OUT.partial` behind, and the same plan goes on from its finished shards. Errors:
/// `bad_input` if OUT is there and not empty, or OUT.partial is another plan's or in use; `failure` if the disk cannot
/// hold what is missing (before anything is written), a write fails, or a shard does not read back as it was written.
/// `on_progress` hears bytes written and checked, of twice the plan's, and may throw to stop.
RewriteResult rewrite_checkpoint(const RewritePlan& plan, ThreadTeam& team,
                                 const std::function<void(uint64_t done, uint64_t total)>& on_progress = {});

/// `failure` if what of the plan is not in OUT.partial yet does not fit the disk, `bad_input` if OUT is there and not
/// empty: what `rewrite_checkpoint` says first, for commands that have other work to do before it.
void check_room(const RewritePlan& plan);

/// Place, names, sizes, times and headers of files, as a text to compare.
std::string source_identity(const std::string& directory, const std::vector<std::unique_ptr<SafetensorsFile>>& files);

/// The files of a directory beside weights, index and config: tokenizer, templates, licences.
std::vector<std::string> companion_files(const std::string& directory);

/// `model.safetensors.index.json` of these shards.
std::string index_json(const std::vector<OutputShard>& shards);

}  // namespace fathom
