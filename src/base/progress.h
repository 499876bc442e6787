#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace fathom {

/// One line on stderr, redrawn in place at most ten times a second: label, share done, rate, time left. Shows nothing
/// if stderr is not a terminal, and nothing in the first second, so that short work stays silent. Lines up to 80
/// columns; respects NO_COLOR.
class Progress {
 public:
  /// `unit`: "B" is shown as MB or GB; any other word as it is ("prompts", "tokens").
  Progress(std::string label, uint64_t total, std::string unit);
  ~Progress();  // clears the line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(uint64_t amount = 1);

 private:
  void draw();

  std::string label_;
  std::string unit_;
  uint64_t total_;
  uint64_t done_ = 0;
  bool enabled_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point start_;
  std::chrono::steady_clock::time_point last_draw_;
};

}  // namespace fathom
