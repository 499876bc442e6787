#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pre_tokenizer.h"

#include <pcre2.h>

#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "text/unicode_classes.h"

namespace fathom {
namespace {

using Json = nlohmann::json;

constexpr const char* pattern_number = "[" FATHOM_N "]";
constexpr const char* pattern_numbers = "[" FATHOM_N "]+";

// The default of `ByteLevel` with use_regex (GPT-2).
constexpr const char* pattern_gpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?[" FATHOM_L "]+| ?[" FATHOM_N "]+| ?[^" FATHOM_SPACE FATHOM_L FATHOM_N
    "]+|[" FATHOM_SPACE "]+(?![^" FATHOM_SPACE "])|[" FATHOM_SPACE "]+";

/// A pattern as tokenizer.json spells it, and what PCRE2 runs for it. Patterns are never taken from a file: a regular
/// expression from outside can take exponential time, and every dialect differs somewhere.
struct KnownPattern {
  std::string_view spelled;
  const char* pattern;
};
constexpr std::array known_patterns = {
    KnownPattern{R"(\p{N}{1,3})", "[" FATHOM_N "]{1,3}"},
    KnownPattern{"[一-龥\u3040-ゟ゠-ヿ]+", R"([\x{4e00}-\x{9fa5}\x{3040}-\x{309f}\x{30a0}-\x{30ff}]+)"},
    KnownPattern{"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
                 "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
                 R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
                 R"(|[^\r\n)" FATHOM_L FATHOM_P FATHOM_S "]?[" FATHOM_L FATHOM_M "]+"
                 "| ?[" FATHOM_P FATHOM_S R"(]+[\r\n]*)"
                 "|[" FATHOM_SPACE R"(]*[\r\n]+)"
                 "|[" FATHOM_SPACE "]+(?![^" FATHOM_SPACE "])"
                 "|[" FATHOM_SPACE "]+"},
    KnownPattern{R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", pattern_gpt2},
};

// \w of the Rust crate regex: PCRE2's own \w has neither marks nor all of Alphabetic.
constexpr const char* pattern_word = "[" FATHOM_L FATHOM_M R"(\p{Alphabetic}\p{Nd}\p{Pc}\p{Join_Control}])";

/// Steps beyond this are not a tokenizer that anybody published; the recursion is as deep as the steps.
constexpr size_t most_steps = 16;

struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};

pcre2_match_data* thread_match_data() {
  thread_local std::unique_ptr<pcre2_match_data, FreeMatchData> data(pcre2_match_data_create(1, nullptr));
  if (!data) throw_failure("Out of memory for a regular expression match.");
  return data.get();
}

struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

/// Without a limit of steps: PCRE2's own of ten million is less than what a run of as many blanks takes, which is given
/// back one by one where no line end follows. The patterns are this file's, and none of them looks at a character more
/// than a few times, so a long text takes time in proportion and not more.
pcre2_match_context* match_context() {
  static const std::unique_ptr<pcre2_match_context, FreeMatchContext> context = [] {
    std::unique_ptr<pcre2_match_context, FreeMatchContext> made(pcre2_match_context_create(nullptr));
    if (!made) throw_failure("Out of memory for a regular expression match.");
    pcre2_set_match_limit(made.get(), std::numeric_limits<uint32_t>::max());
    return made;
  }();
  return context.get();
}

std::string pcre_message(int code) {
  std::array<PCRE2_UCHAR, 160> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

bool flag(const Json& object, const char* name, bool fallback, std::string_view where) {
  const auto found = object.find(name);
  if (found == object.end()) return fallback;
  if (!found->is_boolean())
    throw_bad_input("{}.{}: expected true or false, found {}.", where, name, found->type_name());
  return found->get<bool>();
}

std::string text_of(const Json& object, const char* name, std::string_view where) {
  const auto found = object.find(name);
  if (found == object.end()) throw_bad_input("{}: the field \"{}\" is missing.", where, name);
  if (!found->is_string()) throw_bad_input("{}.{}: expected a string, found {}.", where, name, found->type_name());
  return found->get<std::string>();
}

}  // namespace

struct PreTokenizer::Step {
  explicit Step(const char* pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error,
                         &offset, nullptr);
    if (code == nullptr) throw_failure("PCRE2 does not compile \"{}\": {}.", pattern, pcre_message(error));
    // Where the just-in-time compiler may not run (hardened kernels) the interpreter gives the same matches.
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  ~Step() { pcre2_code_free(code); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

  /// First match at or after `from`; false if there is none.
  bool match(std::string_view text, size_t from, size_t* start, size_t* end) const {
    pcre2_match_data* data = thread_match_data();
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    // The text was validated before it came here.
    int result = jit ? pcre2_jit_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, match_context())
                     : pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, data, match_context());
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, data, match_context());
    }
    if (result == PCRE2_ERROR_NOMATCH) return false;
    if (result < 0) throw_failure("Splitting a text of {} bytes failed: {}.", text.size(), pcre_message(result));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data);
    *start = span[0];
    *end = span[1];
    return *end > *start;
  }

  pcre2_code* code;
  bool jit;
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;

