// fathom tokenize: text to token ids and back, one JSON value per line.

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/commands.h"
#include "cli/lines.h"
#include "cli/options.h"
#include "formats/json.h"

namespace fathom {

namespace {

struct TokenizeArguments {
  std::string model;
  std::string input_file;
  std::string format;
  bool decode = false;
  bool skip_special = false;
  bool chat = false;
  bool thinking = false;
  bool add_bos = false;
};

std::vector<int32_t> ids_of_line(const nlohmann::json& json, const std::string& where) {
  if (!json.is_array()) throw_bad_input("{}: expected a JSON list of token ids", where);
  std::vector<int32_t> ids;
  for (const nlohmann::json& id : json) {
    if (!id.is_number_integer() || id < 0 || id > INT32_MAX) {
      throw_bad_input("{}: expected a token id, found {}", where, id.dump());
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

bool flag_of(const nlohmann::json& json, const char* field, bool otherwise, const std::string& where) {
  const auto found = json.find(field);
  if (found == json.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) throw_bad_input("{}: {} must be true or false, found {}", where, field, found->dump());
  return found->get<bool>();
}

class TokenizeCommand {
 public:
  explicit TokenizeCommand(const TokenizeArguments& arguments)
      : arguments_(arguments),
        tokenizer_(Tokenizer::load(arguments.model)),
        config_(read_tokenizer_config(arguments.model)) {
    if (arguments_.chat) format_ = chat_format(arguments_.model, config_, arguments_.format);
    if (arguments_.add_bos) {
      const auto bos = tokenizer_->added_token(config_.bos_token);
      if (!bos)
        throw_bad_input("{}: --add-bos needs a bos_token in tokenizer_config.json, and there is none",
                        arguments_.model);
      bos_ = *bos;
    }
  }

  void run() {
    LineReader reader(arguments_.input_file);
    std::string line;
    while (reader.next(line)) {
      check_interrupt();
      const std::string where = reader.where();
      const nlohmann::json json = parse_json(line, where);
      if (arguments_.decode) {
        write_stdout(json_line(tokenizer_->decode(ids_of_line(json, where), arguments_.skip_special)));
      } else if (arguments_.chat) {
        write_stdout(json_line(render(json, where)));
      } else {
        if (!json.is_string()) throw_bad_input("{}: expected a JSON string", where);
        std::vector<int32_t> ids = tokenizer_->encode(json.get_ref<const std::string&>());
        if (arguments_.add_bos) ids.insert(ids.begin(), bos_);
        write_stdout(json_line(ids));
      }
    }
  }

 private:
  nlohmann::ordered_json render(const nlohmann::json& json, const std::string& where) {
    ChatOptions options;
    options.thinking = arguments_.thinking;
    const nlohmann::json* messages = &json;
    if (json.is_object()) {
      if (!json.contains("messages")) throw_bad_input("{}: the object has no \"messages\"", where);
      messages = &json.at("messages");
      options.add_generation_prompt = flag_of(json, "add_generation_prompt", true, where);
      options.thinking = flag_of(json, "thinking", arguments_.thinking, where);
      if (json.contains("tools") && !json.at("tools").empty() && !told_about_tools_) {
        fmt::print(stderr,
                   "fathom: note: the published chat templates do not render \"tools\"; they are left out ({})\n",
                   where);
        told_about_tools_ = true;
      }
    } else if (!json.is_array()) {
      throw_bad_input("{}: expected a list of messages or an object with \"messages\"", where);
    }
    const std::string text =
        render_chat(format_, config_.bos_token, chat_messages_from_json(*messages, where), options);
    return {{"text", text}, {"ids", tokenizer_->encode(text)}};
  }

  TokenizeArguments arguments_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenizerConfig config_;
  ChatFormat format_ = ChatFormat::deepseek_v3;
  int32_t bos_ = 0;
  bool told_about_tools_ = false;
};

}  // namespace

void add_tokenize_command(CLI::App& app, int& exit_code) {
  CLI::App& command =
      *app.add_subcommand("tokenize", "Turn text into token ids, ids into text, conversations into both");
  auto arguments = std::make_shared<TokenizeArguments>();
  command.add_option("--model,-m", arguments->model, "Checkpoint directory, or a tokenizer.json")
      ->required()
      ->type_name("DIR");
  command.add_option("--input-file", arguments->input_file, "Read this file instead of the standard input")
      ->type_name("FILE");
  CLI::Option* decode = command.add_flag("--decode", arguments->decode, "Lines are lists of ids; print JSON strings");
  command.add_flag("--skip-special", arguments->skip_special, "With --decode: leave special tokens out")->needs(decode);
  CLI::Option* chat = command.add_flag("--chat", arguments->chat,
                                       "Lines are conversations: a list of messages, or an object with messages, "
                                       "add_generation_prompt (default true) and thinking; print {\"text\", \"ids\"}");
  chat->excludes(decode);
  command.add_flag("--thinking", arguments->thinking, "With --chat: let a V3.1 model think")->needs(chat);
  command.add_option("--format", arguments->format, "With --chat: this template instead of the checkpoint's")
      ->check(CLI::IsMember({"v3", "r1", "v31"}))
      ->type_name("NAME")
      ->needs(chat);
  command.add_flag("--add-bos", arguments->add_bos, "Put the begin-of-text token in front of the ids")
      ->excludes(decode)
      ->excludes(chat);
  command.footer(
      "Every input line is one JSON string, and every output line its JSON list of ids:\n"
      "  echo '\"Hello, world!\"' | fathom tokenize --model DIR\n"
      "  echo '[19923, 14, 2058, 3]' | fathom tokenize --model DIR --decode\n"
      "  echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | fathom tokenize --model DIR --chat\n"
      "As in the Hugging Face library, special tokens that are written out in the text become their ids.");
  command.callback([arguments, &exit_code] {
    TokenizeCommand(*arguments).run();
    exit_code = 0;
  });
}

}  // namespace fathom
