// Exclusive prefix sums: within warps by shuffles and within a block through shared memory; of long arrays
// block by block, then over the blocks' sums, which are added at last.
#include "cuda.h"

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / warpSize;

static __device__ __forceinline__ unsigned warpInclusive(unsigned value) {
    const unsigned lane = threadIdx.x % warpSize;
#pragma unroll
    for (unsigned delta = 1; delta < warpSize; delta *= 2) {
        const unsigned below = shuffleUp(value, delta);
        if (lane >= delta)
            value += below;
    }
    return value;
}

// What comes before this thread's value in the block; `total` becomes the sum of all.
static __device__ __forceinline__ unsigned blockExclusive(unsigned value, unsigned &total) {
    __shared__ unsigned sums[WARPS];
    const unsigned warp = threadIdx.x / warpSize;
    const unsigned inclusive = warpInclusive(value);
    if (threadIdx.x % warpSize == warpSize - 1)
        sums[warp] = inclusive;
    __syncthreads();
    unsigned before = 0;
    total = 0;
#pragma unroll
    for (unsigned i = 0; i < WARPS; ++i) {
        if (i < warp)
            before += sums[i];
        total += sums[i];
    }
    return before + inclusive - value;
}

// Four elements a thread; what lies beyond n counts as zero. Each block's sum goes to `sums`.
extern "C" __global__ void __launch_bounds__(THREADS)
    scanBlocks(unsigned *__restrict__ to, const unsigned *__restrict__ from, unsigned n,
               unsigned *__restrict__ sums) {
    const unsigned first = (blockIdx.x * THREADS + threadIdx.x) * 4;
    unsigned value[4];
    unsigned sum = 0;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        value[i] = first + i < n ? from[first + i] : 0;
        sum += value[i];
    }
    unsigned total;
    unsigned before = blockExclusive(sum, total);
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) {
        if (first + i < n)
            to[first + i] = before;
        before += value[i];
    }
    if (threadIdx.x == 0)
        sums[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    addBefore(unsigned *data, unsigned n, const unsigned *__restrict__ before) {
    const unsigned first = (blockIdx.x * THREADS + threadIdx.x) * 4;
#pragma unroll
    for (unsigned i = 0; i < 4; ++i)
        if (first + i < n)
            data[first + i] += before[blockIdx.x];
}
