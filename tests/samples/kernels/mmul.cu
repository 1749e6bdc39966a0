// C = A * B of unsigned integers, an element a thread, straight from global memory.
#include "cuda.h"

extern "C" __global__ void multiply(const unsigned *a, const unsigned *b, unsigned *c, unsigned n) {
    const unsigned row = blockIdx.y * blockDim.y + threadIdx.y;
    const unsigned column = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n || column >= n)
        return;
    unsigned sum = 0;
    for (unsigned i = 0; i < n; ++i)
        sum += a[row * n + i] * b[i * n + column];
    c[row * n + column] = sum;
}
