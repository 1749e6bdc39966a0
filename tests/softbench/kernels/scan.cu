// Inclusive prefix sums of 32-bit words in three kernels: blocks scan their part and note its sum, one
// block scans the sums, and every block adds what lies before it. A thread scans ITEMS neighbours.
#include "cuda.h"

constexpr unsigned THREADS = 256;
constexpr unsigned ITEMS = 8;

// The sum of `value` over the threads before this one, and over all of the block in `total`.
static __device__ __forceinline__ unsigned before(unsigned value, unsigned &total) {
    __shared__ unsigned sums[2][THREADS];
    const unsigned thread = threadIdx.x;
    unsigned from = 0;
    sums[0][thread] = value;
    __syncthreads();
    for (unsigned distance = 1; distance < THREADS; distance *= 2) {
        unsigned sum = sums[from][thread];
        if (thread >= distance)
            sum += sums[from][thread - distance];
        sums[1 - from][thread] = sum;
        from = 1 - from;
        __syncthreads();
    }
    total = sums[from][THREADS - 1];
    return sums[from][thread] - value;
}

// n is a multiple of a block's part.
extern "C" __global__ void __launch_bounds__(THREADS)
    scanParts(const uint4 *__restrict__ in, uint4 *__restrict__ out, unsigned *__restrict__ sums) {
    const size_t at = (static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x) * (ITEMS / 4);
    uint4 low = in[at];
    uint4 high = in[at + 1];
    low.y += low.x;
    low.z += low.y;
    low.w += low.z;
    high.x += low.w;
    high.y += high.x;
    high.z += high.y;
    high.w += high.z;
    unsigned total;
    const unsigned add = before(high.w, total);
    low.x += add;
    low.y += add;
    low.z += add;
    low.w += add;
    high.x += add;
    high.y += add;
    high.z += add;
    high.w += add;
    out[at] = low;
    out[at + 1] = high;
    if (threadIdx.x == 0)
        sums[blockIdx.x] = total;
}

// One block; `count` sums become the sums of those before each.
extern "C" __global__ void __launch_bounds__(THREADS) scanSums(unsigned *sums, unsigned count) {
    unsigned carry = 0;
    for (unsigned start = 0; start < count; start += THREADS) {
        const unsigned i = start + threadIdx.x;
        const unsigned value = i < count ? sums[i] : 0;
        unsigned total;
        const unsigned add = before(value, total);
        if (i < count)
            sums[i] = carry + add;
        carry += total;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    addSums(uint4 *__restrict__ out, const unsigned *__restrict__ sums) {
    const unsigned add = sums[blockIdx.x];
    const size_t first = static_cast<size_t>(blockIdx.x) * THREADS * (ITEMS / 4) + threadIdx.x;
#pragma unroll
    for (unsigned i = 0; i < ITEMS / 4; ++i) {
        uint4 words = out[first + i * THREADS];
        words.x += add;
        words.y += add;
        words.z += add;
        words.w += add;
        out[first + i * THREADS] = words;
    }
}
