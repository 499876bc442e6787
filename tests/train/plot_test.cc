#include "train/plot.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/run_fathom.h"
#include "support/errors.h"
#include "support/golden.h"
#include "train/run_log.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

std::string step_line(int64_t step, double main, double violation = 0.5) {
  return fmt::format(
      R"({{"step":{},"tokens":{},"loss":8.5,"main":{},"mtp":[{}],"balance":0.01,"gradient_norm":1.25,"clip_factor":0.8,)"
      R"("learning_rate":1e-4,"bias_update_speed":0.001,"sequences":32,"tokens_per_second":18000.0,)"
      R"("fraction_of_peak":0.47,"load_violation":[{},2.5],"seconds":0.9}})"
      "\n",
      step, step * 16384, main, main + 0.5, violation);
}

// Two layers, the second with twice as much for its first expert as for the others.
std::string load_line(int64_t step) {
  return fmt::format(R"({{"step":{},"tokens":1,"expert_load":{{"10":[20,10,10,0],"2":[8,8]}}}})"
                     "\n",
                     step);
}

std::string validation_line(int64_t step, double main) {
  return fmt::format(R"({{"step":{},"tokens":1,"validation":{{"main":{},"mtp":[4.75],"sequences":64}}}})"
                     "\n",
                     step, main);
}

std::string log_text(int64_t steps, double factor = 1) {
  std::string text;
  for (int64_t step = 1; step <= steps; ++step) {
    text += step_line(step, factor * (2 + 6.0 / static_cast<double>(step)));
    if (step % 10 == 0) text += validation_line(step, factor * 3) + load_line(step);
  }
  return text;
}

std::string write_run(const TemporaryDirectory& directory, const std::string& name, const std::string& text) {
  fs::create_directories(directory.file(name));
  write_text(directory.file(name) + "/log.jsonl", text);
  return directory.file(name);
}

bool gnuplot_is_here() {
  return std::system("command -v gnuplot > /dev/null 2>&1") == 0;
}

const Picture& picture_of(const std::vector<Picture>& pictures, const std::string& name) {
  for (const Picture& picture : pictures) {
    if (picture.name == name) return picture;
  }
  throw std::runtime_error("no picture " + name);
}

TEST(RunLog, ReadsEveryKindOfLine) {
  const RunLog log = parse_run_log(step_line(1, 8) + validation_line(1, 4.25) + load_line(1) + "\n" +
                                       R"({"step":1,"checkpoint":"step-1"})" + "\n" + R"({"seed":7})" + "\n",
                                   "log");
  ASSERT_EQ(log.steps.size(), 1u);
  const StepRecord& step = log.steps[0];
  EXPECT_EQ(step.step, 1);
  EXPECT_EQ(step.tokens, 16384);
  EXPECT_EQ(step.loss, 8.5);
  EXPECT_EQ(step.main, 8);
  EXPECT_EQ(step.mtp, std::vector<double>{8.5});
  EXPECT_EQ(step.balance, 0.01);
  EXPECT_EQ(step.gradient_norm, 1.25);
  EXPECT_EQ(step.clip_factor, 0.8);
  EXPECT_EQ(step.learning_rate, 1e-4);
  EXPECT_EQ(step.bias_update_speed, 0.001);
  EXPECT_EQ(step.sequences, 32);
  EXPECT_EQ(step.tokens_per_second, 18000);
  EXPECT_EQ(step.fraction_of_peak, 0.47);
  EXPECT_EQ(step.load_violation, (std::vector<double>{0.5, 2.5}));
  EXPECT_EQ(step.seconds, 0.9);
  ASSERT_EQ(log.validations.size(), 1u);
  EXPECT_EQ(log.validations[0].main, 4.25);
  EXPECT_EQ(log.validations[0].mtp, std::vector<double>{4.75});
  EXPECT_EQ(log.validations[0].sequences, 64);
  ASSERT_EQ(log.loads.size(), 1u);
  ASSERT_EQ(log.loads[0].layers.size(), 2u);
  EXPECT_EQ(log.loads[0].layers[0].first, 2);  // by number, not as text
  EXPECT_EQ(log.loads[0].layers[0].second, (std::vector<int64_t>{8, 8}));
  EXPECT_EQ(log.loads[0].layers[1].second, (std::vector<int64_t>{20, 10, 10, 0}));
}

