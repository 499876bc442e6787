#include "data/pack.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/output_directory.h"
#include "base/progress.h"
#include "data/corpus_reader.h"
#include "data/random.h"
#include "data/token_dataset.h"
#include "data/training_chat.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr size_t largest_tokenizer = size_t{256} << 20;
/// Ids up to here are stored in two bytes.
constexpr int32_t most_short_tokens = 65536;

/// A document's tokens in the spool file.
struct SpooledPiece {
  uint64_t first;  // index of its first token
  uint32_t tokens;
};

class Packer {
 public:
  explicit Packer(const PackOptions& options)
      : options_(options),
        out_(require_new_directory(options.out)),
        tokenizer_(Tokenizer::load(options.tokenizer_directory)),
        config_(read_tokenizer_config(options.tokenizer_directory)),
        bos_(token(bos_token_text)),
        eos_(token(eos_token_text)),
        pad_(tokenizer_->added_token(pad_token_text).value_or(eos_)) {
    if (options_.fim_rate > 0) {
      fim_ = {token("<｜fim▁begin｜>"), token("<｜fim▁hole｜>"), token("<｜fim▁end｜>")};
    }
  }

  PackResult run() {
    PartialDirectory partial(out_);
    const std::string spool_path = (partial.path() / "spool.bin").string();
    {
      OutputFile spool(spool_path);
      read_documents(spool);
      spool.commit();
    }
    if (result_.train.documents == 0) {
      throw_bad_input("{}: expected documents to train on, found {}", options_.files[0],
                      result_.validation.documents == 0 ? "none" : "only held-out ones");
    }
    nlohmann::ordered_json splits;
    {
      const MappedFile spool(spool_path);
      const auto* tokens = reinterpret_cast<const int32_t*>(spool.data());
      splits["train"] = write_split(partial.path(), "train", tokens, train_, result_.train);
      if (!validation_.empty()) {
        splits["validation"] = write_split(partial.path(), "validation", tokens, validation_, result_.validation);
      }
    }
    fs::remove(spool_path);
    copy_tokenizer(partial.path());
    write_text(partial.path() / dataset_file_name, description(splits).dump(2) + "\n");
    check_interrupt();
    partial.commit();
    return result_;
  }

 private:
  int32_t token(std::string_view content) const {
    const auto id = tokenizer_->added_token(content);
    if (!id) {
      throw_bad_input("{}: expected a tokenizer with the token \"{}\", found none", options_.tokenizer_directory,
                      content);
    }
    return *id;
  }

  static void write_text(const fs::path& path, const std::string& text) {
    OutputFile file(path.string());
    file.write(text);
    file.commit();
  }

  void read_documents(OutputFile& spool) {
    CorpusReader reader(options_.files, options_.separator);
    Progress progress("Encoding", reader.total_bytes(), "B");
    CorpusDocument document;
    uint64_t shown = 0;
    for (uint64_t number = 0; reader.next(document); ++number) {
      check_interrupt();
      const bool held_out = is_held_out(document);
      const std::vector<int32_t> ids = encode(document, held_out, number);
      PackSplit& split = held_out ? result_.validation : result_.train;
      ++split.documents;
      split.tokens += static_cast<int64_t>(ids.size());
      add_pieces(ids.size(), spooled_, held_out ? validation_ : train_);
      spool.write(ids.data(), ids.size() * sizeof(int32_t));
      spooled_ += ids.size();
      progress.advance(reader.bytes_read() - shown);
      shown = reader.bytes_read();
    }
  }

  bool is_held_out(const CorpusDocument& document) const {
    if (options_.validation <= 0) return false;
    uint64_t hash = hash_text(document.text);
    for (const ChatMessage& message : document.messages) {
      hash = mix64(hash ^ hash_text(message.role));
      if (message.content) hash = mix64(hash ^ hash_text(*message.content));
    }
    return static_cast<double>(mix64(hash) >> 11) * 0x1p-53 < options_.validation;
  }

  static bool has_control_token(std::string_view text) {
    if (text.find('<') == std::string_view::npos) return false;
    for (const char* control : {bos_token_text, eos_token_text, pad_token_text}) {
      if (text.find(control) != std::string_view::npos) return true;
    }
    return std::any_of(deepseek_control_tokens.begin(), deepseek_control_tokens.end(),
                       [&](const char* control) { return text.find(control) != std::string_view::npos; });
  }

