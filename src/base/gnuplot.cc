#include "base/gnuplot.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/utf8.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// Pixels of the SVG; the PNG has twice as many.
constexpr int kPlotWidth = 700;
constexpr int kLeft = 116, kTop = 40, kBottom = 62;
constexpr int kCharacterWidth = 8;  // of the legend, generously
constexpr size_t kLongestTitle = 48;

size_t characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

// The middle of a long title gives way: names of runs differ at either end.
std::string shortened(const std::string& title) {
  if (characters(title) <= kLongestTitle) return title;
  const auto boundary = [&](size_t at) {
    while (at < title.size() && (title[at] & 0xc0) == 0x80) ++at;
    return at;
  };
  const size_t head = boundary(kLongestTitle / 2);
  const size_t tail = boundary(title.size() - kLongestTitle / 2);
  return title.substr(0, head) + "…" + title.substr(tail);
}

bool has_map(const Panel& panel) {
  return panel.map.columns > 0 && panel.map.rows > 0;
}

struct Layout {
  int width = 0, height = 0, right = 0;
  std::vector<int> tops;  // y of each panel's axes, from above
};

Layout layout(const Picture& picture) {
  Layout result;
  size_t longest = 0;
  bool second_axis = false;
  bool map = false;
  int y = 0;
  for (const Panel& panel : picture.panels) {
    for (const Curve& curve : panel.curves) longest = std::max(longest, characters(shortened(curve.title)));
    second_axis |= !panel.second_y_label.empty();
    map |= has_map(panel);
    result.tops.push_back(y + kTop);
    y += kTop + panel.height + kBottom;
  }
  int margin = longest > 0 ? 70 + kCharacterWidth * static_cast<int>(longest) : 30;
  if (second_axis) margin += 70;
  if (map) margin = std::max(margin, 150);
  result.right = kLeft + kPlotWidth;
  result.width = result.right + margin;
  result.height = y;
  return result;
}

std::string fraction(int part, int whole) {
  return fmt::format("{:.5f}", static_cast<double>(part) / whole);
}

void add_curves(std::string& script, const Picture& picture, const Panel& panel, int& block) {
  bool first = true;
  for (const Curve& curve : panel.curves) {
    if (curve.points.empty()) continue;
    script += first ? "  plot " : ", \\\n    ";
    first = false;
    script += fmt::format(
        "'{}.dat' index {} using 1:2 {}{} with {}", picture.name, block++, curve.second_axis ? "axes x1y2 " : "",
        curve.title.empty() ? "notitle" : "title " + gnuplot_string(shortened(curve.title)), curve.style);
  }
  // Axes without a curve: the range of y has to be given.
  script += first ? "  set yrange [0:1]\n  plot NaN notitle\n" : "\n";
}

void add_map(std::string& script, const Picture& picture, const Panel& panel, int& block) {
  const HeatMap& map = panel.map;
  for (const std::string& setting : map.settings) script += "  " + setting + "\n";
  script += fmt::format("  set yrange [0:{}]\n  set ytics scale 0 (", map.rows);
  int64_t row = 0;
  std::string lines;
  for (size_t i = 0; i < map.band_names.size(); ++i) {
    const auto rows = static_cast<double>(map.band_rows[i]);
    script += fmt::format("{}{} {}", i == 0 ? "" : ", ", gnuplot_string(map.band_names[i]),
                          static_cast<double>(row) + rows / 2);
    row += map.band_rows[i];
    if (i + 1 < map.band_names.size()) {
      lines += fmt::format(
          "  set arrow from graph 0, first {0} to graph 1, first {0} nohead front lc rgb '#404040' lw 0.8\n", row);
    }
  }
  script += ")\n" + lines;
  script += "  set object 1 rectangle from graph 0,0 to graph 1,1 behind fc rgb '#e8e8e8' fs solid noborder\n";
  script += fmt::format("  plot '{}.dat' index {} using 1:2:3 with image notitle\n", picture.name, block++);
}

std::string number_text(double value) {
  return std::isfinite(value) ? fmt::format("{:.7g}", value) : "NaN";
}

// A line of a comment.
std::string comment(std::string_view text) {
  const std::string quoted = gnuplot_string(text);
  return "# " + quoted.substr(1, quoted.size() - 2) + "\n";
}

