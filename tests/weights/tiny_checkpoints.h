#pragma once
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "formats/synth.h"
#include "support/golden.h"

namespace fathom {

/// A random checkpoint of the preset "tiny" in several files; made once.
inline const std::string& tiny_checkpoint(bool fp8) {
  static const TemporaryDirectory directory;
  static const auto make = [](bool with_fp8) {
    SynthOptions synth;
    synth.config = *model_preset("tiny");
    synth.fp8 = with_fp8;
    synth.shard_bytes = 1 << 20;
    synth.out = directory.file(with_fp8 ? "fp8" : "bf16");
    write_random_checkpoint(synth);
    return synth.out;
  };
  static const std::string in_fp8 = make(true);
  static const std::string in_bf16 = make(false);
  return fp8 ? in_fp8 : in_bf16;
}

/// Name and contents of each file in a directory.
inline std::map<std::string, std::string> files_of(const std::string& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::ifstream file(entry.path(), std::ios::binary);
    files[entry.path().filename().string()] = {std::istreambuf_iterator<char>(file), {}};
  }
  return files;
}

}  // namespace fathom
