#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "serve/load_requests.h"

namespace fathom {

/// Where a server is: "http://127.0.0.1:8080", "https://[::1]/behind/a/proxy".
struct ServerUrl {
  bool tls = false;
  std::string host;  ///< without the brackets of an IPv6 address
  uint16_t port = 80;
  std::string path;  ///< what comes before the API's paths, without a slash at its end
};

/// `bad_input` names what is wrong. A "/v1" at the end, as base addresses of the API have it, is left out.
ServerUrl parse_server_url(std::string_view text);

/// Durations as they were measured, in the order in which they ended; in microseconds, of which longer ones than an
/// hour are that.
class Durations {
 public:
  struct Sample {
    uint32_t at_ms;  ///< since the level began
    uint32_t us;
  };

  void add(double at_seconds, double seconds);
  const std::vector<Sample>& samples() const { return samples_; }
  /// Of the samples that ended at `begin` or later and before `end` (seconds), shortest first, in seconds.
  std::vector<double> sorted(double begin = 0, double end = 1e18) const;

 private:
  std::vector<Sample> samples_;
};

/// The nearest-rank percentile: the least of the sorted values that `percent` % of them do not exceed. NaN of none.
double percentile(std::span<const double> sorted, double percent);

struct LoadOptions {
  std::string url;
  std::string key;        ///< sent as "authorization: Bearer"; empty: none
  bool insecure = false;  ///< https: whatever the certificate says
  std::vector<int64_t> concurrent = {16};
  double seconds = 30;   ///< new requests begin for this long at each level
  int64_t requests = 0;  ///< of a level; more than 0: instead of `seconds`
  int64_t prompt_tokens = 256;
  int64_t max_tokens = 128;
  double temperature = 1;
  uint64_t seed = 0;
  LoadShares shares;
  /// Most prompts that are asked again at the end, alone. Before, others are asked until the server's cache holds none
  /// of them; those that were found there under load are left out.
  int64_t verify = 0;
  /// What is being done, how much of it is done, and of how much (0: not known). Called a few times a second.
  std::function<void(const std::string& what, const std::string& unit, int64_t done, int64_t of)> on_progress;
};

/// Requests that cannot succeed, and the statuses they were refused with.
struct LoadRefusals {
  int64_t sent = 0;
  std::map<int, int64_t> refused;
};

/// What was measured with so many streams open at once.
struct LoadLevel {
  int64_t concurrent = 0;
  double seconds = 0;  ///< from the first request to the end of the last

  // Streams:
  int64_t completed = 0;           ///< read to their end, which was in order
  int64_t slow = 0;                ///< of these, those that were read slowly; in no duration below
  int64_t cancelled = 0;           ///< by this side, as asked for
  int64_t cut = 0;                 ///< by this side, because it was interrupted
  std::map<int, int64_t> refused;  ///< by status
  /// What came instead of an answer or a refusal; why, and how often.
  std::map<std::string, int64_t> broken;
  LoadRefusals malformed, oversized;

  // Of what `usage` says of completed ones:
  int64_t prompt_tokens = 0, output_tokens = 0;
  std::optional<int64_t> hit_tokens;  ///< of prompts, found in the server's cache

  /// From sending a request to the first piece of text, from piece to piece, and to the end of the reply.
  Durations first_token, between_tokens, request;
  Durations health;  ///< of GET /health, asked every 100 ms; from when it was due
  int64_t health_failed = 0;

  /// Resident memory of the server, as /metrics says, once a second and at both ends; bytes.
  struct Memory {
    double at_seconds;
    double bytes;
  };
  std::vector<Memory> memory;
  double client_cpu_seconds = 0;  ///< of this process

  int64_t broken_count() const;
  /// The greatest resident memory in each minute.
  std::vector<double> memory_per_minute() const;
};

struct LoadReport {
  std::string model;
  std::vector<LoadLevel> levels;
  bool interrupted = false;

  // With LoadOptions::verify:
  int64_t asked_again = 0;
  int64_t mismatches = 0;    ///< of these, answered otherwise than under load
  int64_t not_compared = 0;  ///< of these, found in the server's cache in part, which may change last bits
  int64_t unanswered = 0;    ///< of these, not completed
  std::string example;       ///< of a mismatch: a sentence

  int64_t completed() const;
  int64_t broken() const;
};

/// Loads a server with streams of /v1/chat/completions, so many at once that each one that ends is followed by the next
/// (a closed loop), and measures from the client's side. One thread, this one.
///
/// `interrupted()` (base/interrupt.h) ends it early, with what was measured until then. `bad_input`: an option or the
/// key is wrong; `failure`: the server is not there, or does not say which model it has.
LoadReport run_load_test(const LoadOptions& options);

}  // namespace fathom
