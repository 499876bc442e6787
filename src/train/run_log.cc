#include "train/run_log.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"

namespace fathom {
namespace {

using nlohmann::json;

constexpr size_t kLargestLog = size_t{2} << 30;
constexpr int64_t kGreatestCount = int64_t{1} << 53;

// One line of the log, and where it is from.
struct Line {
  const json& object;
  const std::string& where;

  [[noreturn]] void refuse(std::string_view key, const char* expected, const json& found) const {
    std::string shown = found.dump(-1, ' ', true, json::error_handler_t::replace);
    if (shown.size() > 40) shown = shown.substr(0, 40) + "...";
    throw_bad_input("{}: {} is {}; expected {}.", where, key, shown, expected);
  }
  // As `key`, which is one of the object's or stands for a place in it.
  double number(std::string_view key, const json& value) const {
    if (value.is_null()) return kNotLogged;
    if (!value.is_number()) refuse(key, "a number", value);
    return value.get<double>();
  }
  int64_t count(std::string_view key, const json& value) const {
    const char* expected = "a whole number from 0";
    if (!value.is_number_integer()) refuse(key, expected, value);
    if (value.is_number_unsigned() ? value.get<uint64_t>() > kGreatestCount : value.get<int64_t>() < 0) {
      refuse(key, expected, value);
    }
    return value.get<int64_t>();
  }
  double number(const char* key) const {
    const auto found = object.find(key);
    return found == object.end() ? kNotLogged : number(key, *found);
  }
  int64_t count(const char* key) const {
    const auto found = object.find(key);
    return found == object.end() ? 0 : count(key, *found);
  }
  std::vector<double> numbers(const char* key) const {
    std::vector<double> values;
    const auto found = object.find(key);
    if (found == object.end() || found->is_null()) return values;
    if (!found->is_array()) refuse(key, "a list of numbers", *found);
    for (const json& value : *found) values.push_back(number(key, value));
    return values;
  }
};

StepRecord step_record(const Line& line) {
  StepRecord record;
  record.loss = line.number("loss");
  record.main = line.number("main");
  record.mtp = line.numbers("mtp");
  record.balance = line.number("balance");
  record.gradient_norm = line.number("gradient_norm");
  record.clip_factor = line.number("clip_factor");
  record.learning_rate = line.number("learning_rate");
  record.bias_update_speed = line.number("bias_update_speed");
  record.sequences = line.count("sequences");
  record.tokens_per_second = line.number("tokens_per_second");
  record.fraction_of_peak = line.number("fraction_of_peak");
  record.load_violation = line.numbers("load_violation");
  record.seconds = line.number("seconds");
  return record;
}

ValidationRecord validation_record(const Line& line) {
  const json& losses = line.object.at("validation");
  if (!losses.is_object()) line.refuse("validation", "an object with the losses", losses);
  const Line inner{losses, line.where};
  ValidationRecord record;
  record.main = inner.number("main");
  record.mtp = inner.numbers("mtp");
  record.sequences = inner.count("sequences");
  return record;
}

ExpertLoadRecord load_record(const Line& line) {
  const json& by_layer = line.object.at("expert_load");
  if (!by_layer.is_object()) line.refuse("expert_load", "an object of lists by layer", by_layer);
  ExpertLoadRecord record;
  for (const auto& [name, counts] : by_layer.items()) {
    int64_t layer = -1;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
    if (error != std::errc() || end != name.data() + name.size() || layer < 0) {
      line.refuse("a key of expert_load", "a layer's number", name);
    }
    const std::string key = fmt::format("expert_load of layer {}", layer);
    if (!counts.is_array()) line.refuse(key, "a list of counts", counts);
    std::vector<int64_t> loads;
    for (const json& value : counts) loads.push_back(line.count(key, value));
    if (!loads.empty()) record.layers.emplace_back(layer, std::move(loads));
  }
  // The parser sorts keys as text: "10" before "2".
  std::sort(record.layers.begin(), record.layers.end());
  for (size_t i = 1; i < record.layers.size(); ++i) {
    if (record.layers[i].first == record.layers[i - 1].first) {
      throw_bad_input("{}: expert_load holds layer {} twice.", line.where, record.layers[i].first);
    }
  }
  return record;
}

// What an earlier part of the run wrote from this step on was repeated after a restart.
template <typename Record>
void forget_from(std::vector<Record>& records, int64_t step) {
  while (!records.empty() && records.back().step >= step) records.pop_back();
}

template <typename Record>
void append(std::vector<Record>& records, Record record, int64_t step, int64_t tokens) {
  forget_from(records, step);
  record.step = step;
  record.tokens = tokens;
  records.push_back(std::move(record));
}

void read_line(RunLog& log, const Line& line) {
  const bool validation = line.object.contains("validation");
  const bool load = line.object.contains("expert_load");
  const bool training = line.object.contains("main");
  if (!validation && !load && !training) return;
  const auto step_value = line.object.find("step");
  if (step_value == line.object.end()) throw_bad_input("{}: the step is missing.", line.where);
  const int64_t step = line.count("step", *step_value);
  const int64_t tokens = line.count("tokens");
  if (training) {
    if (!log.steps.empty() && step <= log.steps.back().step) {
      forget_from(log.validations, step);
      forget_from(log.loads, step);
    }
    append(log.steps, step_record(line), step, tokens);
  }
  if (validation) append(log.validations, validation_record(line), step, tokens);
  if (load) append(log.loads, load_record(line), step, tokens);
}

}  // namespace

RunLog parse_run_log(std::string_view text, const std::string& source) {
  RunLog log;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t newline = text.find('\n', begin);
    const bool torn = newline == std::string_view::npos;
    const std::string_view content = text.substr(begin, torn ? newline : newline - begin);
    begin = torn ? text.size() : newline + 1;
    ++number;
    if (content.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const std::string where = fmt::format("{}, line {}", source, number);
    json object;
    if (torn) {
      // A whole object ends with its brace, so half of a line never parses as one.
      object = json::parse(content, nullptr, false);
      if (!object.is_object()) break;
    }
    object = parse_json(content, where);
    if (!object.is_object())
      throw_bad_input("{}: expected a JSON object, found a value of type {}.", where, object.type_name());
    read_line(log, Line{object, where});
  }
  return log;
}

RunLog mean_log(const std::vector<RunLog>& logs, const std::string& source) {
  const auto share = 1 / static_cast<double>(logs.size());
  const auto differ = [&] {
    throw_bad_input("{}: these runs do not have the same steps, layers and depths, so they have no mean.", source);
  };
  const auto add_all = [&](std::vector<double>& to, const std::vector<double>& from) {
    if (to.size() != from.size()) differ();
    for (size_t i = 0; i < to.size(); ++i) to[i] += share * from[i];
  };
  constexpr double StepRecord::*kNumbers[] = {&StepRecord::loss,
                                              &StepRecord::main,
                                              &StepRecord::balance,
                                              &StepRecord::gradient_norm,
                                              &StepRecord::clip_factor,
                                              &StepRecord::learning_rate,
                                              &StepRecord::seconds,
                                              &StepRecord::bias_update_speed,
                                              &StepRecord::tokens_per_second,
                                              &StepRecord::fraction_of_peak};
  // As many records of a kind as every log has.
  const auto common = [&](auto records) {
    size_t count = (logs[0].*records).size();
    for (const RunLog& log : logs) count = std::min(count, (log.*records).size());
    for (const RunLog& log : logs) {
      for (size_t i = 0; i < count; ++i) {
        if ((log.*records)[i].step != (logs[0].*records)[i].step) differ();
      }
    }
    return count;
  };
  RunLog mean;
  const size_t steps = common(&RunLog::steps);
  if (steps == 0) differ();
  for (size_t i = 0; i < steps; ++i) {
    StepRecord record = logs[0].steps[i];
    for (const auto number : kNumbers) record.*number = 0;
    std::fill(record.mtp.begin(), record.mtp.end(), 0.0);
    std::fill(record.load_violation.begin(), record.load_violation.end(), 0.0);
    for (const RunLog& log : logs) {
      for (const auto number : kNumbers) record.*number += share * (log.steps[i].*number);
      add_all(record.mtp, log.steps[i].mtp);
      add_all(record.load_violation, log.steps[i].load_violation);
    }
    mean.steps.push_back(std::move(record));
  }
  const size_t validations = common(&RunLog::validations);
  for (size_t i = 0; i < validations; ++i) {
    ValidationRecord record = logs[0].validations[i];
    record.main = 0;
    std::fill(record.mtp.begin(), record.mtp.end(), 0.0);
    for (const RunLog& log : logs) {
      record.main += share * log.validations[i].main;
      add_all(record.mtp, log.validations[i].mtp);
    }
    mean.validations.push_back(std::move(record));
  }
  const size_t loads = common(&RunLog::loads);
  for (size_t i = 0; i < loads; ++i) {
    ExpertLoadRecord record = logs[0].loads[i];
    for (size_t other = 1; other < logs.size(); ++other) {
      const ExpertLoadRecord& from = logs[other].loads[i];
      if (from.layers.size() != record.layers.size()) differ();
      for (size_t l = 0; l < record.layers.size(); ++l) {
        std::vector<int64_t>& to = record.layers[l].second;
        if (from.layers[l].first != record.layers[l].first || from.layers[l].second.size() != to.size()) differ();
        for (size_t e = 0; e < to.size(); ++e) to[e] += from.layers[l].second[e];
      }
    }
    mean.loads.push_back(std::move(record));
  }
  return mean;
}

RunLog read_run_log(const std::string& run) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::exists(run, error)) throw_bad_input("{}: there is no such run; expected a run's directory.", run);
  if (!fs::is_directory(run, error)) throw_bad_input("{}: expected a run's directory, found a file.", run);
  const std::string path = (fs::path(run) / "log.jsonl").string();
  if (!file_exists(path)) throw_bad_input("{}: there is no log.jsonl in it, so this is not a run's directory.", run);
  RunLog log = parse_run_log(read_file(path, kLargestLog), path);
  if (log.steps.empty()) throw_bad_input("{}: the log holds no step yet.", path);
  return log;
}

}  // namespace fathom
