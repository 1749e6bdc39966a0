// A histogram of bytes over 256 or 64 bins. Each warp counts in its own table in shared memory, a block
// writes the sum of its warps' tables, and a second kernel merges the blocks' tables.
#include "cuda.h"

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / warpSize;

// A byte's bin is given by its upper bits.
template <unsigned BINS> static __device__ __forceinline__ void countByte(unsigned *table, unsigned byte) {
    atomicAdd(&table[byte * BINS / 256], 1);
}

template <unsigned BINS> static __device__ __forceinline__ void countWord(unsigned *table, unsigned word) {
    countByte<BINS>(table, word & 0xff);
    countByte<BINS>(table, word >> 8 & 0xff);
    countByte<BINS>(table, word >> 16 & 0xff);
    countByte<BINS>(table, word >> 24);
}

template <unsigned BINS>
static __device__ __forceinline__ void count(const unsigned char *__restrict__ data, size_t n,
                                             unsigned *__restrict__ blockTables) {
    __shared__ unsigned tables[WARPS][BINS];
    for (unsigned i = threadIdx.x; i < WARPS * BINS; i += THREADS)
        (&tables[0][0])[i] = 0;
    __syncthreads();

    unsigned *table = tables[threadIdx.x / warpSize];
    const size_t first = static_cast<size_t>(blockIdx.x) * THREADS + threadIdx.x;
    const size_t stride = static_cast<size_t>(gridDim.x) * THREADS;
    const uint4 *data16 = reinterpret_cast<const uint4 *>(data);
    for (size_t i = first; i < n / 16; i += stride) {
        const uint4 words = data16[i];
        countWord<BINS>(table, words.x);
        countWord<BINS>(table, words.y);
        countWord<BINS>(table, words.z);
        countWord<BINS>(table, words.w);
    }
    for (size_t i = n / 16 * 16 + first; i < n; i += stride)
        countByte<BINS>(table, data[i]);
    __syncthreads();

    for (unsigned bin = threadIdx.x; bin < BINS; bin += THREADS) {
        unsigned sum = 0;
#pragma unroll
        for (unsigned warp = 0; warp < WARPS; ++warp)
            sum += tables[warp][bin];
        blockTables[blockIdx.x * BINS + bin] = sum;
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
    histogram256(const unsigned char *__restrict__ data, size_t n, unsigned *__restrict__ blockTables) {
    count<256>(data, n, blockTables);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    histogram64(const unsigned char *__restrict__ data, size_t n, unsigned *__restrict__ blockTables) {
    count<64>(data, n, blockTables);
}

// A thread is a bin: a block as wide as a table adds every gridDim.x-th table to the totals, which
// start at zero.
extern "C" __global__ void __launch_bounds__(256)
    mergeTables(const unsigned *__restrict__ tables, unsigned tableCount, unsigned *totals) {
    unsigned sum = 0;
    for (unsigned table = blockIdx.x; table < tableCount; table += gridDim.x)
        sum += tables[table * blockDim.x + threadIdx.x];
    atomicAdd(&totals[threadIdx.x], sum);
}