  std::vector<int32_t> encode(const CorpusDocument& document, bool held_out, uint64_t number) {
    std::vector<int32_t> ids;
    if (!document.messages.empty()) {
      if (!config_.chat_format) {
        throw_bad_input("{}: a conversation needs a chat template that Fathom knows, found none in {}", document.where,
                        options_.tokenizer_directory);
      }
      ids = training_chat_ids(*tokenizer_, config_, *config_.chat_format, document.messages);
      const bool begins = ids[0] == bos_;
      if (options_.bos && !begins) ids.insert(ids.begin(), bos_);
      if (!options_.bos && begins) ids.erase(ids.begin());
      return ids;
    }
    if (options_.bos) ids.push_back(bos_);
    const auto append = [&](const std::vector<int32_t>& more) { ids.insert(ids.end(), more.begin(), more.end()); };
    Random random(options_.seed, number);
    // Held-out documents stay as they are: their loss is then comparable between rates.
    if (!held_out && random.chance(options_.fim_rate) && !has_control_token(document.text)) {
      const FimParts parts = cut_for_fim(document.text, random);
      ids.push_back(fim_[0]);
      append(tokenizer_->encode_plain(parts.prefix));
      ids.push_back(fim_[1]);
      append(tokenizer_->encode_plain(parts.suffix));
      ids.push_back(fim_[2]);
      append(tokenizer_->encode_plain(parts.middle));
      ++result_.fim_documents;
    } else {
      append(tokenizer_->encode(document.text));
    }
    if (ids.empty() || ids.back() != eos_) ids.push_back(eos_);
    return ids;
  }

  void add_pieces(size_t tokens, uint64_t first, std::vector<SpooledPiece>& pieces) {
    const auto inputs = static_cast<size_t>(options_.sequence_length);
    if (tokens > inputs + 1) ++result_.cut_documents;
    while (tokens > inputs + 1) {
      pieces.push_back({first, static_cast<uint32_t>(inputs + 1)});
      first += inputs;
      tokens -= inputs;
    }
    pieces.push_back({first, static_cast<uint32_t>(tokens)});
  }

  nlohmann::ordered_json write_split(const fs::path& directory, const char* name, const int32_t* tokens,
                                     const std::vector<SpooledPiece>& pieces, PackSplit& split) {
    const auto capacity = static_cast<uint32_t>(options_.sequence_length + 1);
    std::vector<uint32_t> lengths;
    lengths.reserve(pieces.size());
    for (const SpooledPiece& piece : pieces) lengths.push_back(piece.tokens);
    Random random(options_.seed, hash_text(name));
    const std::vector<std::vector<uint32_t>> bins = best_fit_bins(lengths, capacity, random);
    split.sequences = static_cast<int64_t>(bins.size());
    const int64_t filled = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    split.padding = split.sequences * capacity - filled;

    const bool is_short = tokenizer_->vocab_size() <= most_short_tokens;
    const uint64_t row_bytes = capacity * (is_short ? sizeof(uint16_t) : sizeof(int32_t));
    const size_t rows_per_shard = std::max<uint64_t>(1, options_.shard_bytes / row_bytes);
    Progress progress(fmt::format("Writing {}", name), bins.size(), "sequences");
    nlohmann::ordered_json shards = nlohmann::ordered_json::array();
    std::vector<int32_t> row(capacity);
    for (size_t begin = 0; begin < bins.size(); begin += rows_per_shard) {
      const size_t end = std::min(begin + rows_per_shard, bins.size());
      const std::string file_name = fmt::format("{}-{:05}.safetensors", name, shards.size());
      SafetensorsWriter writer((directory / file_name).string(),
                               {{"tokens",
                                 is_short ? DType::u16 : DType::i32,
                                 {static_cast<int64_t>(end - begin), static_cast<int64_t>(capacity)}}});
      for (size_t bin = begin; bin < end; ++bin) {
        check_interrupt();
        std::fill(row.begin(), row.end(), pad_);
        size_t place = 0;
        for (const uint32_t piece : bins[bin]) {
          std::copy_n(tokens + pieces[piece].first, pieces[piece].tokens, row.data() + place);
          place += pieces[piece].tokens;
        }
        write_row(writer, row, is_short);
        progress.advance();
      }
      writer.commit();
      shards.push_back({{"file", file_name}, {"sequences", end - begin}});
    }
    return {{"documents", split.documents},
            {"tokens", split.tokens},
            {"sequences", split.sequences},
            {"padding", split.padding},
            {"shards", shards}};
  }

