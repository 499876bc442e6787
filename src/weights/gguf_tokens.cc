#include "weights/gguf_tokens.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/error.h"
#include "base/file.h"
#include "base/utf8.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "formats/tokenizer_json.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;

constexpr size_t kMaxTemplateBytes = size_t{16} << 20;

/// tokenizer.ggml.token_type.
enum TokenType : int64_t { kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5 };

/// tokenizer.ggml.pre.
constexpr const char* kDeepseekV3 = "deepseek-v3";
constexpr const char* kGpt2 = "gpt-2";

json deepseek_v3_splits() {
  const ordered_json none = ordered_json::array();
  return json::parse(byte_level_tokenizer_json(ordered_json::object(), none, none)["pre_tokenizer"].dump());
}

ordered_json gpt2_splits() {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
}

const json& member(const json& object, const char* name, const std::string& source) {
  if (!object.is_object() || !object.contains(name)) throw_bad_input("{}: the field {} is missing", source, name);
  return object[name];
}

std::string pre_tokenizer_name(const json& tokenizer, const std::string& source) {
  const json& splits = member(tokenizer, "pre_tokenizer", source);
  if (splits == deepseek_v3_splits()) return kDeepseekV3;
  const json* last = &splits;
  if (splits.is_object() && splits.value("type", "") == "Sequence" && splits.contains("pretokenizers") &&
      splits["pretokenizers"].is_array() && splits["pretokenizers"].size() == 1) {
    last = &splits["pretokenizers"][0];
  }
  if (last->is_object() && last->contains("type") && (*last)["type"] == "ByteLevel" && last->value("use_regex", true) &&
      !last->value("add_prefix_space", true)) {
    return kGpt2;
  }
  throw_bad_input("{}: pre_tokenizer: expected the splits of DeepSeek-V3 or GPT-2, which GGUF has names for", source);
}

/// As the published converter tells control tokens, whose `special` is false in DeepSeek's files.
bool looks_special(std::string_view text) {
  const auto between = [&](std::string_view begin, std::string_view end) {
    return text.size() > begin.size() + end.size() && text.starts_with(begin) && text.ends_with(end);
  };
  return between("<｜", "｜>") || between("<|", "|>");
}

struct Tokens {
  std::vector<std::string> texts;
  std::vector<int64_t> types;
};

Tokens read_tokens(const json& tokenizer, int64_t vocab_size, const std::string& source) {
  Tokens tokens;
  tokens.texts.resize(static_cast<size_t>(vocab_size));
  tokens.types.assign(static_cast<size_t>(vocab_size), kUnused);
  const auto set = [&](const std::string& text, const json& id, TokenType type) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() >= vocab_size) {
      throw_bad_input("{}: \"{}\": expected an id from 0 to {} (vocab_size of the model), found {}", source,
                      printable_name(text), vocab_size - 1, id.dump());
    }
    const auto at = static_cast<size_t>(id.get<int64_t>());
    tokens.texts[at] = text;
    tokens.types[at] = type;
  };
  const json& model = member(tokenizer, "model", source);
  if (model.value("type", "BPE") != "BPE") throw_bad_input("{}: model.type: expected \"BPE\"", source);
  const json& vocab = member(model, "vocab", source);
  if (!vocab.is_object()) throw_bad_input("{}: model.vocab: expected an object", source);
  for (const auto& [text, id] : vocab.items()) set(text, id, kNormal);
  if (tokenizer.contains("added_tokens") && tokenizer["added_tokens"].is_array()) {
    for (const json& token : tokenizer["added_tokens"]) {
      const json& content = member(token, "content", source);
      if (!content.is_string()) throw_bad_input("{}: added_tokens: expected a text as content", source);
      const auto text = content.get<std::string>();
      const json& special = member(token, "special", source);
      const bool control = (special.is_boolean() && special.get<bool>()) || looks_special(text);
      set(text, member(token, "id", source), control ? kControl : kUserDefined);
    }
  }
  for (size_t id = 0; id < tokens.texts.size(); ++id) {
    if (tokens.types[id] == kUnused) tokens.texts[id] = fmt::format("[PAD{}]", id);
  }
  return tokens;
}

