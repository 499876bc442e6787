#pragma once
#include <map>
#include <string>
#include <string_view>

#include "data/random.h"

namespace fathom {

/// Sentences from templates. `{one|another|}` is one of its alternatives, which may hold more of them; `$name` is a
/// variable; `~` between "a" and a word becomes "a " or "an "; `^` makes the next letter a capital. Letters that begin
/// a paragraph, follow a full stop and a blank, or an opening quotation mark become capitals by themselves.
///
/// A template is part of the program: one that is malformed or names an unknown variable throws `failure`.
class Grammar {
 public:
  explicit Grammar(Random& random) : random_(random) {}

  void set(const std::string& name, std::string value) { variables_[name] = std::move(value); }
  const std::string& get(const std::string& name) const;
  std::string expand(std::string_view pattern) const;
  /// The same without capitals: words for the middle of a sentence.
  std::string fragment(std::string_view pattern) const;
  Random& random() const { return random_; }

 private:
  void expand_into(std::string_view pattern, std::string& out) const;

  Random& random_;
  std::map<std::string, std::string> variables_;
};

/// "a" or "an", as the first letter of the word asks for.
std::string with_article(std::string_view words);
/// The text with its first letter as a capital.
std::string capitalised(std::string text);

}  // namespace fathom
