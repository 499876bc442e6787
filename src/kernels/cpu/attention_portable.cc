#include "kernels/cpu/attention_generic.h"

namespace fathom {

const AttentionKernels& attention_kernels_portable() {
  static const AttentionKernels kernels = {query_bytes_generic,
                                           page_bytes_generic,
                                           pack_page_generic<PortableVector>,
                                           pack_queries_generic,
                                           attend_generic<PortableVector>,
                                           unpack_generic,
                                           nullptr,
                                           nullptr,
                                           nullptr,
                                           nullptr};
  return kernels;
}

}  // namespace fathom
