#include "train/recipe.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "formats/json.h"
#include "train/run_checkpoint.h"

namespace fathom {
namespace {

using nlohmann::json;

// Takes fields out of the object, so that what is left at the end is unknown.
class Fields {
 public:
  Fields(const json& object, std::string_view source) : object_(object), source_(source) {
    if (!object.is_object()) throw_bad_input("{}: expected a JSON object with the fields of a training run.", source_);
  }

  const json* find(const char* name) {
    known_.insert(name);
    const auto it = object_.find(name);
    return it == object_.end() ? nullptr : &*it;
  }

  void number(const char* name, double& value, double least, double greatest) {
    const json* field = find(name);
    if (field == nullptr) return;
    if (!field->is_number()) throw_bad_input("{}: {} is {}; expected a number.", source_, name, field->dump());
    value = field->get<double>();
    if (!(value >= least && value <= greatest)) {
      throw_bad_input("{}: {} is {}; expected {} to {}.", source_, name, field->dump(), least, greatest);
    }
  }

  void integer(const char* name, int64_t& value, int64_t least, bool required = false) {
    constexpr int64_t kGreatest = int64_t{1} << 50;
    const json* field = find(name);
    if (field == nullptr) {
      if (required) throw_bad_input("{}: {} is missing.", source_, name);
      return;
    }
    if (!field->is_number_integer() || (field->is_number_unsigned() && field->get<uint64_t>() > kGreatest) ||
        field->get<int64_t>() < least || field->get<int64_t>() > kGreatest) {
      throw_bad_input("{}: {} is {}; expected a whole number of at least {}.", source_, name, field->dump(), least);
    }
    value = field->get<int64_t>();
  }

  void text(const char* name, std::string& value, bool required = false) {
    const json* field = find(name);
    if (field == nullptr) {
      if (required) throw_bad_input("{}: {} is missing.", source_, name);
      return;
    }
    if (!field->is_string() || field->get_ref<const std::string&>().empty()) {
      throw_bad_input("{}: {} is {}; expected text.", source_, name, field->dump());
    }
    value = field->get<std::string>();
  }

  // One of two or three words; the index of the one that stands there.
  size_t choice(const char* name, std::initializer_list<const char*> words) {
    std::string value = *words.begin();
    text(name, value);
    std::string listed;
    for (const char* const* word = words.begin(); word != words.end(); ++word) {
      if (value == *word) return static_cast<size_t>(word - words.begin());
      listed += std::string(listed.empty() ? "" : ", ") + *word;
    }
    throw_bad_input("{}: {} is \"{}\"; expected one of {}.", source_, name, value, listed);
  }

  void check_unknown() const {
    for (const auto& [name, value] : object_.items()) {
      if (!known_.contains(name)) throw_bad_input("{}: there is no field {} in a training config.", source_, name);
    }
  }

