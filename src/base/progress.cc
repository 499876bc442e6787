#include "base/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace fathom {

namespace {

constexpr std::chrono::milliseconds kSilentStart{1000};
constexpr std::chrono::milliseconds kRedraw{100};
constexpr size_t kColumns = 80;

std::string amount_text(double amount, const std::string& unit) {
  if (unit != "B") return fmt::format("{:.0f} {}", amount, unit);
  if (amount >= 1e9) return fmt::format("{:.2f} GB", amount / 1e9);
  return fmt::format("{:.1f} MB", amount / 1e6);
}

std::string rate_text(double per_second, const std::string& unit) {
  if (unit == "B") return amount_text(per_second, unit) + "/s";
  return fmt::format("{:.{}f} {}/s", per_second, per_second < 10 ? 2 : 0, unit);
}

std::string duration_text(double seconds) {
  auto whole = static_cast<long long>(std::min(seconds + 0.5, 359999.0));
  if (whole >= 3600) return fmt::format("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60);
  return fmt::format("{}:{:02}", whole / 60, whole % 60);
}

bool stderr_is_capable_terminal() {
  if (::isatty(STDERR_FILENO) != 1) return false;
  const char* term = std::getenv("TERM");
  return term == nullptr || std::string(term) != "dumb";
}

/// The line is dimmed; NO_COLOR (set and not empty, no-color.org) asks for plain text.
bool color_wanted() {
  const char* value = std::getenv("NO_COLOR");
  return value == nullptr || *value == '\0';
}

}  // namespace

Progress::Progress(std::string label, uint64_t total, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      total_(total),
      enabled_(stderr_is_capable_terminal()),
      start_(std::chrono::steady_clock::now()),
      last_draw_(start_) {}

Progress::~Progress() {
  if (!drawn_) return;
  std::fputs("\r\033[K", stderr);
  std::fflush(stderr);
}

void Progress::advance(uint64_t amount) {
  done_ += amount;
  if (!enabled_) return;
  auto now = std::chrono::steady_clock::now();
  if (now - start_ < kSilentStart || now - last_draw_ < kRedraw) return;
  last_draw_ = now;
  draw();
}

void Progress::draw() {
  double seconds = std::chrono::duration<double>(last_draw_ - start_).count();
  double rate = static_cast<double>(done_) / seconds;
  std::string facts;
  if (total_ > 0) {
    uint64_t shown = std::min(done_, total_);
    facts = fmt::format(" {:3.0f} %  {}  {}", 100.0 * static_cast<double>(shown) / static_cast<double>(total_),
                        amount_text(static_cast<double>(done_), unit_), rate_text(rate, unit_));
    if (rate > 0) facts += fmt::format("  {} left", duration_text(static_cast<double>(total_ - shown) / rate));
  } else {
    facts = fmt::format("  {}  {}", amount_text(static_cast<double>(done_), unit_), rate_text(rate, unit_));
  }
  // A line of 80 columns would wrap on some terminals and then not be overwritten: one column stays free. The label
  // gives way.
  std::string line = label_;
  if (line.size() + facts.size() >= kColumns)
    line.resize(facts.size() + 1 < kColumns ? kColumns - 1 - facts.size() : 0);
  line += facts;
  if (line.size() >= kColumns) line.resize(kColumns - 1);
  const bool color = color_wanted();
  fmt::print(stderr, "\r{}{}{}\033[K", color ? "\033[2m" : "", line, color ? "\033[0m" : "");
  std::fflush(stderr);
  drawn_ = true;
}

}  // namespace fathom
