#include "serve/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <unistd.h>

#include <fstream>
#include <mutex>

#include "serve/answer.h"
#include "serve/engine_runner.h"

namespace fathom {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

const Histogram::BucketBoundaries kSeconds = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1,
                                              2.5,   5,    10,    30,   60,  300,  1800};
const Histogram::BucketBoundaries kGapSeconds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
                                                 0.25,  0.5,    1,     2.5,  5,     10};

int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t size = 0;
  int64_t resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

}  // namespace

struct Metrics::Data {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();

  Family<Counter>& requests =
      BuildCounter().Name("fathom_requests_total").Help("Replies by route and HTTP status.").Register(*registry);
  Family<Counter>& answers =
      BuildCounter().Name("fathom_answers_total").Help("Answers by finish reason.").Register(*registry);
  Counter& prompt_tokens = counter("fathom_prompt_tokens_total", "Tokens of prompts.");
  Counter& hit_tokens = counter("fathom_prompt_cached_tokens_total", "Tokens of prompts found in the cache.");
  Counter& completion_tokens = counter("fathom_completion_tokens_total", "Tokens of answers.");
  Counter& reasoning_tokens = counter("fathom_reasoning_tokens_total", "Tokens of answers that are thoughts.");
  Histogram& request_seconds =
      histogram("fathom_request_seconds", "From a request to the end of its answer.", kSeconds);
  Histogram& first_token_seconds =
      histogram("fathom_time_to_first_token_seconds", "From a request to the first token of its answer.", kSeconds);
  Histogram& gap_seconds = histogram("fathom_inter_token_seconds", "Between two tokens of an answer.", kGapSeconds);

  // Of the engine; set at each scrape.
  Gauge& running = gauge("fathom_requests_running", "Requests that hold cache.");
  Gauge& waiting = gauge("fathom_requests_waiting", "Requests in the queue.");
  Gauge& connections = gauge("fathom_connections", "Open connections.");
  Family<Gauge>& pages = BuildGauge().Name("fathom_cache_pages").Help("Pages of the latent cache.").Register(*registry);
  Gauge& free_pages = pages.Add({{"state", "free"}});
  Gauge& kept_pages = pages.Add({{"state", "kept"}});
  Gauge& used_pages = pages.Add({{"state", "used"}});
  Gauge& page_tokens = gauge("fathom_cache_page_tokens", "Positions that a page of the cache holds.");
  Gauge& memory = gauge("process_resident_memory_bytes", "Resident memory.");
  // Sums that the engine keeps itself.
  Counter& steps = counter("fathom_engine_steps_total", "Forward passes.");
  Counter& computed_prefill = counter("fathom_prefill_positions_total", "Positions of prompts that were computed.");
  Counter& computed_decode = counter("fathom_decode_positions_total", "Positions of drawn tokens and drafts computed.");
  Counter& drafts = counter("fathom_draft_tokens_total", "Tokens that the MTP layer proposed.");
  Counter& accepted = counter("fathom_draft_tokens_accepted_total", "Of these, those that the model drew.");
  Counter& preemptions = counter("fathom_preemptions_total", "Requests that had to give their cache up for a while.");
  std::mutex scrape;  // over setting and writing these

  mutable std::mutex mutex;
  Totals totals;  // under mutex

  Counter& counter(const char* name, const char* help) {
    return BuildCounter().Name(name).Help(help).Register(*registry).Add({});
  }
  Gauge& gauge(const char* name, const char* help) {
    return BuildGauge().Name(name).Help(help).Register(*registry).Add({});
  }
  Histogram& histogram(const char* name, const char* help, const Histogram::BucketBoundaries& bounds) {
    return BuildHistogram().Name(name).Help(help).Register(*registry).Add({}, bounds);
  }
};

Metrics::Metrics() : data_(std::make_unique<Data>()) {}
Metrics::~Metrics() = default;

void Metrics::count_request(std::string_view route, int status) {
  data_->requests.Add({{"route", std::string(route)}, {"status", std::to_string(status)}}).Increment();
  const std::lock_guard lock(data_->mutex);
  if (status >= 400) ++data_->totals.refused;
}

void Metrics::record(const AnswerRecord& answer) {
  Data& d = *data_;
  for (size_t at = 0; at < answer.finish.size();) {
    const size_t end = std::min(answer.finish.find(',', at), answer.finish.size());
    d.answers.Add({{"finish_reason", answer.finish.substr(at, end - at)}}).Increment();
    at = end + 1;
  }
  d.prompt_tokens.Increment(static_cast<double>(answer.prompt_tokens));
  d.hit_tokens.Increment(static_cast<double>(answer.hit_tokens));
  d.completion_tokens.Increment(static_cast<double>(answer.completion_tokens));
  d.reasoning_tokens.Increment(static_cast<double>(answer.reasoning_tokens));
  d.request_seconds.Observe(answer.seconds);
  if (answer.first_token_seconds > 0) d.first_token_seconds.Observe(answer.first_token_seconds);
  const std::lock_guard lock(d.mutex);
  ++(answer.finish.starts_with("gone") ? d.totals.cancelled : d.totals.finished);
  d.totals.prompt_tokens += answer.prompt_tokens;
  d.totals.hit_tokens += answer.hit_tokens;
}

void Metrics::record_gap(double seconds) {
  data_->gap_seconds.Observe(seconds);
}

std::string Metrics::text(const EngineState& engine, int64_t page_tokens, int64_t connections) const {
  Data& d = *data_;
  const std::lock_guard lock(d.scrape);
  const auto set = [](Gauge& gauge, int64_t value) { gauge.Set(static_cast<double>(value)); };
  const auto raise = [](Counter& counter, int64_t value) {
    counter.Increment(static_cast<double>(value) - counter.Value());
  };
  set(d.running, engine.running);
  set(d.waiting, engine.waiting);
  set(d.connections, connections);
  set(d.free_pages, engine.free_pages);
  set(d.kept_pages, engine.kept_pages);
  set(d.used_pages, engine.pages - engine.free_pages - engine.kept_pages);
  set(d.page_tokens, page_tokens);
  set(d.memory, resident_bytes());
  raise(d.steps, engine.counters.steps);
  raise(d.computed_prefill, engine.counters.prefilled);
  raise(d.computed_decode, engine.counters.decoded);
  raise(d.drafts, engine.counters.drafts);
  raise(d.accepted, engine.counters.accepted);
  raise(d.preemptions, engine.counters.preemptions);
  return prometheus::TextSerializer().Serialize(d.registry->Collect());
}

Metrics::Totals Metrics::totals() const {
  const std::lock_guard lock(data_->mutex);
  return data_->totals;
}

}  // namespace fathom
