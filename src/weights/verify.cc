#include "weights/verify.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <exception>
#include <limits>
#include <mutex>
#include <unordered_map>

#include "base/error.h"
#include "formats/packed_matrix.h"
#include "formats/tensor_table.h"
#include "weights/partial_output.h"
#include "weights/rewrite.h"
#include "weights/tensor_values.h"

namespace fathom {
namespace {

constexpr int64_t kPieceNumbers = int64_t{1} << 20;

bool is_float(DType dtype) {
  return dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16 || dtype == DType::f8_e4m3;
}

bool is_power_of_two(float value) {
  int exponent = 0;
  return std::frexp(value, &exponent) == 0.5f;
}

/// Reads one tensor and fills its report.
class TensorCheck {
 public:
  TensorCheck(const Checkpoint& checkpoint, const TensorReader& reader, TensorReport& report)
      : checkpoint_(checkpoint),
        reader_(reader),
        report_(report),
        value_name_(value_name_of(checkpoint, report.name)),
        is_packed_part_(!is_scale_of_another(checkpoint, report.name) && is_part_of_another(checkpoint, report.name)) {}

  void compare_with(const Checkpoint* against, const TensorReader* reader) {
    against_ = against;
    against_reader_ = reader;
  }

  void run(const std::function<void(uint64_t bytes)>& on_bytes) {
    const SafetensorsEntry& entry = *checkpoint_.place(report_.name).entry;
    std::optional<ValueReader> values;
    if (is_float(entry.dtype) || value_name_ != report_.name) {
      try {
        values.emplace(checkpoint_, reader_, value_name_);
      } catch (const Error& error) {
        report_.problems.push_back(error.what());
      }
    }
    std::optional<ValueReader> other = other_values(values ? values->shape() : entry.shape);
    const int64_t rows = row_count(entry.shape);
    const uint64_t bytes = row_bytes(entry.dtype, entry.shape);
    const int64_t cols = values ? values->cols() : 1;
    const int64_t step = std::max(values ? values->row_step() : 1, other ? other->row_step() : 1);
    const int64_t at_once = std::max(step, kPieceNumbers / std::max<int64_t>(cols, 1) / step * step);
    std::vector<std::byte> buffer(static_cast<size_t>(std::min(at_once, rows)) * bytes);
    std::vector<float> numbers(values ? static_cast<size_t>(std::min(at_once, rows) * cols) : 0);
    const uint64_t other_bytes = other ? row_bytes(other->entry().dtype, other->entry().shape) : 0;
    std::vector<std::byte> other_buffer(static_cast<size_t>(std::min(at_once, rows)) * other_bytes);
    std::vector<float> other_numbers(other ? numbers.size() : 0);
    ContentHash hash;
    same_bytes_ = other && other->entry().dtype == entry.dtype && other->entry().shape == entry.shape;
    for (int64_t row = 0; row < rows; row += at_once) {
      const int64_t count = std::min(at_once, rows - row);
      const uint64_t size = static_cast<uint64_t>(count) * bytes;
      reader_.read(report_.name, row, count, buffer.data());
      hash.update(buffer.data(), size);
      if (values) {
        values->values(row, count, buffer.data(), numbers.data());
        look_at(numbers.data(), count * cols);
      }
      if (values && other) {
        other->read_bytes(row, count, other_buffer.data());
        same_bytes_ = same_bytes_ && std::memcmp(buffer.data(), other_buffer.data(), size) == 0;
        other->values(row, count, other_buffer.data(), other_numbers.data());
        compare(numbers.data(), other_numbers.data(), count * cols);
      }
      on_bytes(size);
    }
    report_.checksum = hash.take();
    if (values) conclude(entry, other.has_value());
  }

 private:
  std::optional<ValueReader> other_values(const Shape& shape) {
    // Parts of a matrix in integers mean something only together.
    if (against_ == nullptr || is_packed_part_ || !has_values(*against_, value_name_)) return std::nullopt;
    const bool packed = is_packed(*against_, value_name_);
    if (!packed && !is_float(against_->place(value_name_).entry->dtype)) return std::nullopt;
    ValueReader other(*against_, *against_reader_, value_name_);
    if (other.shape() != shape) {
      report_.problems.push_back(fmt::format("the other checkpoint has it as {}", shape_text(other.shape())));
      return std::nullopt;
    }
    return other;
  }

  void look_at(const float* numbers, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const float number = numbers[i];
      if (!std::isfinite(number)) {
        ++not_finite_;
        continue;
      }
      least_ = std::min(least_, number);
      greatest_ = std::max(greatest_, number);
      squares_ += static_cast<double>(number) * number;
    }
    count_ += count;
  }

  void compare(const float* numbers, const float* others, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const double difference = std::abs(static_cast<double>(numbers[i]) - others[i]);
      if (std::isfinite(difference)) {
        difference_ = std::max(difference_, difference);
        difference_squares_ += difference * difference;
      }
      if (std::isfinite(others[i])) other_squares_ += static_cast<double>(others[i]) * others[i];
    }
  }

  void conclude(const SafetensorsEntry& entry, bool compared) {
    const auto finite = static_cast<double>(count_ - not_finite_);
    if (finite > 0) {
      report_.least = least_;
      report_.greatest = greatest_;
      report_.root_mean_square = std::sqrt(squares_ / finite);
    }
    if (not_finite_ > 0) {
      report_.problems.push_back(fmt::format("{} of its {} numbers are not finite", not_finite_, count_));
    }
    const bool is_bias = entry.name.ends_with("e_score_correction_bias");
    if (count_ > 0 && squares_ == 0 && not_finite_ == 0 && !is_bias) {
      report_.problems.push_back("all of its numbers are zero");
    }
    if (is_scale_of_another(checkpoint_, entry.name)) check_scales();
    if (is_packed_part_ && least_ < 0) report_.problems.push_back("some of its scales are below zero");
    if (!compared) return;
    report_.difference = TensorDifference{same_bytes_, difference_, 0};
    if (difference_squares_ > 0) {
      report_.difference->relative = other_squares_ > 0 ? std::sqrt(difference_squares_ / other_squares_)
                                                        : std::numeric_limits<double>::infinity();
    }
  }

