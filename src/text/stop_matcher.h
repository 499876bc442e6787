#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// Finds stop strings in a stream of text.
class StopMatcher {
 public:
  /// `bad_input` if one of them is empty.
  explicit StopMatcher(std::vector<std::string> stop);
  /// Adds text and returns what cannot belong to a stop string any more; after a match, what stood before it.
  std::string push(std::string_view text);
  /// What was held back for nothing.
  std::string finish();
  bool matched() const { return matched_; }

 private:
  std::vector<std::string> stop_;
  std::string pending_;
  bool matched_ = false;
};

}  // namespace fathom
