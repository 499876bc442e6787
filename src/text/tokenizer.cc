#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "formats/json.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"

namespace fathom {
namespace {

using Json = nlohmann::json;

/// Tables are indexed by id; DeepSeek-V3 has 129 280, the largest vocabularies in use about a million.
constexpr int64_t id_limit = int64_t{1} << 24;
/// Ids without a token that even a tiny vocabulary may leave.
constexpr size_t most_holes = 65536;
/// Added tokens are searched at every place of a text, so their length bounds the time per byte.
constexpr size_t longest_added_token = 1024;
/// DeepSeek-V3's file has 7.8 MB.
constexpr size_t largest_file = size_t{256} << 20;

/// The printable character that stands for each byte in tokenizer.json (GPT-2's table), as code points.
std::array<uint32_t, 256> byte_characters() {
  std::array<uint32_t, 256> characters{};
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad);
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

/// Bytes of a token as it is spelled in tokenizer.json. As in the Hugging Face library a token with any character
/// outside the table stands for itself.
class ByteTable {
 public:
  ByteTable() : characters_(byte_characters()) {
    byte_of_.fill(-1);
    for (size_t byte = 0; byte < 256; ++byte) byte_of_[characters_[byte]] = static_cast<int16_t>(byte);
  }

  std::string bytes_of(std::string_view token) const {
    std::string bytes;
    for (size_t at = 0; at < token.size(); at += utf8_step(token.substr(at)).bytes) {
      const uint32_t character = utf8_code_point(token.substr(at));
      if (character >= byte_of_.size() || byte_of_[character] < 0) return std::string(token);
      bytes.push_back(static_cast<char>(byte_of_[character]));
    }
    return bytes;
  }

  std::string spelling_of(uint8_t byte) const {
    const uint32_t character = characters_[byte];
    if (character < 0x80) return std::string(1, static_cast<char>(character));
    return {static_cast<char>(0xc0 | character >> 6), static_cast<char>(0x80 | (character & 0x3f))};
  }

 private:
  std::array<uint32_t, 256> characters_;
  std::array<int16_t, 324> byte_of_{};  // 256 + 68 bytes that are not printable
};

/// A token's text for a sentence: never longer than a line.
std::string shown(std::string_view text) {
  constexpr size_t longest = 60;
  if (text.size() <= longest) return std::string(text);
  size_t cut = longest;
  while (cut > 0 && (static_cast<uint8_t>(text[cut]) & 0xc0) == 0x80) --cut;
  return std::string(text.substr(0, cut)) + "...";
}

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

/// Finds added tokens in a text: the leftmost, of several at one place the longest. A trie over bytes.
class AddedMatcher {
 public:
  void add(std::string_view content, size_t token) {
    if (nodes_.empty()) nodes_.emplace_back();
    uint32_t node = 0;
    for (const char character : content) {
      const auto byte = static_cast<uint8_t>(character);
      uint32_t child = child_of(node, byte);
      if (child == 0) {
        child = static_cast<uint32_t>(nodes_.size());
        nodes_[node].children.emplace_back(byte, child);
        nodes_.emplace_back();
      }
      node = child;
    }
    if (nodes_[node].token < 0) nodes_[node].token = static_cast<int32_t>(token);
    starts_[static_cast<uint8_t>(content[0])] = true;
  }

  bool empty() const { return nodes_.empty(); }

  struct Match {
    size_t start;
    size_t end;
    size_t token;
  };

  /// The first match at or after `from`; false if there is none.
  bool find(std::string_view text, size_t from, Match* match) const {
    if (nodes_.empty()) return false;
    for (size_t at = from; at < text.size(); ++at) {
      if (!starts_[static_cast<uint8_t>(text[at])]) continue;
      uint32_t node = 0;
      int32_t token = -1;
      size_t end = at;
      for (size_t next = at; next < text.size(); ++next) {
        node = child_of(node, static_cast<uint8_t>(text[next]));
        if (node == 0) break;
        if (nodes_[node].token >= 0) {
          token = nodes_[node].token;
          end = next + 1;
        }
      }
      if (token >= 0) {
        *match = Match{at, end, static_cast<size_t>(token)};
        return true;
      }
    }
    return false;
  }

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;
    int32_t token = -1;
  };

