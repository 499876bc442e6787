#include "weights/piece_writer.h"

#include <exception>
#include <future>

namespace fathom {

void write_pieces(const std::vector<OutputPiece>& pieces, ThreadTeam& team,
                  const std::function<void(const void* data, size_t bytes)>& write,
                  const std::function<void(uint64_t bytes)>& on_bytes, uint64_t batch_bytes) {
  std::vector<std::byte> buffers[2];
  std::future<void> writing;
  try {
    size_t turn = 0;
    for (size_t begin = 0; begin < pieces.size(); turn ^= 1) {
      size_t end = begin;
      uint64_t bytes = 0;
      std::vector<uint64_t> offsets;
      while (end < pieces.size() &&
             (end == begin || (!pieces[end].after_all && bytes + pieces[end].bytes <= batch_bytes))) {
        offsets.push_back(bytes);
        bytes += pieces[end++].bytes;
      }
      std::vector<std::byte>& buffer = buffers[turn];
      buffer.resize(bytes);
      std::vector<std::exception_ptr> errors(end - begin);
      team.parallel_for(static_cast<int64_t>(end - begin), [&](int64_t i, int) {
        const auto index = static_cast<size_t>(i);
        try {
          pieces[begin + index].make(buffer.data() + offsets[index]);
        } catch (...) {
          errors[index] = std::current_exception();
        }
      });
      for (const std::exception_ptr& error : errors) {
        if (error) std::rethrow_exception(error);
      }
      if (writing.valid()) writing.get();
      on_bytes(bytes);
      writing = std::async(std::launch::async, [&write, &buffer] { write(buffer.data(), buffer.size()); });
      begin = end;
    }
    if (writing.valid()) writing.get();
  } catch (...) {
    if (writing.valid()) writing.wait();
    throw;
  }
}

}  // namespace fathom
