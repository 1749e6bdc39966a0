// The Walsh-Hadamard transform in place: butterflies of four in global memory while they are wide, then
// the rest of each stretch of 2^log2 elements in shared memory.
#include "cuda.h"

// Two levels of butterflies, `stride` and 2 * stride apart, over 2^log2 elements of each grid row's array.
extern "C" __global__ void walshStep(float *data, unsigned quarter, unsigned stride) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= quarter)
        return;
    const unsigned low = i & (stride - 1);
    float *at = data + (static_cast<size_t>(i - low) * 4 + low);
    const float a = at[0];
    const float b = at[stride];
    const float c = at[2 * stride];
    const float d = at[3 * stride];
    const float even = a + c, odd = b + d, evenLess = a - c, oddLess = b - d;
    at[0] = even + odd;
    at[stride] = even - odd;
    at[2 * stride] = evenLess + oddLess;
    at[3 * stride] = evenLess - oddLess;
}

extern __shared__ float stretch[];

// All levels of a stretch of 2 * blockDim.x elements.
extern "C" __global__ void walshStretch(float *data) {
    float *mine = data + static_cast<size_t>(blockIdx.x) * 2 * blockDim.x;
    stretch[threadIdx.x] = mine[threadIdx.x];
    stretch[threadIdx.x + blockDim.x] = mine[threadIdx.x + blockDim.x];
    for (unsigned stride = blockDim.x; stride > 0; stride /= 2) {
        __syncthreads();
        const unsigned low = threadIdx.x & (stride - 1);
        const unsigned at = (threadIdx.x - low) * 2 + low;
        const float a = stretch[at];
        const float b = stretch[at + stride];
        stretch[at] = a + b;
        stretch[at + stride] = a - b;
    }
    __syncthreads();
    mine[threadIdx.x] = stretch[threadIdx.x];
    mine[threadIdx.x + blockDim.x] = stretch[threadIdx.x + blockDim.x];
}

extern "C" __global__ void modulate(float *__restrict__ a, const float *__restrict__ b, unsigned n,
                                    float factor) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        a[i] *= factor * b[i];
}
