#include "data/tiny_python.h"

#include <map>
#include <optional>
#include <variant>

#include "base/error.h"

namespace fathom {
namespace {

struct Value;
using List = std::vector<Value>;
struct Value {
  std::variant<int64_t, std::string, List, bool> data = int64_t{0};
};

/// Steps and numbers beyond these are not what a corpus is made of.
constexpr int most_steps = 10'000;
constexpr int64_t greatest_number = int64_t{1} << 40;
constexpr size_t most_text = 10'000;
constexpr int deepest = 40;

struct Line {
  size_t indent = 0;
  std::string_view text;
  size_t number = 0;
};

struct Function {
  std::vector<std::string> parameters;
  size_t begin = 0, end = 0;  // lines of the body
};

using Scope = std::map<std::string, Value>;

bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}
bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

std::string text_of(const Value& value, bool inside_list = false) {
  if (const auto* number = std::get_if<int64_t>(&value.data)) return std::to_string(*number);
  if (const auto* truth = std::get_if<bool>(&value.data)) return *truth ? "True" : "False";
  if (const auto* text = std::get_if<std::string>(&value.data)) return inside_list ? "'" + *text + "'" : *text;
  std::string out = "[";
  for (const Value& item : std::get<List>(value.data)) out += (out.size() > 1 ? ", " : "") + text_of(item, true);
  return out + "]";
}

class Interpreter {
 public:
  Interpreter(std::string_view program, const std::function<void(char, int64_t, int64_t)>& on_arithmetic)
      : on_arithmetic_(on_arithmetic) {
    size_t number = 0;
    while (!program.empty()) {
      const size_t end = std::min(program.find('\n'), program.size());
      std::string_view text = program.substr(0, end);
      program.remove_prefix(std::min(end + 1, program.size()));
      ++number;
      size_t indent = 0;
      while (indent < text.size() && text[indent] == ' ') ++indent;
      text.remove_prefix(indent);
      if (!text.empty()) lines_.push_back({indent, text, number});
    }
  }