void PreTokenizer::add_step(const char* pattern) {
  steps_.push_back(std::make_unique<Step>(pattern));
}

PreTokenizer PreTokenizer::from_json(const Json& field, std::string_view source) {
  PreTokenizer result;
  const std::string top = fmt::format("{}: pre_tokenizer", source);
  if (!field.is_object()) throw_bad_input("{}: expected an object, found {}.", top, field.type_name());

  std::vector<std::pair<const Json*, std::string>> kinds;
  if (text_of(field, "type", top) == "Sequence") {
    const auto list = field.find("pretokenizers");
    if (list == field.end() || !list->is_array()) throw_bad_input("{}.pretokenizers: expected a list.", top);
    for (size_t index = 0; index < list->size(); ++index) {
      kinds.emplace_back(&(*list)[index], fmt::format("{}.pretokenizers[{}]", top, index));
    }
  } else {
    kinds.emplace_back(&field, top);
  }
  if (kinds.size() > most_steps) {
    throw_bad_input("{}: expected at most {} steps, found {}.", top, most_steps, kinds.size());
  }

  bool byte_level = false;
  for (const auto& [step, where] : kinds) {
    if (!step->is_object()) throw_bad_input("{}: expected an object, found {}.", where, step->type_name());
    const std::string type = text_of(*step, "type", where);
    if (byte_level) throw_bad_input("{}: a step after ByteLevel (\"{}\") is not supported.", where, type);
    if (type == "Split") {
      const std::string behavior = text_of(*step, "behavior", where);
      if (behavior != "Isolated") {
        throw_bad_input("{}.behavior: \"{}\" is not supported; expected \"Isolated\".", where, behavior);
      }
      if (flag(*step, "invert", false, where)) throw_bad_input("{}.invert: true is not supported.", where);
      const auto pattern = step->find("pattern");
      if (pattern == step->end() || !pattern->is_object()) throw_bad_input("{}.pattern: expected an object.", where);
      const std::string spelled = text_of(*pattern, "Regex", where + ".pattern");
      const KnownPattern* found = nullptr;
      for (const KnownPattern& known : known_patterns) {
        if (known.spelled == spelled) found = &known;
      }
      if (found == nullptr) {
        throw_bad_input(
            "{}.pattern.Regex: \"{}\" is none of the patterns that Fathom knows (those of DeepSeek-V3 and GPT-2).",
            where, spelled);
      }
      result.add_step(found->pattern);
    } else if (type == "Digits") {
      result.add_step(flag(*step, "individual_digits", false, where) ? pattern_number : pattern_numbers);
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (flag(*step, "add_prefix_space", true, where)) {
        throw_bad_input("{}.add_prefix_space: true is not supported; expected false.", where);
      }
      if (flag(*step, "use_regex", true, where)) result.add_step(pattern_gpt2);
    } else {
      throw_bad_input("{}.type: \"{}\" is not supported; expected Split, Digits or ByteLevel.", where, type);
    }
  }
  if (!byte_level) throw_bad_input("{}: expected ByteLevel as the last step; only byte-level BPE is supported.", top);
  return result;
}

void PreTokenizer::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  run(0, text, pieces);
}

void PreTokenizer::run(size_t step, std::string_view text, std::vector<std::string_view>& pieces) const {
  if (text.empty()) return;
  if (step == steps_.size()) {
    pieces.push_back(text);
    return;
  }
  size_t at = 0;
  size_t start = 0;
  size_t end = 0;
  while (at < text.size() && steps_[step]->match(text, at, &start, &end)) {
    run(step + 1, text.substr(at, start - at), pieces);
    run(step + 1, text.substr(start, end - start), pieces);
    at = end;
  }
  run(step + 1, text.substr(at), pieces);
}

namespace {

bool is_word(std::string_view character) {
  // Built at the first use: only a tokenizer with single_word tokens needs it.
  struct Word {
    Word() {
      int error = 0;
      PCRE2_SIZE offset = 0;
      code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern_word), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                           &error, &offset, nullptr);
      if (code == nullptr) throw_failure("PCRE2 does not compile \"{}\": {}.", pattern_word, pcre_message(error));
    }
    pcre2_code* code;
  };
  static const Word word;
  return pcre2_match(word.code, reinterpret_cast<PCRE2_SPTR>(character.data()), character.size(), 0, PCRE2_NO_UTF_CHECK,
                     thread_match_data(), nullptr) >= 0;
}

}  // namespace

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(0, utf8_step(text).bytes));
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t start = text.size() - 1;
  while (start > 0 && (static_cast<uint8_t>(text[start]) & 0xc0) == 0x80) --start;
  return is_word(text.substr(start));
}

}  // namespace fathom
