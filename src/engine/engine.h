#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/memory.h"
#include "base/thread_team.h"
#include "constrain/constraint.h"
#include "engine/draft_policy.h"
#include "engine/page_store.h"
#include "engine/prefix_tree.h"
#include "engine/sampling.h"
#include "model/transformer.h"

namespace fathom {

/// Why an answer ended.
enum class FinishReason {
  stop,                          ///< one of its end tokens, or a stop string
  length,                        ///< `max_new_tokens`, or no position is left
  cancelled,                     ///< the caller said so
  insufficient_system_resource,  ///< it does not fit the cache even alone
  error                          ///< its own grammar cannot be followed; the event says why
};

/// "stop", "length", "cancelled", "insufficient_system_resource", "error"; as in DeepSeek's API where that has them.
std::string_view finish_reason_name(FinishReason reason);

struct EngineRequest {
  std::vector<int32_t> prompt;
  SamplingOptions sampling;
  int64_t max_new_tokens = 256;
  std::vector<int32_t> end_tokens;  ///< drawing one ends the request; it is not handed out
  int64_t priority = 0;             ///< greater ones are admitted first; among equals the earlier
  /// The grammar of the answer, over the vocabulary of the model's tokenizer; null: none. The answer ends when nothing
  /// can follow, and before that by an end token only where the grammar allows an end.
  std::shared_ptr<const Constraint> constraint;
  /// The grammar begins behind these tokens (`</think>`); empty: with the answer.
  std::vector<int32_t> constraint_after;
  bool constraint_optional = false;  ///< the answer may end without them (a tool call that is not made)
};

/// What happened to a request in a step: one more token, or its end.
struct TokenEvent {
  int64_t request = 0;
  std::optional<SampledToken> token;
  std::optional<FinishReason> end;
  std::string error;  ///< the sentence of an `error`
};

/// What a request was worth; complete with its end.
struct RequestUsage {
  int64_t prompt_tokens = 0;
  int64_t hit_tokens = 0;   ///< of the prompt, found in the cache or the store at its first admission
  int64_t prefilled = 0;    ///< of the rest, computed so far
  int64_t new_tokens = 0;   ///< handed out
  int64_t drafts = 0;       ///< tokens that the MTP layer proposed
  int64_t accepted = 0;     ///< of these, those that the model then drew
  int64_t preemptions = 0;  ///< how often it had to give its cache up
  double mask_seconds = 0;  ///< spent on its grammar
};

/// Work done since the start.
struct EngineCounters {
  int64_t steps = 0;
  int64_t prefilled = 0;  ///< positions of prompts, and those computed again after a preemption
  int64_t decoded = 0;    ///< positions of drawn tokens and drafts
  int64_t tokens = 0;     ///< handed out
  int64_t drafts = 0, accepted = 0;
  int64_t preemptions = 0;
  int64_t experts_run = 0;  ///< routed experts that had tokens, summed over steps and the main model's layers
};

struct EngineOptions {
  int64_t cache_pages = 0;      ///< pages of 64 positions that all requests share
  int64_t most_tokens = 512;    ///< of a step
  int64_t most_prefill = 128;   ///< prompt tokens of a step in which others decode: what bounds their wait
  int64_t most_running = 16;    ///< requests that hold cache at once
  int64_t most_waiting = 1024;  ///< requests that wait; one more is refused
  bool share_prefixes = true;   ///< keep and reuse the pages of what was computed
  /// Most tokens that the MTP layer drafts, one from the other, to be verified in the next step; 0: none.
  int64_t drafts = 0;
  bool always_draft = false;  ///< even where it costs more than it saves (DraftPolicy)
  /// Where pages are kept over the end of the program; null: nowhere. Its pages have `stored_page_bytes`.
  std::shared_ptr<PageStore> store;
};

/// Pages for an engine's cache: `wanted`, but no more than half of the memory that is free now can hold; the rest is
/// the weights' and the system's. `failure` if these are fewer than `least`. Memory that the system does not tell
/// counts as enough.
int64_t plan_cache_pages(const LoadedModel& model, int64_t wanted, int64_t least, const SystemMemory& memory);

/// Bytes of a page in a PageStore: the pool's, and one that says whether the MTP layers' part is there.
size_t stored_page_bytes(const LoadedModel& model);

/// Runs many requests on one model: each step is one flat batch of prefill chunks, decoded tokens and verifications.
///
/// Drafts: the MTP layer runs over what a step computed, and from its last state on over its own drafts. They are used
/// where they pay (DraftPolicy); a request that goes on without the layer does so to its end.
///
/// One answer: the tokens of a request depend on its prompt, options and seed alone. Neighbours, chunks, speculation
/// and preemption change nothing; a prefix found in the cache can change the form of the prompt's attention
/// (choose_attention), and with it last bits. A draft is verified by drawing from the model's own distribution and
/// comparing, which is exact rejection sampling for a draft that is certain of itself: the same seed draws the same
/// tokens with and without. One thread at a time.
class Engine {
 public:
  /// `bad_input` for options out of range, or speculation without an MTP layer.
  Engine(const LoadedModel& model, const EngineOptions& options, ThreadTeam& team);

