#include "evaluate/drafts.h"

#include <algorithm>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

constexpr int64_t kLogitRows = 64;  // 64 rows of 129,280 logits are 33 MB

/// The first of the greatest: ties go to the lower id, as in sampling.
int32_t arg_max(const float* logits, int64_t count) {
  return static_cast<int32_t>(std::max_element(logits, logits + count) - logits);
}

int64_t checked_length(const LoadedModel& model, std::span<const int32_t> prompt, int64_t new_tokens) {
  const ModelConfig& config = model.config;
  if (config.num_nextn_predict_layers == 0) {
    throw_bad_input("{}: the model has no MTP layer (num_nextn_predict_layers is 0), so it makes no drafts",
                    model.checkpoint->directory());
  }
  check_tokens(config, prompt);
  const auto length = static_cast<int64_t>(prompt.size());
  const int64_t most = config.max_position_embeddings;
  if (most > 0 && length >= most) {
    throw_bad_input("The prompt has {} tokens; the model has {} positions (max_position_embeddings)", length, most);
  }
  return most > 0 ? std::min(length + new_tokens, most) : length + new_tokens;
}

}  // namespace

int64_t DraftRun::accepted() const {
  int64_t count = 0;
  for (size_t k = 0; k < drafts.size(); ++k) count += drafts[k] == tokens[k + 1] ? 1 : 0;
  return count;
}

DraftRun measure_drafts(const LoadedModel& model, std::span<const int32_t> prompt, const DraftOptions& options,
                        Workspace& ws, ThreadTeam& team) {
  const int64_t context = checked_length(model, prompt, options.max_new_tokens);
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  const int64_t hidden = model.config.hidden_size;
  const int64_t V = model.config.vocab_size;
  LatentCache cache(model.config, model.cache_dtype(), context);
  std::vector<int32_t> sequence(prompt.begin(), prompt.end());
  std::vector<float> states;  // [positions, hidden] after the final norm
  std::vector<float> logits(static_cast<size_t>(V));

  const auto append = [&](int64_t position, int64_t count, AttentionForm form) {
    check_interrupt();
    const Span span{&cache, position, 0, count, form};
    forward(model, {{sequence.data() + position, static_cast<size_t>(count)}, {&span, 1}}, ws, team);
    const auto* normed = ws.normed.as<float>();
    states.insert(states.end(), normed, normed + count * hidden);
  };
  const auto choose_next = [&](int32_t row) {
    compute_logits(model, model.weights.lm_head, {&row, 1}, ws, team, logits.data());
    return arg_max(logits.data(), V);
  };

  const AttentionForm form = choose_attention(model.config, prompt_length, 0);
  int64_t last_count = 0;
  for (int64_t begin = 0; begin < prompt_length; begin += last_count) {
    last_count = std::min(ws.max_tokens, prompt_length - begin);
    append(begin, last_count, form);
  }
  DraftRun run;
  for (auto row = static_cast<int32_t>(last_count - 1); prompt_length + std::ssize(run.tokens) < context; row = 0) {
    if (!run.tokens.empty()) append(std::ssize(sequence) - 1, 1, AttentionForm::absorbed);
    const int32_t token = choose_next(row);
    run.tokens.push_back(token);
    sequence.push_back(token);
    run.ended = std::find(options.end_tokens.begin(), options.end_tokens.end(), token) != options.end_tokens.end();
    if (run.ended) break;
  }

  // The last position with something to draft is two before the last token.
  const int64_t rows = std::ssize(sequence) - 2;
  const int64_t first_draft = prompt_length - 1;
  const Weight& head = model.weights.layers[static_cast<size_t>(model.config.num_hidden_layers)].mtp->shared_head;
  logits.resize(static_cast<size_t>(V * kLogitRows));
  for (int64_t begin = 0; begin < rows; begin += ws.max_tokens) {
    check_interrupt();
    const int64_t count = std::min(ws.max_tokens, rows - begin);
    const Span span{&cache, begin, 0, count, form};
    mtp_forward(model, 0, {{sequence.data() + begin + 1, static_cast<size_t>(count)}, {&span, 1}},
                states.data() + begin * hidden, ws, team);
    for (int64_t row = std::max<int64_t>(0, first_draft - begin); row < count; row += kLogitRows) {
      const int64_t wanted = std::min(kLogitRows, count - row);
      compute_logits(model, head, ws.all_rows(row + wanted).subspan(static_cast<size_t>(row)), ws, team, logits.data());
      for (int64_t i = 0; i < wanted; ++i) run.drafts.push_back(arg_max(logits.data() + i * V, V));
    }
  }
  return run;
}

}  // namespace fathom
