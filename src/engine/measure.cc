#include "engine/measure.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>

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
  explicit ExpertCounter(int64_t experts) : seen_(static_cast<size_t>(experts)) {}
  void values(int64_t, std::string_view, const float*, int64_t, int64_t) override {}
  void indices(int64_t, std::string_view, const int32_t* values, int64_t rows, int64_t cols) override {
    std::fill(seen_.begin(), seen_.end(), uint8_t{0});
    for (int64_t i = 0; i < rows * cols; ++i) seen_[static_cast<size_t>(values[i])] = 1;
    count_ += std::count(seen_.begin(), seen_.end(), uint8_t{1});
  }
  /// The count so far, which begins anew.
  int64_t take() { return std::exchange(count_, 0); }

 private:
  std::vector<uint8_t> seen_;
  int64_t count_ = 0;
};

std::unique_ptr<LatentCache> random_cache(const LoadedModel& model, int64_t depth, int64_t capacity,
                                          std::mt19937& random) {
  const int64_t most = model.config.max_position_embeddings;
  if (most > 0 && capacity > most) {
    throw_bad_input("{} positions were asked for, {} of them in the cache; the model has {} (max_position_embeddings).",
                    capacity, depth, most);
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

Spread spread(const std::vector<double>& values) {
  if (values.empty()) return {};
  const auto [least, greatest] = std::minmax_element(values.begin(), values.end());
  return {*least, median(values), *greatest};
}

namespace {

template <typename Ratio>
Spread spread_over(const std::vector<Repeat>& repeats, Ratio ratio) {
  std::vector<double> values;
  for (const Repeat& repeat : repeats) values.push_back(ratio(repeat));
  return spread(values);
}

}  // namespace

double Measurement::seconds() const {
  return spread_over(repeats, [](const Repeat& r) { return r.seconds; }).median;
}

PassCost Measurement::mean_cost() const {
  PassCost sum;
  for (const Repeat& repeat : repeats) sum += repeat.cost;
  return sum.divided_by(static_cast<double>(repeats.size()));
}

Spread Measurement::ceiling_fraction() const {
  return spread_over(repeats, [](const Repeat& r) { return pass_ceiling(r.cost, r.limits).seconds() / r.seconds; });
}

Spread Measurement::read_fraction() const {
  return spread_over(repeats, [](const Repeat& r) { return pass_ceiling(r.cost, r.limits).weights_s / r.seconds; });
}

Spread Measurement::peak_fraction() const {
  return spread_over(repeats, [](const Repeat& r) {
    const PassCeiling ceiling = pass_ceiling(r.cost, r.limits);
    return (ceiling.products_s + ceiling.attention_s) / r.seconds;
  });
}

MachineLimits MomentaryLimits::mean(const MachineLimits& a, const MachineLimits& b) {
  return {(a.read_bytes_per_s + b.read_bytes_per_s) / 2, (a.f32_ops_per_s + b.f32_ops_per_s) / 2,
          (a.bf16_ops_per_s + b.bf16_ops_per_s) / 2, (a.int8_ops_per_s + b.int8_ops_per_s) / 2};
}

Measurement measure_decode(const LoadedModel& model, int64_t batch, int64_t depth, int64_t steps, int64_t repeats,
                           ThreadTeam& team, MomentaryLimits& limits) {
  std::mt19937 random(1);
  std::vector<std::unique_ptr<LatentCache>> caches;
  std::vector<Span> spans;
  for (int64_t b = 0; b < batch; ++b) {
    caches.push_back(random_cache(model, depth, depth + steps, random));
    spans.push_back({caches.back().get(), depth, b, 1, AttentionForm::absorbed});
  }
  Workspace workspace(model, batch, team.size());
  std::vector<int32_t> tokens(static_cast<size_t>(batch));
  std::vector<float> logits(static_cast<size_t>(batch * model.config.vocab_size));
  ExpertCounter counter(model.config.n_routed_experts);
  std::vector<int64_t> experts(static_cast<size_t>(steps));
  const auto run = [&] {
    for (int64_t i = 0; i < steps; ++i) {
      check_interrupt();
      for (Span& span : spans) span.position = depth + i;
      for (int32_t& token : tokens) token = random_token(model, random);
      forward(model, {tokens, spans}, workspace, team, &counter);
      compute_logits(model, model.weights.lm_head, workspace.all_rows(batch), workspace, team, logits.data());
      experts[static_cast<size_t>(i)] = counter.take();
    }
  };

  Measurement result;
  result.name = fmt::format("decode, batch {}, depth {}", batch, depth);
  result.tokens = batch;
  run();  // maps pages of the weights and grows scratch
  limits.forget();
  for (int64_t r = 0; r < repeats; ++r) {
    Repeat repeat;
    repeat.limits = limits.around([&] {
      const auto start = std::chrono::steady_clock::now();
      run();
      repeat.seconds = seconds_since(start) / static_cast<double>(steps);
    });
    for (int64_t i = 0; i < steps; ++i) {
      for (Span& span : spans) span.position = depth + i;
      repeat.cost += forward_cost(model, spans, batch, experts[static_cast<size_t>(i)]);
    }
    repeat.cost = repeat.cost.divided_by(static_cast<double>(steps));
    result.repeats.push_back(repeat);
  }
  result.memory = resident_memory();
  return result;
}

Measurement measure_prefill(const LoadedModel& model, int64_t tokens, int64_t depth, int64_t repeats, ThreadTeam& team,
                            MomentaryLimits& limits) {
  std::mt19937 random(2);
  const auto cache = random_cache(model, depth, depth + tokens, random);
  const Span span{cache.get(), depth, 0, tokens, choose_attention(model.config, tokens, depth)};
  Workspace workspace(model, tokens, team.size());
  std::vector<int32_t> prompt(static_cast<size_t>(tokens));
  std::vector<float> logits(static_cast<size_t>(model.config.vocab_size));
  const auto last = static_cast<int32_t>(tokens - 1);
  ExpertCounter counter(model.config.n_routed_experts);
  const auto run = [&] {
    check_interrupt();
    for (int32_t& token : prompt) token = random_token(model, random);
    forward(model, {prompt, {&span, 1}}, workspace, team, &counter);
    compute_logits(model, model.weights.lm_head, {&last, 1}, workspace, team, logits.data());
  };

  Measurement result;
  result.name = fmt::format("prefill of {}, depth {}", tokens, depth);
  result.tokens = tokens;
  run();  // maps the weights and grows scratch
  counter.take();
  limits.forget();
  for (int64_t r = 0; r < repeats; ++r) {
    Repeat repeat;
    repeat.limits = limits.around([&] {
      const auto start = std::chrono::steady_clock::now();
      run();
      repeat.seconds = seconds_since(start);
    });
    repeat.cost = forward_cost(model, {&span, 1}, 1, counter.take());
    result.repeats.push_back(repeat);
  }
  result.memory = resident_memory();
  return result;
}

ResidentMemory resident_memory() {
  ResidentMemory memory;
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string name = line.substr(0, colon);
    uint64_t* field = name == "VmHWM"                           ? &memory.peak
                      : name == "RssFile" || name == "RssShmem" ? &memory.mapped
                      : name == "RssAnon"                       ? &memory.anonymous
                                                                : nullptr;
    if (field != nullptr) *field += std::strtoull(line.c_str() + colon + 1, nullptr, 10) * 1024;
  }
  return memory;
}

bool reset_peak_memory() {
  std::ofstream file("/proc/self/clear_refs");
  file << '5' << std::flush;  // proc(5): resets VmHWM to the present size
  return file.good();
}

namespace {

// Share of the files' bytes that lie in the page cache, and with `drop` first an attempt to have none there.
double cached_fraction(const std::vector<std::string>& files, bool drop) {
  double cached = 0;
  double total = 0;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const std::string& path : files) {
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
      const int reason = errno;
      if (descriptor >= 0) close(descriptor);
      throw_failure("{}: cannot be read, {}", path, std::strerror(reason));
    }
    const auto bytes = static_cast<size_t>(status.st_size);
    if (drop) posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
    void* mapping = bytes > 0 ? mmap(nullptr, bytes, PROT_READ, MAP_SHARED, descriptor, 0) : MAP_FAILED;
    close(descriptor);
    if (mapping == MAP_FAILED) continue;
    std::vector<unsigned char> resident((bytes + page - 1) / page);
    if (mincore(mapping, bytes, resident.data()) == 0) {
      total += static_cast<double>(resident.size());
      for (const unsigned char flags : resident) cached += flags & 1;
    }
    munmap(mapping, bytes);
  }
  return total > 0 ? cached / total : 0;
}

