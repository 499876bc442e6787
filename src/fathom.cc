#include "fathom/fathom.h"

#include "base/error.h"
#include "base/file.h"
#include "engine/generate.h"
#include "engine/generation_config.h"
#include "engine/session.h"
#include "text/chat_prompt.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

std::string_view version() {
  return "0.1.0";
}

bool is_bad_input(const std::exception& error) {
  const auto* ours = dynamic_cast<const Error*>(&error);
  return ours != nullptr && ours->kind() == ErrorKind::bad_input;
}

struct Model::Data {
  std::string directory;
  std::unique_ptr<Tokenizer> tokenizer;
  TokenizerConfig tokenizer_config;
  std::unique_ptr<Session> session;
  std::vector<int32_t> end_tokens;

  const Tokenizer& need_tokenizer() const {
    if (!tokenizer) throw_bad_input("{}: there is no tokenizer.json", directory);
    return *tokenizer;
  }
};

Model::Model(const std::string& directory, const ModelOptions& options) : data_(std::make_unique<Data>()) {
  SessionOptions session_options;
  if (!options.compute.empty()) {
    session_options.compute = compute_mode_from_name(options.compute);
    if (!session_options.compute) {
      throw_bad_input("compute must be fp32, bf16, int8 or w8a8; \"{}\" was given", options.compute);
    }
  }
  const auto storage = weight_storage_from_name(options.weights);
  if (!storage) throw_bad_input("weights must be mapped, memory, int8 or int4; \"{}\" was given", options.weights);
  session_options.weights = {*storage, options.weights_group, options.weights_zero_point};
  session_options.threads = options.threads;
  session_options.context = options.context;
  data_->directory = directory;
  if (file_exists(directory + "/tokenizer.json")) data_->tokenizer = Tokenizer::load(directory);
  data_->tokenizer_config = read_tokenizer_config(directory);
  data_->session = std::make_unique<Session>(directory, session_options);
  data_->end_tokens = end_token_ids(directory, data_->session->config(), data_->tokenizer.get());
}

Model::~Model() = default;
Model::Model(Model&&) noexcept = default;
Model& Model::operator=(Model&&) noexcept = default;

bool Model::has_tokenizer() const {
  return data_->tokenizer != nullptr;
}

std::vector<int32_t> Model::tokenize(std::string_view text, bool add_bos) const {
  const Tokenizer& tokenizer = data_->need_tokenizer();
  std::vector<int32_t> ids = tokenizer.encode(text);
  const auto bos = tokenizer.added_token(data_->tokenizer_config.bos_token);
  if (add_bos && bos) ids.insert(ids.begin(), *bos);
  return ids;
}

std::string Model::detokenize(const std::vector<int32_t>& ids) const {
  return data_->need_tokenizer().decode(ids);
}

std::vector<int32_t> Model::chat_prompt(const std::string& message, const std::string& system) const {
  const Tokenizer& tokenizer = data_->need_tokenizer();
  if (!data_->tokenizer_config.chat_format) {
    throw_bad_input("{}: the checkpoint has no chat template that Fathom knows (DeepSeek-V3, R1, V3.1)",
                    data_->directory);
  }
  std::vector<ChatTurn> turns;
  if (!system.empty()) turns.push_back({{"system", system, {}}, std::nullopt});
  turns.push_back({{"user", message, {}}, std::nullopt});
  return chat_prompt_ids(tokenizer, data_->tokenizer_config, *data_->tokenizer_config.chat_format, turns, {});
}

GenerateResult Model::generate(const std::vector<int32_t>& prompt, const GenerateOptions& options,
                               const std::function<bool(std::string_view text)>& on_text) {
  GenerationRequest request;
  request.prompt = prompt;
  request.max_new_tokens = options.max_new_tokens;
  request.sampling.temperature = options.temperature;
  request.sampling.top_p = options.top_p;
  request.sampling.top_k = options.top_k;
  request.sampling.min_p = options.min_p;
  request.sampling.repetition_penalty = options.repetition_penalty;
  request.sampling.presence_penalty = options.presence_penalty;
  request.sampling.frequency_penalty = options.frequency_penalty;
  request.sampling.seed = options.seed;
  request.stop = options.stop;
  if (!options.ignore_eos) request.end_tokens = data_->end_tokens;
  GenerationCallbacks callbacks;
  if (on_text) {
    callbacks.on_token = [&](int32_t, std::string_view text) { return text.empty() || on_text(text); };
  }
  Generation generation = fathom::generate(*data_->session, data_->tokenizer.get(), request, callbacks);
  return {std::move(generation.tokens), std::move(generation.text),
          std::string(finish_reason_name(generation.finish_reason))};
}

}  // namespace fathom