std::vector<std::string> read_merges(const json& tokenizer, const std::string& source) {
  const json& merges = member(tokenizer["model"], "merges", source);
  if (!merges.is_array()) throw_bad_input("{}: model.merges: expected a list", source);
  std::vector<std::string> lines;
  lines.reserve(merges.size());
  for (const json& merge : merges) {
    if (merge.is_string()) {
      lines.push_back(merge.get<std::string>());
      if (lines.back().starts_with("#version")) lines.pop_back();
      continue;
    }
    const bool pair = merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
    if (!pair || merge[0].get_ref<const std::string&>().find(' ') != std::string::npos ||
        merge[1].get_ref<const std::string&>().find(' ') != std::string::npos) {
      throw_bad_input("{}: model.merges[{}]: expected two tokens without blanks", source, lines.size());
    }
    lines.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  return lines;
}

/// The text of "pad_token" and its kin: a string, or an object with it.
std::optional<std::string> token_text(const json& config, const char* name) {
  if (!config.is_object() || !config.contains(name)) return std::nullopt;
  const json& token = config[name];
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object() && token.contains("content") && token["content"].is_string()) {
    return token["content"].get<std::string>();
  }
  return std::nullopt;
}

std::optional<std::string> chat_template(const std::string& directory, const json& config) {
  if (config.is_object() && config.contains("chat_template") && config["chat_template"].is_string()) {
    return config["chat_template"].get<std::string>();
  }
  const std::string path = (fs::path(directory) / "chat_template.jinja").string();
  if (!file_exists(path)) return std::nullopt;
  std::string text = read_file(path, kMaxTemplateBytes);
  if (utf8_valid_prefix(text) != text.size()) throw_bad_input("{}: the text is not UTF-8", path);
  return text;
}

// ---- The way back ----

const std::vector<std::string>* find_texts(const GgufFile& file, const char* key) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return nullptr;
  const auto* texts = std::get_if<std::vector<std::string>>(&value->value);
  if (texts == nullptr) throw_bad_input("{}: {}: expected a list of texts", file.path(), key);
  return texts;
}

std::optional<std::string> find_text(const GgufFile& file, const char* key) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return std::nullopt;
  const auto* text = std::get_if<std::string>(&value->value);
  if (text == nullptr) throw_bad_input("{}: {}: expected a text", file.path(), key);
  return *text;
}

std::optional<int64_t> find_id(const GgufFile& file, const char* key) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return std::nullopt;
  const auto* id = std::get_if<int64_t>(&value->value);
  // −1 and its unsigned form mean "none".
  if (id == nullptr || *id < 0 || *id >= int64_t{1} << 24) return std::nullopt;
  return *id;
}

bool find_flag(const GgufFile& file, const char* key, bool fallback) {
  const GgufValue* value = file.find(key);
  if (value == nullptr) return fallback;
  const auto* flag = std::get_if<int64_t>(&value->value);
  if (flag == nullptr || value->type != GgufType::boolean) {
    throw_bad_input("{}: {}: expected true or false", file.path(), key);
  }
  return *flag != 0;
}

bool is_deepseek_control(std::string_view text) {
  return std::find(deepseek_control_tokens.begin(), deepseek_control_tokens.end(), text) !=
         deepseek_control_tokens.end();
}

/// The id from which on added tokens are not in the vocabulary: readers number those behind it one by one, so there
/// must be no hole before or among them. Published files have bos, eos and pad, which come first, in the vocabulary
/// too.
size_t first_outside_vocabulary(const std::vector<int64_t>& types) {
  size_t first = types.size();
  while (first > 0 && types[first - 1] == kUnused) --first;
  const size_t end = first;
  while (first > 0 && (types[first - 1] == kControl || types[first - 1] == kUserDefined)) --first;
  const bool hole = std::find(types.begin(), types.begin() + static_cast<ptrdiff_t>(first), int64_t{kUnused}) !=
                    types.begin() + static_cast<ptrdiff_t>(first);
  return hole ? end : first;
}

