#pragma once
#include <span>
#include <string_view>

namespace fathom {

/// A file that the build put into the program: the chat page (`web/dist`) and the API's description.
struct EmbeddedFile {
  std::string_view path;  ///< "web/index.html", "openapi.json"
  std::string_view bytes;
  std::string_view gzip;  ///< the same, compressed
};

std::span<const EmbeddedFile> embedded_files();
/// Null if there is none of this path.
const EmbeddedFile* find_embedded_file(std::string_view path);

}  // namespace fathom
