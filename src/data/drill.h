#pragma once
#include <string>

#include "data/random.h"

namespace fathom {

/// A text whose second half can only be known from its first: a list that comes two or three times, or names with
/// values that come again in other orders. Learned from, it teaches to look back, before there is anything to say.
std::string drill_text(Random& random);

}  // namespace fathom