  /// 0, the root, means none.
  uint32_t child_of(uint32_t node, uint8_t byte) const {
    for (const auto& [label, child] : nodes_[node].children) {
      if (label == byte) return child;
    }
    return 0;
  }

  std::vector<Node> nodes_;
  std::array<bool, 256> starts_{};
};

/// Reads fields of one JSON object and names it in sentences.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object()) throw_bad_input("{}: expected an object, found {}.", where_, object.type_name());
  }

  const Json* find(const char* name) const {
    const auto found = object_.find(name);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  const Json& at(const char* name) const {
    const Json* found = find(name);
    if (found == nullptr) throw_bad_input("{}: the field \"{}\" is missing.", where_, name);
    return *found;
  }
  std::string text(const char* name) const {
    const Json& value = at(name);
    if (!value.is_string()) throw_bad_input("{}.{}: expected a string, found {}.", where_, name, value.type_name());
    return value.get<std::string>();
  }
  bool flag(const char* name) const { return to_flag(name, at(name)); }
  bool flag(const char* name, bool fallback) const {
    const Json* value = find(name);
    return value == nullptr ? fallback : to_flag(name, *value);
  }
  const std::string& where() const { return where_; }

 private:
  bool to_flag(const char* name, const Json& value) const {
    if (!value.is_boolean()) {
      throw_bad_input("{}.{}: expected true or false, found {}.", where_, name, value.type_name());
    }
    return value.get<bool>();
  }

  const Json& object_;
  std::string where_;
};

int32_t to_id(const Json& value, std::string_view where, std::string_view token) {
  if (!value.is_number_integer()) {
    throw_bad_input("{}: the id of \"{}\" is not a whole number.", where, shown(token));
  }
  // A value above the signed range is unsigned in the document and would wrap.
  const bool fits = value.is_number_unsigned() ? value.get<uint64_t>() < static_cast<uint64_t>(id_limit)
                                               : value.get<int64_t>() >= 0 && value.get<int64_t>() < id_limit;
  if (!fits) {
    throw_bad_input("{}: the id of \"{}\" is {}; expected 0 to {}.", where, shown(token), value.dump(), id_limit - 1);
  }
  return value.get<int32_t>();
}

}  // namespace

struct Tokenizer::Data {
  struct Token {
    size_t offset = 0;
    uint32_t bytes = 0;
    bool known = false;
    bool special = false;
    bool added = false;
  };

  Bpe bpe;
  PreTokenizer pre_tokenizer;
  std::vector<Token> tokens;  // by id
  std::string text;           // bytes of all tokens, one after the other
  std::vector<AddedToken> added;
  std::unordered_map<std::string_view, int32_t> added_id;
  AddedMatcher as_written;  // normalized false: these are searched first, in the whole text
  AddedMatcher normalized;  // normalized true: searched in what is left
  bool ignore_merges = false;
  std::unordered_map<std::string, int32_t> whole;  // by bytes; only filled for ignore_merges

  void set_token(int32_t id, std::string_view bytes, bool special, bool is_added);
  void read_model(const Json& json, std::string_view source, std::unordered_map<std::string_view, int32_t>& vocab);
  void read_merges(const Json& merges, const std::unordered_map<std::string_view, int32_t>& vocab,
                   const std::string& where);
  void read_added_tokens(const Json& list, const std::unordered_map<std::string_view, int32_t>& vocab,
                         std::string_view source);