// Runs `gnuplot -d -e "suffix = '.partial'" NAME.gp` in the directory. False if there is no gnuplot. `complaint` gets
// what it printed, `status` how it ended.
bool run_gnuplot(const std::string& name, const std::string& directory, std::string& complaint, int& status) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) throw_failure("gnuplot cannot be run: {}", std::strerror(errno));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 2);
  posix_spawn_file_actions_addchdir_np(&actions, directory.c_str());
  // -d: a user's own ~/.gnuplot must not change the picture.
  std::vector<std::string> words = {"gnuplot", "-d", "-e", "suffix = '.partial'", name + ".gp"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = -1;
  const int error = ::posix_spawnp(&child, "gnuplot", &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  char buffer[4096];
  for (ssize_t count = 0; error == 0;) {
    count = ::read(ends[0], buffer, sizeof buffer);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    if (complaint.size() < sizeof buffer) complaint.append(buffer, static_cast<size_t>(count));
  }
  ::close(ends[0]);
  if (error == ENOENT) return false;
  if (error != 0) throw_failure("gnuplot cannot be run: {}", std::generic_category().message(error));
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw_failure("gnuplot was lost: {}", std::generic_category().message(errno));
  }
  return true;
}

// What gnuplot said, as a part of one sentence: its messages name the script's line at the end.
std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const bool blank = c == '\n' || c == '\r' || c == '\t' || c == ' ';
    if (!blank)
      line += c;
    else if (!line.empty() && line.back() != ' ')
      line += ' ';
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() > 300) line = line.substr(line.size() - 300);
  return line;
}

// Viewers smooth an enlarged image; the cells of a heat map have edges.
void sharpen_images(std::string& svg) {
  const std::string tag = "<image ";
  const std::string style = "style='image-rendering:pixelated' ";
  for (size_t at = 0; (at = svg.find(tag, at)) != std::string::npos; at += tag.size() + style.size()) {
    svg.insert(at + tag.size(), style);
  }
}

}  // namespace