ordered_json rebuilt_tokenizer(const GgufFile& file, const std::vector<std::string>& texts,
                               const std::vector<int64_t>& types) {
  ordered_json vocab = ordered_json::object();
  // Its own `[]` looks a key up from front to back.
  auto& entries = vocab.get_ref<ordered_json::object_t&>();
  entries.reserve(texts.size());
  ordered_json added = ordered_json::array();
  std::unordered_set<std::string_view> seen;
  const auto is_added = [&](size_t id) { return types[id] == kControl || types[id] == kUserDefined; };
  const size_t behind = first_outside_vocabulary(types);
  for (size_t id = 0; id < texts.size(); ++id) {
    const std::string& text = texts[id];
    if (types[id] == kUnused) continue;
    if (text.empty() || utf8_valid_prefix(text) != text.size()) {
      throw_bad_input("{}: tokenizer.ggml.tokens[{}]: expected text in UTF-8", file.path(), id);
    }
    if (!seen.insert(text).second) {
      throw_bad_input("{}: tokenizer.ggml.tokens[{}]: \"{}\" occurs twice", file.path(), id, printable_name(text));
    }
    if (id < behind) entries.emplace_back(text, id);
    if (!is_added(id)) continue;
    const bool published = is_deepseek_control(text);
    const bool special = published ? text == "<|EOT|>" : types[id] == kControl;
    added.push_back(added_token_json(static_cast<int64_t>(id), text, special, published || !special));
  }
  ordered_json merges = ordered_json::array();
  if (const auto* lines = find_texts(file, "tokenizer.ggml.merges")) {
    for (size_t i = 0; i < lines->size(); ++i) {
      const std::string& line = (*lines)[i];
      if (utf8_valid_prefix(line) != line.size()) {
        throw_bad_input("{}: tokenizer.ggml.merges[{}]: expected text in UTF-8", file.path(), i);
      }
      merges.push_back(line);
    }
  }
  return byte_level_tokenizer_json(vocab, added, merges);
}

}  // namespace

void add_gguf_tokens(const std::string& directory, const ModelConfig& config, GgufValues& values,
                     std::vector<std::string>& notes) {
  const auto add = [&](const char* key, GgufValue value) {
    values.emplace_back(std::string("tokenizer.") + key, std::move(value));
  };
  const std::string path = (fs::path(directory) / "tokenizer.json").string();
  if (!file_exists(path)) {
    add("ggml.model", GgufValue::of_string("no_vocab"));
    notes.push_back("the checkpoint has no tokenizer.json: the file has no vocabulary");
    return;
  }
  const json tokenizer = read_json_file(path);
  const std::string pre = pre_tokenizer_name(tokenizer, path);
  Tokens tokens = read_tokens(tokenizer, config.vocab_size, path);
  const auto id_of = [&](const std::optional<std::string>& text) -> std::optional<uint32_t> {
    if (!text) return std::nullopt;
    const auto found = std::find(tokens.texts.begin(), tokens.texts.end(), *text);
    if (found == tokens.texts.end()) return std::nullopt;
    return static_cast<uint32_t>(found - tokens.texts.begin());
  };
  const std::string config_path = (fs::path(directory) / "tokenizer_config.json").string();
  const json tokenizer_config = file_exists(config_path) ? read_json_file(config_path) : json::object();
  const std::optional<uint32_t> pad = id_of(token_text(tokenizer_config, "pad_token"));

  add("ggml.model", GgufValue::of_string("gpt2"));
  add("ggml.pre", GgufValue::of_string(pre));
  add("ggml.tokens", GgufValue::of_strings(std::move(tokens.texts)));
  add("ggml.token_type", GgufValue::of_i32s(std::move(tokens.types)));
  add("ggml.merges", GgufValue::of_strings(read_merges(tokenizer, path)));
  if (config.bos_token_id) add("ggml.bos_token_id", GgufValue::of_u32(static_cast<uint32_t>(*config.bos_token_id)));
  if (!config.eos_token_ids.empty()) {
    add("ggml.eos_token_id", GgufValue::of_u32(static_cast<uint32_t>(config.eos_token_ids[0])));
  }
  if (pad) add("ggml.padding_token_id", GgufValue::of_u32(*pad));
  for (const char* name : {"add_bos_token", "add_eos_token"}) {
    if (tokenizer_config.is_object() && tokenizer_config.contains(name) && tokenizer_config[name].is_boolean()) {
      add(fmt::format("ggml.{}", name).c_str(), GgufValue::of_bool(tokenizer_config[name].get<bool>()));
    }
  }
  if (auto text = chat_template(directory, tokenizer_config)) {
    add("chat_template", GgufValue::of_string(std::move(*text)));
  }
}

