#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/thread_team.h"
#include "kernels/attention.h"
#include "model/compute_mode.h"
#include "model/expert_store.h"
#include "model/latent_cache.h"
#include "model/rope.h"
#include "model/tape.h"
#include "model/weight_storage.h"
#include "model/weights.h"

namespace fathom {

/// A model ready to compute: its weights and how to use them (`Model` is the class of the public header). Immutable
/// once made; any number of sequences may share it.
struct LoadedModel {
  std::unique_ptr<Checkpoint> checkpoint;
  ModelConfig config;
  ModelWeights weights;
  Rope rope;
  ComputeMode compute = ComputeMode::bf16;
  WeightOptions held;                    ///< how the weights are held
  std::unique_ptr<ExpertStore> experts;  ///< null: the routed experts are mapped like everything else
  bool fp8_cache = false;                ///< latents are cached in FP8 instead of BF16

  /// Rounding of the activations of the attention's and feed-forward's projections.
  OperandRounding linear_rounding() const;
  /// The same for kv_b_proj, and for heads and eh_proj as the checkpoint stores them: w8a8 never quantises the input of
  /// these two, and uses kv_b_proj cast to BF16 on unquantised latents, as the official demo's absorbed attention does.
  OperandRounding unquantized_rounding() const;
  /// The same for a head or eh_proj: where `weight` is held in integers, int8 meets it with integers too.
  OperandRounding head_rounding(const Weight& weight) const;
  DType cache_dtype() const {
    if (compute == ComputeMode::fp32 || compute == ComputeMode::w8a8) return DType::f32;
    return fp8_cache ? DType::f8_e4m3 : DType::bf16;
  }
};

/// How a model is opened.
struct OpenOptions {
  std::optional<ComputeMode> compute;  ///< nothing: see default_compute
  WeightOptions weights;
  bool fp8_cache = false;  ///< only with bf16 and int8, whose cache is BF16 otherwise; the other modes have float32
  /// Called when every tensor is looked up and before memory is taken for it; may throw to stop.
  std::function<void(const LoadedModel& model, const WeightPlan& plan)> on_plan;
  /// Called while weights are brought into memory, in bytes of the files; may throw to stop.
  std::function<void(uint64_t done, uint64_t total)> on_progress;
};

/// Opens `directory`. `bad_input`: see Checkpoint, load_weights and options_for; or `fp8_cache` with another
/// mode. `failure`: see check_memory and take_weights. The team works only if weights are brought into memory.
std::unique_ptr<LoadedModel> open_model(const std::string& directory, const OpenOptions& options, ThreadTeam& team);

/// Opens `directory` with its weights mapped; the routed experts in an ExpertStore of so many bytes if that is not 0.
std::unique_ptr<LoadedModel> open_model(const std::string& directory, ComputeMode compute,
                                        uint64_t experts_in_memory = 0);

/// Which of the two equal formulas of latent attention a span uses (spec §1.3).
enum class AttentionForm {
  expanded,  ///< keys and values of each head rebuilt from the latents: cheapest for many queries
  absorbed,  ///< queries brought into the latent space: reads 576 values per position, cheapest for few queries
};

/// The form for a request that has to compute `new_tokens` on top of `cached_tokens`: by its own lengths, never by its
/// neighbours or by how the work is cut into chunks, so that the same request always gives the same bits.
AttentionForm choose_attention(const ModelConfig& config, int64_t new_tokens, int64_t cached_tokens);

/// A run of consecutive positions of one sequence inside a batch: a prefill chunk, a decode step, a verification.
struct Span {
  LatentCache* cache = nullptr;
  int64_t position = 0;  ///< of its first token; positions before it are in the cache
  int64_t first = 0;     ///< index of its first token in the batch
  int64_t length = 0;
  AttentionForm form = AttentionForm::expanded;
};

/// One flat list of T tokens; only attention looks at the spans.
struct Batch {
  std::span<const int32_t> tokens;
  std::span<const Span> spans;
};

/// Sees the inside of a forward pass: `fathom forward --dump`, tests. Called on the thread that called `forward`.
class ForwardProbe {
 public:
  virtual ~ForwardProbe() = default;
  /// `what` is "embedding", "hidden", "c_kv", "k_pe", "router.weight" or "router.score"; values [rows, cols] in batch
  /// order.
  virtual void values(int64_t layer, std::string_view what, const float* values, int64_t rows, int64_t cols) = 0;
  /// `what` is "router.index".
  virtual void indices(int64_t layer, std::string_view what, const int32_t* values, int64_t rows, int64_t cols) = 0;
  /// What linear weights of a main layer are multiplied with, before it is rounded: x [·, cols], of which `row_index`
  /// (may be null) picks the rows. `product` is "attention" (q_a_proj or q_proj, kv_a_proj_with_mqa), "q_b_proj",
  /// "o_proj", "gate_up" or "down_proj"; `expert` a routed expert, −1 for the dense feed-forward or the shared experts.
  virtual void input(int64_t /*layer*/, std::string_view /*product*/, int64_t /*expert*/, const float* /*x*/,
                     const int32_t* /*row_index*/, int64_t /*rows*/, int64_t /*cols*/) {}
};

/// Working memory of forward passes of up to `max_tokens` tokens: named tensors, taken once. One pass at a time.
struct Workspace {
  Workspace(const LoadedModel& model, int64_t max_tokens, int threads);