  void check_scales() {
    std::vector<float> scales(static_cast<size_t>(element_count(report_.shape)));
    reader_.read(report_.name, 0, row_count(report_.shape), reinterpret_cast<std::byte*>(scales.data()));
    const auto wrong = std::count_if(scales.begin(), scales.end(), [](float scale) { return !(scale > 0); });
    if (wrong > 0)
      report_.problems.push_back(fmt::format("{} of its {} scales are not positive", wrong, scales.size()));
    if (!checkpoint_.config().fp8 || !checkpoint_.config().fp8->ue8m0) return;
    const auto odd = std::count_if(scales.begin(), scales.end(), [](float scale) { return !is_power_of_two(scale); });
    if (odd > 0) {
      report_.problems.push_back(
          fmt::format("{} of its {} scales are no powers of two, and the config says ue8m0", odd, scales.size()));
    }
  }

  const Checkpoint& checkpoint_;
  const TensorReader& reader_;
  TensorReport& report_;
  const std::string value_name_;
  const bool is_packed_part_;
  const Checkpoint* against_ = nullptr;
  const TensorReader* against_reader_ = nullptr;

  int64_t count_ = 0;
  int64_t not_finite_ = 0;
  float least_ = std::numeric_limits<float>::infinity();
  float greatest_ = -std::numeric_limits<float>::infinity();
  double squares_ = 0;
  bool same_bytes_ = false;
  double difference_ = 0, difference_squares_ = 0, other_squares_ = 0;
};

/// What is there against what the config asks for; the shapes of what is known.
void check_table(const Checkpoint& checkpoint, VerifyReport& report) {
  std::unordered_map<std::string, Shape> known;
  const ModelConfig& config = checkpoint.config();
  const Fp8Config fp8 = config.fp8.value_or(Fp8Config{});
  for (const TensorSpec& spec : tensor_table(config)) {
    known[spec.name] = spec.shape;
    if (spec.quantizable) known[scale_name_of(spec.name)] = scale_shape(spec.shape, fp8);
    if (may_be_packed(spec) && is_packed(checkpoint, spec.name)) {
      try {
        const PackedMatrix matrix = packed_matrix(checkpoint, spec.name, spec.shape);
        for (const SafetensorsEntry* part : {matrix.words, matrix.scales, matrix.zeros, matrix.stored_shape}) {
          if (part != nullptr) known[part->name] = part->shape;
        }
      } catch (const Error& error) {
        report.problems.push_back(error.what());
      }
      continue;
    }
    if (!spec.optional && !checkpoint.has(spec.name)) {
      report.problems.push_back(fmt::format("{} is missing", spec.name));
    }
  }
  for (TensorReport& tensor : report.tensors) {
    const auto found = known.find(tensor.name);
    if (found == known.end()) {
      tensor.problems.push_back("the config does not know it");
    } else if (found->second != tensor.shape) {
      tensor.problems.push_back(
          fmt::format("its shape is {}, the config says {}", shape_text(tensor.shape), shape_text(found->second)));
    }
  }
}

}  // namespace

int64_t VerifyReport::problem_count() const {
  auto count = std::ssize(problems);
  for (const TensorReport& tensor : tensors) count += std::ssize(tensor.problems);
  return count;
}

VerifyReport verify_checkpoint(const Checkpoint& checkpoint, const Checkpoint* against, ThreadTeam& team,
                               const std::function<void(uint64_t done, uint64_t total)>& on_progress) {
  VerifyReport report;
  for (const auto& file : checkpoint.files()) {
    for (const SafetensorsEntry& entry : file->entries()) {
      report.tensors.push_back({entry.name, entry.dtype, entry.shape});
      report.bytes += entry.end - entry.begin;
      if (against != nullptr && !has_values(*against, value_name_of(checkpoint, entry.name)) &&
          !is_part_of_another(checkpoint, entry.name)) {
        report.tensors.back().problems.push_back("the other checkpoint does not have it");
      }
    }
  }
  check_table(checkpoint, report);
  if (against != nullptr) {
    for (const auto& file : against->files()) {
      for (const SafetensorsEntry& entry : file->entries()) {
        const std::string name = value_name_of(*against, entry.name);
        if (!has_values(checkpoint, name) && !is_part_of_another(*against, entry.name)) {
          report.problems.push_back(fmt::format("only the other checkpoint has {}", printable_name(name)));
        }
      }
    }
  }

  const TensorReader reader(checkpoint);
  std::unique_ptr<TensorReader> other_reader;
  if (against != nullptr) other_reader = std::make_unique<TensorReader>(*against);
  std::mutex mutex;  // over `done`, `error` and the caller's function
  uint64_t done = 0;
  std::exception_ptr error;
  team.parallel_for(std::ssize(report.tensors), [&](int64_t i, int) {
    {
      const std::lock_guard lock(mutex);
      if (error) return;
    }
    try {
      TensorCheck check(checkpoint, reader, report.tensors[static_cast<size_t>(i)]);
      check.compare_with(against, other_reader.get());
      check.run([&](uint64_t bytes) {
        const std::lock_guard lock(mutex);
        done += bytes;
        if (on_progress) on_progress(done, report.bytes);
      });
    } catch (...) {
      const std::lock_guard lock(mutex);
      error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
  return report;
}

}  // namespace fathom