std::optional<TokenizerFiles> gguf_tokenizer_files(const GgufFile& file, const ModelConfig& config,
                                                   std::vector<std::string>& notes) {
  const std::string model = find_text(file, "tokenizer.ggml.model").value_or("none");
  const std::string pre = find_text(file, "tokenizer.ggml.pre").value_or("none");
  if (model != "gpt2" || (pre != kDeepseekV3 && pre != kGpt2)) {
    notes.push_back(
        fmt::format("the tokenizer (model {}, splits {}) cannot be written as one that Fathom reads: no "
                    "tokenizer.json",
                    printable_name(model), printable_name(pre)));
    return std::nullopt;
  }
  const auto* texts = find_texts(file, "tokenizer.ggml.tokens");
  if (texts == nullptr) throw_bad_input("{}: the key tokenizer.ggml.tokens is missing", file.path());
  if (std::ssize(*texts) > config.vocab_size) {
    throw_bad_input("{}: tokenizer.ggml.tokens: expected at most {} tokens (vocab_size of the model), found {}",
                    file.path(), config.vocab_size, texts->size());
  }
  std::vector<int64_t> types(texts->size(), kNormal);
  if (const GgufValue* value = file.find("tokenizer.ggml.token_type")) {
    const auto* list = std::get_if<std::vector<int64_t>>(&value->value);
    if (list == nullptr || list->size() != texts->size()) {
      throw_bad_input("{}: tokenizer.ggml.token_type: expected a list of {} whole numbers", file.path(), texts->size());
    }
    types = *list;
  }
  ordered_json tokenizer = rebuilt_tokenizer(file, *texts, types);
  if (pre == kGpt2) tokenizer["pre_tokenizer"] = gpt2_splits();

  const auto text_of = [&](std::optional<int64_t> id) -> const std::string* {
    if (!id || *id >= std::ssize(*texts) || types[static_cast<size_t>(*id)] == kUnused) return nullptr;
    return &(*texts)[static_cast<size_t>(*id)];
  };
  const std::string* bos = text_of(config.bos_token_id);
  const std::string* eos =
      config.eos_token_ids.empty() ? nullptr : text_of(std::optional<int64_t>(config.eos_token_ids[0]));
  const std::string* pad = text_of(find_id(file, "tokenizer.ggml.padding_token_id"));
  const auto jinja = find_text(file, "tokenizer.chat_template");
  ordered_json settings = tokenizer_config_json(eos == nullptr ? eos_token_text : eos->c_str(),
                                                config.max_position_embeddings, jinja ? jinja->c_str() : "");
  const auto set_token = [&](const char* name, const std::string* text) {
    if (text == nullptr) {
      settings[name] = nullptr;
    } else {
      if (settings[name].is_null()) settings[name] = ordered_json::object();
      settings[name]["content"] = *text;
    }
  };
  set_token("bos_token", bos);
  set_token("eos_token", eos);
  set_token("pad_token", pad);
  settings["add_bos_token"] = find_flag(file, "tokenizer.ggml.add_bos_token", bos != nullptr);
  settings["add_eos_token"] = find_flag(file, "tokenizer.ggml.add_eos_token", false);
  if (!jinja) {
    settings.erase("chat_template");
    notes.push_back("the file has no chat template");
  }
  return TokenizerFiles{tokenizer.dump(1) + "\n", settings.dump(2) + "\n"};
}

void read_gguf_token_ids(const GgufFile& file, ModelConfig& config) {
  config.bos_token_id = find_id(file, "tokenizer.ggml.bos_token_id");
  if (const auto eos = find_id(file, "tokenizer.ggml.eos_token_id")) config.eos_token_ids.push_back(*eos);
  const auto turn = find_id(file, "tokenizer.ggml.eot_token_id");
  if (turn && (config.eos_token_ids.empty() || *turn != config.eos_token_ids[0])) {
    config.eos_token_ids.push_back(*turn);
  }
}

}  // namespace fathom
