// Sorts pairs of a key and a value by key, then by value, so that there is one right order: stretches of
// 1024 by a bitonic network in shared memory, then merges of ever longer ones, in which each element finds
// its place by a binary search among the elements of the other stretch.
#include "cuda.h"

constexpr unsigned STRETCH = 1024;

static __device__ __forceinline__ bool before(uint2 a, uint2 b) { return a.x < b.x || (a.x == b.x && a.y < b.y); }

// A block sorts one stretch; beyond n all is larger than anything.
extern "C" __global__ void __launch_bounds__(STRETCH / 2) sortStretches(uint2 *data, unsigned n) {
    __shared__ uint2 items[STRETCH];
    const unsigned start = blockIdx.x * STRETCH;
    for (unsigned i = threadIdx.x; i < STRETCH; i += STRETCH / 2)
        items[i] = start + i < n ? data[start + i] : uint2{~0u, ~0u};
    for (unsigned size = 2; size <= STRETCH; size *= 2) {
        for (unsigned stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            const unsigned low = 2 * threadIdx.x - (threadIdx.x & (stride - 1));
            const unsigned high = low + stride;
            const bool ascending = (low & size) == 0;
            const uint2 a = items[low];
            const uint2 b = items[high];
            if (before(b, a) == ascending) {
                items[low] = b;
                items[high] = a;
            }
        }
    }
    __syncthreads();
    for (unsigned i = threadIdx.x; i < STRETCH; i += STRETCH / 2)
        if (start + i < n)
            data[start + i] = items[i];
}

// How many of `count` items come before `item`.
static __device__ unsigned rank(const uint2 *items, unsigned count, uint2 item) {
    unsigned low = 0;
    unsigned high = count;
    while (low < high) {
        const unsigned middle = (low + high) / 2;
        if (before(items[middle], item))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

// Merges each two neighbouring sorted stretches of `length`; a thread places one item.
extern "C" __global__ void mergeStretches(uint2 *__restrict__ to, const uint2 *__restrict__ from, unsigned n,
                                          unsigned length) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    const unsigned own = i / length * length;
    const unsigned other = own ^ length;
    const unsigned count = other < n ? min(length, n - other) : 0;
    to[min(own, other) + (i - own) + rank(from + other, count, from[i])] = from[i];
}
