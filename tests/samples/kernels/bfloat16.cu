// y = a x + y in bfloat16, two numbers in a register, with the conversions from and to single precision.
// Target: sm_80 ptx70
#include "cuda.h"

using bfloat2 = unsigned;

static __device__ __forceinline__ bfloat2 fma(bfloat2 a, bfloat2 b, bfloat2 c) {
    bfloat2 result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

static __device__ __forceinline__ bfloat2 pack(float low, float high) {
    bfloat2 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

extern "C" __global__ void axpy(float a, const float2 *__restrict__ x, float2 *__restrict__ y, unsigned pairs) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= pairs)
        return;
    const bfloat2 result = fma(pack(a, a), pack(x[i].x, x[i].y), pack(y[i].x, y[i].y));
    // A bfloat16 is the upper half of a single-precision number.
    y[i] = {bitsToFloat(result << 16), bitsToFloat(result & 0xffff0000u)};
}
