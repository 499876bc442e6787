#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace fathom {

struct AnswerRecord;
struct EngineState;

/// What the server counts, in the names and text format of Prometheus. Threads: any.
class Metrics {
 public:
  Metrics();
  ~Metrics();

  /// A reply has begun: `route` is one of the server's own names for its routes, so that strangers make no series.
  void count_request(std::string_view route, int status);
  void record(const AnswerRecord& answer);
  /// Time between two tokens of an answer.
  void record_gap(double seconds);
  /// The text of a scrape, with the engine's state and the open connections as they are now.
  std::string text(const EngineState& engine, int64_t page_tokens, int64_t connections) const;
  /// What /status shows of it.
  struct Totals {
    int64_t finished = 0, cancelled = 0, refused = 0;
    int64_t prompt_tokens = 0, hit_tokens = 0;
  };
  Totals totals() const;

 private:
  struct Data;
  std::unique_ptr<Data> data_;
};

}  // namespace fathom
