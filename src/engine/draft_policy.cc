#include "engine/draft_policy.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace fathom {
namespace {

// Steps of each kind before anything is decided, and what is then no clear loss; fewer are enough for a great one.
constexpr int64_t kLeastDrafted = 32;
constexpr int64_t kLeastPlain = 8;
constexpr double kLoss = 1.03;
constexpr int64_t kSoonDrafted = 9;
constexpr int64_t kSoonPlain = 3;
constexpr double kGreatLoss = 1.25;

// One step in so many goes without drafts; at first one in four, so that it is soon known.
constexpr int64_t kPlainEvery = 32;
constexpr int64_t kFirstPlainEvery = 4;

}  // namespace

void DraftPolicy::Measured::add(double step_seconds, int64_t step_tokens) {
  const auto at = static_cast<size_t>(steps++ % kKept);
  seconds[at] = step_seconds;
  tokens[at] = step_tokens;
}

// The median of the steps' times, so that a page fault or another process decides nothing, by the mean of their tokens,
// of which there are one or two.
double DraftPolicy::Measured::seconds_per_token() const {
  const auto count = static_cast<std::ptrdiff_t>(std::min(steps, kKept));
  std::array<double, kKept> sorted = seconds;
  std::nth_element(sorted.begin(), sorted.begin() + count / 2, sorted.begin() + count);
  const auto all = std::accumulate(tokens.begin(), tokens.begin() + count, int64_t{0});
  return sorted[static_cast<size_t>(count / 2)] * static_cast<double>(count) / static_cast<double>(all);
}

size_t DraftPolicy::bucket_of(int64_t decoding) {
  const int power = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(decoding, 1))) - 1;
  return std::min(static_cast<size_t>(power), kBuckets - 1);
}

bool DraftPolicy::verifies(int64_t decoding) {
  Bucket& b = buckets_[bucket_of(decoding)];
  const int64_t every = b.plain.steps < kLeastPlain ? kFirstPlainEvery : kPlainEvery;
  return ++b.asked % every != 0;
}

void DraftPolicy::record(int64_t decoding, bool verified, double seconds, int64_t tokens) {
  if (tokens < 1) return;
  Bucket& b = buckets_[bucket_of(decoding)];
  (verified ? b.drafted : b.plain).add(seconds, tokens);
}

bool DraftPolicy::pays(int64_t decoding) const {
  const Bucket& b = buckets_[bucket_of(decoding)];
  if (b.drafted.steps < kSoonDrafted || b.plain.steps < kSoonPlain) return true;
  const bool sure = b.drafted.steps >= kLeastDrafted && b.plain.steps >= kLeastPlain;
  return b.drafted.seconds_per_token() <= (sure ? kLoss : kGreatLoss) * b.plain.seconds_per_token();
}

bool DraftPolicy::admits(int64_t decoding) {
  if (pays(decoding)) return true;
  Bucket& b = buckets_[bucket_of(decoding)];
  if (++b.refused < b.next_try) return false;
  const int64_t next_try = 2 * b.next_try;
  b = Bucket{};
  b.next_try = next_try;
  return true;
}

}  // namespace fathom