  void encode_text(std::string_view piece_text, bool plain, std::vector<int32_t>& ids) const;
  template <typename Between>
  void cut(const AddedMatcher& matcher, std::string_view part, std::vector<int32_t>& ids, Between&& between) const;
};

namespace {
const ByteTable& byte_table() {
  static const ByteTable table;
  return table;
}
}  // namespace

void Tokenizer::Data::set_token(int32_t id, std::string_view bytes, bool special, bool is_added) {
  const auto index = static_cast<size_t>(id);
  if (index >= tokens.size()) tokens.resize(index + 1);
  tokens[index] = Token{text.size(), static_cast<uint32_t>(bytes.size()), true, special, is_added};
  text.append(bytes);
}

void Tokenizer::Data::read_model(const Json& json, std::string_view source,
                                 std::unordered_map<std::string_view, int32_t>& vocab) {
  const Fields model(json, fmt::format("{}: model", source));
  const std::string& where = model.where();
  if (const Json* type = model.find("type"); type != nullptr && *type != "BPE") {
    throw_bad_input("{}.type: {} is not supported; expected \"BPE\".", where, shown(type->dump()));
  }
  if (const Json* dropout = model.find("dropout");
      dropout != nullptr && !(dropout->is_number() && dropout->get<double>() == 0.0)) {
    throw_bad_input("{}.dropout: {} is not supported; expected null.", where, shown(dropout->dump()));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (const Json* affix = model.find(name);
        affix != nullptr && !(affix->is_string() && affix->get_ref<const std::string&>().empty())) {
      throw_bad_input("{}.{}: {} is not supported; expected null.", where, name, shown(affix->dump()));
    }
  }
  if (model.flag("byte_fallback", false)) throw_bad_input("{}.byte_fallback: true is not supported.", where);
  ignore_merges = model.flag("ignore_merges", false);

  const Json& vocab_json = model.at("vocab");
  if (!vocab_json.is_object())
    throw_bad_input("{}.vocab: expected an object, found {}.", where, vocab_json.type_name());
  const std::string vocab_where = where + ".vocab";
  int32_t greatest = -1;
  vocab.reserve(vocab_json.size());
  for (const auto& [token, id_json] : vocab_json.get_ref<const Json::object_t&>()) {
    const int32_t id = to_id(id_json, vocab_where, token);
    vocab.emplace(token, id);
    greatest = std::max(greatest, id);
  }
  // Tables are as long as the greatest id: a short file must not ask for much memory.
  if (static_cast<size_t>(greatest) + 1 > vocab_json.size() * 16 + most_holes) {
    throw_bad_input("{}: the greatest id is {}, but there are only {} tokens.", vocab_where, greatest,
                    vocab_json.size());
  }
  tokens.resize(static_cast<size_t>(greatest) + 1);
  const ByteTable& table = byte_table();
  for (const auto& [token, id_json] : vocab_json.get_ref<const Json::object_t&>()) {
    const auto id = id_json.get<int32_t>();
    if (tokens[static_cast<size_t>(id)].known) {
      throw_bad_input("{}: \"{}\" and another token both have the id {}.", vocab_where, shown(token), id);
    }
    const std::string bytes = table.bytes_of(token);
    set_token(id, bytes, false, false);
    // Only a spelling inside the table can be what a piece of text is looked up as.
    if (ignore_merges && (bytes != token || std::all_of(token.begin(), token.end(), [](char character) {
                            return character >= '!' && character <= '~';
                          }))) {
      whole.emplace(bytes, id);
    }
  }

  for (int byte = 0; byte < 256; ++byte) {
    const auto found = vocab.find(table.spelling_of(static_cast<uint8_t>(byte)));
    if (found != vocab.end()) bpe.set_byte(static_cast<uint8_t>(byte), found->second);
  }
  if (model.find("unk_token") != nullptr) {
    const std::string unknown = model.text("unk_token");
    const auto found = vocab.find(unknown);
    if (found == vocab.end()) {
      throw_bad_input("{}.unk_token: \"{}\" is not in the vocabulary.", where, shown(unknown));
    }
    bpe.set_unknown(found->second, model.flag("fuse_unk", false));
  }
  read_merges(model.at("merges"), vocab, where + ".merges");
}