  /// Queues a request and returns its number, counted from 0. `bad_input` if it can never run (no prompt, ids outside
  /// the vocabulary, options out of range, more positions than the model has or than the cache holds); `failure` if
  /// the queue is full.
  int64_t submit(EngineRequest request);
  /// Ends a request at the next step; nothing if it has ended.
  void cancel(int64_t request);
  /// One batch; hands its events out in the order of the requests' admission. False if there was nothing to do.
  bool step(const std::function<void(const TokenEvent&)>& on_event);

  int64_t running() const { return std::ssize(running_); }
  int64_t waiting() const { return std::ssize(waiting_); }
  const EngineCounters& counters() const { return counters_; }
  /// Of a request that has not ended, or whose end was handed out in the latest step that ended any.
  const RequestUsage* usage(int64_t request) const;
  /// Gives up all pages that no request uses.
  void forget() { tree_.free_pages(pool_.pages()); }
  int64_t pages() const { return pool_.pages(); }
  size_t cache_bytes() const { return static_cast<size_t>(pool_.pages()) * pool_.page_bytes(); }
  int64_t free_pages() const { return pool_.free_pages(); }
  int64_t kept_pages() const { return tree_.pages(); }
  /// Whether drafts pay for so many requests as run now; false where none are made.
  bool drafts_pay() const;
  /// Tokens that were sent to each routed expert so far: [layers, MTP layers included, n_routed_experts]; zeros in
  /// layers without experts.
  std::span<const int64_t> expert_tokens() const { return workspace_.expert_tokens; }

 private:
  struct Sequence {
    Sequence(int64_t number, EngineRequest&& from, LatentPool& pool);
    int64_t prompt() const { return std::ssize(request.prompt); }
    /// Positions to compute before the next token can be drawn.
    int64_t missing() const { return std::ssize(tokens) - held; }
    bool ends_with(int32_t token) const;
    bool decodes() const { return std::ssize(tokens) > prompt() && missing() == 1; }

    int64_t id;
    EngineRequest request;
    Sampler sampler;
    std::optional<ConstraintState> grammar;
    LatentCache cache;
    std::vector<int32_t> tokens;        // the prompt, then what was drawn
    int64_t held = 0;                   // positions whose latents are computed
    int64_t mtp_held = 0;               // the same of the MTP layer
    std::optional<AttentionForm> form;  // of the prompt, chosen at the first admission
    bool drafting = false;              // the MTP layer follows it: mtp_held is held between steps
    std::vector<int32_t> drafts;        // for the positions behind the last token
    bool cancelled = false;
    RequestUsage usage;
  };
  using Pointer = std::unique_ptr<Sequence>;

  // A sequence's part of a step: tokens [position, position + count), then drafts.
  struct Part {
    Sequence* sequence;  // null once it has ended
    int64_t count;
    int64_t drafts = 0;    // how many
    int64_t first = 0;     // row of the batch
    int64_t position = 0;  // of its first token
    int64_t logits = 0;    // row of the logits, if it is complete
    bool decodes = false;
    int64_t rows() const { return count + drafts; }
  };
  using Events = std::function<void(const TokenEvent&)>;

  static bool before(const Sequence& a, const Sequence& b);
  template <typename List>
  static void insert_in_order(List& list, Pointer sequence);
  void end_cancelled(const Events& on_event);
  void admit();
  bool looks_for_prefix(const Sequence& sequence) const;
  bool prefix_is_coming(const Sequence& sequence) const;
  std::vector<Part> plan();
  bool make_room(size_t index, int64_t positions);
  void preempt_last();
  void run(std::vector<Part>& parts);
  void draw(std::vector<Part>& parts, const Events& on_event);
  void draft(const std::vector<Part>& parts);
  void draw_drafts(std::span<const int32_t> wanted, std::span<Sequence* const> sequences);
  std::vector<Sequence*> chain_drafts(std::span<Sequence* const> sequences);
  void stop_drafting();
  SampledToken draw_token(Sequence& sequence, std::span<const float> logits);
  int64_t drafts_in_grammar(Sequence& sequence, int64_t drafts) const;
  void end(size_t index, FinishReason reason, const Events& on_event, std::string error = {});
  void keep_pages(const Sequence& sequence, bool with_last);
  PrefixTree::Shared find_prefix(Sequence& sequence);
  AttentionForm form_of(const Part& part) const;
  int64_t position_limit() const;
  std::span<const float> logits_row(int64_t row) const;

  const LoadedModel& model_;
  EngineOptions options_;
  ThreadTeam& team_;
  Workspace workspace_;
  LatentPool pool_;
  PrefixTree tree_;
  DraftPolicy policy_;
  std::vector<std::byte> stored_page_;  // on its way between pool and store
  std::deque<Pointer> waiting_;         // in order of admission
  std::vector<Pointer> running_;        // the same
  std::vector<Pointer> ended_;          // in this step
  std::vector<float> logits_;           // [rows, V] of a step
  std::vector<uint64_t> mask_;          // a bit for each token that a grammar allows
  std::vector<float> states_;           // [rows, hidden] of a step, for the MTP layer
  int64_t next_id_ = 0;
  EngineCounters counters_;
};

}  // namespace fathom
