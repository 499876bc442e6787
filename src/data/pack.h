#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

class Random;

struct PackOptions {
  std::string tokenizer_directory;
  std::string out;  ///< directory; must not exist, or be empty
  std::vector<std::string> files;
  std::string separator;          ///< of plain text, see CorpusReader
  int64_t sequence_length = 512;  ///< inputs; a stored sequence has one token more
  double fim_rate = 0.1;          ///< of the documents without control tokens
  double validation = 0;          ///< fraction of the documents that is held out
  bool bos = true;                ///< documents begin with it
  uint64_t seed = 0;
  uint64_t shard_bytes = 256'000'000;
};

struct PackSplit {
  int64_t documents = 0;
  int64_t tokens = 0;  ///< of documents, with bos and eos
  int64_t sequences = 0;
  int64_t padding = 0;  ///< tokens that fill the ends of sequences
};

struct PackResult {
  PackSplit train, validation;
  int64_t fim_documents = 0;
  int64_t cut_documents = 0;  ///< longer than a sequence
};

/// Writes the documents of a corpus as sequences of tokens (docs/data.md has the format).
///
/// Every document ends with eos. Documents that fit a sequence are never cut: longer ones are cut into whole sequences
/// and a rest (the next piece repeats the last token of the one before, so that each token is predicted once), and
/// pieces are put together best-fit-decreasing. Nothing masks one document from another. A document is held out by a
/// hash of its content, whatever the seed. Memory: under 100 bytes for each document; the tokens lie in a
/// file meanwhile.
/// Errors: `bad_input` for what CorpusReader and the tokenizer refuse, a corpus without documents, a conversation
/// where the tokenizer has no chat template; `failure` if the disk is full.
/// Source: DeepSeek-V3 report §4.1; Ding et al. 2024, "Fewer truncations improve language modeling".
PackResult pack_corpus(const PackOptions& options);

/// Best-fit-decreasing: which pieces lie together in bins of `capacity`. Every length is in 1..capacity; of equal ones
/// the order is drawn, and so is the order inside a bin and of the bins. Returns the indices of each bin's pieces.
std::vector<std::vector<uint32_t>> best_fit_bins(const std::vector<uint32_t>& lengths, uint32_t capacity,
                                                 Random& random);

/// A text as prefix, suffix and middle, cut at two uniformly drawn characters.
struct FimParts {
  std::string_view prefix, middle, suffix;
};
FimParts cut_for_fim(std::string_view text, Random& random);

}  // namespace fathom
