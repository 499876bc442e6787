#include "kernels/cpu/attention_generic.h"

namespace fathom {

const AttentionKernels& attention_kernels_avx2() {
#if defined(__AVX2__)
  static const AttentionKernels kernels = {query_bytes_generic,
                                           page_bytes_generic,
                                           pack_page_generic<Avx2Vector>,
                                           pack_queries_generic,
                                           attend_generic<Avx2Vector>,
                                           unpack_generic,
                                           nullptr,
                                           nullptr,
                                           nullptr,
                                           nullptr};
  return kernels;
#else
  return attention_kernels_portable();
#endif
}

}  // namespace fathom
