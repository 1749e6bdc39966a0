// The part of CUDA C++ that the sample kernels use, for clang without any toolkit: names for clang's
// own attributes and NVPTX builtins, and single-precision maths. It must never include another header,
// nor use an approximate instruction: with -ffp-contract=off every operation below is correctly
// rounded, so a kernel's output has the same bits on every device.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(threads) __attribute__((launch_bounds(threads)))
#define __forceinline__ __inline__ __attribute__((always_inline))

using size_t = decltype(sizeof(0));

struct alignas(8) float2 {
    float x, y;
};

struct alignas(16) float4 {
    float x, y, z, w;
};

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

// threadIdx & co: objects whose members read a special register.
#define SPECIAL_REGISTER(name, sreg)                                                                   \
    static const struct {                                                                              \
        __declspec(property(get = read_x)) unsigned x;                                                 \
        __declspec(property(get = read_y)) unsigned y;                                                 \
        static __device__ __forceinline__ unsigned read_x() { return __nvvm_read_ptx_sreg_##sreg##_x(); } \
        static __device__ __forceinline__ unsigned read_y() { return __nvvm_read_ptx_sreg_##sreg##_y(); } \
    } name

SPECIAL_REGISTER(threadIdx, tid);
SPECIAL_REGISTER(blockIdx, ctaid);
SPECIAL_REGISTER(blockDim, ntid);
SPECIAL_REGISTER(gridDim, nctaid);

#undef SPECIAL_REGISTER

constexpr unsigned warpSize = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

// The value that the lane `delta` above this one holds; all 32 lanes take part.
static __device__ __forceinline__ float shuffleDown(float value, unsigned delta) {
    return __nvvm_shfl_sync_down_f32(FULL_WARP, value, delta, warpSize - 1);
}

static __device__ __forceinline__ unsigned atomicAdd(unsigned *address, unsigned value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

static __device__ __forceinline__ float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

static __device__ __forceinline__ float fabsf(float x) { return __builtin_fabsf(x); }

static __device__ __forceinline__ float sqrtf(float x) { return __nvvm_sqrt_rn_f(x); }

static __device__ __forceinline__ float bitsToFloat(unsigned bits) { return __builtin_bit_cast(float, bits); }

static __device__ __forceinline__ unsigned floatToBits(float x) { return __builtin_bit_cast(unsigned, x); }

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, the Taylor polynomial of e^r to degree 7 (truncation below
// 6e-9, less than half a unit in the last place), then n added to the exponent. Results below the
// smallest normal number become 0, above the largest finite one infinity.
static __device__ __forceinline__ float expf(float x) {
    if (x < -87.0f)
        return 0.0f;
    if (x > 88.0f)
        return __builtin_inff();
    // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
    const float magic = 12582912.0f;
    const float n = (x * 1.44269504f + magic) - magic;
    // ln 2 in two parts; the upper has few enough bits that n times it is exact.
    const float r = fmaf(n, -1.42860677e-6f, fmaf(n, -0.693145752f, x));
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    return p * bitsToFloat(static_cast<unsigned>(static_cast<int>(n) + 127) << 23);
}

// ln x of a positive, normal x: x = 2^n m with m between sqrt(1/2) and sqrt(2), and with
// s = (m - 1) / (m + 1) the series ln m = 2 s (1 + s^2/3 + s^4/5 + ...) to s^9 (truncation below 4e-9 s).
static __device__ __forceinline__ float logf(float x) {
    const unsigned bits = floatToBits(x);
    // Moving the boundary between exponents to sqrt(1/2).
    const unsigned shifted = bits - 0x3f3504f3u;
    const float n = static_cast<float>(static_cast<int>(shifted) >> 23);
    const float m = bitsToFloat((shifted & 0x007fffffu) + 0x3f3504f3u);
    const float s = (m - 1.0f) / (m + 1.0f);
    const float t = s * s;
    float p = 1.0f / 9.0f;
    p = fmaf(p, t, 1.0f / 7.0f);
    p = fmaf(p, t, 1.0f / 5.0f);
    p = fmaf(p, t, 1.0f / 3.0f);
    p = fmaf(p, t, 1.0f);
    return fmaf(n, 0.693147182f, 2.0f * s * p);
}
