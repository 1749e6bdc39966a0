// The smallest of each block's numbers, by a tree in shared memory, and the multiprocessor's clock when
// the block began and when it had its result.
#include "cuda.h"

extern __shared__ float smallest[];

extern "C" __global__ void timedReduction(const float *__restrict__ input, float *__restrict__ output,
                                          unsigned long long *__restrict__ clocks) {
    const unsigned t = threadIdx.x;
    if (t == 0)
        clocks[blockIdx.x] = __nvvm_read_ptx_sreg_clock64();
    const float *mine = input + static_cast<size_t>(blockIdx.x) * blockDim.x * 2;
    smallest[t] = mine[t];
    smallest[t + blockDim.x] = mine[t + blockDim.x];
    for (unsigned half = blockDim.x; half > 0; half /= 2) {
        __syncthreads();
        if (t < half)
            smallest[t] = fminf(smallest[t], smallest[t + half]);
    }
    if (t == 0)
        output[blockIdx.x] = smallest[0];
    __syncthreads();
    if (t == 0)
        clocks[gridDim.x + blockIdx.x] = __nvvm_read_ptx_sreg_clock64();
}