void Tokenizer::Data::read_merges(const Json& merges, const std::unordered_map<std::string_view, int32_t>& vocab,
                                  const std::string& where) {
  if (!merges.is_array()) throw_bad_input("{}: expected a list, found {}.", where, merges.type_name());
  bpe.reserve(merges.size());
  const auto id_of = [&](std::string_view token, size_t index) {
    const auto found = vocab.find(token);
    if (found == vocab.end()) {
      throw_bad_input("{}[{}]: the token \"{}\" is not in the vocabulary.", where, index, shown(token));
    }
    return found->second;
  };
  const bool pairs = !merges.empty() && merges[0].is_array();
  uint32_t rank = 0;
  std::string joined;
  for (size_t index = 0; index < merges.size(); ++index) {
    const Json& merge = merges[index];
    std::string_view left;
    std::string_view right;
    if (pairs) {
      if (!merge.is_array() || merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) {
        throw_bad_input("{}[{}]: expected a pair of tokens, as in the first entry.", where, index);
      }
      left = merge[0].get_ref<const std::string&>();
      right = merge[1].get_ref<const std::string&>();
    } else {
      if (!merge.is_string()) throw_bad_input("{}[{}]: expected a string, found {}.", where, index, merge.type_name());
      const std::string_view line = merge.get_ref<const std::string&>();
      if (line.substr(0, 8) == "#version") continue;  // a header that old files carry along; it has no rank
      const size_t blank = line.find(' ');
      if (blank == std::string_view::npos || line.find(' ', blank + 1) != std::string_view::npos) {
        throw_bad_input("{}[{}]: expected two tokens with one blank between them, found \"{}\".", where, index,
                        shown(line));
      }
      left = line.substr(0, blank);
      right = line.substr(blank + 1);
    }
    const int32_t left_id = id_of(left, index);
    const int32_t right_id = id_of(right, index);
    joined.assign(left).append(right);
    bpe.add_merge(left_id, right_id, rank++, id_of(joined, index));
  }
}

void Tokenizer::Data::read_added_tokens(const Json& list, const std::unordered_map<std::string_view, int32_t>& vocab,
                                        std::string_view source) {
  if (!list.is_array()) throw_bad_input("{}: added_tokens: expected a list, found {}.", source, list.type_name());
  // The library gives the ids itself and ignores the file's; where the two differ the file is not what it seems.
  auto next_id = static_cast<int64_t>(vocab.size());
  int64_t greatest = -1;
  std::unordered_set<std::string> seen;
  added.reserve(list.size());
  for (size_t index = 0; index < list.size(); ++index) {
    const Fields fields(list[index], fmt::format("{}: added_tokens[{}]", source, index));
    AddedToken token;
    token.content = fields.text("content");
    token.id = to_id(fields.at("id"), fields.where(), token.content);
    token.single_word = fields.flag("single_word");
    token.lstrip = fields.flag("lstrip");
    token.rstrip = fields.flag("rstrip");
    token.normalized = fields.flag("normalized");
    token.special = fields.flag("special");
    if (token.content.empty()) continue;  // as the library: it can never be found
    if (token.content.size() > longest_added_token) {
      throw_bad_input("{}: \"{}\" has {} bytes; expected at most {}.", fields.where(), shown(token.content),
                      token.content.size(), longest_added_token);
    }
    if (!seen.insert(token.content).second) {
      throw_bad_input("{}: \"{}\" is listed twice.", fields.where(), shown(token.content));
    }
    const auto in_vocab = vocab.find(token.content);
    const int64_t expected = in_vocab != vocab.end() ? in_vocab->second : std::max(next_id, greatest + 1);
    if (token.id != expected) {
      throw_bad_input("{}: \"{}\" has the id {}, but the tokenizers library would give it {}.", fields.where(),
                      shown(token.content), token.id, expected);
    }
    if (in_vocab == vocab.end() && static_cast<size_t>(token.id) < tokens.size() &&
        tokens[static_cast<size_t>(token.id)].known) {
      throw_bad_input("{}: \"{}\" has the id {}, which is another token of the vocabulary.", fields.where(),
                      shown(token.content), token.id);
    }
    greatest = std::max<int64_t>(greatest, token.id);
    added.push_back(std::move(token));
  }
  for (size_t index = 0; index < added.size(); ++index) {
    const AddedToken& token = added[index];
    set_token(token.id, byte_table().bytes_of(token.content), token.special, true);
    added_id.emplace(token.content, token.id);
    (token.normalized ? normalized : as_written).add(token.content, index);
  }
}

