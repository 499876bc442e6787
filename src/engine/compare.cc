#include "engine/compare.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

// Most tokens of a window in one pass, and most rows of logits at a time: 64 rows of 129,280 are 33 MB.
constexpr int64_t kChunk = 512;
constexpr int64_t kRows = 64;

struct LogSoftmax {
  double log_sum;   ///< ln Σ e^x
  size_t greatest;  ///< index, the lower on ties
};

LogSoftmax log_softmax(std::span<const float> logits) {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) throw_failure("a logit of token {} is NaN", i);
    if (logits[i] > logits[best]) best = i;
  }
  const double greatest = logits[best];
  if (std::isinf(greatest)) throw_failure("the greatest logit, of token {}, is {}", best, greatest);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  return {greatest + std::log(sum), best};
}

// One model on its way through the windows.
struct Runner {
  Runner(const LoadedModel& opened, int64_t context, ThreadTeam& threads)
      : model(opened),
        team(threads),
        cache(opened.config, opened.cache_dtype(), context),
        workspace(opened, std::min(context, kChunk), threads.size()),
        logits(static_cast<size_t>(kRows * opened.config.vocab_size)) {}

  void run(std::span<const int32_t> tokens, int64_t position, AttentionForm form) {
    const Span span{&cache, position, 0, static_cast<int64_t>(tokens.size()), form};
    forward(model, {tokens, {&span, 1}}, workspace, team);
  }
  // Rows [begin, begin + count) of the last run.
  void head(int64_t begin, int64_t count) {
    const auto rows = workspace.all_rows(begin + count).subspan(static_cast<size_t>(begin));
    compute_logits(model, model.weights.lm_head, rows, workspace, team, logits.data());
  }
  std::span<const float> row(int64_t i) const {
    const auto V = static_cast<size_t>(model.config.vocab_size);
    return {logits.data() + static_cast<size_t>(i) * V, V};
  }

  const LoadedModel& model;
  ThreadTeam& team;
  LatentCache cache;
  Workspace workspace;
  std::vector<float> logits;
};

void check(const LoadedModel& a, const LoadedModel& b, std::span<const int32_t> tokens, const CompareOptions& options) {
  if (a.config.vocab_size != b.config.vocab_size) {
    throw_bad_input("the models' vocabularies differ, {} and {} tokens: their distributions cannot be compared",
                    a.config.vocab_size, b.config.vocab_size);
  }
  for (const LoadedModel* model : {&a, &b}) {
    const int64_t most = model->config.max_position_embeddings;
    if (options.context < 2 || (most > 0 && options.context > most)) {
      throw_bad_input("a context of {} positions was asked for; {} allows 2 to {} (max_position_embeddings)",
                      options.context, model->checkpoint->directory(), most);
    }
  }
  check_tokens(a.config, tokens);
  if (options.bos) check_tokens(a.config, {&*options.bos, 1});
}

}  // namespace

TokenDifference compare_logits(std::span<const float> a, std::span<const float> b, int32_t next) {
  const LogSoftmax soft_a = log_softmax(a);
  const LogSoftmax soft_b = log_softmax(b);
  TokenDifference result;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i] && std::isinf(a[i])) continue;  // excluded by both
    result.logit_difference = std::max(result.logit_difference, std::abs(static_cast<double>(a[i]) - b[i]));
    const double log_p = a[i] - soft_a.log_sum;
    const double p = std::exp(log_p);
    if (p > 0) result.kl += p * (log_p - (b[i] - soft_b.log_sum));
  }
  result.kl = std::max(result.kl, 0.0);  // rounding may leave −1e-17
  result.same_top = soft_a.greatest == soft_b.greatest;
  if (next >= 0) {
    result.logprob_a = a[static_cast<size_t>(next)] - soft_a.log_sum;
    result.logprob_b = b[static_cast<size_t>(next)] - soft_b.log_sum;
  }
  return result;
}

