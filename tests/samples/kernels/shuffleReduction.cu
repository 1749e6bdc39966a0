// What the lanes of a warp can do together without shared memory: sums by halving and by a butterfly,
// prefix sums, a broadcast of the largest, votes.
#include "cuda.h"

// Each warp's results; a warp has 32 numbers to itself, and blocks are whole warps.
extern "C" __global__ void warpResults(const unsigned *__restrict__ data, unsigned n, unsigned *__restrict__ sums,
                                       unsigned *__restrict__ butterflies, unsigned *__restrict__ prefixes,
                                       unsigned *__restrict__ odd) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned lane = threadIdx.x % warpSize;
    const unsigned value = i < n ? data[i] : 0;

    unsigned sum = value;
    for (unsigned delta = warpSize / 2; delta > 0; delta /= 2)
        sum += shuffleDown(sum, delta);

    unsigned largest = value;
    for (unsigned mask = warpSize / 2; mask > 0; mask /= 2)
        largest = max(largest, shuffleXor(largest, mask));

    unsigned prefix = value;
    for (unsigned delta = 1; delta < warpSize; delta *= 2) {
        const unsigned below = shuffleUp(prefix, delta);
        if (lane >= delta)
            prefix += below;
    }
    // The last lane's prefix is the sum once more.
    const unsigned again = shuffle(prefix, warpSize - 1);

    const unsigned lanes = ballot(value % 2 != 0);
    if (i < n)
        prefixes[i] = prefix;
    if (lane == 0) {
        sums[i / warpSize] = sum;
        butterflies[i / warpSize] = largest;
        // Both ways to the sum must agree, or the count is nonsense.
        odd[i / warpSize] = sum == again ? countBits(lanes) : ~0u;
    }
}

// The sum of all, a number a block: shuffles within warps, then over the warps' sums.
extern "C" __global__ void blockSums(const unsigned *__restrict__ data, unsigned n, unsigned *total) {
    __shared__ unsigned sums[warpSize];
    const unsigned lane = threadIdx.x % warpSize;
    const unsigned warp = threadIdx.x / warpSize;
    unsigned sum = 0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += data[i];
    for (unsigned delta = warpSize / 2; delta > 0; delta /= 2)
        sum += shuffleDown(sum, delta);
    if (lane == 0)
        sums[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < blockDim.x / warpSize ? sums[lane] : 0;
        for (unsigned delta = warpSize / 2; delta > 0; delta /= 2)
            sum += shuffleDown(sum, delta);
        if (lane == 0)
            atomicAdd(total, sum);
    }
}
