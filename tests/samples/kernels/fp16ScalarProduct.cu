// The scalar product of two vectors of half-precision numbers, two in a register: once with both halves of
// the sums in half precision, once with sums in single precision.
#include "cuda.h"

constexpr unsigned THREADS = 128;

// Two half-precision numbers.
using half2 = unsigned;

static __device__ __forceinline__ half2 add(half2 a, half2 b) {
    half2 sum;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}

static __device__ __forceinline__ half2 fma(half2 a, half2 b, half2 c) {
    half2 result;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

static __device__ __forceinline__ float low(half2 pair) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(static_cast<unsigned short>(pair)));
    return value;
}

static __device__ __forceinline__ float high(half2 pair) { return low(pair >> 16); }

static __device__ __forceinline__ half2 pack(float low, float high) {
    unsigned short l, h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(l) : "f"(low));
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(high));
    return l | static_cast<unsigned>(h) << 16;
}

extern "C" __global__ void toHalf(const float *__restrict__ from, half2 *__restrict__ to, unsigned pairs) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < pairs)
        to[i] = pack(from[2 * i], from[2 * i + 1]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    scalarProductHalf(const half2 *__restrict__ a, const half2 *__restrict__ b, unsigned pairs,
                      float *__restrict__ blockSums) {
    __shared__ half2 sums[THREADS];
    half2 sum = 0;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < pairs; i += gridDim.x * THREADS)
        sum = fma(a[i], b[i], sum);
    sums[threadIdx.x] = sum;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x] = add(sums[threadIdx.x], sums[threadIdx.x + half]);
    }
    if (threadIdx.x == 0)
        blockSums[blockIdx.x] = low(sums[0]) + high(sums[0]);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    scalarProductSingle(const half2 *__restrict__ a, const half2 *__restrict__ b, unsigned pairs,
                        float *__restrict__ blockSums) {
    __shared__ float sums[THREADS];
    float sum = 0.0f;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < pairs; i += gridDim.x * THREADS)
        sum = fmaf(high(a[i]), high(b[i]), fmaf(low(a[i]), low(b[i]), sum));
    sums[threadIdx.x] = sum;
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half)
            sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0)
        blockSums[blockIdx.x] = sums[0];
}
