#include "train/plot.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <optional>

namespace fathom {
namespace {

using Points = std::vector<std::array<double, 2>>;

// Colours that stay apart for the colour-blind (Okabe and Ito), from dark to light; dashes and points for the others.
constexpr const char* kColors[] = {"#0072B2", "#D55E00", "#009E73", "#7B3294", "#000000", "#CC79A7", "#56B4E9"};
constexpr const char* kPaleColors[] = {"#BBD8EA", "#F4CDB3", "#B3DFD3", "#D8C2DF", "#BFBFBF", "#F0D7E4", "#CDE8F8"};
constexpr const char* kDashes[] = {"1", "(12,4)", "(3,3)", "(12,4,3,4)", "(20,4,3,4,3,4)"};
// The first filled, the others hollow: they show where they lie on each other.
constexpr int kPointTypes[] = {7, 4, 8, 12, 10};

std::string color(size_t run) {
  return kColors[run % std::size(kColors)];
}
std::string pale_color(size_t run) {
  return kPaleColors[run % std::size(kPaleColors)];
}
std::string dashes(size_t run) {
  return kDashes[run % std::size(kDashes)];
}

// The first is wider, so that it shows beside another that lies on it.
std::string line_look(size_t run) {
  return fmt::format("lc rgb '{}' lw {} dt {}", color(run), run == 0 ? 2.2 : 1.6, dashes(run));
}
std::string pale_style(size_t run) {
  return fmt::format("lines lc rgb '{}' lw 0.8", pale_color(run));
}
std::string point_style(size_t run) {
  return fmt::format("points lc rgb '{}' pt {} ps 0.9 lw 1.5", color(run), kPointTypes[run % std::size(kPointTypes)]);
}

// A curve of thousands of points costs megabytes and shows no more: of every stretch its least and its greatest remain.
Points thinned(const Points& points) {
  constexpr size_t kStretches = 1000;
  Points finite;
  std::copy_if(points.begin(), points.end(), std::back_inserter(finite),
               [](const auto& point) { return std::isfinite(point[1]); });
  if (finite.size() <= 2 * kStretches) return finite;
  Points result;
  const auto lower = [](const auto& a, const auto& b) { return a[1] < b[1]; };
  for (size_t i = 0; i < kStretches; ++i) {
    const auto begin = finite.begin() + static_cast<std::ptrdiff_t>(finite.size() * i / kStretches);
    const auto end = finite.begin() + static_cast<std::ptrdiff_t>(finite.size() * (i + 1) / kStretches);
    auto [least, greatest] = std::minmax_element(begin, end, lower);
    if (greatest < least) std::swap(least, greatest);
    result.push_back(*least);
    if (greatest != least) result.push_back(*greatest);
  }
  // The curve ends where the run ends.
  if (result.back()[0] != finite.back()[0]) result.push_back(finite.back());
  return result;
}

template <typename Value>
std::vector<double> values_of(const RunLog& log, Value&& value) {
  std::vector<double> values;
  for (const StepRecord& record : log.steps) values.push_back(value(record));
  return values;
}

Points points_of(const RunLog& log, const std::vector<double>& values) {
  Points points;
  for (size_t i = 0; i < values.size(); ++i) points.push_back({static_cast<double>(log.steps[i].step), values[i]});
  return points;
}

double main_loss(const StepRecord& record) {
  return record.main;
}

// NaN if no layer was logged.
double greatest_violation(const StepRecord& record) {
  double greatest = kNotLogged;
  for (const double violation : record.load_violation) greatest = std::fmax(greatest, violation);
  return greatest;
}

size_t mtp_depth(const std::vector<PlotRun>& runs) {
  size_t depth = 0;
  for (const PlotRun& run : runs) {
    for (const StepRecord& record : run.log.steps) depth = std::max(depth, record.mtp.size());
  }
  return depth;
}

// Depth from 0.
double mtp_loss(const std::vector<double>& losses, size_t depth) {
  return depth < losses.size() ? losses[depth] : kNotLogged;
}

std::string mtp_name(size_t depth, size_t depths) {
  return depths == 1 ? "MTP loss" : fmt::format("MTP loss, depth {}", depth + 1);
}

void add_curve(Panel& panel, const std::string& title, const std::string& style, const Points& points,
               bool second_axis = false) {
  Points thin = thinned(points);
  if (!thin.empty()) panel.curves.push_back({title, style, second_axis, std::move(thin)});
}

// A line in a run's style. One of few points shows them: a lone point would be no line at all.
void add_line(Panel& panel, const std::string& title, size_t style, const Points& points) {
  constexpr size_t kFew = 20;
  const std::string points_too = points.size() <= kFew ? "linespoints pt 7 ps 0.5 " : "lines ";
  add_curve(panel, title, points_too + line_look(style), points);
}

constexpr const char* kEachStep = ", each step";

// The average of the values, and behind all averages the values themselves, pale, where one run has the panel for
// itself.
void add_smoothed(Panel& panel, const std::string& title, size_t style, bool pale, const RunLog& log,
                  const std::vector<double>& values, int64_t smooth_steps) {
  add_line(panel, title, style, points_of(log, exponential_average(values, smooth_steps)));
  if (!pale || smooth_steps == 1) return;
  Points each = thinned(points_of(log, values));
  if (each.empty()) return;
  const auto front = std::find_if(panel.curves.begin(), panel.curves.end(),
                                  [](const Curve& curve) { return !curve.title.ends_with(kEachStep); });
  panel.curves.insert(front, {title + kEachStep, pale_style(style), false, std::move(each)});
}

void add_validation(Panel& panel, const std::string& title, size_t style, const RunLog& log, int64_t mtp) {
  Points points;
  for (const ValidationRecord& record : log.validations) {
    points.push_back(
        {static_cast<double>(record.step), mtp < 0 ? record.main : mtp_loss(record.mtp, static_cast<size_t>(mtp))});
  }
  add_curve(panel, title, point_style(style), points);
}

// A logarithmic axis for values that go over more than a factor of 2, with marks that also suit two or three of them.
void choose_logarithmic(Panel& panel) {
  double least = INFINITY;
  double greatest = 0;
  for (const Curve& curve : panel.curves) {
    for (const auto& point : curve.points) {
      least = std::min(least, point[1]);
      greatest = std::max(greatest, point[1]);
    }
  }
  if (!(least > 0) || !(greatest > 2 * least)) return;
  panel.settings.emplace_back("set logscale y");
  const double ratio = greatest / least;
  if (ratio > 1000) {
    panel.settings.emplace_back("set format y '%g'");
    return;
  }
  const std::vector<double> marks =
      ratio > 20  ? std::vector<double>{1, 2, 5}
      : ratio > 4 ? std::vector<double>{1, 1.5, 2, 3, 4, 5, 6, 8}
                  : std::vector<double>{1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9};
  std::string tics;
  const auto first = static_cast<int>(std::floor(std::log10(least)));
  const auto last = static_cast<int>(std::floor(std::log10(greatest)));
  for (int exponent = first; exponent <= last; ++exponent) {
    for (const double mark : marks) {
      const double value = mark * std::pow(10, exponent);
      if (value < 0.7 * least || value > 1.4 * greatest) continue;
      tics += fmt::format("{}'{:.6g}' {:.6g}", tics.empty() ? "" : ", ", value, value);
    }
  }
  panel.settings.push_back("set ytics (" + tics + ")");
  panel.settings.push_back(fmt::format("set yrange [{:.6g}:{:.6g}]", least / 1.06, greatest * 1.06));
}

std::string smoothing_text(int64_t steps) {
  return steps == 1 ? "each step" : fmt::format("exponential average over {} steps", steps);
}

Picture new_picture(const char* name, const std::vector<PlotRun>& runs) {
  Picture picture;
  picture.name = name;
  picture.x_label = "optimizer step";
  for (const PlotRun& run : runs) {
    picture.x_end = std::max(picture.x_end, static_cast<double>(run.log.steps.back().step));
    if (!run.log.validations.empty()) {
      picture.x_end = std::max(picture.x_end, static_cast<double>(run.log.validations.back().step));
    }
  }
  return picture;
}

bool has_content(const Panel& panel) {
  return !panel.curves.empty() || panel.map.columns > 0;
}

void add_panel(Picture& picture, Panel panel) {
  if (has_content(panel)) picture.panels.push_back(std::move(panel));
}

// One run: all its losses on one pair of axes. Several: axes for each loss, so that a style means a run.
Picture loss_picture(const std::vector<PlotRun>& runs, int64_t smooth_steps) {
  Picture picture = new_picture("loss", runs);
  const size_t depths = mtp_depth(runs);
  const std::string unit = "cross-entropy (nats per token)";
  if (runs.size() == 1) {
    const PlotRun& run = runs[0];
    Panel panel;
    panel.title = fmt::format("Loss of {}, {}", run.label, smoothing_text(smooth_steps));
    panel.y_label = unit;
    panel.height = 380;
    add_smoothed(panel, "main loss", 0, true, run.log, values_of(run.log, main_loss), smooth_steps);
    for (size_t depth = 0; depth < depths; ++depth) {
      const auto values = values_of(run.log, [&](const StepRecord& record) { return mtp_loss(record.mtp, depth); });
      add_smoothed(panel, mtp_name(depth, depths), depth + 1, depths == 1, run.log, values, smooth_steps);
    }
    add_validation(panel, "main loss, validation", 0, run.log, -1);
    for (size_t depth = 0; depth < depths; ++depth) {
      add_validation(panel, mtp_name(depth, depths) + ", validation", depth + 1, run.log, static_cast<int64_t>(depth));
    }
    choose_logarithmic(panel);
    add_panel(picture, std::move(panel));
    return picture;
  }
  for (size_t kind = 0; kind <= depths; ++kind) {
    Panel panel;
    const bool main = kind == 0;
    panel.title = fmt::format("{}, {}", main ? "Main loss" : mtp_name(kind - 1, depths), smoothing_text(smooth_steps));
    panel.y_label = unit;
    for (size_t i = 0; i < runs.size(); ++i) {
      const auto values = values_of(
          runs[i].log, [&](const StepRecord& record) { return main ? record.main : mtp_loss(record.mtp, kind - 1); });
      add_smoothed(panel, runs[i].label, i, false, runs[i].log, values, smooth_steps);
    }
    for (size_t i = 0; i < runs.size(); ++i) {
      add_validation(panel, runs[i].label + ", validation", i, runs[i].log, static_cast<int64_t>(kind) - 1);
    }
    choose_logarithmic(panel);
    add_panel(picture, std::move(panel));
  }
  return picture;
}

// Whose loads a row shows: from the last record, which has every layer.
std::vector<std::string> layer_names(const RunLog& log, size_t layers) {
  std::vector<std::string> names;
  const size_t mtp = log.steps.back().mtp.size();
  for (size_t i = 0; i < layers; ++i) {
    const bool known = !log.loads.empty() && log.loads.back().layers.size() == layers;
    const std::string name =
        known ? fmt::format("layer {}", log.loads.back().layers[i].first) : fmt::format("MoE layer {}", i + 1);
    names.push_back(i + mtp >= layers && layers > mtp ? name + " (MTP)" : name);
  }
  return names;
}

// Names of every layer do not fit when there are dozens of them.
void drop_names(HeatMap& map, int height) {
  const size_t most = static_cast<size_t>(height) / 16;
  const size_t every = (map.band_names.size() + most - 1) / std::max<size_t>(most, 1);
  for (size_t i = 0; i < map.band_names.size(); ++i) {
    if (i % every != 0) map.band_names[i].clear();
  }
}

constexpr int64_t kMostColumns = 400;
constexpr int64_t kMostCells = 1'000'000;

// A record tells of the steps since the one before it. A column of the map gets of it what falls into the column.
HeatMap load_map(const RunLog& log) {
  HeatMap map;
  if (log.loads.empty()) return map;
  const auto& layers = log.loads.back().layers;
  for (const auto& [layer, loads] : layers) {
    map.rows += static_cast<int64_t>(loads.size());
    map.band_rows.push_back(static_cast<int64_t>(loads.size()));
  }
  if (map.rows == 0) return map;
  map.band_names = layer_names(log, layers.size());
  map.columns =
      std::clamp<int64_t>(std::min(kMostColumns, kMostCells / map.rows), 1, static_cast<int64_t>(log.loads.size()));
  map.x_step = static_cast<double>(log.loads.back().step) / static_cast<double>(map.columns);
  if (!(map.x_step > 0)) return {};
  std::vector<double> counts(static_cast<size_t>(map.rows * map.columns));
  double begin = 0;
  for (const ExpertLoadRecord& record : log.loads) {
    const auto end = static_cast<double>(record.step);
    const auto first = static_cast<int64_t>(begin / map.x_step);
    for (int64_t column = first; column < map.columns; ++column) {
      const double left = map.x_step * static_cast<double>(column);
      const double share = (std::min(end, left + map.x_step) - std::max(begin, left)) / (end - begin);
      if (!(share > 0)) break;
      int64_t row = 0;
      for (const auto& [layer, loads] : layers) {
        const auto found = std::find_if(record.layers.begin(), record.layers.end(),
                                        [id = layer](const auto& other) { return other.first == id; });
        if (found != record.layers.end() && found->second.size() == loads.size()) {
          for (size_t e = 0; e < loads.size(); ++e) {
            counts[static_cast<size_t>((row + static_cast<int64_t>(e)) * map.columns + column)] +=
                share * static_cast<double>(found->second[e]);
          }
        }
        row += static_cast<int64_t>(loads.size());
      }
    }
    begin = end;
  }
  // Load / mean load within each layer and column.
  map.values.assign(counts.size(), kNotLogged);
  int64_t row = 0;
  for (const int64_t rows : map.band_rows) {
    for (int64_t column = 0; column < map.columns; ++column) {
      const auto cell = [&](int64_t e) { return static_cast<size_t>((row + e) * map.columns + column); };
      double sum = 0;
      for (int64_t e = 0; e < rows; ++e) sum += counts[cell(e)];
      for (int64_t e = 0; e < rows && sum > 0; ++e) {
        map.values[cell(e)] = counts[cell(e)] * static_cast<double>(rows) / sum;
      }
    }
    row += rows;
  }
  // The axis of colours is one of ratios; what lies outside gets the colour of its end.
  for (double& value : map.values) value = std::isnan(value) ? value : std::clamp(value, 0.25, 4.0);
  map.settings = {
      "set logscale cb 2",
      "set cbrange [0.25:4]",
      "set cbtics ('≤ 1/4' 0.25, '1/2' 0.5, '1' 1, '2' 2, '≥ 4' 4)",
      "set palette defined (0 '#2d1e5f', 0.25 '#8073ac', 0.5 '#f7f7f7', 0.75 '#f1a340', 1 '#b35806')",
      "set cblabel 'load / mean load of the layer' offset 1,0",
  };
  return map;
}

Picture load_picture(const std::vector<PlotRun>& runs) {
  Picture picture = new_picture("load", runs);
  for (const PlotRun& run : runs) {
    Panel panel;
    panel.title = "Expert load of " + run.label;
    panel.map = load_map(run.log);
    panel.height = static_cast<int>(std::clamp<int64_t>(4 * panel.map.rows, 220, runs.size() == 1 ? 600 : 320));
    drop_names(panel.map, panel.height);
    add_panel(picture, std::move(panel));
  }
  return picture;
}

// The least of 1, 2, 5, 10, … (and their tenths) from this one.
double round_step(double least) {
  const double decade = std::pow(10, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * decade >= least) return factor * decade;
  }
  return 10 * decade;
}

// Mean violation of each layer in each column of steps.
HeatMap violation_map(const RunLog& log, double greatest) {
  HeatMap map;
  for (const StepRecord& record : log.steps) {
    map.rows = std::max(map.rows, static_cast<int64_t>(record.load_violation.size()));
  }
  if (map.rows == 0) return map;
  const int64_t first = log.steps.front().step;
  const int64_t steps = log.steps.back().step - first + 1;
  map.columns = std::min<int64_t>(kMostColumns, static_cast<int64_t>(log.steps.size()));
  map.x_step = static_cast<double>(steps) / static_cast<double>(map.columns);
  map.x_begin = static_cast<double>(first) - 1;
  map.band_names = layer_names(log, static_cast<size_t>(map.rows));
  map.band_rows.assign(static_cast<size_t>(map.rows), 1);
  std::vector<double> sums(static_cast<size_t>(map.rows * map.columns));
  std::vector<int64_t> counts(sums.size());
  for (const StepRecord& record : log.steps) {
    const auto column =
        std::min(map.columns - 1, static_cast<int64_t>(static_cast<double>(record.step - first) / map.x_step));
    for (size_t row = 0; row < record.load_violation.size(); ++row) {
      if (!std::isfinite(record.load_violation[row])) continue;
      const size_t cell = row * static_cast<size_t>(map.columns) + static_cast<size_t>(column);
      sums[cell] += record.load_violation[row];
      ++counts[cell];
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    map.values.push_back(counts[i] > 0 ? sums[i] / static_cast<double>(counts[i]) : kNotLogged);
  }
  map.settings = {
      fmt::format("set cbrange [0:{:.4g}]", greatest),
      fmt::format("set cbtics {:.6g}", round_step(greatest / 4)),
      "set palette defined (0 '#ffffff', 0.25 '#c6dbef', 0.5 '#6baed6', 0.75 '#2171b5', 1 '#08306b')",
      "set cblabel 'load violation' offset 1,0",
  };
  return map;
}

Picture violation_picture(const std::vector<PlotRun>& runs, int64_t smooth_steps) {
  Picture picture = new_picture("violation", runs);
  Panel lines;
  lines.title = "Greatest load violation of a layer, " + smoothing_text(smooth_steps);
  lines.y_label = "greatest load / mean load − 1";
  lines.settings = {"set yrange [0:*]"};
  std::vector<double> all;
  for (size_t i = 0; i < runs.size(); ++i) {
    const std::vector<double> values = values_of(runs[i].log, greatest_violation);
    add_smoothed(lines, runs[i].label, i, runs.size() == 1, runs[i].log, values, smooth_steps);
    for (const StepRecord& record : runs[i].log.steps) {
      std::copy_if(record.load_violation.begin(), record.load_violation.end(), std::back_inserter(all),
                   [](double value) { return std::isfinite(value); });
    }
  }
  add_panel(picture, std::move(lines));
  if (all.empty()) return picture;
  // One scale of colours for all runs; the first steps, before the biases have moved, must not take all of it.
  const auto percentile = all.begin() + static_cast<std::ptrdiff_t>(all.size() * 98 / 100);
  std::nth_element(all.begin(), percentile, all.end());
  const double greatest = std::max(*percentile, 0.01);
  for (const PlotRun& run : runs) {
    Panel panel;
    panel.title = fmt::format("Load violation by layer of {} (darkest: {:.2g} and more)", run.label, greatest);
    panel.map = violation_map(run.log, greatest);
    panel.height = static_cast<int>(std::clamp<int64_t>(22 * panel.map.rows, 88, 500));
    drop_names(panel.map, panel.height);
    add_panel(picture, std::move(panel));
  }
  return picture;
}

// The steps at which the batch size changes, and the last.
Points batch_sizes(const RunLog& log) {
  Points points;
  for (const StepRecord& record : log.steps) {
    if (record.sequences == 0) continue;
    const auto size = static_cast<double>(record.sequences);
    if (points.empty() || points.back()[1] != size || &record == &log.steps.back()) {
      points.push_back({static_cast<double>(record.step), size});
    }
  }
  return points;
}

Picture learning_rate_picture(const std::vector<PlotRun>& runs) {
  Picture picture = new_picture("learning-rate", runs);
  Panel panel;
  panel.title = "Learning rate and batch size";
  double greatest = 0;
  int64_t largest_batch = 0;
  for (const PlotRun& run : runs) {
    for (const StepRecord& record : run.log.steps) {
      greatest = std::fmax(greatest, record.learning_rate);
      largest_batch = std::max(largest_batch, record.sequences);
    }
  }
  const int exponent = greatest > 0 ? static_cast<int>(std::floor(std::log10(greatest) + 1e-9)) : 0;
  const double unit = std::pow(10, exponent);
  panel.y_label = fmt::format("learning rate (in 1e{})", exponent);
  panel.settings = {"set yrange [0:*]"};
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto rates = values_of(runs[i].log, [&](const StepRecord& record) { return record.learning_rate / unit; });
    add_line(panel, runs.size() == 1 ? "learning rate" : runs[i].label, i, points_of(runs[i].log, rates));
  }
  if (largest_batch > 0) {
    panel.second_y_label = "batch size (sequences)";
    panel.settings.push_back(fmt::format("set y2range [0:{:.4g}]", 1.1 * static_cast<double>(largest_batch)));
  }
  for (size_t i = 0; i < runs.size() && largest_batch > 0; ++i) {
    add_curve(panel, runs.size() == 1 ? "batch size" : runs[i].label + ", batch size",
              fmt::format("steps lc rgb '{}' lw 2.6 dt (2,3)", runs.size() == 1 ? color(1) : pale_color(i)),
              batch_sizes(runs[i].log), true);
  }
  add_panel(picture, std::move(panel));
  return picture;
}

// What the gradient's norm was clipped to, if that was the same throughout.
std::optional<double> clip_norm(const std::vector<PlotRun>& runs) {
  std::optional<double> norm;
  for (const PlotRun& run : runs) {
    for (const StepRecord& record : run.log.steps) {
      if (!(record.clip_factor < 1) || !std::isfinite(record.gradient_norm)) continue;
      const double clipped = record.clip_factor * record.gradient_norm;
      if (norm && std::abs(clipped / *norm - 1) > 1e-2) return std::nullopt;
      norm = clipped;
    }
  }
  return norm;
}

Picture gradient_norm_picture(const std::vector<PlotRun>& runs, int64_t smooth_steps) {
  Picture picture = new_picture("gradient-norm", runs);
  Panel panel;
  panel.title = "Gradient norm before clipping, " + smoothing_text(smooth_steps);
  panel.y_label = "L2 norm";
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto norms = values_of(runs[i].log, [](const StepRecord& record) { return record.gradient_norm; });
    add_smoothed(panel, runs[i].label, i, runs.size() == 1, runs[i].log, norms, smooth_steps);
  }
  if (!panel.curves.empty()) {
    if (const std::optional<double> norm = clip_norm(runs)) {
      add_curve(panel, fmt::format("clipped to {:.3g}", *norm), "lines lc rgb '#606060' lw 1 dt (4,4)",
                {{0, *norm}, {picture.x_end, *norm}});
    }
  }
  choose_logarithmic(panel);
  add_panel(picture, std::move(panel));
  return picture;
}

