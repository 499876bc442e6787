#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_team.h"
#include "model/transformer.h"

namespace fathom {

struct DraftOptions {
  int64_t max_new_tokens = 256;
  std::vector<int32_t> end_tokens;  ///< the generation ends after one of these; it counts as a token
};

/// A greedy generation, and what the first MTP layer would have drafted for it.
struct DraftRun {
  std::vector<int32_t> tokens;  ///< generated, the end token too
  /// One less than tokens (none without tokens): drafts[k] was proposed for tokens[k + 1] when tokens[k] was known.
  std::vector<int32_t> drafts;
  bool ended = false;  ///< by an end token

  int64_t accepted() const;  ///< drafts that are the main model's own choice
};

/// Generates greedily, then runs the first MTP layer over prompt and generated tokens: position i has the state after
/// the final norm at i and the embedding of token i + 1, keeps its own cache, and its likeliest token is the draft for
/// i + 2. These are the drafts that greedy speculative decoding with one draft a step makes, as a cache never holds a
/// token that was not accepted. The first generated token is the prompt's own and nobody drafts it.
///
/// The generation ends where the model's positions end. The workspace is the model's; its size is the size of a chunk.
/// Errors: `bad_input` if the model has no MTP layer, the prompt is empty, has an id outside the vocabulary or as many
///         tokens as the model has positions.
DraftRun measure_drafts(const LoadedModel& model, std::span<const int32_t> prompt, const DraftOptions& options,
                        Workspace& workspace, ThreadTeam& team);

}  // namespace fathom