  ProgramRun run() {
    scopes_.emplace_back();
    block(0, lines_.size());
    return std::move(result_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw_bad_input("Line {} of the program: {}", line_ == nullptr ? 0 : line_->number, what);
  }

  void step() {
    if (++steps_ > most_steps) refuse("expected an end within 10,000 steps");
  }

  /// One past the last line of the block under `head`.
  size_t body_end(size_t head) const {
    size_t end = head + 1;
    while (end < lines_.size() && lines_[end].indent > lines_[head].indent) ++end;
    return end;
  }

  /// Runs lines; a value if a return was met.
  std::optional<Value> block(size_t begin, size_t end) {
    for (size_t at = begin; at < end;) {
      line_ = &lines_[at];
      step();
      const std::string_view text = lines_[at].text;
      if (text.starts_with("def ")) {
        at = define(at);
      } else if (text.starts_with("if ")) {
        if (auto value = branches(at)) return value;
      } else if (text.starts_with("while ")) {
        const size_t stop = body_end(at);
        while (truth(evaluate_head(at, 6))) {
          if (auto value = block(at + 1, stop)) return value;
          step();
        }
        at = stop;
      } else if (text.starts_with("for ")) {
        if (auto value = loop(at)) return value;
      } else if (text.starts_with("return ")) {
        return evaluate(text.substr(7));
      } else {
        simple(text);
        ++at;
      }
    }
    return std::nullopt;
  }

  size_t define(size_t at) {
    start(lines_[at].text.substr(4));
    const std::string name = this->name();
    Function function;
    expect('(');
    while (!accept(')')) {
      function.parameters.push_back(this->name());
      accept(',');
    }
    expect(':');
    function.begin = at + 1;
    function.end = body_end(at);
    functions_[name] = function;
    return function.end;
  }

  /// if, its elifs and its else; `at` moves behind them.
  std::optional<Value> branches(size_t& at) {
    bool done = false;
    const size_t indent = lines_[at].indent;
    bool first = true;
    while (at < lines_.size() && lines_[at].indent == indent) {
      const std::string_view text = lines_[at].text;
      line_ = &lines_[at];
      const bool is_elif = text.starts_with("elif ");
      const bool is_else = text == "else:";
      if (!first && !is_elif && !is_else) break;
      const size_t stop = body_end(at);
      if (!done && (is_else || truth(evaluate_head(at, first ? 3 : 5)))) {
        done = true;
        if (auto value = block(at + 1, stop)) return value;
      }
      first = false;
      at = stop;
      if (is_else) break;
    }
    return std::nullopt;
  }

  std::optional<Value> loop(size_t& at) {
    start(lines_[at].text.substr(4));
    const std::string variable = name();
    if (name() != "in") refuse("expected \"in\"");
    const Value over = expression();
    expect(':');
    const auto* items = std::get_if<List>(&over.data);
    if (items == nullptr) refuse("expected a list to go over");
    const size_t stop = body_end(at);
    for (const Value& item : *items) {
      step();
      scopes_.back()[variable] = item;
      if (auto value = block(at + 1, stop)) return value;
    }
    at = stop;
    return std::nullopt;
  }

  /// The condition of "if …:", "elif …:" and "while …:".
  Value evaluate_head(size_t at, size_t word) {
    line_ = &lines_[at];
    const std::string_view text = lines_[at].text;
    if (text.back() != ':') refuse("expected \":\" at the end");
    return evaluate(text.substr(word, text.size() - word - 1));
  }

  void simple(std::string_view text) {
    start(text);
    const std::string word = name();
    if (word == "print" && accept('(')) {
      std::string out;
      for (bool first = true; !accept(')'); first = false) {
        if (!first) expect(',');
        out += (first ? "" : " ") + text_of(expression());
      }
      result_.output += out + "\n";
      result_.trace.push_back("print " + out);
      return at_end();
    }
    if (accept('.')) {
      if (name() != "append") refuse("expected append");
      expect('(');
      Value item = expression();
      expect(')');
      auto* list = std::get_if<List>(&lookup(word).data);
      if (list == nullptr) refuse("expected a list before append");
      list->push_back(std::move(item));
      result_.trace.push_back(word + " = " + text_of(lookup(word), true));
      return at_end();
    }
    char operation = 0;
    if (peek() == '+' || peek() == '-' || peek() == '*') {
      operation = peek();
      ++at_;
    }
    expect('=');
    Value value = expression();
    at_end();
    if (operation != 0) value = calculate(operation, lookup(word), value);
    result_.trace.push_back(word + " = " + text_of(value, true));
    scopes_.back()[word] = std::move(value);
  }

  // ---- Expressions ----

  void start(std::string_view text) {
    text_ = text;
    at_ = 0;
  }
  void skip() {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
  }
  char peek() {
    skip();
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  bool accept(char character) {
    if (peek() != character) return false;
    ++at_;
    return true;
  }
  bool accept(std::string_view word) {
    skip();
    if (text_.substr(at_, word.size()) != word) return false;
    const size_t after = at_ + word.size();
    if (is_name_start(word[0]) && after < text_.size() && (is_name_start(text_[after]) || is_digit(text_[after]))) {
      return false;
    }
    at_ = after;
    return true;
  }
  void expect(char character) {
    if (!accept(character)) refuse(fmt::format("expected \"{}\" in \"{}\"", character, text_));
  }
  void at_end() {
    if (peek() != '\0') refuse(fmt::format("\"{}\" is not known", text_.substr(at_)));
  }
  std::string name() {
    skip();
    size_t end = at_;
    while (end < text_.size() && (is_name_start(text_[end]) || (end > at_ && is_digit(text_[end])))) ++end;
    if (end == at_) refuse(fmt::format("expected a name in \"{}\"", text_));
    std::string word(text_.substr(at_, end - at_));
    at_ = end;
    return word;
  }

  Value evaluate(std::string_view text) {
    start(text);
    Value value = expression();
    at_end();
    return value;
  }

  Value expression() {
    Value left = conjunction();
    while (accept(std::string_view("or"))) {
      const Value right = conjunction();
      left = Value{truth(left) || truth(right)};
    }
    return left;
  }
  Value conjunction() {
    Value left = negation();
    while (accept(std::string_view("and"))) {
      const Value right = negation();
      left = Value{truth(left) && truth(right)};
    }
    return left;
  }
  Value negation() {
    if (accept(std::string_view("not"))) return Value{!truth(negation())};
    return comparison();
  }
  Value comparison() {
    Value left = sum();
    for (const std::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (!accept(op)) continue;
      const Value right = sum();
      return Value{compare(op, left, right)};
    }
    return left;
  }
  bool compare(std::string_view op, const Value& left, const Value& right) {
    int order = 0;
    if (std::holds_alternative<int64_t>(left.data) && std::holds_alternative<int64_t>(right.data)) {
      const int64_t a = number(left);
      const int64_t b = number(right);
      order = a < b ? -1 : (a > b ? 1 : 0);
    } else if (std::holds_alternative<std::string>(left.data) && std::holds_alternative<std::string>(right.data)) {
      order = std::get<std::string>(left.data).compare(std::get<std::string>(right.data));
    } else {
      refuse("expected two numbers or two strings to compare");
    }
    if (op == "==") return order == 0;
    if (op == "!=") return order != 0;
    if (op == "<=") return order <= 0;
    if (op == ">=") return order >= 0;
    return op == "<" ? order < 0 : order > 0;
  }
  Value sum() {
    Value left = product();
    while (peek() == '+' || peek() == '-') {
      const char op = text_[at_++];
      const Value right = product();
      left = calculate(op, left, right);
    }
    return left;
  }
  Value product() {
    Value left = postfix();
    while (true) {
      char op = 0;
      if (accept(std::string_view("//"))) {
        op = '/';
      } else if (accept('*')) {
        op = '*';
      } else if (accept('%')) {
        op = '%';
      } else {
        return left;
      }
      const Value right = postfix();
      left = calculate(op, left, right);
    }
  }

  Value calculate(char op, const Value& left, const Value& right) {
    const auto* text = std::get_if<std::string>(&left.data);
    if (text != nullptr && op == '+' && std::holds_alternative<std::string>(right.data)) {
      std::string joined = *text + std::get<std::string>(right.data);
      if (joined.size() > most_text) refuse("the string is too long");
      return Value{joined};
    }
    if (text != nullptr && op == '*') {
      std::string repeated;
      for (int64_t i = 0; i < number(right); ++i) {
        step();
        repeated += *text;
        if (repeated.size() > most_text) refuse("the string is too long");
      }
      return Value{repeated};
    }
    const int64_t a = number(left);
    const int64_t b = number(right);
    if (on_arithmetic_ && (op == '+' || op == '-' || op == '*')) on_arithmetic_(op, a, b);
    if ((op == '/' || op == '%') && b == 0) refuse("division by zero");
    // Python rounds quotients down; C++ cuts them.
    const int64_t quotient = op == '/' || op == '%' ? a / b - (a % b != 0 && (a % b < 0) != (b < 0) ? 1 : 0) : 0;
    int64_t value = 0;
    if (op == '+') value = a + b;
    if (op == '-') value = a - b;
    if (op == '*' && __builtin_mul_overflow(a, b, &value)) refuse("the number is too great");
    if (op == '/') value = quotient;
    if (op == '%') value = a - quotient * b;
    if (value > greatest_number || value < -greatest_number) refuse("the number is too great");
    return Value{value};
  }

  Value postfix() {
    Value value = primary();
    while (true) {
      if (accept('[')) {
        const int64_t index = number(expression());
        expect(']');
        value = item(value, index);
      } else if (accept('.')) {
        if (name() != "upper") refuse("expected upper");
        expect('(');
        expect(')');
        auto* text = std::get_if<std::string>(&value.data);
        if (text == nullptr) refuse("expected a string before upper");
        for (char& c : *text) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
      } else {
        return value;
      }
    }
  }

  Value item(const Value& value, int64_t index) const {
    const auto* list = std::get_if<List>(&value.data);
    const auto* text = std::get_if<std::string>(&value.data);
    if (list == nullptr && text == nullptr) refuse("expected a list or a string before [");
    const auto size = static_cast<int64_t>(list != nullptr ? list->size() : text->size());
    if (index < 0) index += size;
    if (index < 0 || index >= size) refuse("the index is outside");
    if (list != nullptr) return (*list)[static_cast<size_t>(index)];
    return Value{std::string(1, (*text)[static_cast<size_t>(index)])};
  }

  Value primary() {
    if (++nesting_ > deepest) refuse("the expression is nested too deep");
    Value value = unguarded_primary();
    --nesting_;
    return value;
  }

  Value unguarded_primary() {
    const char c = peek();
    if (c == '-') {
      ++at_;
      return Value{-number(postfix())};
    }
    if (is_digit(c)) {
      int64_t value = 0;
      while (at_ < text_.size() && is_digit(text_[at_])) {
        value = value * 10 + (text_[at_++] - '0');
        if (value > greatest_number) refuse("the number is too great");
      }
      return Value{value};
    }
    if (accept('"')) {
      const size_t end = text_.find('"', at_);
      if (end == std::string_view::npos) refuse("a string does not end");
      std::string text(text_.substr(at_, end - at_));
      at_ = end + 1;
      return Value{text};
    }
    if (accept('(')) {
      Value value = expression();
      expect(')');
      return value;
    }
    if (accept('[')) {
      List list;
      while (!accept(']')) {
        list.push_back(expression());
        accept(',');
      }
      return Value{list};
    }
    const std::string word = name();
    if (word == "True" || word == "False") return Value{word == "True"};
    if (accept('(')) return call(word);
    return lookup(word);
  }

  Value call(const std::string& word) {
    std::vector<Value> arguments;
    while (!accept(')')) {
      arguments.push_back(expression());
      accept(',');
    }
    if (word == "range") return range(arguments);
    if (word == "len" || word == "str") {
      if (arguments.size() != 1) refuse(word + " expects one argument");
      if (word == "str") return Value{text_of(arguments[0])};
      if (const auto* list = std::get_if<List>(&arguments[0].data)) return Value{static_cast<int64_t>(list->size())};
      const auto* text = std::get_if<std::string>(&arguments[0].data);
      if (text == nullptr) refuse("len expects a list or a string");
      return Value{static_cast<int64_t>(text->size())};
    }
    const auto found = functions_.find(word);
    if (found == functions_.end()) refuse(fmt::format("the function \"{}\" is not known", word));
    const Function function = found->second;
    if (arguments.size() != function.parameters.size()) refuse(word + ": the number of arguments does not fit");
    if (scopes_.size() > static_cast<size_t>(deepest)) refuse("functions call each other too deep");
    Scope scope;
    for (size_t i = 0; i < arguments.size(); ++i) scope[function.parameters[i]] = arguments[i];
    // The expression that calls goes on behind the call.
    const std::string_view text = text_;
    const size_t at = at_;
    const Line* line = line_;
    scopes_.push_back(std::move(scope));
    std::optional<Value> value = block(function.begin, function.end);
    scopes_.pop_back();
    text_ = text;
    at_ = at;
    line_ = line;
    if (!value) refuse(word + " returns nothing");
    return *value;
  }

  Value range(const std::vector<Value>& arguments) {
    if (arguments.empty() || arguments.size() > 2) refuse("range expects one or two arguments");
    const int64_t from = arguments.size() == 2 ? number(arguments[0]) : 0;
    const int64_t to = number(arguments.back());
    if (to - from > most_steps) refuse("expected an end within 10,000 steps");
    List list;
    for (int64_t i = from; i < to; ++i) list.push_back(Value{i});
    return Value{list};
  }

  int64_t number(const Value& value) const {
    const auto* number = std::get_if<int64_t>(&value.data);
    if (number == nullptr) refuse("expected a number");
    return *number;
  }
  bool truth(const Value& value) const {
    const auto* truth = std::get_if<bool>(&value.data);
    if (truth == nullptr) refuse("expected a condition");
    return *truth;
  }
  Value& lookup(const std::string& word) {
    auto found = scopes_.back().find(word);
    if (found != scopes_.back().end()) return found->second;
    found = scopes_.front().find(word);
    if (found == scopes_.front().end()) refuse(fmt::format("the name \"{}\" is not known", word));
    return found->second;
  }

  const std::function<void(char, int64_t, int64_t)>& on_arithmetic_;
  std::vector<Line> lines_;
  std::map<std::string, Function> functions_;
  std::vector<Scope> scopes_;
  ProgramRun result_;
  const Line* line_ = nullptr;
  std::string_view text_;
  size_t at_ = 0;
  int steps_ = 0;
  int nesting_ = 0;
};

}  // namespace

ProgramRun run_program(std::string_view program, const std::function<void(char, int64_t, int64_t)>& on_arithmetic) {
  return Interpreter(program, on_arithmetic).run();
}

}  // namespace fathom
