// The part of CUDA C++ that the sample kernels use, for clang without any toolkit: names for clang's
// own attributes and NVPTX builtins, and maths. It must never include another header,
// nor use an approximate instruction: with -ffp-contract=off every operation below is correctly
// rounded, so a kernel's output has the same bits on every device.
#pragma once

#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __shared__ __attribute__((shared))
#define __constant__ __attribute__((constant))
#define __launch_bounds__(threads) __attribute__((launch_bounds(threads)))
#define __forceinline__ __inline__ __attribute__((always_inline))

using size_t = decltype(sizeof(0));

struct alignas(8) float2 {
    float x, y;
};

struct float3 {
    float x, y, z;
};

struct alignas(8) uint2 {
    unsigned x, y;
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
        __declspec(property(get = read_z)) unsigned z;                                                 \
        static __device__ __forceinline__ unsigned read_x() { return __nvvm_read_ptx_sreg_##sreg##_x(); } \
        static __device__ __forceinline__ unsigned read_y() { return __nvvm_read_ptx_sreg_##sreg##_y(); } \
        static __device__ __forceinline__ unsigned read_z() { return __nvvm_read_ptx_sreg_##sreg##_z(); } \
    } name

SPECIAL_REGISTER(threadIdx, tid);
SPECIAL_REGISTER(blockIdx, ctaid);
SPECIAL_REGISTER(blockDim, ntid);
SPECIAL_REGISTER(gridDim, nctaid);

#undef SPECIAL_REGISTER

constexpr unsigned warpSize = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

// What another lane holds: the one `delta` above this one or below, the one whose number differs in the
// bits of `mask`, or a given one. All 32 lanes take part.
static __device__ __forceinline__ float shuffleDown(float value, unsigned delta) {
    return __nvvm_shfl_sync_down_f32(FULL_WARP, value, delta, warpSize - 1);
}

static __device__ __forceinline__ unsigned shuffleDown(unsigned value, unsigned delta) {
    return __nvvm_shfl_sync_down_i32(FULL_WARP, value, delta, warpSize - 1);
}

static __device__ __forceinline__ unsigned shuffleUp(unsigned value, unsigned delta) {
    return __nvvm_shfl_sync_up_i32(FULL_WARP, value, delta, 0);
}

static __device__ __forceinline__ unsigned shuffleXor(unsigned value, unsigned mask) {
    return __nvvm_shfl_sync_bfly_i32(FULL_WARP, value, mask, warpSize - 1);
}

static __device__ __forceinline__ unsigned shuffle(unsigned value, unsigned lane) {
    return __nvvm_shfl_sync_idx_i32(FULL_WARP, value, lane, warpSize - 1);
}

// A bit for each lane: whether its condition holds.
static __device__ __forceinline__ unsigned ballot(bool condition) {
    return __nvvm_vote_ballot_sync(FULL_WARP, condition);
}

static __device__ __forceinline__ unsigned countBits(unsigned bits) { return __builtin_popcount(bits); }

// Writes before it are seen by the whole device before those after it.
static __device__ __forceinline__ void __threadfence() { __nvvm_membar_gl(); }

static __device__ __forceinline__ unsigned atomicAdd(unsigned *address, unsigned value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

static __device__ __forceinline__ unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

static __device__ __forceinline__ unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }

static __device__ __forceinline__ float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

static __device__ __forceinline__ float fabsf(float x) { return __builtin_fabsf(x); }

static __device__ __forceinline__ float sqrtf(float x) { return __nvvm_sqrt_rn_f(x); }

static __device__ __forceinline__ float rsqrtf(float x) { return 1.0f / sqrtf(x); }

static __device__ __forceinline__ float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }

static __device__ __forceinline__ float fminf(float a, float b) { return __builtin_fminf(a, b); }

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

// The sine and the cosine of 2 pi x for x from 0 to 1. The nearest quarter turn is taken away exactly, and
// the Taylor polynomials of what is left, at most an eighth, are good to 4e-9.
static __device__ __forceinline__ void sincosTurns(float x, float &sine, float &cosine) {
    const int quarter = static_cast<int>(fmaf(x, 4.0f, 0.5f));
    const float r = fmaf(static_cast<float>(quarter), -0.25f, x) * 6.28318531f;
    const float t = r * r;
    float s = 1.0f / 362880.0f;
    s = fmaf(s, t, -1.0f / 5040.0f);
    s = fmaf(s, t, 1.0f / 120.0f);
    s = fmaf(s, t, -1.0f / 6.0f);
    s = fmaf(s * t, r, r);
    float c = 1.0f / 40320.0f;
    c = fmaf(c, t, -1.0f / 720.0f);
    c = fmaf(c, t, 1.0f / 24.0f);
    c = fmaf(c, t, -0.5f);
    c = fmaf(c, t, 1.0f);
    const float sineOfQuarter = quarter & 1 ? c : s;
    const float cosineOfQuarter = quarter & 1 ? s : c;
    sine = quarter & 2 ? -sineOfQuarter : sineOfQuarter;
    cosine = (quarter + 1) & 2 ? -cosineOfQuarter : cosineOfQuarter;
}

static __device__ __forceinline__ double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }

static __device__ __forceinline__ double fabs(double x) { return __builtin_fabs(x); }

static __device__ __forceinline__ double sqrt(double x) { return __nvvm_sqrt_rn_d(x); }

// As expf, to degree 13: truncation below 5e-18.
static __device__ __forceinline__ double exp(double x) {
    if (x < -708.0)
        return 0.0;
    if (x > 709.0)
        return __builtin_inf();
    const double magic = 6755399441055744.0;
    const double n = (x * 1.4426950408889634 + magic) - magic;
    const double r = fma(n, -1.9082149292705877e-10, fma(n, -0.6931471803691238, x));
    double p = 1.0 / 6227020800.0;
    p = fma(p, r, 1.0 / 479001600.0);
    p = fma(p, r, 1.0 / 39916800.0);
    p = fma(p, r, 1.0 / 3628800.0);
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    return p * __builtin_bit_cast(double, static_cast<unsigned long long>(static_cast<long long>(n) + 1023) << 52);
}

// As logf, to s^23: truncation below 2e-19 s.
static __device__ __forceinline__ double log(double x) {
    const unsigned long long boundary = 0x3fe6a09e667f3bcdull;
    const unsigned long long shifted = __builtin_bit_cast(unsigned long long, x) - boundary;
    const double n = static_cast<double>(static_cast<long long>(shifted) >> 52);
    const double m = __builtin_bit_cast(double, (shifted & 0x000fffffffffffffull) + boundary);
    const double s = (m - 1.0) / (m + 1.0);
    const double t = s * s;
    double p = 1.0 / 23.0;
#pragma unroll
    for (int odd = 21; odd >= 1; odd -= 2)
        p = fma(p, t, 1.0 / odd);
    return fma(n, 0.6931471805599453, 2.0 * s * p);
}

// The sine and the cosine of a moderate x: its nearest multiple of pi/2, in two parts, is taken away, then
// Taylor polynomials to degrees 17 and 16 (truncation below 2e-17).
static __device__ __forceinline__ void sincos(double x, double &sine, double &cosine) {
    const double magic = 6755399441055744.0;
    const double n = (x * 0.6366197723675814 + magic) - magic;
    const double r = fma(n, -6.123233995736766e-17, fma(n, -1.5707963267948966, x));
    const double t = r * r;
    double s = 1.0 / 355687428096000.0;
    s = fma(s, t, -1.0 / 1307674368000.0);
    s = fma(s, t, 1.0 / 6227020800.0);
    s = fma(s, t, -1.0 / 39916800.0);
    s = fma(s, t, 1.0 / 362880.0);
    s = fma(s, t, -1.0 / 5040.0);
    s = fma(s, t, 1.0 / 120.0);
    s = fma(s, t, -1.0 / 6.0);
    s = fma(s * t, r, r);
    double c = 1.0 / 20922789888000.0;
    c = fma(c, t, -1.0 / 87178291200.0);
    c = fma(c, t, 1.0 / 479001600.0);
    c = fma(c, t, -1.0 / 3628800.0);
    c = fma(c, t, 1.0 / 40320.0);
    c = fma(c, t, -1.0 / 720.0);
    c = fma(c, t, 1.0 / 24.0);
    c = fma(c, t, -0.5);
    c = fma(c, t, 1.0);
    const long long quarter = static_cast<long long>(n);
    const double sineOfQuarter = quarter & 1 ? c : s;
    const double cosineOfQuarter = quarter & 1 ? s : c;
    sine = quarter & 2 ? -sineOfQuarter : sineOfQuarter;
    cosine = (quarter + 1) & 2 ? -cosineOfQuarter : cosineOfQuarter;
}
