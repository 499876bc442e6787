#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace fathom {

/// Whether drafts pay, by the clock: the seconds per token of steps that verify drafts (making the next ones included)
/// against those of steps without, for about so many decoding requests. More rows of a step choose more experts, whose
/// weights are then read; how much that costs depends on the machine, the batch and how often drafts are right.
class DraftPolicy {
 public:
  /// Whether a step of `decoding` requests verifies its drafts. Now and then one does not, to have something to compare
  /// with.
  bool verifies(int64_t decoding);
  /// A step of `decoding` requests and nothing else has taken so long and given so many tokens.
  void record(int64_t decoding, bool verified, double seconds, int64_t tokens);
  /// False once both are measured and drafts cost more than they save.
  bool pays(int64_t decoding) const;
  /// Whether a request that comes now is to draft: while drafts pay; later the 32nd, which measures anew, then the
  /// 64th, and so on.
  bool admits(int64_t decoding);

 private:
  // The last steps of one kind.
  struct Measured {
    static constexpr int64_t kKept = 32;
    std::array<double, kKept> seconds{};
    std::array<int64_t, kKept> tokens{};
    int64_t steps = 0;
    void add(double step_seconds, int64_t step_tokens);
    double seconds_per_token() const;
  };
  struct Bucket {
    Measured drafted, plain;
    int64_t asked = 0, refused = 0, next_try = 32;
  };
  static constexpr size_t kBuckets = 12;
  static size_t bucket_of(int64_t decoding);

  std::array<Bucket, kBuckets> buckets_;  // by powers of two of decoding requests
};

}  // namespace fathom
