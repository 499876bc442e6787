#include "train/adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/gradients.h"

namespace fathom {
namespace {

// Elements of a work item: a few cache pages, small enough that a large matrix is many items.
constexpr int64_t kPiece = int64_t{1} << 15;

struct Piece {
  int64_t offset, elements;
  bool decays;
};

}  // namespace

AdamwMoments make_moments(const Parameters& parameters, DType dtype) {
  AdamwMoments moments;
  moments.dtype = dtype;
  const size_t bytes = static_cast<size_t>(parameters.size) * dtype_bytes(dtype);
  for (Buffer* buffer : {&moments.first, &moments.second}) {
    buffer->reserve(bytes);
    std::memset(buffer->as<std::byte>(), 0, bytes);
  }
  return moments;
}

void adamw_update(Parameters& parameters, AdamwMoments& moments, const AdamwOptions& options, int64_t step,
                  double gradient_factor, ThreadTeam& team) {
  std::vector<Piece> pieces;
  for (const Parameter& parameter : parameters.list) {
    for (int64_t begin = 0; begin < parameter.elements(); begin += kPiece) {
      pieces.push_back({parameter.offset + begin, std::min(kPiece, parameter.elements() - begin), parameter.decays()});
    }
  }
  const auto t = static_cast<double>(step);
  AdamwStep numbers{};
  numbers.gradient_factor = static_cast<float>(gradient_factor);
  numbers.beta1 = static_cast<float>(options.adam_beta1);
  numbers.beta2 = static_cast<float>(options.adam_beta2);
  numbers.step_size = static_cast<float>(options.learning_rate / (1 - std::pow(options.adam_beta1, t)));
  numbers.second_correction = static_cast<float>(1 / (1 - std::pow(options.adam_beta2, t)));
  numbers.eps = static_cast<float>(options.adam_eps);
  const auto keep = static_cast<float>(1 - options.learning_rate * options.weight_decay);
  const size_t bytes = dtype_bytes(moments.dtype);
  team.parallel_for(static_cast<int64_t>(pieces.size()), [&](int64_t i, int) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    AdamwStep own = numbers;
    own.keep = piece.decays ? keep : 1.0f;
    const size_t at = static_cast<size_t>(piece.offset) * bytes;
    adamw_row(own, parameters.gradients.as<float>() + piece.offset, piece.elements, moments.dtype,
              moments.first.as<std::byte>() + at, moments.second.as<std::byte>() + at,
              parameters.masters.as<float>() + piece.offset);
  });
}

}  // namespace fathom
