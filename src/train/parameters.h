#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/thread_team.h"
#include "formats/checkpoint.h"
#include "formats/tensor_table.h"
#include "model/compute_mode.h"
#include "model/weights.h"

namespace fathom {

/// One trained tensor.
struct Parameter {
  std::string name;  ///< as on the hub
  Shape shape;       ///< [out, in] or [n]
  TensorRole role;
  int64_t layer = -1;
  int64_t expert = -1;
  bool quantizable = false;  ///< FP8 in `w8a8`
  int64_t offset = 0;        ///< of its first element in the flat arrays; a multiple of 64
  int64_t scale_offset = 0;  ///< of its first block scale, quantizable ones only

  int64_t elements() const { return element_count(shape); }
  bool matrix() const { return shape.size() == 2; }
  /// Weight decay: matrices, not norms (spec §3.2 leaves it open).
  bool decays() const { return matrix(); }
};

/// A router's correction bias: not trained by gradients.
struct RouterBias {
  std::string name;
  int64_t layer = -1;
  std::vector<float> values;  ///< [E]
};

/// Everything of a model that training changes. Tensors lie one after the other in flat arrays of `size` elements, each
/// at its `offset` in all of them; gaps are 0. Embedding and head are shared with the MTP layers and are here once.
struct Parameters {
  ModelConfig config;
  std::vector<Parameter> list;     ///< in the order of tensor_table
  std::vector<RouterBias> biases;  ///< one for each MoE layer of a `noaux_tc` model
  int64_t size = 0;                ///< elements of a flat array
  int64_t scales = 0;              ///< block scales of all quantizable matrices
  Buffer masters;                  ///< [size] f32
  Buffer gradients;                ///< [size] f32

  float* master(const Parameter& parameter) { return masters.as<float>() + parameter.offset; }
  const float* master(const Parameter& parameter) const { return masters.as<float>() + parameter.offset; }
  float* gradient(const Parameter& parameter) { return gradients.as<float>() + parameter.offset; }
  const float* gradient(const Parameter& parameter) const { return gradients.as<float>() + parameter.offset; }
  int64_t trained_elements() const;  ///< without gaps
};

/// The list with its places, without memory.
Parameters plan_parameters(const ModelConfig& config);

/// Takes the masters from a checkpoint, whatever it stores (FP8 is code × scale). `bad_input`: see Checkpoint; a tensor
/// that is missing or of another shape or type.
Parameters load_parameters(const Checkpoint& checkpoint);

/// Random masters: matrices N(0, deviation), norms 1, biases 0. A tensor's values depend on its name and the seed.
/// Source: report §4.2 (0.006).
Parameters initial_parameters(const ModelConfig& config, uint64_t seed, double deviation = 0.006);

/// Writes a Hugging Face checkpoint directory: config.json, index, shards; matrices that the config stores in FP8
/// (`fp8` set) are quantised, else all is `dtype` (f32 or bf16), biases F32. The MTP layers' copies of embedding and
/// head are left out: they are shared. Written into `OUT.partial` and renamed when whole. `bad_input` if OUT exists.
void write_checkpoint(const Parameters& parameters, DType dtype, bool fp8, const std::string& out);

/// One safetensors file with all masters (`gradients`: the gradients instead) and, of masters, the biases, in F32 under
/// their names.
void write_parameters(const Parameters& parameters, bool gradients, const std::string& path);

/// Compute copies of the masters in one arithmetic, and the transposed copies that input gradients read.
struct ComputeCopies {
  ComputeMode compute = ComputeMode::fp32;
  Buffer plain;                ///< [size] BF16; none in fp32, where the masters themselves are used
  Buffer turned;               ///< [size] f32 or BF16: matrices transposed; where `paired`, as paired rows
                               ///< (kernels/paired_product.h) but the routers: of FP8 matrices their codes' values
  bool paired = false;         ///< decided by the instruction set when memory is taken
  Buffer codes, codes_turned;  ///< [size] E4M3, w8a8 only; turned where a matrix is not paired
  Buffer scale, scale_turned;  ///< [scales] f32, w8a8 only
};

void reserve_copies(const Parameters& parameters, ComputeMode compute, ComputeCopies& copies);
/// Bytes that `reserve_copies` takes.
uint64_t compute_copy_bytes(const Parameters& plan, ComputeMode compute);
/// Makes the copies from the masters. Any number of threads give the same bits.
void make_copies(const Parameters& parameters, ComputeCopies& copies, ThreadTeam& team);
/// Views on the copies, as a model's weights.
ModelWeights weights_of(const Parameters& parameters, const ComputeCopies& copies);

/// A weight W [N, K] as its input gradient dy · W reads it.
struct TurnedWeight {
  Weight turned;                    ///< [K, N]; its data is nothing to read where `pairs` is set
  const uint16_t* pairs = nullptr;  ///< paired rows of W [N, K]; in FP8 its codes' values, to be scaled
  const float* scales = nullptr;    ///< FP8 pairs: of W's blocks [ceil(N / 128), ceil(K / 128)]
};

/// Where the copy for input gradients of a weight that `weights_of` gave lies.
/// `router`: it is a router's, whose products are float32.
TurnedWeight turned(const Weight& weight, const Parameters& parameters, const ComputeCopies& copies,
                    bool router = false);
/// The gradient of a weight or norm gain that `weights_of` gave.
float* gradient_of(const Weight& weight, Parameters& parameters, const ComputeCopies& copies);
float* gradient_of(const TensorView& tensor, Parameters& parameters, const ComputeCopies& copies);

}  // namespace fathom