  /// 0, 1, …, count − 1: for logits of every row.
  std::span<const int32_t> all_rows(int64_t count) const { return {all_tokens.data(), static_cast<size_t>(count)}; }

  int64_t max_tokens;
  Buffer hidden;     ///< [T, hidden] residual stream
  Buffer normed;     ///< [T, hidden] input of a sub-layer; after a pass: the hidden state after the final norm
  Buffer branch;     ///< [T, hidden] output of a sub-layer; in an MTP layer also the projection's input halves
  Buffer mtp_input;  ///< [T, 2 hidden], MTP only
  Buffer cos_sin;    ///< [T, d_rope]
  Buffer q_latent;   ///< [T, q_lora_rank]
  Buffer q;          ///< [T, H, d_nope + d_rope]
  Buffer kv_latent;  ///< [T, kv_lora_rank + d_rope]
  Buffer attended;   ///< [T, H, d_v]
  Buffer router_logits, router_score;  ///< [T, E]
  Buffer router_index, router_weight;  ///< [T, K]
  Buffer inner;                        ///< [T (K + 1), greatest inner size] activations between up and down
  Operand operand;                     ///< of the current products
  Operand slot_operand;    ///< MoE: `operand`'s rows in the order of slots, where products want them side by side
  Operand second_operand;  ///< of the shared experts, where they are stored in another format than the routed ones
  Operand inner_operand, second_inner_operand;  ///< of the down projections
  AttentionWorkspace attention;                 ///< of attention over a BF16 cache

  /// What one thread needs inside a sub-layer; grows to its greatest use.
  struct Scratch {
    Operand operand;
    Operand queries[4];
    Buffer keys, values, latents, scores, states, gate, up;

    template <typename T>
    T* reserve(Buffer& buffer, int64_t count) {
      buffer.reserve(static_cast<size_t>(count) * sizeof(T));
      return buffer.as<T>();
    }
  };
  std::vector<Scratch> scratch;

  /// One SwiGLU over some of the batch's tokens.
  struct FeedForwardJob {
    const MlpWeights* mlp;
    const int32_t* tokens;  ///< [count] rows of the batch
    const float* weights;   ///< [count] factors of the outputs; null for 1
    int64_t count;
    OperandView x;            ///< activations in the form of gate_proj and up_proj: the batch's, or the job's own rows
    const int32_t* x_rows;    ///< [count] rows of x; null: they are the first ones
    float* inner;             ///< [count, inner size] activations between up and down
    OperandView inner_view;   ///< the same, prepared for down_proj
    MlpTape* tape = nullptr;  ///< keeps both halves of the activations for a backward, from row `tape_row` on
    int64_t tape_row = 0;
  };
  std::vector<FeedForwardJob> jobs;
  std::vector<int64_t> item_begin;     ///< [jobs + 1] work items of each job
  std::vector<int64_t> expert_begin;   ///< [E + 1] MoE: slots of each expert
  int64_t experts_run = 0;             ///< experts that had tokens, summed over the layers of all passes
  std::vector<int64_t> expert_tokens;  ///< [layers, MTP layers included, E] tokens sent to each expert in all passes
  std::vector<int32_t> slot_token;     ///< [T K] tokens sorted by expert
  std::vector<float> slot_weight;      ///< [T K]
  std::vector<int32_t> all_tokens;     ///< 0, 1, 2, …: the shared experts' tokens
  Buffer apart;                        ///< [T (K + 1), hidden] outputs of experts that arrived out of order
  std::vector<int64_t> apart_begin;    ///< [E + 1] rows of each expert and of the shared experts in `apart`
};

/// Runs the main layers over a batch: appends to the caches, leaves the hidden state after the final norm in
/// `workspace.normed` [T, hidden]. `failure` if a router's logits are not numbers (names layer and token). Token ids
/// are within the vocabulary: the caller has checked. With a `tape` each layer also leaves there what its backward
/// needs; the results are the same bits.
void forward(const LoadedModel& model, const Batch& batch, Workspace& workspace, ThreadTeam& team,
             ForwardProbe* probe = nullptr, Tape* tape = nullptr);

/// Runs MTP layer `depth` (0 = the first): position i combines the embedding of `batch.tokens[i]` (the token after
/// position i) with `previous_hidden` row i (the state after the final norm, or after the previous depth's
/// shared_head.norm). Leaves the state after shared_head.norm in `workspace.normed`. Source: report §2.2; the order of
/// the halves and the normed state as the released weights need them (spec §1.7).
void mtp_forward(const LoadedModel& model, int64_t depth, const Batch& batch, const float* previous_hidden,
                 Workspace& workspace, ThreadTeam& team, ForwardProbe* probe = nullptr, Tape* tape = nullptr);

/// What `forward` expects of its caller: `bad_input` if there are no tokens or an id is outside the vocabulary.
void check_tokens(const ModelConfig& config, std::span<const int32_t> tokens);

/// Logits of chosen rows of `workspace.normed`. Shapes: logits [rows, vocab_size]. `head` is lm_head or an MTP layer's
/// shared_head.
void compute_logits(const LoadedModel& model, const Weight& head, std::span<const int32_t> rows, Workspace& workspace,
                    ThreadTeam& team, float* logits);

}  // namespace fathom
