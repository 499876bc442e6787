#include "train/pretrain.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "data/token_dataset.h"
#include "formats/json.h"
#include "formats/safetensors.h"
#include "kernels/machine_limits.h"
#include "train/train_cost.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

// Steps between measurements of the machine's ceiling, which take milliseconds.
constexpr int64_t kPeakEvery = 20;
// Steps whose expert counts are summed into one line of the log.
constexpr int64_t kLoadEvery = 20;

// RUN/log.jsonl: a line for each step. Lines behind the checkpoint that a run goes on from are taken out first.
class LogWriter {
 public:
  LogWriter(const std::string& run, int64_t last_step) : path_((fs::path(run) / "log.jsonl").string()) {
    if (file_exists(path_)) keep_until(last_step);
    file_ = std::fopen(path_.c_str(), "ab");
    if (file_ == nullptr) throw_failure("{}: cannot be written.", path_);
  }
  ~LogWriter() {
    if (file_ != nullptr) std::fclose(file_);
  }
  LogWriter(const LogWriter&) = delete;
  LogWriter& operator=(const LogWriter&) = delete;

  void write(const ordered_json& line) {
    const std::string text = line.dump() + "\n";
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
      throw_failure("{}: a line could not be written; is the disk full?", path_);
    }
  }

 private:
  void keep_until(int64_t last_step) {
    std::ifstream in(path_);
    if (!in) throw_failure("{}: cannot be read.", path_);
    OutputFile out(path_);
    std::string line;
    while (std::getline(in, line)) {
      const auto value = nlohmann::json::parse(line, nullptr, false);
      if (!value.is_object() || !value.contains("step") || !value["step"].is_number_integer()) continue;
      if (value["step"].get<int64_t>() <= last_step) out.write(line + "\n");
    }
    out.commit();
  }

  std::string path_;
  std::FILE* file_ = nullptr;
};

// Reads sequences as inputs and labels; padding is no label.
class BatchReader {
 public:
  BatchReader(const TokenDataset& dataset, uint64_t seed) : dataset_(dataset), shuffled_(dataset, seed) {
    row_.resize(static_cast<size_t>(dataset.sequence_length() + 1));
  }

  TrainingBatch shuffled(int64_t first, int64_t count) {
    begin(count);
    for (int64_t i = 0; i < count; ++i) {
      shuffled_.read(static_cast<uint64_t>(first + i), row_);
      take(i);
    }
    return batch(count);
  }

  TrainingBatch in_order(int64_t first, int64_t count) {
    begin(count);
    for (int64_t i = 0; i < count; ++i) {
      dataset_.sequence(first + i, row_);
      take(i);
    }
    return batch(count);
  }

 private:
  void begin(int64_t count) {
    const auto size = static_cast<size_t>(count * dataset_.sequence_length());
    inputs_.resize(size);
    labels_.resize(size);
  }
  void take(int64_t i) {
    const int64_t length = dataset_.sequence_length();
    for (int64_t t = 0; t < length; ++t) {
      const auto at = static_cast<size_t>(i * length + t);
      inputs_[at] = row_[static_cast<size_t>(t)];
      const int32_t target = row_[static_cast<size_t>(t) + 1];
      labels_[at] = target == dataset_.pad_token_id() ? -1 : target;
    }
  }
  TrainingBatch batch(int64_t count) const { return {count, dataset_.sequence_length(), inputs_, labels_}; }

  const TokenDataset& dataset_;
  ShuffledSequences shuffled_;
  std::vector<int32_t> row_, inputs_, labels_;
};

// The sequences [first, first + count) of a batch.
TrainingBatch part_of(const TrainingBatch& batch, int64_t first, int64_t count) {
  const auto begin = static_cast<size_t>(first * batch.length);
  const auto size = static_cast<size_t>(count * batch.length);
  return {count, batch.length, batch.inputs.subspan(begin, size), batch.labels.subspan(begin, size)};
}

