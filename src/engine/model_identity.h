#pragma once
#include <string>

#include "model/transformer.h"

namespace fathom {

/// What decides about the bytes of a model's latents, as a sentence for PageStore: architecture, compute mode, how the
/// weights are held, the cache's type, the instruction set, and for each weight file its size and a hash of its header
/// and of 16 blocks of 4 KB spread over it (not of the whole: a checkpoint can have 700 GB).
std::string model_identity(const LoadedModel& model);

}  // namespace fathom
