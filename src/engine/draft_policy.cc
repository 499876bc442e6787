#include "engine/draft_policy.h"

#include <algorithm>
#include <bit>

namespace fathom {
namespace {

// Steps of each kind before anything is decided, and the share of a new one in the running mean.
constexpr int64_t kLeastDrafted = 16;
constexpr int64_t kLeastPlain = 4;
constexpr double kShare = 0.1;

// One step in so many goes without drafts; at first one in four, so that it is soon known.
constexpr int64_t kPlainEvery = 32;
constexpr int64_t kFirstPlainEvery = 4;

constexpr int64_t kTryEvery = 32;

// What is not clearly a loss is no reason to stop.
constexpr double kLoss = 1.03;

}  // namespace

// The mean of the first steps, then a running one.
void DraftPolicy::Measured::add(double value) {
  ++steps;
  seconds_per_token += (value - seconds_per_token) * std::max(kShare, 1.0 / static_cast<double>(steps));
}

DraftPolicy::Bucket& DraftPolicy::bucket(int64_t decoding) {
  const int power = std::bit_width(static_cast<uint64_t>(std::max<int64_t>(decoding, 1))) - 1;
  return buckets_[std::min<size_t>(static_cast<size_t>(power), buckets_.size() - 1)];
}

const DraftPolicy::Bucket& DraftPolicy::bucket(int64_t decoding) const {
  return const_cast<DraftPolicy*>(this)->bucket(decoding);
}

bool DraftPolicy::verifies(int64_t decoding) {
  Bucket& b = bucket(decoding);
  const int64_t every = b.plain.steps < kLeastPlain ? kFirstPlainEvery : kPlainEvery;
  return ++b.asked % every != 0;
}

void DraftPolicy::record(int64_t decoding, bool verified, double seconds, int64_t tokens) {
  if (tokens < 1) return;
  Bucket& b = bucket(decoding);
  (verified ? b.drafted : b.plain).add(seconds / static_cast<double>(tokens));
}

bool DraftPolicy::pays(int64_t decoding) const {
  const Bucket& b = bucket(decoding);
  if (b.drafted.steps < kLeastDrafted || b.plain.steps < kLeastPlain) return true;
  return b.drafted.seconds_per_token <= kLoss * b.plain.seconds_per_token;
}

bool DraftPolicy::admits(int64_t decoding) {
  if (pays(decoding)) return true;
  Bucket& b = bucket(decoding);
  if (++b.refused % kTryEvery != 0) return false;
  b = Bucket{};
  return true;
}

}  // namespace fathom
