// Adds a number to every element.
#include "cuda.h"

extern "C" __global__ void increment(unsigned *data, unsigned n, unsigned by) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        data[i] += by;
}
