#pragma once
#include <memory>
#include <string>
#include <vector>

#include "engine/trace.h"
#include "formats/synth.h"
#include "model/transformer.h"
#include "support/golden.h"

namespace fathom {

/// A random checkpoint, opened in float32.
struct RandomModel {
  RandomModel(const ModelConfig& config, uint64_t seed) {
    SynthOptions options;
    options.config = config;
    options.out = directory.file("model");
    options.seed = seed;
    write_random_checkpoint(options);
    model = open_model(options.out, ComputeMode::fp32);
  }

  TemporaryDirectory directory;
  std::unique_ptr<LoadedModel> model;
};

inline const TracedTensor& traced(const std::vector<TracedTensor>& tensors, const std::string& name) {
  for (const TracedTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

}  // namespace fathom
