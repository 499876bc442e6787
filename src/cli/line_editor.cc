#include "cli/line_editor.h"

#include <histedit.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <cwchar>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "cli/lines.h"

namespace fathom {

namespace {

constexpr int kHistorySize = 1000;
constexpr int kPasteWaitMs = 30;  // a terminal hands over pasted lines without a pause; nobody types so fast

const char* first_prompt(EditLine*) {
  return ">>> ";
}

const char* next_prompt(EditLine*) {
  return "... ";
}

/// Reads one character for libedit. Its own function retries after a signal; this one gives up, so that Ctrl-C ends the
/// line.
int read_character(EditLine*, wchar_t* character) {
  std::mbstate_t state{};
  while (true) {
    char byte = 0;
    const ssize_t count = ::read(STDIN_FILENO, &byte, 1);
    if (count == 0) return 0;
    if (count < 0) {
      if (errno == EINTR && !interrupted()) continue;  // a resized window
      return -1;
    }
    const size_t length = std::mbrtowc(character, &byte, 1, &state);
    if (length == static_cast<size_t>(-2)) continue;  // more bytes of the character follow
    if (length == static_cast<size_t>(-1)) {
      state = {};
      *character = L'\ufffd';
    } else if (length == 0) {
      *character = L'\0';
    }
    return 1;
  }
}

bool input_waits() {
  pollfd descriptor{STDIN_FILENO, POLLIN, 0};
  return ::poll(&descriptor, 1, kPasteWaitMs) > 0 && (descriptor.revents & POLLIN) != 0;
}

}  // namespace

struct LineEditor::Data {
  std::string history_path;
  EditLine* edit = nullptr;
  History* history = nullptr;
  std::unique_ptr<LineReader> reader;
};

LineEditor::LineEditor(std::string history_path)
    : terminal_(::isatty(STDIN_FILENO) != 0 && ::isatty(STDOUT_FILENO) != 0), data_(std::make_unique<Data>()) {
  if (!terminal_) {
    data_->reader = std::make_unique<LineReader>("-");
    return;
  }
  std::setlocale(LC_CTYPE, "");
  // A container often has no locale set; text is UTF-8 all the same.
  if (MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
  data_->history_path = std::move(history_path);
  data_->history = ::history_init();
  data_->edit = ::el_init("fathom", stdin, stdout, stderr);
  if (data_->history == nullptr || data_->edit == nullptr)
    throw_failure("the terminal cannot be set up for line editing");
  HistEvent event;
  ::history(data_->history, &event, H_SETSIZE, kHistorySize);
  ::history(data_->history, &event, H_SETUNIQUE, 1);
  if (!data_->history_path.empty()) ::history(data_->history, &event, H_LOAD, data_->history_path.c_str());
  ::el_set(data_->edit, EL_EDITOR, "emacs");
  ::el_set(data_->edit, EL_SIGNAL, 0);
  ::el_set(data_->edit, EL_HIST, ::history, data_->history);
  ::el_set(data_->edit, EL_GETCFN, read_character);
  ::el_set(data_->edit, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  ::el_set(data_->edit, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
  ::el_set(data_->edit, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
  ::el_set(data_->edit, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
}

LineEditor::~LineEditor() {
  if (data_->edit != nullptr) ::el_end(data_->edit);
  if (data_->history != nullptr) ::history_end(data_->history);
}

LineEditor::Outcome LineEditor::read(std::string& text) {
  text.clear();
  std::string line;
  bool more = true;
  for (bool continuation = false; more; continuation = true) {
    const Outcome outcome = read_line(line, continuation);
    if (outcome == Outcome::interrupted) return outcome;
    if (outcome == Outcome::end) return continuation ? Outcome::message : outcome;
    more = false;
    if (terminal_) {
      const bool asked = line.ends_with('\\');
      if (asked) line.back() = '\n';
      more = asked || input_waits();
      if (more && !asked) line += '\n';
    }
    text += line;
  }
  if (terminal_ && !text.empty()) {
    HistEvent event;
    ::history(data_->history, &event, H_ENTER, text.c_str());
    if (!data_->history_path.empty()) {
      // Now and not at the end: the terminal may be closed. Others need not read what was said.
      const mode_t mask = ::umask(077);
      ::history(data_->history, &event, H_SAVE, data_->history_path.c_str());
      ::umask(mask);
    }
  }
  return Outcome::message;
}

LineEditor::Outcome LineEditor::read_line(std::string& line, bool continuation) {
  if (!terminal_) {
    if (!data_->reader->next(line)) return Outcome::end;
    if (line.ends_with('\r')) line.pop_back();
    return Outcome::message;
  }
  ::el_set(data_->edit, EL_PROMPT, continuation ? next_prompt : first_prompt);
  int length = 0;
  const char* typed = ::el_gets(data_->edit, &length);
  if (interrupted()) {
    clear_interrupt();
    ::el_reset(data_->edit);
    write_stdout("\n");
    return Outcome::interrupted;
  }
  if (typed == nullptr || length <= 0) {
    write_stdout("\n");
    return Outcome::end;
  }
  line.assign(typed, static_cast<size_t>(length));
  if (line.ends_with('\n')) line.pop_back();
  return Outcome::message;
}

std::string history_file_path() {
  std::string directory;
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') {
    directory = state;
  } else if (const char* home = std::getenv("HOME"); home != nullptr && home[0] == '/') {
    directory = std::string(home) + "/.local/state";
  } else {
    return {};
  }
  directory += "/fathom";
  try {
    make_directories(directory);
  } catch (const Error&) {
    return {};  // no history is no reason not to talk
  }
  return directory + "/history";
}

}  // namespace fathom
