// A sum by one kernel whose blocks wait for each other: all of them must run at the same time, for which
// it is launched as a cooperative kernel.
#include "cuda.h"

constexpr unsigned THREADS = 256;

// All threads of the grid wait here for each other. `arrived` counts the blocks that have come, of this
// barrier and those before it; it is 0 at first.
static __device__ __forceinline__ void syncGrid(unsigned *arrived, unsigned &barriers) {
    ++barriers;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        atomicAdd(arrived, 1);
        while (*static_cast<volatile unsigned *>(arrived) < barriers * gridDim.x)
            ;
        __threadfence();
    }
    __syncthreads();
}

static __device__ __forceinline__ float blockSum(float value) {
    __shared__ float sums[THREADS];
    __syncthreads();
    sums[threadIdx.x] = value;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    __syncthreads();
    return sums[0];
}

// The vector is divided by its sum: two barriers, after the blocks' sums and after the total.
extern "C" __global__ void __launch_bounds__(THREADS)
    normalise(float *data, unsigned n, float *blockSums, float *total, unsigned *arrived) {
    unsigned barriers = 0;
    const unsigned first = blockIdx.x * THREADS + threadIdx.x;
    const unsigned stride = gridDim.x * THREADS;
    float sum = 0.0f;
    for (unsigned i = first; i < n; i += stride)
        sum += data[i];
    sum = blockSum(sum);
    if (threadIdx.x == 0)
        blockSums[blockIdx.x] = sum;
    syncGrid(arrived, barriers);
    if (blockIdx.x == 0) {
        sum = 0.0f;
        for (unsigned i = threadIdx.x; i < gridDim.x; i += THREADS)
            sum += blockSums[i];
        sum = blockSum(sum);
        if (threadIdx.x == 0)
            *total = sum;
    }
    syncGrid(arrived, barriers);
    const float whole = *static_cast<volatile float *>(total);
    for (unsigned i = first; i < n; i += stride)
        data[i] /= whole;
}