// A pipe whose ends close themselves.
struct Pipe {
  Pipe() {
    if (pipe2(ends, O_CLOEXEC) != 0) throw_failure("A pipe was refused: {}.", std::strerror(errno));
  }
  ~Pipe() {
    for (const int end : ends) {
      if (end >= 0) close(end);
    }
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  void close_writing() { close(std::exchange(ends[1], -1)); }
  int ends[2];
};

// What can be read until the other end closes.
std::string read_all(int descriptor) {
  std::string text;
  char piece[4096];
  for (;;) {
    const ssize_t count = read(descriptor, piece, sizeof(piece));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return text;
    text.append(piece, static_cast<size_t>(count));
  }
}

}  // namespace

FirstToken measure_first_token(const std::string& program, const std::vector<std::string>& arguments,
                               const std::vector<std::string>& files, bool cold) {
  FirstToken result;
  result.cached_fraction = cached_fraction(files, cold);
  Pipe out;
  Pipe err;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, out.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, err.ends[1], STDERR_FILENO);
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const auto start = std::chrono::steady_clock::now();
  pid_t child = 0;
  const int refused = posix_spawn(&child, program.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (refused != 0) throw_failure("{}: cannot be started, {}", program, std::strerror(refused));
  out.close_writing();
  err.close_writing();
  char first = 0;
  ssize_t count = 0;
  do {
    count = read(out.ends[0], &first, 1);
  } while (count < 0 && errno == EINTR);
  result.seconds = seconds_since(start);
  read_all(out.ends[0]);
  std::string sentence = read_all(err.ends[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  check_interrupt();
  if (count != 1 || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    sentence.erase(sentence.find_last_not_of('\n') + 1);
    throw_failure("The process that was to give a first token failed: {}", sentence);
  }
  return result;
}

}  // namespace fathom
