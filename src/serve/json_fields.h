#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "serve/api_error.h"

namespace fathom {

/// An object of a request on its way into a struct: every field is taken by name and type, null counts as absent, and
/// `finish` refuses what nobody took, so that no field is ignored in silence. Throws ApiError: 400 for a wrong type,
/// 422 for a number out of its range, naming the field by its path ("messages[2].content").
class JsonFields {
 public:
  using Json = nlohmann::ordered_json;

  /// `object` outlives this; `path` names it, empty for the whole body. 400 if it is no object.
  JsonFields(const Json& object, std::string path);

  bool has(const char* name) const;
  /// The value of a field, for the caller to look at; null if it is absent.
  const Json* take(const char* name);
  const Json& need(const char* name);
  std::optional<std::string> text(const char* name);
  std::string needed_text(const char* name);
  std::optional<bool> boolean(const char* name);
  std::optional<int64_t> integer(const char* name, int64_t least, int64_t most);
  std::optional<double> number(const char* name, double least, double most);
  /// A string, or a list of at most `most` strings; none of them empty.
  std::vector<std::string> texts(const char* name, size_t most);
  /// Takes a field that can only have these values, being what happens anyway.
  void only(const char* name, const std::vector<Json>& allowed, std::string_view reason);
  /// 400 for a field that was not taken.
  void finish() const;

  std::string path(std::string_view name) const;

 private:
  const Json& object_;
  std::string path_;
  std::set<std::string, std::less<>> taken_;
};

}  // namespace fathom