/// Pieces of `part` that are added tokens become ids; `between` gets the rest. Follows the library step by step, so
/// that the settings that move a match's ends combine as they do there.
template <typename Between>
void Tokenizer::Data::cut(const AddedMatcher& matcher, std::string_view part, std::vector<int32_t>& ids,
                          Between&& between) const {
  size_t done = 0;
  size_t from = 0;
  AddedMatcher::Match match{};
  while (matcher.find(part, from, &match)) {
    from = match.end;
    const AddedToken& token = added[match.token];
    size_t start = match.start;
    size_t end = match.end;
    if (token.single_word && (ends_with_word(part.substr(0, start)) || starts_with_word(part.substr(end)))) continue;
    if (token.lstrip) {
      while (start > 0) {
        size_t previous = start - 1;
        while ((static_cast<uint8_t>(part[previous]) & 0xc0) == 0x80) --previous;
        if (!is_white_space(utf8_code_point(part.substr(previous)))) break;
        start = previous;
      }
      start = std::max(start, done);
    }
    if (token.rstrip) {
      while (end < part.size() && is_white_space(utf8_code_point(part.substr(end)))) {
        end += utf8_step(part.substr(end)).bytes;
      }
    }
    if (done < start) between(part.substr(done, start - done));
    ids.push_back(token.id);
    done = end;
  }
  if (done < part.size()) between(part.substr(done));
}

void Tokenizer::Data::encode_text(std::string_view piece_text, bool plain, std::vector<int32_t>& ids) const {
  thread_local std::vector<std::string_view> pieces;
  pieces.clear();
  pre_tokenizer.split(piece_text, pieces);
  for (const std::string_view piece : pieces) {
    if (ignore_merges) {
      const auto found = whole.find(std::string(piece));
      // Text from a user must not become a control token, even where the vocabulary holds one.
      if (found != whole.end() && !(plain && tokens[static_cast<size_t>(found->second)].added)) {
        ids.push_back(found->second);
        continue;
      }
    }
    bpe.encode(piece, ids);
  }
  if (pieces.capacity() > (size_t{1} << 20)) std::vector<std::string_view>().swap(pieces);
}

Tokenizer::Tokenizer() : data_(std::make_unique<Data>()) {}
Tokenizer::~Tokenizer() = default;