std::string gnuplot_string(std::string_view text) {
  // Within single quotes gnuplot takes everything literally; a quote is doubled.
  std::string result = "'";
  for (size_t at = 0; at < text.size();) {
    const auto byte = static_cast<unsigned char>(text[at]);
    if (byte < 0x20 || byte == 0x7f) {
      result += '?';
      ++at;
      continue;
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (byte == '\'') result += '\'';
    if (step.kind == Utf8Step::Kind::character) {
      result.append(text.substr(at, step.bytes));
    } else {
      result += '?';
    }
    at += step.bytes;
  }
  return result + "'";
}

std::string gnuplot_script(const Picture& picture) {
  const Layout size = layout(picture);
  std::string script = fmt::format(
      "# Draws {0}.svg and {0}.png from {0}.dat: gnuplot {0}.gp\n"
      "if (!exists(\"suffix\")) suffix = ''\n"
      "set encoding utf8\n"
      "do for [kind in 'svg png'] {{\n"
      "  if (kind eq 'svg') {{ set terminal svg size {1},{2} noenhanced font 'sans-serif,13' background rgb 'white' "
      "}}\n"
      "  if (kind eq 'png') {{ set terminal pngcairo size {3},{4} noenhanced font 'sans-serif,10' fontscale 2 "
      "linewidth 2 "
      "pointscale 2 background rgb 'white' }}\n"
      "  set output '{0}.'.kind.suffix\n"
      "  set multiplot\n",
      picture.name, size.width, size.height, 2 * size.width, 2 * size.height);
  int block = 0;
  for (size_t i = 0; i < picture.panels.size(); ++i) {
    const Panel& panel = picture.panels[i];
    const int top = size.tops[i];
    script += "  reset\n";
    script += fmt::format("  set lmargin at screen {}\n  set rmargin at screen {}\n", fraction(kLeft, size.width),
                          fraction(size.right, size.width));
    script +=
        fmt::format("  set tmargin at screen {}\n  set bmargin at screen {}\n",
                    fraction(size.height - top, size.height), fraction(size.height - top - panel.height, size.height));
    script += fmt::format("  set key at screen {},{} left top Left reverse vertical samplen 3 spacing 1.25\n",
                          fraction(size.right + (panel.second_y_label.empty() ? 12 : 82), size.width),
                          fraction(size.height - top, size.height));
    script +=
        "  set border 3 lc rgb '#404040'\n"
        "  set tics nomirror textcolor rgb '#202020'\n"
        "  set grid x y lt 1 lc rgb '#e0e0e0' lw 0.7\n"
        "  set format x '%.0f'\n";
    script += fmt::format("  set xrange [0:{}]\n", number_text(picture.x_end));
    if (picture.x_end < 5) script += "  set xtics 1\n";
    script += "  set title " + gnuplot_string(panel.title) + " offset 0,-0.4\n";
    script += "  set xlabel " + gnuplot_string(picture.x_label) + "\n";
    script += "  set ylabel " + gnuplot_string(panel.y_label) + "\n";
    if (!panel.second_y_label.empty()) {
      script += "  set border 11\n  set y2tics\n  set y2label " + gnuplot_string(panel.second_y_label) + "\n";
    }
    for (const std::string& setting : panel.settings) script += "  " + setting + "\n";
    if (has_map(panel)) {
      add_map(script, picture, panel, block);
    } else {
      add_curves(script, picture, panel, block);
    }
  }
  return script + "  unset multiplot\n  unset output\n}\n";
}

std::string gnuplot_data(const Picture& picture) {
  std::string data = comment(picture.name + ": " + picture.x_label + ", then the value (a map: row, then the value)");
  bool first = true;
  const auto begin_block = [&](std::string_view title) {
    if (!first) data += "\n\n";
    first = false;
    data += comment(title);
  };
  for (const Panel& panel : picture.panels) {
    if (has_map(panel)) {
      const HeatMap& map = panel.map;
      begin_block(panel.title);
      // gnuplot wants an image of at least 2 × 2 cells: a lone column or row is drawn as two halves.
      const int64_t split_columns = map.columns == 1 ? 2 : 1;
      const int64_t split_rows = map.rows == 1 ? 2 : 1;
      for (int64_t r = 0; r < map.rows * split_rows; ++r) {
        for (int64_t c = 0; c < map.columns * split_columns; ++c) {
          const double x = (static_cast<double>(c) + 0.5) / static_cast<double>(split_columns);
          const double y = (static_cast<double>(r) + 0.5) / static_cast<double>(split_rows);
          const int64_t cell = r / split_rows * map.columns + c / split_columns;
          data += fmt::format("{} {} {}\n", number_text(map.x_begin + x * map.x_step), y,
                              number_text(map.values[static_cast<size_t>(cell)]));
        }
      }
      continue;
    }
    for (const Curve& curve : panel.curves) {
      if (curve.points.empty()) continue;
      begin_block(panel.title + ": " + (curve.title.empty() ? curve.style : curve.title));
      for (const auto& [x, y] : curve.points) data += fmt::format("{} {}\n", number_text(x), number_text(y));
    }
  }
  return data;
}

std::vector<std::string> write_picture_source(const Picture& picture, const std::string& directory) {
  std::vector<std::string> paths;
  const auto write = [&](const char* extension, const std::string& text) {
    paths.push_back((fs::path(directory) / (picture.name + extension)).string());
    OutputFile file(paths.back());
    file.write(text);
    file.commit();
  };
  write(".dat", gnuplot_data(picture));
  write(".gp", gnuplot_script(picture));
  return paths;
}

std::vector<std::string> draw_picture(const Picture& picture, const std::string& directory) {
  const std::string base = (fs::path(directory) / picture.name).string();
  const std::vector<std::string> partial = {base + ".svg.partial", base + ".png.partial"};
  struct RemoveAtEnd {
    const std::vector<std::string>& paths;
    ~RemoveAtEnd() {
      for (const std::string& path : paths) ::unlink(path.c_str());
    }
  } const remove{partial};

  std::string complaint;
  int status = 0;
  if (!run_gnuplot(picture.name, directory, complaint, status)) return {};
  check_interrupt();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    throw_failure("gnuplot did not draw {}.svg ({} {}): {}", base, WIFEXITED(status) ? "exit code" : "signal",
                  WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), one_line(complaint));
  }
  // A full disk does not change gnuplot's exit code: look at the ends of the files.
  std::string svg = read_file(partial[0], size_t{1} << 30);
  const std::string png = read_file(partial[1], size_t{1} << 30);
  if (svg.find("</svg>") == std::string::npos)
    throw_failure("{}.svg was not drawn to its end; is the disk full?", base);
  if (png.find("IEND") == std::string::npos) throw_failure("{}.png was not drawn to its end; is the disk full?", base);
  sharpen_images(svg);
  std::vector<std::string> paths;
  const auto write = [&](const char* extension, const std::string& content) {
    paths.push_back(base + extension);
    OutputFile file(paths.back());  // its partial name is that of gnuplot's output, which has been read
    file.write(content);
    file.commit();
  };
  write(".svg", svg);
  write(".png", png);
  return paths;
}

}  // namespace fathom