TEST(RunLog, NullAndMissingAreNoNumbers) {
  const RunLog log = parse_run_log(R"({"step":3,"main":null})", "log");
  ASSERT_EQ(log.steps.size(), 1u);
  EXPECT_TRUE(std::isnan(log.steps[0].main));
  EXPECT_TRUE(std::isnan(log.steps[0].gradient_norm));
  EXPECT_TRUE(log.steps[0].load_violation.empty());
}

TEST(RunLog, AContinuedRunRepeatsSteps) {
  const std::string text = step_line(1, 8) + step_line(2, 7) + load_line(2) + step_line(3, 6) + validation_line(3, 9) +
                           load_line(3) + step_line(3, 5) + step_line(4, 4);
  const RunLog log = parse_run_log(text, "log");
  ASSERT_EQ(log.steps.size(), 4u);
  EXPECT_EQ(log.steps[2].main, 5);
  EXPECT_TRUE(log.validations.empty());
  ASSERT_EQ(log.loads.size(), 1u);
  EXPECT_EQ(log.loads[0].step, 2);
}

TEST(RunLog, ATornLastLineIsIgnoredWhereverItWasTorn) {
  const std::string whole = step_line(1, 8);
  const std::string last = step_line(2, 7);
  for (size_t length = 0; length <= last.size(); ++length) {
    const RunLog log = parse_run_log(whole + last.substr(0, length), "log");
    EXPECT_EQ(log.steps.size(), length + 1 >= last.size() ? 2u : 1u) << length;
  }
}

TEST(RunLog, BrokenLinesAreNamed) {
  const std::string good = step_line(1, 8);
  const auto refuse = [&](const std::string& line, const std::string& part) {
    FATHOM_EXPECT_ERROR(parse_run_log(good + line + "\n" + good, "runs/a/log.jsonl"), ErrorKind::bad_input,
                        "runs/a/log.jsonl, line 2", part);
  };
  refuse(R"({"step":2,"main":7.)", "not valid JSON");
  refuse("[1, 2]", "array");
  refuse(R"({"main":7})", "the step is missing");
  refuse(R"({"main":7,"step":-1})", "step is -1");
  refuse(R"({"main":7,"step":2.5})", "step is 2.5");
  refuse(R"({"main":7,"step":18446744073709551615})", "step is");
  refuse(R"({"main":"7","step":2})", "main is \"7\"");
  refuse(R"({"main":7,"step":2,"mtp":7})", "a list of numbers");
  refuse(R"({"main":7,"step":2,"load_violation":[1,"x"]})", "load_violation");
  refuse(R"({"main":1e999,"step":2})", "not valid JSON");
  refuse(R"({"step":2,"validation":4})", "validation is 4");
  refuse(R"({"step":2,"expert_load":[4]})", "expert_load");
  refuse(R"({"step":2,"expert_load":{"one":[4]}})", "\"one\"");
  refuse(R"({"step":2,"expert_load":{"1":4}})", "expert_load of layer 1");
  refuse(R"({"step":2,"expert_load":{"1":[4,-4]}})", "expert_load of layer 1");
  refuse(R"({"step":2,"expert_load":{"1":[4],"01":[4]}})", "layer 1 twice");
}

TEST(RunLog, MeansAreOverTheCommonSteps) {
  const RunLog a = parse_run_log(log_text(20), "a");
  const RunLog b = parse_run_log(log_text(15, 3), "b");
  const RunLog mean = mean_log({a, b}, "a,b");
  ASSERT_EQ(mean.steps.size(), 15u);
  for (const StepRecord& record : mean.steps) {
    EXPECT_NEAR(record.main, 2 * (2 + 6.0 / static_cast<double>(record.step)), 1e-12);
    EXPECT_NEAR(record.mtp.at(0), record.main + 0.5, 1e-12);
    EXPECT_DOUBLE_EQ(record.load_violation.at(1), 2.5);
  }
  ASSERT_EQ(mean.validations.size(), 1u);
  EXPECT_NEAR(mean.validations[0].main, 6, 1e-12);
  ASSERT_EQ(mean.loads.size(), 1u);
  EXPECT_EQ(mean.loads[0].layers.at(1).second, (std::vector<int64_t>{40, 20, 20, 0}));
  // Steps of other numbers, and another count of layers.
  const RunLog later = parse_run_log(step_line(2, 1), "later");
  FATHOM_EXPECT_ERROR(mean_log({a, later}, "a,later"), ErrorKind::bad_input, "same steps");
  RunLog fewer = b;
  fewer.steps[3].load_violation.pop_back();
  FATHOM_EXPECT_ERROR(mean_log({a, fewer}, "a,fewer"), ErrorKind::bad_input, "layers");
}