// to += share × from.
void add_losses(const Losses& from, double share, Losses& to) {
  to.main += share * from.main;
  to.balance += share * from.balance;
  to.total += share * from.total;
  to.mtp.resize(from.mtp.size());
  for (size_t i = 0; i < from.mtp.size(); ++i) to.mtp[i] += share * from.mtp[i];
  add_counts(from.tokens_per_expert, to.tokens_per_expert);
}

std::vector<double> load_violations(const std::vector<std::vector<int64_t>>& tokens_per_expert) {
  std::vector<double> violations;
  for (const std::vector<int64_t>& counts : tokens_per_expert) {
    if (counts.empty()) continue;
    double sum = 0;
    for (int64_t count : counts) sum += static_cast<double>(count);
    const auto greatest = static_cast<double>(*std::max_element(counts.begin(), counts.end()));
    violations.push_back(sum > 0 ? greatest * static_cast<double>(counts.size()) / sum - 1 : 0);
  }
  return violations;
}

void check_data(const Recipe& recipe, const TokenDataset& dataset) {
  dataset.check_tokenizer(recipe.tokenizer);
  if (dataset.vocab_size() > recipe.model.vocab_size) {
    throw_bad_input("{}: its tokenizer has {} tokens, the model's vocab_size is {}.", recipe.data, dataset.vocab_size(),
                    recipe.model.vocab_size);
  }
  if (dataset.sequence_length() > recipe.model.max_position_embeddings) {
    throw_bad_input("{}: sequences of {} tokens are longer than the model's max_position_embeddings, {}.", recipe.data,
                    dataset.sequence_length(), recipe.model.max_position_embeddings);
  }
}

void update_average(const Parameters& parameters, double decay, Buffer& ema, ThreadTeam& team) {
  constexpr int64_t kPiece = 1 << 16;
  auto* average = ema.as<float>();
  const auto* masters = parameters.masters.as<float>();
  const auto share = static_cast<float>(1 - decay);
  team.parallel_for((parameters.size + kPiece - 1) / kPiece, [&](int64_t piece, int) {
    const int64_t end = std::min(parameters.size, (piece + 1) * kPiece);
    for (int64_t i = piece * kPiece; i < end; ++i) average[i] += share * (masters[i] - average[i]);
  });
}

ordered_json step_line(const StepReport& r) {
  return {{"step", r.position.step},
          {"tokens", r.position.tokens},
          {"loss", r.losses.total},
          {"main", r.losses.main},
          {"mtp", r.losses.mtp},
          {"balance", r.losses.balance},
          {"gradient_norm", r.gradient_norm},
          {"clip_factor", r.clip_factor},
          {"learning_rate", r.plan.learning_rate},
          {"bias_update_speed", r.plan.bias_update_speed},
          {"mtp_loss_weight", r.plan.mtp_loss_weight},
          {"sequences", r.plan.sequences},
          {"load_violation", r.load_violation},
          {"tokens_per_second", r.tokens_per_second},
          {"fraction_of_peak", r.fraction_of_peak},
          {"seconds", r.seconds}};
}

// Keeps a second process out of a run, as long as it lives.
class RunLock {
 public:
  RunLock() = default;
  ~RunLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  // Once.
  void take(const std::string& run) {
    descriptor_ = ::open(run.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // A file system without locks cannot keep anybody out.
    if (descriptor_ >= 0 && ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      throw_failure("{}: another process is training in this run.", run);
    }
  }

 private:
  int descriptor_ = -1;
};

struct Run {
  const Recipe& recipe;
  const PretrainOptions& options;
  const PretrainEvents& events;
  ThreadTeam& team;

  TokenDataset dataset{recipe.data};
  BatchReader reader{dataset, recipe.seed};
  std::optional<TokenDataset> held_out{};
  std::optional<BatchReader> held_out_reader{};
  nlohmann::json identity{};
  TrainState state{};
  Buffer ema{};
  RunPosition position{};
  double peak = 0;
  std::string last_checkpoint{};

