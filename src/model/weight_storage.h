#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "base/thread_team.h"
#include "formats/checkpoint.h"
#include "kernels/integer_weight.h"
#include "model/compute_mode.h"
#include "model/weights.h"

namespace fathom {

/// How the weights of an open model are held.
enum class WeightStorage {
  mapped,  ///< where they lie: in the checkpoint's mapped files
  memory,  ///< as stored, copied into huge pages
  int8,    ///< linear weights as 8-bit integers with a scale per group of columns, the rest as in `memory`
  int4,    ///< the same with 4 bits; heads with 8 bits, where 4 cost most
};

/// "mapped", "memory", "int8", "int4".
std::string_view weight_storage_name(WeightStorage storage);
std::optional<WeightStorage> weight_storage_from_name(std::string_view name);

struct WeightOptions {
  WeightStorage storage = WeightStorage::mapped;
  int64_t group = 0;        ///< columns that share a scale: 128 or 32; 0: 128 for int8, 32 for int4. Integers only
  bool zero_point = false;  ///< groups have a zero point beside their scale. Integers only
  /// Bytes for the routed experts, which an ExpertStore then fetches as they are stored; 0: they are held like the
  /// other weights.
  uint64_t experts_in_memory = 0;

  bool integer() const { return storage == WeightStorage::int8 || storage == WeightStorage::int4; }
};

/// bf16; int8 where the weights are integers, be it that `config` (may be null) says that they are stored so.
ComputeMode default_compute(WeightStorage storage, const ModelConfig* config);

/// `bad_input` if the options contradict themselves or the compute mode: a group that is none, integer options for
/// weights that are none, w8a8 with integer weights.
void check_weight_options(const WeightOptions& options, ComputeMode compute);

/// The options with which a checkpoint of this config opens: those given, but `memory` instead of `mapped` where its
/// weights are stored in integers, because panels have another order than the file. `bad_input`: see
/// check_weight_options; or int8, int4, `experts_in_memory` or w8a8 with weights that are stored in integers.
/// `directory` is for the sentence.
WeightOptions options_for(const ModelConfig& config, WeightOptions options, ComputeMode compute,
                          std::string_view directory);

/// Formats of projections and feed-forwards, and of the heads. Integers only.
IntegerFormat projection_format(const WeightOptions& options);
IntegerFormat head_format(const WeightOptions& options);

/// One tensor on its way into memory, and where the model names it (twice, where roles share a tensor).
struct HeldTensor {
  Weight source;  ///< as the checkpoint stores it; `data` points into a mapped file, which is not touched
  std::optional<IntegerFormat> integer;
  Weight held;  ///< without its pointers
  size_t offset = 0;
  size_t scale_offset = 0;
  std::vector<Weight*> weights;
  std::vector<TensorView*> views;
};

/// What holding the weights takes.
struct WeightPlan {
  WeightOptions options;
  uint64_t memory_bytes = 0;  ///< taken from the system
  uint64_t mapped_bytes = 0;  ///< used where they lie in the mapped files
  uint64_t read_bytes = 0;    ///< read from the files while loading
  std::vector<HeldTensor> tensors;
};

/// Decides for every tensor of `weights` (views on the mapped files) where it will lie. Integers: the projections of
/// the attention, all feed-forwards and experts, eh_proj and the heads. Weights that are stored in integers become
/// panels of the same. As stored: router, kv_b_proj (absorbed attention uses it from both sides), norms. The embedding
/// stays mapped: a token reads one row of it. The plan points into `weights`.
WeightPlan plan_weights(const Checkpoint& checkpoint, ModelWeights& weights, const WeightOptions& options);

/// `failure` with both figures if the plan takes more memory than is available (0: not known).
void check_memory(const WeightPlan& plan, const SystemMemory& memory, const std::string& directory);

/// Carries a plan out: reads the files piece by piece on the whole team, copies or packs, and points the model's
/// weights to the result in `weights.memory`. Besides the result it uses a few MB per thread. Where files and result
/// together would fill the machine, the page cache of what was read is given back. `on_progress(done, total)`, in bytes
/// of the files, may throw to stop; an interruption (base/interrupt.h) does. `failure` if a file cannot be read.
void take_weights(const WeightPlan& plan, const Checkpoint& checkpoint, ModelWeights& weights, ThreadTeam& team,
                  const std::function<void(uint64_t done, uint64_t total)>& on_progress = {});

}  // namespace fathom
