#include "formats/json.h"

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <type_traits>
#include <vector>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

/// Line and column (both from 1) of a byte of the text.
struct Place {
  size_t line = 1;
  size_t column = 1;
};

Place place_of(std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  Place place;
  place.line = 1 + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
  const size_t line_start = before.rfind('\n');
  place.column = before.size() - (line_start == std::string_view::npos ? 0 : line_start + 1);
  place.column = std::max<size_t>(place.column, 1);
  return place;
}

/// Walks the text and leaves behind how far the parser has read: its callbacks do not say where they are.
class TrackingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  TrackingIterator(const char* at, const char** reached) : at_(at), reached_(reached) {}
  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  TrackingIterator operator++(int) {
    const TrackingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** reached_;
};

/// Part of the library's message that says what is wrong, without its prefix and without the raw text it quotes.
std::string reason_of(const std::string& message) {
  std::string reason = message;
  const size_t syntax = reason.find("syntax error");
  const size_t colon = reason.find(": ");
  if (syntax != std::string::npos) {
    reason.erase(0, syntax);
  } else if (colon != std::string::npos) {
    reason.erase(0, colon + 2);
  }
  const size_t quoted = reason.find("; last read: ");
  if (quoted != std::string::npos) {
    // What comes after the quotation says what was expected; a key may hold a semicolon, so search from the end.
    const size_t expected = reason.rfind("; expected ");
    const std::string tail = expected != std::string::npos && expected > quoted ? reason.substr(expected) : "";
    reason = reason.substr(0, quoted) + tail;
  }
  return reason;
}

/// A key as it is shown in a sentence: never longer than a line.
std::string shown(const std::string& key) {
  constexpr size_t longest = 60;
  if (key.size() <= longest) return key;
  size_t cut = longest;
  while (cut > 0 && (static_cast<unsigned char>(key[cut]) & 0xc0) == 0x80) --cut;
  return key.substr(0, cut) + "...";
}

// A key of an ordered object is looked for among all others.
constexpr size_t kMostOrderedKeys = 4096;

/// Builds the document, and refuses what the library itself would accept: deep nesting and repeated keys.
template <typename Json>
class Builder : public nlohmann::json_sax<Json> {
 public:
  using typename nlohmann::json_sax<Json>::number_integer_t;
  using typename nlohmann::json_sax<Json>::number_unsigned_t;
  using typename nlohmann::json_sax<Json>::number_float_t;
  using typename nlohmann::json_sax<Json>::string_t;
  using typename nlohmann::json_sax<Json>::binary_t;

  Builder(std::string_view text, std::string_view source, int max_depth)
      : reached(text.data()), text_(text), source_(source), max_depth_(max_depth) {}

  bool null() override { return place(nullptr); }
  bool boolean(bool value) override { return place(value); }
  bool number_integer(number_integer_t value) override { return place(value); }
  bool number_unsigned(number_unsigned_t value) override { return place(value); }
  bool number_float(number_float_t value, const string_t&) override { return place(value); }
  bool string(string_t& value) override { return place(std::move(value)); }
  bool binary(binary_t& value) override { return place(std::move(value)); }
  bool start_object(size_t) override { return open(nlohmann::detail::value_t::object); }
  bool start_array(size_t) override { return open(nlohmann::detail::value_t::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    auto& object = open_.back()->template get_ref<typename Json::object_t&>();
    if (std::is_same_v<Json, nlohmann::ordered_json> && object.size() >= kMostOrderedKeys) {
      const Place at = here();
      throw_bad_input("{}: line {}, column {}: an object has more than {} keys.", source_, at.line, at.column,
                      kMostOrderedKeys);
    }
    const auto [slot, is_new] = object.emplace(name, nullptr);
    if (!is_new) {
      const Place at = here();
      throw_bad_input("{}: line {}, column {}: the key \"{}\" occurs twice in one object.", source_, at.line, at.column,
                      shown(name));
    }
    slot_ = &slot->second;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const Place at = place_of(text_, position);
    throw_bad_input("{}: line {}, column {}: not valid JSON: {}.", source_, at.line, at.column,
                    reason_of(error.what()));
  }

  Json root;
  const char* reached;

 private:
  Place here() const { return place_of(text_, static_cast<size_t>(reached - text_.data())); }

  template <typename Value>
  Json* put(Value&& value) {
    if (open_.empty()) {
      root = Json(std::forward<Value>(value));
      return &root;
    }
    if (open_.back()->is_array()) {
      auto& array = open_.back()->template get_ref<typename Json::array_t&>();
      array.emplace_back(std::forward<Value>(value));
      return &array.back();
    }
    *slot_ = Json(std::forward<Value>(value));
    return slot_;
  }

  template <typename Value>
  bool place(Value&& value) {
    put(std::forward<Value>(value));
    return true;
  }

  bool open(nlohmann::detail::value_t type) {
    if (open_.size() >= static_cast<size_t>(max_depth_)) {
      const Place at = here();
      throw_bad_input("{}: line {}, column {}: the JSON is nested deeper than {} levels.", source_, at.line, at.column,
                      max_depth_);
    }
    open_.push_back(put(type));
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  std::string_view source_;
  int max_depth_;
  std::vector<Json*> open_;  // containers around the current value; an array does not grow while a child is open
  Json* slot_ = nullptr;     // where the value of the last key goes
};

template <typename Json>
Json parse(std::string_view text, std::string_view source, int max_depth) {
  // The library's lexer indexes with an end pointer; a null pointer in an empty view would be undefined there.
  if (text.data() == nullptr) text = "";
  Builder<Json> builder(text, source, max_depth);
  const TrackingIterator first(text.data(), &builder.reached);
  const TrackingIterator last(text.data() + text.size(), &builder.reached);
  try {
    Json::sax_parse(first, last, &builder);
  } catch (const nlohmann::detail::exception& error) {
    // Numbers out of range are thrown by the library instead of reported to the builder.
    throw_bad_input("{}: not valid JSON: {}.", source, reason_of(error.what()));
  }
  return std::move(builder.root);
}

}  // namespace

nlohmann::json parse_json(std::string_view text, std::string_view source, int max_depth) {
  return parse<nlohmann::json>(text, source, max_depth);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, std::string_view source, int max_depth) {
  return parse<nlohmann::ordered_json>(text, source, max_depth);
}

nlohmann::json read_json_file(const std::string& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path);
}

}  // namespace fathom
