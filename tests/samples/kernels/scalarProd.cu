// The scalar products of many pairs of vectors: a block takes every gridDim.x-th pair. The two kernels
// differ in how a block adds up what its threads found.
#include "cuda.h"

constexpr unsigned THREADS = 256;

// This thread's share of one pair.
static __device__ __forceinline__ float partialProduct(const float *__restrict__ a, const float *__restrict__ b,
                                                       unsigned length) {
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < length; i += THREADS)
        sum = fmaf(a[i], b[i], sum);
    return sum;
}

// A tree in shared memory, a barrier a level.
extern "C" __global__ void __launch_bounds__(THREADS)
    scalarProdTree(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ product,
                   unsigned pairs, unsigned length) {
    __shared__ float sums[THREADS];
    for (unsigned pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
        const size_t start = static_cast<size_t>(pair) * length;
        sums[threadIdx.x] = partialProduct(a + start, b + start, length);
        for (unsigned half = THREADS / 2; half > 0; half /= 2) {
            __syncthreads();
            if (threadIdx.x < half)
                sums[threadIdx.x] += sums[threadIdx.x + half];
        }
        if (threadIdx.x == 0)
            product[pair] = sums[0];
        // Before the next pair overwrites the sums.
        __syncthreads();
    }
}

static __device__ __forceinline__ float warpSum(float value) {
#pragma unroll
    for (unsigned delta = warpSize / 2; delta > 0; delta /= 2)
        value += shuffleDown(value, delta);
    return value;
}

// Shuffles within each warp, then the first warp shuffles over the warps' sums.
extern "C" __global__ void __launch_bounds__(THREADS)
    scalarProdShuffle(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ product,
                      unsigned pairs, unsigned length) {
    __shared__ float sums[warpSize];
    const unsigned lane = threadIdx.x % warpSize;
    const unsigned warp = threadIdx.x / warpSize;
    for (unsigned pair = blockIdx.x; pair < pairs; pair += gridDim.x) {
        const size_t start = static_cast<size_t>(pair) * length;
        const float sum = warpSum(partialProduct(a + start, b + start, length));
        if (lane == 0)
            sums[warp] = sum;
        __syncthreads();
        if (warp == 0) {
            const float total = warpSum(lane < THREADS / warpSize ? sums[lane] : 0.0f);
            if (lane == 0)
                product[pair] = total;
        }
        __syncthreads();
    }
}
