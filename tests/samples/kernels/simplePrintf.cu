// Prints a line a thread, with arguments of every kind.
#include "cuda.h"

extern "C" __device__ int printf(const char *, ...);

extern "C" __global__ void print(unsigned value, unsigned *printed) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    printed[i] = printf("[%u, %u]: %d %5.3f %llx %s %c%%\n", blockIdx.x, threadIdx.x,
                        -static_cast<int>(i * value), 0.125 * i, 0x100000000ull * i + value, i % 2 ? "odd" : "even",
                        'a' + i % 26);
}