  Buffer* average() { return recipe.ema_decay > 0 ? &ema : nullptr; }

  // Everything that can be refused before memory is taken.
  void check() {
    check_data(recipe, dataset);
    if (recipe.validate_every > 0) {
      held_out.emplace(recipe.data, "validation");
      held_out_reader.emplace(*held_out, recipe.seed);
    }
    identity = run_identity(recipe, dataset);
    if (!options.resume) return;
    if (const std::optional<std::string> checkpoint = latest_checkpoint(options.run)) {
      last_checkpoint = *checkpoint;
      position = read_position(last_checkpoint, identity);
      check_load();
    }
  }

  void check_load() const {
    if (position.expert_load.empty()) return;
    bool fits = position.expert_load.size() == static_cast<size_t>(recipe.model.total_layers());
    for (const std::vector<int64_t>& counts : position.expert_load) {
      fits = fits && (counts.empty() || counts.size() == static_cast<size_t>(recipe.model.n_routed_experts));
    }
    if (!fits) throw_bad_input("{}: expert_load does not fit the model's layers and experts.", last_checkpoint);
  }

  void start() {
    TrainOptions train;
    train.compute = recipe.precision;
    train.moments = recipe.moments;
    train.sequences = recipe.micro_batch_sequences;
    train.length = dataset.sequence_length();
    const size_t average_bytes = static_cast<size_t>(plan_parameters(recipe.model).size) * sizeof(float);
    const PretrainPlan plan = {training_memory(recipe.model, train, team.size()),
                               recipe.ema_decay > 0 ? average_bytes : 0, count_steps(recipe, dataset.sequence_length()),
                               position.step};
    check_training_memory(plan, system_memory());
    if (events.on_start) events.on_start(recipe, plan);

    const bool random = recipe.start_from.empty() || !last_checkpoint.empty();
    Parameters parameters = random ? initial_parameters(recipe.model, recipe.seed, recipe.initial_deviation)
                                   : load_parameters(Checkpoint(recipe.start_from));
    if (!random) take_masters(recipe.start_from, parameters);
    parameters.config = recipe.model;
    state = start_training(std::move(parameters), train, team);
    if (recipe.ema_decay > 0) {
      ema.reserve(average_bytes);
      std::copy_n(state.parameters.masters.as<float>(), state.parameters.size, ema.as<float>());
    }
    if (!last_checkpoint.empty()) load_state(last_checkpoint, position.step, state, average(), team);
  }

  void save() {
    last_checkpoint = save_checkpoint(options.run, recipe, identity, state, average(), position);
    remove_old_checkpoints(options.run, recipe.keep_checkpoints);
    if (events.on_checkpoint) events.on_checkpoint(last_checkpoint);
  }

  // Keeps what a step began with, in a form that `fathom train step` takes.
  [[noreturn]] void not_finite(const StepPlan& plan, const TrainingBatch& batch, const std::string& what) {
    const fs::path kept = fs::path(options.run) / fmt::format("not-finite-step-{}", position.step + 1);
    std::error_code ignored;
    fs::remove_all(kept, ignored);  // of an earlier attempt at the same step
    fs::remove_all(kept.string() + ".partial", ignored);
    write_checkpoint(state.parameters, DType::f32, false, kept.string());
    copy_tokenizer(recipe.tokenizer, kept.string());
    const std::string file = (kept / "batch.safetensors").string();
    const Shape shape = {1, batch.sequences, batch.length};
    write_safetensors(file,
                      {{"input_ids", {DType::i32, shape, reinterpret_cast<const std::byte*>(batch.inputs.data())}},
                       {"labels", {DType::i32, shape, reinterpret_cast<const std::byte*>(batch.labels.data())}}});
    throw_failure(
        "Step {}: {}; the run stops before its update. `fathom train step --model {} --batch {} --compute {} "
        "--mtp-loss-weight {} --balance-loss-alpha {} --out DIR` does it again.",
        position.step + 1, what, kept.string(), file, compute_mode_name(recipe.precision), plan.mtp_loss_weight,
        recipe.balance_loss_alpha);
  }