std::unique_ptr<Tokenizer> Tokenizer::from_json(std::string_view text, std::string_view source) {
  const Json json = parse_json(text, source);
  const Fields top(json, std::string(source));
  if (const Json* version = top.find("version"); version != nullptr && *version != "1.0") {
    throw_bad_input("{}: version: expected \"1.0\", found {}.", source, shown(version->dump()));
  }
  for (const char* name : {"truncation", "padding"}) {
    if (top.find(name) != nullptr) throw_bad_input("{}: {}: only null is supported.", source, name);
  }
  if (const Json* normalizer = top.find("normalizer"); normalizer != nullptr) {
    const Fields fields(*normalizer, fmt::format("{}: normalizer", source));
    const std::string type = fields.text("type");
    if (type != "Sequence") {
      throw_bad_input("{}: normalizer.type: \"{}\" is not supported; expected null or an empty Sequence.", source,
                      shown(type));
    }
    const Json& list = fields.at("normalizers");
    if (!list.is_array()) throw_bad_input("{}: normalizer.normalizers: expected a list.", source);
    if (!list.empty()) {
      const Fields first(list[0], fmt::format("{}: normalizer.normalizers[0]", source));
      throw_bad_input("{}.type: \"{}\" is not supported; expected an empty list.", first.where(),
                      shown(first.text("type")));
    }
  }
  // The post-processor adds tokens such as BOS only where the caller asks for them; `encode` never does.
  const Fields decoder(top.at("decoder"), fmt::format("{}: decoder", source));
  if (const std::string type = decoder.text("type"); type != "ByteLevel") {
    throw_bad_input("{}: decoder.type: \"{}\" is not supported; expected \"ByteLevel\".", source, shown(type));
  }

  std::unique_ptr<Tokenizer> tokenizer(new Tokenizer());
  Data& data = *tokenizer->data_;
  data.pre_tokenizer = PreTokenizer::from_json(top.at("pre_tokenizer"), source);
  std::unordered_map<std::string_view, int32_t> vocab;
  data.read_model(top.at("model"), source, vocab);
  if (const Json* added = top.find("added_tokens"); added != nullptr) {
    data.read_added_tokens(*added, vocab, source);
  }
  return tokenizer;
}

std::unique_ptr<Tokenizer> Tokenizer::load(const std::string& directory_or_file) {
  std::error_code ignored;
  const std::string path = std::filesystem::is_directory(directory_or_file, ignored)
                               ? (std::filesystem::path(directory_or_file) / "tokenizer.json").string()
                               : directory_or_file;
  return from_json(read_file(path, largest_file), path);
}

namespace {
void require_utf8(std::string_view text) {
  const size_t valid = utf8_valid_prefix(text);
  if (valid != text.size()) {
    throw_bad_input("The text is not UTF-8: the byte 0x{:02x} at offset {} does not fit.",
                    static_cast<uint8_t>(text[valid]), valid);
  }
}
}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  require_utf8(text);
  std::vector<int32_t> ids;
  data_->cut(data_->as_written, text, ids, [&](std::string_view outer) {
    data_->cut(data_->normalized, outer, ids, [&](std::string_view inner) { data_->encode_text(inner, false, ids); });
  });
  return ids;
}

std::vector<int32_t> Tokenizer::encode_plain(std::string_view text) const {
  require_utf8(text);
  std::vector<int32_t> ids;
  data_->encode_text(text, true, ids);
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids) bytes += token_bytes(id, skip_special);
  if (utf8_valid_prefix(bytes) == bytes.size()) return bytes;
  std::string text;
  append_lossy(text, bytes, false);
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t id, bool skip_special) const {
  if (id < 0 || id >= vocab_size()) return {};
  const Data::Token& token = data_->tokens[static_cast<size_t>(id)];
  if (skip_special && token.special) return {};
  return std::string_view(data_->text).substr(token.offset, token.bytes);
}

std::optional<int32_t> Tokenizer::added_token(std::string_view content) const {
  const auto found = data_->added_id.find(content);
  if (found == data_->added_id.end()) return std::nullopt;
  return found->second;
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && data_->tokens[static_cast<size_t>(id)].special;
}

int32_t Tokenizer::vocab_size() const {
  return static_cast<int32_t>(data_->tokens.size());
}

std::string StreamDecoder::push(int32_t id) {
  pending_ += tokenizer_.token_bytes(id, skip_special_);
  std::string text;
  pending_.erase(0, append_lossy(text, pending_, true));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_lossy(text, pending_, false);
  pending_.clear();
  return text;
}

}  // namespace fathom