Picture loss_difference_picture(const std::vector<PlotRun>& runs, int64_t smooth_steps) {
  constexpr double kReportPercent = 0.25;
  Picture picture = new_picture("loss-difference", runs);
  Panel panel;
  panel.title = fmt::format("Main loss relative to {}, {}", runs[0].label, smoothing_text(smooth_steps));
  panel.y_label = "relative difference (%)";
  panel.height = 340;
  double greatest = 1.4 * kReportPercent;
  for (size_t i = 1; i < runs.size(); ++i) {
    Points points = relative_loss_difference(runs[0].log, runs[i].log, smooth_steps);
    for (auto& [step, difference] : points) {
      difference *= 100;
      // The first twentieth, where averages are of few steps, does not set the scale.
      if (step > picture.x_end / 20) greatest = std::fmax(greatest, 1.1 * std::abs(difference));
    }
    add_line(panel, runs[i].label, i, points);
  }
  if (panel.curves.empty()) return picture;
  for (const double sign : {1.0, -1.0}) {
    add_curve(panel, sign > 0 ? "±0.25 %" : "", "lines lc rgb '#606060' lw 1 dt (4,4)",
              {{0, sign * kReportPercent}, {picture.x_end, sign * kReportPercent}});
  }
  add_curve(panel, "", "lines lc rgb '#606060' lw 0.8", {{0, 0}, {picture.x_end, 0}});
  panel.settings = {fmt::format("set yrange [{:.4g}:{:.4g}]", -greatest, greatest)};
  add_panel(picture, std::move(panel));
  return picture;
}

}  // namespace