  static void write_row(SafetensorsWriter& writer, const std::vector<int32_t>& row, bool is_short) {
    if (!is_short) {
      writer.write(row.data(), row.size() * sizeof(int32_t));
      return;
    }
    const std::vector<uint16_t> narrow(row.begin(), row.end());
    writer.write(narrow.data(), narrow.size() * sizeof(uint16_t));
  }

  /// A checkpoint that is trained from the shards takes its tokenizer from here.
  void copy_tokenizer(const fs::path& directory) const {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json"}) {
      const std::string source = (fs::path(options_.tokenizer_directory) / name).string();
      if (file_exists(source)) write_text(directory / name, read_file(source, largest_tokenizer));
    }
  }

  nlohmann::ordered_json description(const nlohmann::ordered_json& splits) const {
    return {{"format", "fathom-tokens"},
            {"version", 1},
            {"sequence_length", options_.sequence_length},
            {"vocab_size", tokenizer_->vocab_size()},
            {"tokenizer", tokenizer_fingerprint(options_.tokenizer_directory)},
            {"bos_token_id", bos_},
            {"eos_token_id", eos_},
            {"pad_token_id", pad_},
            {"bos", options_.bos},
            {"fim_rate", options_.fim_rate},
            {"fim_documents", result_.fim_documents},
            {"validation_fraction", options_.validation},
            {"seed", options_.seed},
            {"splits", splits}};
  }

  const PackOptions& options_;
  fs::path out_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizerConfig config_;
  int32_t bos_, eos_, pad_;
  std::array<int32_t, 3> fim_{};
  std::vector<SpooledPiece> train_, validation_;
  uint64_t spooled_ = 0;  // tokens
  PackResult result_;
};

}  // namespace

std::vector<std::vector<uint32_t>> best_fit_bins(const std::vector<uint32_t>& lengths, uint32_t capacity,
                                                 Random& random) {
  std::vector<uint32_t> order(lengths.size());
  std::iota(order.begin(), order.end(), uint32_t{0});
  random.shuffle(order);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
  std::vector<std::vector<uint32_t>> bins;
  std::vector<std::vector<uint32_t>> bins_with(capacity + 1);  // room left → bins
  std::set<uint32_t> rooms;                                    // those with bins
  for (const uint32_t piece : order) {
    const uint32_t length = lengths[piece];
    const auto fit = rooms.lower_bound(length);
    uint32_t room = capacity;
    size_t bin = bins.size();
    if (fit == rooms.end()) {
      bins.emplace_back();
    } else {
      room = *fit;
      bin = bins_with[room].back();
      bins_with[room].pop_back();
      if (bins_with[room].empty()) rooms.erase(fit);
    }
    bins[bin].push_back(piece);
    room -= length;
    if (room == 0) continue;
    bins_with[room].push_back(static_cast<uint32_t>(bin));
    rooms.insert(room);
  }
  // Decreasing lengths inside every sequence and over all of them would be something to learn.
  for (std::vector<uint32_t>& bin : bins) random.shuffle(bin);
  random.shuffle(bins);
  return bins;
}

FimParts cut_for_fim(std::string_view text, Random& random) {
  const auto draw = [&] {
    size_t at = random.below(text.size() + 1);
    while (at < text.size() && (static_cast<uint8_t>(text[at]) & 0xc0u) == 0x80u) --at;
    return at;
  };
  const size_t first = draw();
  const size_t second = draw();
  const size_t begin = std::min(first, second);
  const size_t end = std::max(first, second);
  return {text.substr(0, begin), text.substr(begin, end - begin), text.substr(end)};
}

PackResult pack_corpus(const PackOptions& options) {
  return Packer(options).run();
}

}  // namespace fathom
