#include "evaluate/dataset_loss.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

// Most tokens of a sequence in one pass, and most rows of logits at a time: 64 rows of 129,280 are 33 MB.
constexpr int64_t kChunk = 512;
constexpr int64_t kLogitRows = 64;

}  // namespace

double LossSum::mean() const {
  return tokens == 0 ? 0 : nats / static_cast<double>(tokens);
}

double LossSum::perplexity() const {
  return std::exp(mean());
}

LossSum& LossSum::operator+=(const LossSum& other) {
  tokens += other.tokens;
  nats += other.nats;
  return *this;
}

double cross_entropy(std::span<const float> logits, int32_t target) {
  // A comparison with NaN is false: the sum below is then NaN whether or not the greatest is.
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  return greatest + std::log(sum) - logits[static_cast<size_t>(target)];
}

std::vector<LossSum> loss_by_position(const LoadedModel& model, const TokenDataset& dataset, int64_t sequences,
                                      ThreadTeam& team, const std::function<void(int64_t)>& progress) {
  const ModelConfig& config = model.config;
  if (sequences > dataset.sequences()) {
    throw_bad_input("{}: {} sequences were asked for, the split has {}", dataset.directory(), sequences,
                    dataset.sequences());
  }
  if (dataset.vocab_size() > config.vocab_size) {
    throw_bad_input("{}: the shards' vocabulary has {} tokens, that of {} only {}", dataset.directory(),
                    dataset.vocab_size(), model.checkpoint->directory(), config.vocab_size);
  }
  const int64_t length = dataset.sequence_length();
  const int64_t V = config.vocab_size;
  const AttentionForm form = choose_attention(config, length, 0);
  LatentCache cache(config, model.cache_dtype(), length);
  Workspace ws(model, std::min(kChunk, length), team.size());
  std::vector<float> logits(static_cast<size_t>(kLogitRows * V));
  std::vector<double> losses(static_cast<size_t>(kLogitRows));
  std::vector<int32_t> tokens(static_cast<size_t>(length) + 1);
  std::vector<LossSum> positions(static_cast<size_t>(length));
  for (int64_t sequence = 0; sequence < sequences; ++sequence) {
    dataset.sequence(sequence, tokens);
    for (int64_t begin = 0; begin < length; begin += ws.max_tokens) {
      check_interrupt();
      const int64_t count = std::min(ws.max_tokens, length - begin);
      const Span span{&cache, begin, 0, count, form};
      forward(model, {{tokens.data() + begin, static_cast<size_t>(count)}, {&span, 1}}, ws, team);
      for (int64_t row = 0; row < count; row += kLogitRows) {
        const int64_t rows = std::min(kLogitRows, count - row);
        const int32_t* targets = tokens.data() + begin + row + 1;
        compute_logits(model, model.weights.lm_head, ws.all_rows(row + rows).subspan(static_cast<size_t>(row)), ws,
                       team, logits.data());
        team.parallel_for(rows, [&](int64_t i, int) {
          losses[static_cast<size_t>(i)] = cross_entropy({logits.data() + i * V, static_cast<size_t>(V)}, targets[i]);
        });
        for (int64_t i = 0; i < rows; ++i) {
          if (targets[i] == dataset.pad_token_id()) continue;
          const double loss = losses[static_cast<size_t>(i)];
          if (std::isnan(loss)) {
            throw_failure("{}: the logits at position {} of sequence {} are not numbers", model.checkpoint->directory(),
                          begin + row + i, sequence);
          }
          positions[static_cast<size_t>(begin + row + i)] += {1, loss};
        }
      }
      if (progress) progress(count);
    }
  }
  return positions;
}

std::vector<LossSum> by_width(const std::vector<LossSum>& positions, int64_t width) {
  std::vector<LossSum> sums;
  for (size_t i = 0; i < positions.size(); ++i) {
    if (i % static_cast<size_t>(width) == 0) sums.emplace_back();
    sums.back() += positions[i];
  }
  return sums;
}

}  // namespace fathom