  StepReport step(int64_t steps) {
    const Clock::time_point begin = Clock::now();
    StepReport report;
    report.steps = steps;
    report.plan = plan_step(recipe, position.step + 1, position.tokens);
    const int64_t sequences = report.plan.sequences;
    const int64_t micro = recipe.micro_batch_sequences;
    const TrainingBatch batch = reader.shuffled(position.sequences, sequences);
    // Micro-batches add up to the loss of the whole batch: cross-entropies are divided by all its labels, and the
    // balance loss is a mean over sequences.
    LossOptions loss;
    loss.loss_positions = label_count(batch);
    loss.mtp_loss_weight = report.plan.mtp_loss_weight;
    loss.balance_loss_alpha = recipe.balance_loss_alpha * static_cast<double>(micro) / static_cast<double>(sequences);
    if (loss.loss_positions == 0) {
      throw_bad_input("{}: the {} sequences of step {} hold nothing but padding.", recipe.data, sequences,
                      position.step + 1);
    }
    zero_gradients(state, team);
    for (int64_t done = 0; done < sequences; done += micro) {
      try {
        add_losses(forward_backward(state, part_of(batch, done, micro), loss, team), 1, report.losses);
      } catch (const Error& error) {
        // Numbers may end inside the model: the router refuses logits that are none.
        if (error.kind() != ErrorKind::failure) throw;
        std::string what = error.what();
        while (what.ends_with('.')) what.pop_back();
        not_finite(report.plan, batch, what);
      }
    }
    report.gradient_norm = gradient_norm(state, team);
    if (!std::isfinite(report.losses.total) || !std::isfinite(report.gradient_norm)) {
      not_finite(report.plan, batch,
                 fmt::format("the loss is {} and the gradient's norm {}", report.losses.total, report.gradient_norm));
    }
    report.clip_factor = clip_factor(report.gradient_norm, recipe.gradient_clip_norm);
    AdamwOptions adamw = recipe.adamw;
    adamw.learning_rate = report.plan.learning_rate;
    adamw_step(state, adamw, report.clip_factor, team);
    if (report.plan.bias_update_speed > 0) {
      update_balance_bias(state, report.losses.tokens_per_expert, report.plan.bias_update_speed);
    }
    if (recipe.ema_decay > 0) update_average(state.parameters, recipe.ema_decay, ema, team);
    position.step += 1;
    position.tokens += sequences * dataset.sequence_length();
    position.sequences += sequences;
    add_counts(report.losses.tokens_per_expert, position.expert_load);

    report.position = position;
    report.load_violation = load_violations(report.losses.tokens_per_expert);
    report.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    report.tokens_per_second = static_cast<double>(sequences * dataset.sequence_length()) / report.seconds;
    if (peak == 0 || position.step % kPeakEvery == 0) peak = measure_ceiling(team, Arithmetic::bf16);
    if (peak > 0) {
      const double operations = training_operations(recipe.model, sequences, dataset.sequence_length());
      report.fraction_of_peak = operations / report.seconds / peak;
    }
    return report;
  }

  ValidationReport validate() {
    ValidationReport report;
    report.step = position.step;
    const int64_t count = std::min(recipe.validation_sequences, held_out->sequences());
    LossOptions loss;
    Losses sum;
    int64_t labels = 0;
    for (int64_t first = 0; first < count; first += recipe.micro_batch_sequences) {
      const int64_t size = std::min(recipe.micro_batch_sequences, count - first);
      const TrainingBatch batch = held_out_reader->in_order(first, size);
      const int64_t own = label_count(batch);
      if (own == 0) continue;
      add_losses(forward_loss(state, batch, loss, team), static_cast<double>(own), sum);
      labels += own;
    }
    report.sequences = count;
    report.main = sum.main / static_cast<double>(labels);
    for (double value : sum.mtp) report.mtp.push_back(value / static_cast<double>(labels));
    return report;
  }