// Whatever happens to a log, it is read or refused with a sentence, and what was read can be turned into pictures.
TEST(RunLog, DamagedLogsAreReadOrRefused) {
  const std::string whole = log_text(12);
  const std::string bytes = "{}[]\",:0123456789.-e\n\\ntu\x80\xff";
  int read = 0;
  int refused = 0;
  for (unsigned seed = 0; seed < 600; ++seed) {
    std::mt19937 random(seed);
    std::string text = whole;
    for (unsigned change = 0; change <= seed % 4; ++change) {
      const size_t at = random() % text.size();
      const char byte = bytes[random() % bytes.size()];
      switch (random() % 4) {
        case 0:
          text[at] = byte;
          break;
        case 1:
          text.insert(at, 1, byte);
          break;
        case 2:
          text.erase(at, 1 + random() % 30);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 200));
      }
    }
    try {
      const RunLog log = parse_run_log(text, "log");
      ++read;
      for (size_t i = 1; i < log.steps.size(); ++i) ASSERT_LT(log.steps[i - 1].step, log.steps[i].step) << seed;
      if (log.steps.empty()) continue;
      for (const Picture& picture : training_pictures({{"a", log}, {"b", log}}, 10)) {
        EXPECT_FALSE(gnuplot_script(picture).empty());
        EXPECT_FALSE(gnuplot_data(picture).empty());
      }
    } catch (const Error& error) {
      ++refused;
      EXPECT_EQ(error.kind(), ErrorKind::bad_input) << error.what();
      EXPECT_NE(std::string(error.what()).find("log, line "), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(read, 50);
  EXPECT_GT(refused, 50);
}

TEST(Plot, ExponentialAverageIsNormalised) {
  const double nan = kNotLogged;
  const std::vector<double> average = exponential_average(std::vector<double>{4, 8, nan, 2}, 10);
  ASSERT_EQ(average.size(), 4u);
  EXPECT_DOUBLE_EQ(average[0], 4);
  EXPECT_DOUBLE_EQ(average[1], (0.9 * 4 + 8) / 1.9);
  EXPECT_TRUE(std::isnan(average[2]));
  EXPECT_DOUBLE_EQ(average[3], (0.81 * 4 + 0.9 * 8 + 2) / (0.81 + 0.9 + 1));
  EXPECT_EQ(exponential_average(std::vector<double>{4, 8, 2}, 1), (std::vector<double>{4, 8, 2}));
}

TEST(Plot, SummaryComparesTheSecondHalfOfCommonSteps) {
  const std::string first = step_line(1, 8) + step_line(2, 4) + step_line(3, 4) + step_line(4, 2) + step_line(5, 2);
  const std::string second = step_line(1, 16) + step_line(3, 4.5, 7) + step_line(4, 1.5) + validation_line(4, 3.5);
  const std::vector<PlotRun> runs = {{"a", parse_run_log(first, "a")}, {"b", parse_run_log(second, "b")}};
  const auto difference = relative_loss_difference(runs[0].log, runs[1].log, 1);
  EXPECT_EQ(difference, (std::vector<std::array<double, 2>>{{1, 1}, {3, 0.125}, {4, -0.25}}));
  const RunSummary summary = summarize_run(runs, 1, 1);
  EXPECT_EQ(summary.steps, 4);
  EXPECT_EQ(summary.tokens, 4 * 16384);
  EXPECT_EQ(summary.main_loss, 1.5);
  EXPECT_EQ(summary.validation_loss, 3.5);
  EXPECT_DOUBLE_EQ(summary.mean_load_violation, (0.5 + 2.5 + 7 + 2.5 + 0.5 + 2.5) / 6);
  EXPECT_EQ(summary.greatest_load_violation, 7);
  EXPECT_EQ(summary.greatest_relative_difference, 0.25);
  EXPECT_TRUE(std::isnan(summarize_run(runs, 0, 1).greatest_relative_difference));
  EXPECT_TRUE(std::isnan(summarize_run(runs, 0, 1).validation_loss));
}

TEST(Plot, LoadIsRelativeToTheLayersMean) {
  const std::vector<Picture> pictures = training_pictures(
      {{"a", parse_run_log(step_line(1, 8) + step_line(20, 7) + load_line(10) + load_line(20), "a")}}, 1);
  const HeatMap& map = picture_of(pictures, "load").panels.at(0).map;
  EXPECT_EQ(map.rows, 6);
  EXPECT_EQ(map.columns, 2);
  EXPECT_EQ(map.x_step, 10);
  EXPECT_EQ(map.band_rows, (std::vector<int64_t>{2, 4}));
  EXPECT_EQ(map.band_names, (std::vector<std::string>{"layer 2", "layer 10 (MTP)"}));
  // The last expert got nothing: the scale ends at a quarter.
  const std::vector<double> column = {1, 1, 2, 1, 1, 0.25};
  for (size_t row = 0; row < 6; ++row) {
    for (size_t c = 0; c < 2; ++c) EXPECT_DOUBLE_EQ(map.values.at(2 * row + c), column[row]) << row;
  }
}

TEST(Plot, UnevenLoadRecordsAreSharedOut) {
  // Columns of 10 steps; the first record covers 5 steps, the second 15: a third of that falls into the first column.
  const std::string text = step_line(20, 7) + R"({"step":5,"expert_load":{"1":[30,10]}})" + "\n" +
                           R"({"step":20,"expert_load":{"1":[30,90]}})" + "\n";
  const std::vector<Picture> pictures = training_pictures({{"a", parse_run_log(text, "a")}}, 1);
  const HeatMap& map = picture_of(pictures, "load").panels.at(0).map;
  ASSERT_EQ(map.columns, 2);
  EXPECT_DOUBLE_EQ(map.values[0], 2 * 40.0 / 80);
  EXPECT_DOUBLE_EQ(map.values[1], 2 * 20.0 / 80);
  EXPECT_DOUBLE_EQ(map.values[2], 2 * 40.0 / 80);
  EXPECT_DOUBLE_EQ(map.values[3], 2 * 60.0 / 80);
}

TEST(Plot, ThinningKeepsSpikes) {
  std::string text;
  for (int64_t step = 1; step <= 5000; ++step) text += step_line(step, step == 1234 ? 77 : 2);
  const std::vector<Picture> pictures = training_pictures({{"a", parse_run_log(text, "a")}}, 1);
  const Panel& panel = picture_of(pictures, "loss").panels.at(0);
  ASSERT_FALSE(panel.curves.empty());
  const auto& points = panel.curves[0].points;
  EXPECT_LE(points.size(), 2001u);
  EXPECT_EQ(points.back()[0], 5000);
  EXPECT_EQ(std::count(points.begin(), points.end(), (std::array<double, 2>{1234, 77})), 1);
}

// One style for a run in every picture, another for every other.
TEST(Plot, ARunKeepsItsStyle) {
  const RunLog log = parse_run_log(log_text(40), "a");
  std::vector<PlotRun> runs;
  for (size_t i = 0; i < kMostPlotRuns; ++i) runs.push_back({fmt::format("run {}", i), log});
  std::map<std::string, std::string> style_of;
  std::map<std::string, std::string> run_of;
  int curves = 0;
  for (const Picture& picture : training_pictures(runs, 10)) {
    for (const Panel& panel : picture.panels) {
      for (const Curve& curve : panel.curves) {
        const bool first = style_of.find(curve.title) == style_of.end();
        if (!curve.title.starts_with("run ") || curve.title.find(',') != std::string::npos) continue;
        ++curves;
        if (first) style_of[curve.title] = curve.style;
        EXPECT_EQ(style_of[curve.title], curve.style) << picture.name;
        run_of.emplace(curve.style, curve.title);
      }
    }
  }
  EXPECT_GE(curves, 80);
  EXPECT_EQ(style_of.size(), kMostPlotRuns);
  EXPECT_EQ(run_of.size(), kMostPlotRuns);
}

TEST(Gnuplot, StringsAreLiteral) {
  EXPECT_EQ(gnuplot_string("it's"), "'it''s'");
  EXPECT_EQ(gnuplot_string("a\nb\x7f"), "'a?b?'");
  EXPECT_EQ(gnuplot_string("é \"x\" `date` \\n @m"), "'é \"x\" `date` \\n @m'");
  EXPECT_EQ(gnuplot_string("\xff\xc3"),
            "'"
            "?"
            "?"
            "'");
}

TEST(Gnuplot, TheScriptNamesEveryBlockOfTheData) {
  const RunLog log = parse_run_log(log_text(40), "a");
  for (const Picture& picture : training_pictures({{"a", log}, {"b", log}}, 10)) {
    const std::string script = gnuplot_script(picture);
    const std::string data = gnuplot_data(picture);
    int blocks = 1;
    for (size_t at = 0; (at = data.find("\n\n\n", at)) != std::string::npos; ++at) ++blocks;
    for (int block = 0; block < blocks; ++block) {
      EXPECT_NE(script.find(fmt::format("'{}.dat' index {} ", picture.name, block)), std::string::npos) << picture.name;
    }
    EXPECT_EQ(script.find(fmt::format("index {} ", blocks)), std::string::npos) << picture.name;
  }
}

TEST(Gnuplot, AFailureIsOneSentenceAndLeavesNothing) {
  if (!gnuplot_is_here()) GTEST_SKIP() << "gnuplot is not installed";
  const TemporaryDirectory directory;
  Picture picture;
  picture.name = "broken";
  picture.panels = {{.title = "t", .settings = {"set nonsense"}}};
  write_picture_source(picture, directory.path());
  FATHOM_EXPECT_ERROR(draw_picture(picture, directory.path()), ErrorKind::failure, "broken.svg", "\"broken.gp\" line");
  for (const auto& entry : fs::directory_iterator(directory.path())) {
    const std::string extension = entry.path().extension();
    EXPECT_TRUE(extension == ".dat" || extension == ".gp") << entry.path();
  }
}

TEST(TrainPlot, DrawsARun) {
  if (!gnuplot_is_here()) GTEST_SKIP() << "gnuplot is not installed";
  const TemporaryDirectory directory;
  const std::string run = write_run(directory, "it's <a & b>_1", log_text(40) + R"({"step":41,"ma)");
  const FathomRun result = run_fathom({"train", "plot", run});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  for (const char* name : {"loss", "load", "violation", "learning-rate", "gradient-norm"}) {
    for (const char* extension : {".svg", ".png", ".gp", ".dat"}) {
      const std::string path = run + "/plots/" + name + extension;
      EXPECT_TRUE(fs::exists(path)) << path;
      EXPECT_NE(result.out.find(path + "\n"), std::string::npos) << path;
    }
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(run + "/plots"), fs::directory_iterator()), 20);
  const std::string svg = read_text(run + "/plots/loss.svg");
  EXPECT_NE(svg.find("Loss of it's &lt;a &amp; b>_1"), std::string::npos);
  EXPECT_NE(svg.find("main loss, validation"), std::string::npos);
  EXPECT_NE(read_text(run + "/plots/load.svg").find("layer 10 (MTP)"), std::string::npos);
  EXPECT_NE(result.out.find("violation greatest"), std::string::npos);

  // A user draws it again.
  fs::remove(run + "/plots/loss.svg");
  const std::string again = "cd \"" + run + "/plots\" && gnuplot -d loss.gp";
  EXPECT_EQ(std::system(again.c_str()), 0);
  EXPECT_EQ(read_text(run + "/plots/loss.svg"), svg);  // it holds no image, so nothing was changed in it
}

