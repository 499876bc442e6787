#include "engine/measure.h"

#include <algorithm>
#include <chrono>
#include <fstream>
#include <memory>
#include <random>
#include <set>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Counts the distinct experts that each MoE layer used.
class ExpertCounter : public ForwardProbe {
 public:
  void values(int64_t, std::string_view, const float*, int64_t, int64_t) override {}
  void indices(int64_t, std::string_view, const int32_t* values, int64_t rows, int64_t cols) override {
    const std::set<int32_t> distinct(values, values + rows * cols);
    count += static_cast<int64_t>(distinct.size());
  }
  int64_t count = 0;
};

std::unique_ptr<LatentCache> random_cache(const LoadedModel& model, int64_t depth, int64_t capacity,
                                          std::mt19937& random) {
  const int64_t most = model.config.max_position_embeddings;
  if (most > 0 && capacity > most) {
    throw_bad_input("A depth of {} positions was asked for; the model has {} (max_position_embeddings).", depth, most);
  }
  auto cache = std::make_unique<LatentCache>(model.config, model.cache_dtype(), capacity);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> row(static_cast<size_t>(cache->width()));
  for (float& value : row) value = normal(random);
  for (int64_t layer = 0; layer < model.config.num_hidden_layers; ++layer) {
    for (int64_t p = 0; p < depth; ++p) {
      row[static_cast<size_t>(random() % row.size())] = normal(random);
      cache->write(layer, p, row.data());
    }
  }
  return cache;
}

int32_t random_token(const LoadedModel& model, std::mt19937& random) {
  return static_cast<int32_t>(random() % static_cast<uint32_t>(model.config.vocab_size));
}

}  // namespace

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return n == 0 ? 0 : n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

double Measurement::median_seconds() const {
  return median(seconds);
}

double Measurement::read_fraction() const {
  std::vector<double> fractions;
  for (size_t i = 0; i < seconds.size(); ++i) {
    fractions.push_back((cost.weight_bytes + cost.cache_bytes) / seconds[i] / read_limit[i]);
  }
  return median(fractions);
}

Measurement measure_decode(const LoadedModel& model, int64_t batch, int64_t depth, int64_t steps, int64_t repeats,
                           ThreadTeam& team, ReadBandwidth& bandwidth) {
  std::mt19937 random(1);
  std::vector<std::unique_ptr<LatentCache>> caches;
  std::vector<Span> spans;
  const int64_t capacity = depth + (repeats + 1) * steps;
  for (int64_t b = 0; b < batch; ++b) {
    caches.push_back(random_cache(model, depth, capacity, random));
    spans.push_back({caches.back().get(), depth, b, 1, AttentionForm::absorbed});
  }
  Workspace workspace(model, batch, team.size());
  std::vector<int32_t> tokens(static_cast<size_t>(batch));
  std::vector<float> logits(static_cast<size_t>(batch * model.config.vocab_size));
  ExpertCounter counter;
  const auto step = [&] {
    check_interrupt();
    for (int32_t& token : tokens) token = random_token(model, random);
    forward(model, {tokens, spans}, workspace, team, &counter);
    compute_logits(model, model.weights.lm_head, workspace.all_rows(batch), workspace, team, logits.data());
    for (Span& span : spans) ++span.position;
  };

  Measurement result;
  result.name = fmt::format("decode, batch {}, depth {}", batch, depth);
  result.tokens = batch;
  for (int64_t i = 0; i < steps; ++i) step();  // maps pages of the weights and grows scratch
  counter.count = 0;
  for (int64_t r = 0; r < repeats; ++r) {
    result.read_limit.push_back(bandwidth.measure());
    const auto start = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < steps; ++i) step();
    result.seconds.push_back(seconds_since(start) / static_cast<double>(steps));
  }
  for (Span& span : spans) span.position = depth + steps + repeats * steps / 2;
  result.cost = forward_cost(model, spans, batch, counter.count / (repeats * steps));
  return result;
}

Measurement measure_prefill(const LoadedModel& model, int64_t tokens, int64_t depth, int64_t repeats, ThreadTeam& team,
                            ReadBandwidth& bandwidth) {
  std::mt19937 random(2);
  const auto cache = random_cache(model, depth, depth + tokens, random);
  const Span span{cache.get(), depth, 0, tokens, choose_attention(model.config, tokens, depth)};
  Workspace workspace(model, tokens, team.size());
  std::vector<int32_t> prompt(static_cast<size_t>(tokens));
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  const auto last = static_cast<int32_t>(tokens - 1);
  ExpertCounter counter;
  Measurement result;
  result.name = fmt::format("prefill of {}, depth {}", tokens, depth);
  result.tokens = tokens;
  for (int64_t r = 0; r <= repeats; ++r) {
    check_interrupt();
    for (int32_t& token : prompt) token = random_token(model, random);
    const double limit = r == 0 ? 0 : bandwidth.measure();
    const auto start = std::chrono::steady_clock::now();
    forward(model, {prompt, {&span, 1}}, workspace, team, &counter);
    compute_logits(model, model.weights.lm_head, {&last, 1}, workspace, team, logits.data());
    const double seconds = seconds_since(start);
    if (r == 0) {
      counter.count = 0;  // the first pass maps the weights and grows scratch
      continue;
    }
    result.seconds.push_back(seconds);
    result.read_limit.push_back(limit);
  }
  result.cost = forward_cost(model, {&span, 1}, 1, counter.count / repeats);
  return result;
}

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    uint64_t kilobytes = 0;
    if (key == "VmHWM:" && status >> kilobytes) memory.peak = kilobytes * 1024;
    if (key == "RssAnon:" && status >> kilobytes) memory.anonymous = kilobytes * 1024;
    status.ignore(1 << 16, '\n');
  }
  return memory;
}

}  // namespace fathom
