#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "data/random.h"

namespace fathom {

/// Parts of all requests of a load test that are something else than a stream read to its end; each 0 to 1, and no
/// more than 1 together.
struct LoadShares {
  double cancel = 0;     ///< the connection is closed at a random token
  double slow = 0;       ///< read in small pieces with pauses, or not at all for seconds from a random token on
  double malformed = 0;  ///< bodies that no server may take
  double oversized = 0;  ///< bodies of a gigabyte, or prompts that are longer than the context
};

/// What a load test asks for.
struct LoadContent {
  std::string model;
  uint64_t seed = 0;
  int64_t prompt_bytes = 1024;  ///< about; what the server's chat template adds is not counted
  int64_t max_tokens = 128;
  double temperature = 1;
  int64_t too_long_bytes = 0;  ///< of a prompt that is longer than the context; 0: there are none
  LoadShares shares;
};

/// One request of a load test.
struct LoadRequest {
  enum class Kind { plain, cancelled, slow, stalling, malformed, oversized };
  /// How an oversized one is sent: with the length of a gigabyte in its head, in chunks for as long as they are taken,
  /// or whole, being text that the context does not hold.
  enum class Size { ordinary, announced, chunked, prompt };

  Kind kind = Kind::plain;
  Size size = Size::ordinary;
  int64_t source = 0;    ///< of two requests with one source, prompt and seed are the same
  int64_t at_token = 0;  ///< cancelled, stalling: the token at which that happens
  int64_t stall_ms = 0;  ///< stalling: for how long
  std::string body;      ///< announced and chunked: its beginning
};

/// The requests of a load test: the same for the same content and number, on every machine. Half of the prompts begin
/// with one of four long texts, one in eight is an earlier one again; all are parts of stories.
class LoadRequests {
 public:
  explicit LoadRequests(LoadContent content);

  LoadRequest request(int64_t number) const;
  /// The body of the plain request of this source.
  std::string body(int64_t source) const;

 private:
  int64_t source_of(int64_t number) const;
  std::string malformed_body(const std::string& body, Random& random) const;

  LoadContent content_;
  std::vector<std::string> beginnings_;
};

/// Stories in plain words, `bytes` or a little less, cut behind a word.
std::string load_text(Random& random, int64_t bytes);

}  // namespace fathom