Comparison summarize(const std::vector<TokenDifference>& differences, const std::vector<bool>& has_next) {
  Comparison result;
  result.positions = static_cast<int64_t>(differences.size());
  if (differences.empty()) return result;
  std::vector<double> kl;
  int64_t agreed = 0;
  double log_a = 0;
  double log_b = 0;
  for (size_t i = 0; i < differences.size(); ++i) {
    const TokenDifference& d = differences[i];
    kl.push_back(d.kl);
    agreed += d.same_top ? 1 : 0;
    result.greatest_logit_difference = std::max(result.greatest_logit_difference, d.logit_difference);
    if (!has_next[i]) continue;
    ++result.predictions;
    log_a += d.logprob_a;
    log_b += d.logprob_b;
  }
  std::sort(kl.begin(), kl.end());
  const size_t n = kl.size();
  double sum = 0;
  for (const double value : kl) sum += value;
  result.kl_mean = sum / static_cast<double>(n);
  result.kl_median = n % 2 == 1 ? kl[n / 2] : (kl[n / 2 - 1] + kl[n / 2]) / 2;
  result.kl_99 = kl[(n * 99 + 99) / 100 - 1];  // the least value that 99 % do not exceed
  result.kl_greatest = kl.back();
  result.top1_agreement = static_cast<double>(agreed) / static_cast<double>(n);
  const auto predictions = static_cast<double>(std::max<int64_t>(result.predictions, 1));
  result.perplexity_a = std::exp(-log_a / predictions);
  result.perplexity_b = std::exp(-log_b / predictions);
  return result;
}

Comparison compare_models(const LoadedModel& a, const LoadedModel& b, std::span<const int32_t> tokens,
                          const CompareOptions& options, ThreadTeam& team,
                          const std::function<void(int64_t)>& progress) {
  check(a, b, tokens, options);
  Runner runner_a(a, options.context, team);
  Runner runner_b(b, options.context, team);
  std::vector<TokenDifference> differences;
  std::vector<bool> has_next;
  std::vector<int32_t> window;
  const int64_t own = options.context - (options.bos ? 1 : 0);
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(own)) {
    const auto piece = tokens.subspan(begin, std::min(static_cast<size_t>(own), tokens.size() - begin));
    window.clear();
    if (options.bos) window.push_back(*options.bos);
    window.insert(window.end(), piece.begin(), piece.end());
    const auto length = static_cast<int64_t>(window.size());
    // Each model's own choice: its heads may differ from the other's.
    const AttentionForm form_a = choose_attention(a.config, length, 0);
    const AttentionForm form_b = choose_attention(b.config, length, 0);
    for (int64_t position = 0; position < length; position += kChunk) {
      check_interrupt();
      const int64_t count = std::min(kChunk, length - position);
      const std::span<const int32_t> chunk(window.data() + position, static_cast<size_t>(count));
      runner_a.run(chunk, position, form_a);
      runner_b.run(chunk, position, form_b);
      for (int64_t row = 0; row < count; row += kRows) {
        check_interrupt();
        const int64_t rows = std::min(kRows, count - row);
        runner_a.head(row, rows);
        runner_b.head(row, rows);
        const size_t first = differences.size();
        differences.resize(first + static_cast<size_t>(rows));
        std::atomic<int64_t> broken{-1};
        team.parallel_for(rows, [&](int64_t i, int) {
          const int64_t at = position + row + i;
          const int32_t next = at + 1 < length ? window[static_cast<size_t>(at + 1)] : -1;
          try {  // a body of the team's loops must not throw
            differences[first + static_cast<size_t>(i)] = compare_logits(runner_a.row(i), runner_b.row(i), next);
          } catch (const Error&) {
            broken.store(i, std::memory_order_relaxed);
          }
        });
        if (broken.load() >= 0) {
          compare_logits(runner_a.row(broken.load()), runner_b.row(broken.load()), -1);  // throws the sentence
        }
        for (int64_t i = 0; i < rows; ++i) has_next.push_back(position + row + i + 1 < length);
        if (progress) progress(rows);
      }
    }
  }
  return summarize(differences, has_next);
}

}  // namespace fathom
