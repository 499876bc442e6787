#include "engine/generation_config.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

namespace {

/// `DIR/generation_config.json`; an empty object where there is none.
nlohmann::json read_generation_config(const std::string& directory) {
  const std::string path = directory + "/generation_config.json";
  if (!file_exists(path)) return nlohmann::json::object();
  nlohmann::json json = read_json_file(path, size_t{1} << 20);
  if (!json.is_object()) throw_bad_input("{}: expected a JSON object", path);
  return json;
}

/// A number of generation_config.json, or `otherwise` if it is absent or null.
double number_of(const nlohmann::json& json, const std::string& directory, const char* field, double otherwise) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return otherwise;
  if (!found->is_number()) {
    throw_bad_input("{}/generation_config.json: {} must be a number, found {}", directory, field, found->dump());
  }
  return found->get<double>();
}

void add_unique(std::vector<int32_t>& ids, int64_t id) {
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) return;
  if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(static_cast<int32_t>(id));
}

}  // namespace

SamplingOptions default_sampling(const std::string& directory) {
  SamplingOptions options;
  options.temperature = 0;
  const nlohmann::json json = read_generation_config(directory);
  const auto do_sample = json.find("do_sample");
  if (do_sample == json.end() || !do_sample->is_boolean() || !do_sample->get<bool>()) return options;
  options.temperature = number_of(json, directory, "temperature", 0.6);
  options.top_p = number_of(json, directory, "top_p", 1);
  const double top_k = number_of(json, directory, "top_k", 0);
  if (!(top_k >= 0 && top_k <= std::numeric_limits<int32_t>::max())) {
    throw_bad_input("{}/generation_config.json: top_k must be 0 or a positive whole number, found {}", directory,
                    top_k);
  }
  options.top_k = static_cast<int64_t>(top_k);
  return options;
}

std::vector<int32_t> end_token_ids(const std::string& directory, const ModelConfig& config,
                                   const Tokenizer* tokenizer) {
  std::vector<int32_t> ids;
  for (const int64_t id : config.eos_token_ids) add_unique(ids, id);
  const nlohmann::json json = read_generation_config(directory);
  const auto eos = json.find("eos_token_id");
  if (eos != json.end()) {
    const nlohmann::json list = eos->is_array() ? *eos : nlohmann::json::array({*eos});
    for (const nlohmann::json& id : list) {
      if (id.is_number_integer()) add_unique(ids, id.get<int64_t>());
    }
  }
  if (tokenizer != nullptr) {
    const auto id = tokenizer->added_token(read_tokenizer_config(directory).eos_token);
    if (id) add_unique(ids, *id);
  }
  return ids;
}

}  // namespace fathom