  void write_load(LogWriter& log) {
    ordered_json layers = ordered_json::object();
    const std::vector<std::vector<int64_t>>& load = position.expert_load;
    for (size_t layer = 0; layer < load.size(); ++layer) {
      if (!load[layer].empty()) layers[std::to_string(layer)] = load[layer];
    }
    if (!layers.empty()) log.write({{"step", position.step}, {"tokens", position.tokens}, {"expert_load", layers}});
    position.expert_load.clear();
  }

  void run() {
    remove_old_checkpoints(options.run, recipe.keep_checkpoints);
    LogWriter log(options.run, position.step);
    const int64_t steps = count_steps(recipe, dataset.sequence_length());
    const Clock::time_point begin = Clock::now();
    const int64_t first_tokens = position.tokens;
    const int64_t first_step = position.step;
    while (position.tokens < recipe.tokens) {
      StepReport report = step(steps);
      const double passed = std::chrono::duration<double>(Clock::now() - begin).count();
      report.seconds_left = passed * static_cast<double>(recipe.tokens - position.tokens) /
                            static_cast<double>(position.tokens - first_tokens);
      report.seconds_left = std::max(0.0, report.seconds_left);
      log.write(step_line(report));
      if (position.step % kLoadEvery == 0) write_load(log);
      if (events.on_step) events.on_step(report);

      const bool stop = interrupted() || position.step - first_step == options.stop_after;
      const bool end = position.tokens >= recipe.tokens;
      if (recipe.validate_every > 0 && (position.step % recipe.validate_every == 0 || end)) {
        const ValidationReport validation = validate();
        log.write({{"step", position.step},
                   {"tokens", position.tokens},
                   {"validation",
                    {{"main", validation.main}, {"mtp", validation.mtp}, {"sequences", validation.sequences}}}});
        if (events.on_validation) events.on_validation(validation);
      }
      // The average first: where the last checkpoint is, it is too.
      if (end && recipe.ema_decay > 0) save_average(options.run, recipe, state, ema);
      if (stop || end || position.step % recipe.checkpoint_every == 0) save();
      if (stop) break;
    }
  }
};

std::string recipe_file(const PretrainOptions& options) {
  return (fs::path(options.run) / "recipe.json").string();
}

void check_directory(const PretrainOptions& options) {
  const bool there = file_exists(recipe_file(options));
  if (options.resume && !there) throw_bad_input("{}: there is no run to resume: it has no recipe.json.", options.run);
  if (!options.resume && there) {
    throw_bad_input("{}: there is a run already; resume it, or name another directory.", options.run);
  }
  if (fs::exists(options.run) && !fs::is_directory(options.run)) {
    throw_bad_input("{}: exists and is not a directory.", options.run);
  }
}

}  // namespace

void check_training_memory(const PretrainPlan& plan, const SystemMemory& system) {
  if (system.available_bytes == 0 || plan.bytes() <= system.available_bytes) return;
  throw_failure(
      "Training takes {:.1f} GB of memory, and this machine has {:.1f} GB available; fewer micro_batch_sequences or "
      "shorter sequences take less.",
      static_cast<double>(plan.bytes()) / 1e9, static_cast<double>(system.available_bytes) / 1e9);
}

std::string pretrain(const Recipe& recipe, const std::string& recipe_text, const PretrainOptions& options,
                     const PretrainEvents& events, ThreadTeam& team) {
  check_directory(options);
  RunLock lock;
  if (options.resume) lock.take(options.run);
  Run run{recipe, options, events, team};
  run.check();
  run.start();
  make_directories(options.run);
  if (!options.resume) lock.take(options.run);
  // A resumed run may have a new budget.
  const std::string kept = recipe_file(options);
  if (!options.resume || read_file(kept, size_t{1} << 20) != recipe_text) {
    OutputFile file(kept);
    file.write(recipe_text);
    file.commit();
  }
  run.run();
  return run.last_checkpoint;
}

}  // namespace fathom
