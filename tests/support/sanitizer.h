#pragma once

namespace fathom {

/// Whether a sanitizer watches the program: its own memory and time come on top of what the program takes.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace fathom