 private:
  const json& object_;
  std::string source_;
  std::set<std::string> known_;
};

ModelConfig recipe_model(Fields& fields, const Recipe& recipe, std::string_view source) {
  const json* model = fields.find("model");
  const json* changes = fields.find("model_changes");
  if ((model != nullptr) == !recipe.start_from.empty()) {
    throw_bad_input("{}: expected either model (random weights) or start_from (a checkpoint), and {}.", source,
                    model != nullptr ? "both are there" : "neither is there");
  }
  json config;
  std::string where(source);
  if (model != nullptr && model->is_object()) {
    config = *model;
    where += ", model";
  } else {
    where = model != nullptr ? (model->is_string() ? model->get<std::string>() : model->dump())
                             : recipe.start_from + "/config.json";
    config = read_json_file(where);
  }
  if (changes != nullptr) {
    if (recipe.start_from.empty() || !changes->is_object()) {
      throw_bad_input("{}: model_changes is an object of config fields, and goes with start_from.", source);
    }
    for (const auto& [name, value] : changes->items()) {
      if (name != "rope_scaling" && name != "max_position_embeddings" && name != "rope_theta") {
        throw_bad_input(
            "{}: model_changes cannot change {}; it can change rope_scaling, rope_theta and "
            "max_position_embeddings.",
            source, name);
      }
      config[name] = value;
    }
  }
  return parse_model_config(config, where);
}

}  // namespace

Recipe parse_recipe(const json& object, std::string_view source) {
  Fields fields(object, source);
  Recipe r;
  fields.text("start_from", r.start_from);
  // The directory of a run stands for its latest checkpoint.
  if (!r.start_from.empty() && !file_exists(r.start_from + "/config.json")) {
    r.start_from = latest_checkpoint(r.start_from).value_or(r.start_from);
  }
  r.model = recipe_model(fields, r, source);
  fields.text("data", r.data, true);
  fields.text("tokenizer", r.tokenizer, true);
  constexpr ComputeMode kPrecisions[] = {ComputeMode::bf16, ComputeMode::w8a8, ComputeMode::fp32};
  r.precision = kPrecisions[fields.choice("precision", {"bf16", "fp8", "fp32"})];
  r.fp8_checkpoints = fields.choice("checkpoint_format", {"bf16", "fp8"}) == 1;
  int64_t seed = 0;
  fields.integer("seed", seed, 0);
  r.seed = static_cast<uint64_t>(seed);
  fields.number("initial_deviation", r.initial_deviation, 1e-6, 1);

  fields.integer("tokens", r.tokens, 1, true);
  fields.integer("micro_batch_sequences", r.micro_batch_sequences, 1);
  fields.integer("batch_sequences", r.batch_sequences, 1, true);
  fields.integer("first_batch_sequences", r.first_batch_sequences, 0);
  fields.number("batch_ramp_until", r.batch_ramp_until, 0, 1);

  fields.number("learning_rate", r.adamw.learning_rate, 0, 10);
  fields.number("adam_beta1", r.adamw.adam_beta1, 0, 0.999999);
  fields.number("adam_beta2", r.adamw.adam_beta2, 0, 0.999999);
  fields.number("adam_eps", r.adamw.adam_eps, 1e-30, 1);
  fields.number("weight_decay", r.adamw.weight_decay, 0, 10);
  r.moments = fields.choice("moments", {"bf16", "f32"}) == 0 ? DType::bf16 : DType::f32;
  fields.number("gradient_clip_norm", r.gradient_clip_norm, 0, 1e9);
  fields.integer("warmup_steps", r.warmup_steps, 0);
  fields.number("constant_until", r.constant_until, 0, 1);
  fields.number("cosine_until", r.cosine_until, 0, 1);
  fields.number("cosine_floor", r.cosine_floor, 0, 1);
  fields.number("last_from", r.last_from, 0, 1);
  fields.number("last_floor", r.last_floor, 0, 1);

  fields.number("bias_update_speed", r.bias_update_speed, 0, 1);
  fields.number("bias_update_until", r.bias_update_until, 0, 1);
  fields.number("balance_loss_alpha", r.balance_loss_alpha, 0, 100);
  fields.number("mtp_loss_weight", r.mtp_loss_weight, 0, 100);
  fields.number("later_mtp_loss_weight", r.later_mtp_loss_weight, 0, 100);
  fields.number("mtp_loss_weight_until", r.mtp_loss_weight_until, 0, 1);
  fields.number("ema_decay", r.ema_decay, 0, 0.9999999);

  fields.integer("validate_every", r.validate_every, 0);
  fields.integer("validation_sequences", r.validation_sequences, 1);
  fields.integer("checkpoint_every", r.checkpoint_every, 1);
  fields.integer("keep_checkpoints", r.keep_checkpoints, 1);
  fields.check_unknown();

  if (r.batch_sequences % r.micro_batch_sequences != 0) {
    throw_bad_input("{}: batch_sequences is {}; expected a multiple of micro_batch_sequences, {}.", source,
                    r.batch_sequences, r.micro_batch_sequences);
  }
  if (r.first_batch_sequences % r.micro_batch_sequences != 0 || r.first_batch_sequences > r.batch_sequences) {
    throw_bad_input(
        "{}: first_batch_sequences is {}; expected a multiple of micro_batch_sequences, {}, and at most "
        "batch_sequences, {}.",
        source, r.first_batch_sequences, r.micro_batch_sequences, r.batch_sequences);
  }
  if (r.first_batch_sequences > 0 && r.batch_ramp_until == 0) {
    throw_bad_input("{}: first_batch_sequences is {}, but batch_ramp_until is 0: there is no ramp.", source,
                    r.first_batch_sequences);
  }
  if (r.constant_until > r.cosine_until || r.cosine_until > r.last_from) {
    throw_bad_input("{}: constant_until {}, cosine_until {} and last_from {} are not in ascending order.", source,
                    r.constant_until, r.cosine_until, r.last_from);
  }
  if (r.bias_update_speed > 0 && r.model.topk_method != TopkMethod::noaux_tc && r.model.n_routed_experts > 0) {
    throw_bad_input("{}: bias_update_speed is {}, but the model's topk_method has no correction bias; set it to 0.",
                    source, r.bias_update_speed);
  }
  return r;
}

Recipe read_recipe(const std::string& path) {
  return parse_recipe(read_json_file(path, size_t{1} << 20), path);
}

json recipe_identity(const Recipe& r) {
  json model = model_config_json(r.model);
  // How a checkpoint stores its weights.
  model.erase("torch_dtype");
  model.erase("quantization_config");
  return {{"model", model},
          {"precision", compute_mode_name(r.precision)},
          {"seed", r.seed},
          {"initial_deviation", r.initial_deviation},
          {"micro_batch_sequences", r.micro_batch_sequences},
          {"batch_sequences", r.batch_sequences},
          {"first_batch_sequences", r.first_batch_sequences},
          {"batch_ramp_until", r.batch_ramp_until},
          {"learning_rate", r.adamw.learning_rate},
          {"adam_beta1", r.adamw.adam_beta1},
          {"adam_beta2", r.adamw.adam_beta2},
          {"adam_eps", r.adamw.adam_eps},
          {"weight_decay", r.adamw.weight_decay},
          {"moments", r.moments == DType::bf16 ? "bf16" : "f32"},
          {"gradient_clip_norm", r.gradient_clip_norm},
          {"warmup_steps", r.warmup_steps},
          {"constant_until", r.constant_until},
          {"cosine_until", r.cosine_until},
          {"cosine_floor", r.cosine_floor},
          {"last_from", r.last_from},
          {"last_floor", r.last_floor},
          {"bias_update_speed", r.bias_update_speed},
          {"bias_update_until", r.bias_update_until},
          {"balance_loss_alpha", r.balance_loss_alpha},
          {"mtp_loss_weight", r.mtp_loss_weight},
          {"later_mtp_loss_weight", r.later_mtp_loss_weight},
          {"mtp_loss_weight_until", r.mtp_loss_weight_until},
          {"ema_decay", r.ema_decay}};
}

StepPlan plan_step(const Recipe& r, int64_t step, int64_t tokens) {
  const double done = static_cast<double>(tokens) / static_cast<double>(r.tokens);
  StepPlan plan;

  plan.sequences = r.batch_sequences;
  if (r.first_batch_sequences > 0 && done < r.batch_ramp_until) {
    const double share = done / r.batch_ramp_until;
    const double wanted = static_cast<double>(r.first_batch_sequences) +
                          share * static_cast<double>(r.batch_sequences - r.first_batch_sequences);
    const auto micro = static_cast<double>(r.micro_batch_sequences);
    plan.sequences = static_cast<int64_t>(std::llround(wanted / micro)) * r.micro_batch_sequences;
  }

  double factor = 1;
  if (done >= r.last_from) {
    factor = r.last_floor;
  } else if (done >= r.cosine_until) {
    factor = r.cosine_floor;
  } else if (done > r.constant_until) {
    const double share = (done - r.constant_until) / (r.cosine_until - r.constant_until);
    factor = r.cosine_floor + 0.5 * (1 - r.cosine_floor) * (1 + std::cos(std::numbers::pi * share));
  }
  if (step < r.warmup_steps) factor *= static_cast<double>(step) / static_cast<double>(r.warmup_steps);
  plan.learning_rate = r.adamw.learning_rate * factor;

  plan.bias_update_speed = done < r.bias_update_until ? r.bias_update_speed : 0;
  plan.mtp_loss_weight = done < r.mtp_loss_weight_until ? r.mtp_loss_weight : r.later_mtp_loss_weight;
  return plan;
}

int64_t count_steps(const Recipe& recipe, int64_t sequence_length) {
  int64_t steps = 0;
  int64_t tokens = 0;
  while (tokens < recipe.tokens) {
    // Steps of one size at once: the ramp only rises, so that they lie together.
    const int64_t size = plan_step(recipe, steps + 1, tokens).sequences;
    const int64_t each = size * sequence_length;
    int64_t same = 1;                                               // so many are of this size
    int64_t more = (recipe.tokens - tokens + each - 1) / each + 1;  // so many are not, or pass the budget
    while (more - same > 1) {
      const int64_t middle = same + (more - same) / 2;
      const int64_t last = tokens + (middle - 1) * each;
      (plan_step(recipe, steps + middle, last).sequences == size ? same : more) = middle;
    }
    steps += same;
    tokens += same * each;
  }
  return steps;
}

}  // namespace fathom
