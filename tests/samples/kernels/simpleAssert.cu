// Asserts, in every thread, that its number is below a limit.
#include "cuda.h"

extern "C" __device__ __attribute__((noreturn)) void __assertfail(const char *message, const char *file,
                                                                  unsigned line, const char *function,
                                                                  size_t characterBytes);

#define assert(condition)                                                                              \
    ((condition) ? (void)0 : __assertfail(#condition, "simpleAssert.cu", __LINE__, __func__, sizeof(char)))

extern "C" __global__ void below(unsigned n, unsigned *seen) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    assert(i < n);
    seen[i] = i + 1;
}