TEST(TrainPlot, ARunOfOneStepHasPictures) {
  if (!gnuplot_is_here()) GTEST_SKIP() << "gnuplot is not installed";
  const TemporaryDirectory directory;
  const std::string run = write_run(directory, "one", step_line(1, 8) + load_line(1));
  const FathomRun result = run_fathom({"train", "plot", run, "--smooth", "1"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(read_text(run + "/plots/load.svg").find("<image "), std::string::npos);
  EXPECT_NE(read_text(run + "/plots/violation.svg").find("<image "), std::string::npos);
}

TEST(TrainPlot, ComparesRuns) {
  if (!gnuplot_is_here()) GTEST_SKIP() << "gnuplot is not installed";
  const TemporaryDirectory directory;
  const std::string a = write_run(directory, "a/run", log_text(40));
  // Another model: no MTP, no loads.
  std::string other;
  for (int64_t step = 1; step <= 30; ++step) {
    other += fmt::format(R"({{"step":{},"tokens":{},"main":{}}})", step, step,
                         1.01 * (2 + 6.0 / static_cast<double>(step))) +
             "\n";
  }
  const std::string b = write_run(directory, "b/run", other);
  const FathomRun result = run_fathom({"train", "plot", a, b + "/", "--out", directory.file("out"), "--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto report = nlohmann::json::parse(result.out);
  ASSERT_EQ(report.at("runs").size(), 2u);
  EXPECT_EQ(report["runs"][0]["label"], a);  // both are called "run"
  EXPECT_EQ(report["runs"][0]["validation_loss"], 3);
  EXPECT_TRUE(report["runs"][0]["greatest_relative_difference"].is_null());
  EXPECT_TRUE(report["runs"][1]["validation_loss"].is_null());
  EXPECT_TRUE(report["runs"][1]["mean_load_violation"].is_null());
  EXPECT_NEAR(report["runs"][1]["greatest_relative_difference"].get<double>(), 0.01, 1e-6);
  EXPECT_EQ(report.at("files").size(), 24u);
  for (const auto& file : report["files"]) EXPECT_TRUE(fs::exists(file.get<std::string>())) << file;

  const FathomRun named = run_fathom(
      {"train", "plot", a, b, "--out", directory.file("out"), "--label", "left one", "--label", "right one"});
  ASSERT_EQ(named.exit_code, 0) << named.err;
  const std::string svg = read_text(directory.file("out") + "/loss-difference.svg");
  EXPECT_NE(svg.find("Main loss relative to left one"), std::string::npos);
  EXPECT_NE(svg.find("right one"), std::string::npos);
  EXPECT_NE(named.out.find("1.0000 %"), std::string::npos) << named.out;
}

TEST(TrainPlot, WithoutGnuplotTheDataStay) {
  const TemporaryDirectory directory;
  const std::string run = write_run(directory, "run", log_text(20));
  const char* value = std::getenv("PATH");
  const std::string before = value != nullptr ? value : "";
  ::setenv("PATH", directory.path().c_str(), 1);
  const FathomRun result = run_fathom({"train", "plot", run});
  ::setenv("PATH", before.c_str(), 1);
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_NE(result.err.find("gnuplot-nox"), std::string::npos) << result.err;
  EXPECT_NE(result.err.find(run + "/plots"), std::string::npos) << result.err;
  EXPECT_TRUE(fs::exists(run + "/plots/loss.dat"));
  EXPECT_TRUE(fs::exists(run + "/plots/gradient-norm.gp"));
  EXPECT_EQ(std::distance(fs::directory_iterator(run + "/plots"), fs::directory_iterator()), 10);
}

TEST(TrainPlot, MistakesAreASentence) {
  const TemporaryDirectory directory;
  const std::string run = write_run(directory, "run", log_text(3));
  const std::string empty = write_run(directory, "empty", R"({"step":1,"ma)");
  const std::string broken = write_run(directory, "broken", "nonsense\n" + log_text(3));
  fs::create_directories(directory.file("no-log"));
  std::vector<std::string> many(kMostPlotRuns + 1, run);
  many.insert(many.begin(), "plot");
  expect_refused("train",
                 {
                     {{"plot"}, "RUN"},
                     {{"plot", directory.file("nowhere")}, "no such run"},
                     {{"plot", run + "/log.jsonl"}, "found a file"},
                     {{"plot", directory.file("no-log")}, "no log.jsonl"},
                     {{"plot", empty}, "no step"},
                     {{"plot", broken}, "log.jsonl, line 1"},
                     {{"plot", run, run}, "--out"},
                     {{"plot", run + "," + run}, "--out"},
                     {{"plot", run + "," + directory.file("nowhere"), "--out", directory.file("o")}, "no such run"},
                     {{"plot", run, "--label", "a", "--label", "b"}, "--label"},
                     {{"plot", run, "--smooth", "0"}, "--smooth"},
                     {{"plot", run, "--out", run + "/log.jsonl"}, "not a directory"},
                     {many, "at most 16"},
                 });
}

}  // namespace
}  // namespace fathom
