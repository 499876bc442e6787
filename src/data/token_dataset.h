#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/safetensors.h"

namespace fathom {

/// "fnv1a64:" and 16 hexadecimal digits over the bytes of `DIR/tokenizer.json`: tells shards of one vocabulary from
/// those of another; no defence against forgery.
std::string tokenizer_fingerprint(const std::string& directory);

/// The name of the description in a directory of shards.
inline constexpr const char* dataset_file_name = "data.json";

/// One split of a directory that `fathom data pack` wrote (docs/data.md): sequences of token ids in mapped files.
///
/// Opening reads `data.json` and the shards' headers. Threads: const members from any number at once.
class TokenDataset {
 public:
  /// `split`: "train" or "validation". `bad_input` names the file and what does not fit: not a dataset, another
  /// version, a split without sequences, a shard that is missing, truncated or of another shape.
  explicit TokenDataset(const std::string& directory, std::string_view split = "train");

  /// True if the directory has sequences of this split.
  static bool has_split(const std::string& directory, std::string_view split);

  const std::string& directory() const { return directory_; }
  int64_t sequences() const { return sequences_; }
  /// Inputs of a sequence; it holds one token more, so that the last input has a target.
  int64_t sequence_length() const { return sequence_length_; }
  int64_t vocab_size() const { return vocab_size_; }
  /// Fills what no document filled. A target equal to it says nothing and must not be counted in a loss.
  int32_t pad_token_id() const { return pad_token_id_; }
  const std::string& fingerprint() const { return fingerprint_; }
  /// Padding among the tokens of this split.
  int64_t padding() const { return padding_; }

  /// `bad_input` if the shards were made with another tokenizer than that of the directory.
  void check_tokenizer(const std::string& tokenizer_directory) const;

  /// Copies a sequence. Shapes: out [sequence_length + 1]. `bad_input` if a token id is not below `vocab_size`: names
  /// shard, sequence and place.
  void sequence(int64_t index, std::span<int32_t> out) const;

 private:
  struct Shard {
    std::unique_ptr<SafetensorsFile> file;
    int64_t first = 0;  ///< index of its first sequence
    int64_t sequences = 0;
    TensorView tokens;
  };
  void open_shard(const std::string& name, int64_t sequences);

  std::string directory_;
  std::vector<Shard> shards_;
  int64_t sequences_ = 0;
  int64_t sequence_length_ = 0;
  int64_t vocab_size_ = 0;
  int64_t padding_ = 0;
  int32_t pad_token_id_ = 0;
  std::string fingerprint_;
};

/// The order of one epoch: each sequence once, a permutation that (sequences, seed, epoch) alone decide.
std::vector<uint32_t> epoch_order(int64_t sequences, uint64_t seed, uint64_t epoch);

/// A training run's sequences by their position since its start, over as many epochs as it takes: a run is resumed by
/// its position. One thread.
class ShuffledSequences {
 public:
  /// The dataset outlives it.
  ShuffledSequences(const TokenDataset& dataset, uint64_t seed) : dataset_(dataset), seed_(seed) {}

  /// Copies the sequence at `position`; see `TokenDataset::sequence`.
  void read(uint64_t position, std::span<int32_t> out);
  uint64_t epoch_of(uint64_t position) const { return position / static_cast<uint64_t>(dataset_.sequences()); }

 private:
  const TokenDataset& dataset_;
  uint64_t seed_;
  uint64_t epoch_ = 0;
  std::vector<uint32_t> order_;  // of `epoch_`; empty before the first read
};

}  // namespace fathom
