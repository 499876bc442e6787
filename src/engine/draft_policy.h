#pragma once
#include <array>
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
  /// Whether a request that comes now is to draft: while drafts pay; later one in 32, which measures anew.
  bool admits(int64_t decoding);

 private:
  struct Measured {
    double seconds_per_token = 0;
    int64_t steps = 0;
    void add(double value);
  };
  struct Bucket {
    Measured drafted, plain;
    int64_t asked = 0, refused = 0;
  };
  Bucket& bucket(int64_t decoding);
  const Bucket& bucket(int64_t decoding) const;

  std::array<Bucket, 12> buckets_;  // by powers of two of decoding requests
};

}  // namespace fathom