std::vector<double> exponential_average(std::span<const double> values, int64_t steps) {
  const double decay = 1 - 1 / static_cast<double>(steps);
  std::vector<double> averages;
  double sum = 0;
  double weight = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) {
      averages.push_back(kNotLogged);
      continue;
    }
    sum = decay * sum + value;
    weight = decay * weight + 1;
    averages.push_back(sum / weight);
  }
  return averages;
}

Points relative_loss_difference(const RunLog& reference, const RunLog& run, int64_t smooth_steps) {
  const std::vector<double> a = exponential_average(values_of(reference, main_loss), smooth_steps);
  const std::vector<double> b = exponential_average(values_of(run, main_loss), smooth_steps);
  Points points;
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const int64_t step = reference.steps[i].step;
    if (step == run.steps[j].step) {
      if (a[i] != 0 && std::isfinite(a[i]) && std::isfinite(b[j])) {
        points.push_back({static_cast<double>(step), b[j] / a[i] - 1});
      }
      ++i;
      ++j;
    } else if (step < run.steps[j].step) {
      ++i;
    } else {
      ++j;
    }
  }
  return points;
}

RunSummary summarize_run(const std::vector<PlotRun>& runs, size_t run, int64_t smooth_steps) {
  const RunLog& log = runs[run].log;
  RunSummary summary;
  summary.steps = log.steps.back().step;
  summary.tokens = log.steps.back().tokens;
  for (const double loss : exponential_average(values_of(log, main_loss), smooth_steps)) {
    if (std::isfinite(loss)) summary.main_loss = loss;
  }
  if (!log.validations.empty()) summary.validation_loss = log.validations.back().main;
  double sum = 0;
  int64_t count = 0;
  for (const StepRecord& record : log.steps) {
    for (const double violation : record.load_violation) {
      if (!std::isfinite(violation)) continue;
      sum += violation;
      ++count;
      summary.greatest_load_violation = std::fmax(summary.greatest_load_violation, violation);
    }
  }
  if (count > 0) summary.mean_load_violation = sum / static_cast<double>(count);
  if (run > 0) {
    const Points points = relative_loss_difference(runs[0].log, log, smooth_steps);
    for (size_t i = points.size() / 2; i < points.size(); ++i) {
      summary.greatest_relative_difference = std::fmax(summary.greatest_relative_difference, std::abs(points[i][1]));
    }
  }
  return summary;
}

std::vector<Picture> training_pictures(const std::vector<PlotRun>& runs, int64_t smooth_steps) {
  std::vector<Picture> pictures = {loss_picture(runs, smooth_steps), load_picture(runs),
                                   violation_picture(runs, smooth_steps), learning_rate_picture(runs),
                                   gradient_norm_picture(runs, smooth_steps)};
  if (runs.size() > 1) pictures.push_back(loss_difference_picture(runs, smooth_steps));
  pictures.erase(
      std::remove_if(pictures.begin(), pictures.end(), [](const Picture& picture) { return picture.panels.empty(); }),
      pictures.end());
  return pictures;
}

}  // namespace fathom
