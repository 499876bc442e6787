#pragma once
#include <cstdint>
#include <string>

#include "formats/model_config.h"

namespace fathom {

/// What `write_random_checkpoint` writes.
struct SynthOptions {
  ModelConfig config;
  bool fp8 = false;  ///< quantizable matrices in FP8 with block scales (128 × 128 unless `config.fp8` says otherwise),
                     ///< else all BF16
  std::string out;   ///< directory; must not exist, or be empty
  uint64_t seed = 0;
  uint64_t shard_bytes = 4'000'000'000;  ///< greatest data size of a file; a larger tensor gets a file of its own
  double standard_deviation = 0;         ///< of all matrices; 0: 1/sqrt(inputs) for each, embedding 1
  std::string
      tokenizer_directory;  ///< copies tokenizer.json and tokenizer_config.json from there; empty: writes its own
};

struct SynthResult {
  int64_t tensors = 0;
  int64_t shards = 0;
  uint64_t tensor_bytes = 0;
  bool tokenizer = false;  ///< false: the vocabulary is too small for the 256 bytes and the control tokens
};

/// Writes a random model in the Hugging Face layout: config.json, shards, index, tokenizer.json, tokenizer_config.json.
///
/// Matrices are normal, norms 1 ± 0.05, router biases ± 0.05. FP8 blocks differ in size by up to 1.5 ×, so that their
/// scales differ; scales are powers of two if `config.fp8->ue8m0`. A tensor's values depend on its name, its shape, the
/// seed and the options above, not on the shards. Memory is a few MB whatever the model's size.
///
/// All is written into `OUT.partial`, which gets its name at the end and is removed if anything fails.
/// Errors: `bad_input` if `out` exists and is not empty, or a tokenizer does not fit the vocabulary; `failure` if the
/// disk is too small (asked before anything is written) or a write fails, or after SIGINT.
SynthResult write_random_checkpoint(const SynthOptions& options);

}  // namespace fathom
