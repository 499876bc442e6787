#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// A curve or a set of points: (x, y), ascending in x. Values that are not finite are left out.
struct Curve {
  std::string title;  ///< in the legend; empty: not in it
  std::string style;  ///< gnuplot's, from `with` on: "lines lc rgb '#0072B2' lw 2"
  bool second_axis = false;
  std::vector<std::array<double, 2>> points;
};

/// Values on a regular grid. Cell (c, r) covers x_begin + c · x_step … and r … r + 1.
struct HeatMap {
  int64_t columns = 0, rows = 0;
  double x_begin = 0, x_step = 1;
  std::vector<double> values;           ///< [rows, columns]; NaN: no value, drawn grey
  std::vector<std::string> band_names;  ///< names of bands of rows, from the bottom
  std::vector<int64_t> band_rows;       ///< rows of each band
  std::vector<std::string> settings;    ///< of the colours
};

/// One pair of axes: either curves or a heat map.
struct Panel {
  std::string title, y_label, second_y_label;
  int height = 300;  ///< of the axes, in pixels of the SVG
  std::vector<Curve> curves;
  HeatMap map;                        ///< drawn if it has cells
  std::vector<std::string> settings;  ///< gnuplot statements, such as "set logscale y"
};

/// Panels below each other over one x axis that begins at 0.
struct Picture {
  std::string name;  ///< of the files: NAME.gp, NAME.dat, NAME.svg, NAME.png
  std::string x_label;
  double x_end = 1;
  std::vector<Panel> panels;
};

/// Text as a gnuplot string that means the same text: quoted, control characters and broken UTF-8 replaced by "?".
std::string gnuplot_string(std::string_view text);

/// The script of a picture; with its data beside it, `gnuplot NAME.gp` draws NAME.svg and NAME.png.
std::string gnuplot_script(const Picture& picture);

/// The numbers of a picture: a block per curve or map in the order of the script, two empty lines between blocks.
std::string gnuplot_data(const Picture& picture);

/// Writes script and data into an existing directory. Returns the two paths.
std::vector<std::string> write_picture_source(const Picture& picture, const std::string& directory);

/// Draws a picture whose sources are there with gnuplot as a child process. Returns the paths of the SVG and the PNG,
/// or none if gnuplot is not installed. `failure` if gnuplot fails; no picture is left half written.
std::vector<std::string> draw_picture(const Picture& picture, const std::string& directory);

}  // namespace fathom
