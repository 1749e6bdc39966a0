// European call options by simulation. A block has an option; its threads draw normally distributed
// numbers of a counter-based generator, so that which thread draws a path's number makes no difference,
// and add up the payoffs and their squares.
#include "cuda.h"

constexpr unsigned THREADS = 256;

// Philox 4x32-10: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011.
static __device__ __forceinline__ uint4 philox(uint4 counter, uint2 key) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned long long a = 0xd2511f53ull * counter.x;
        const unsigned long long b = 0xcd9e8d57ull * counter.z;
        counter = {static_cast<unsigned>(b >> 32) ^ counter.y ^ key.x, static_cast<unsigned>(b),
                   static_cast<unsigned>(a >> 32) ^ counter.w ^ key.y, static_cast<unsigned>(a)};
        key = {key.x + 0x9e3779b9u, key.y + 0xbb67ae85u};
    }
    return counter;
}

// From above 0 to 1: the upper 23 bits and a half.
static __device__ __forceinline__ float unit(unsigned bits) {
    return (static_cast<float>(bits >> 9) + 0.5f) * 1.1920929e-7f;
}

// Two numbers of the standard normal distribution: G. Box, M. Muller, 1958.
static __device__ __forceinline__ float2 normals(unsigned a, unsigned b) {
    const float radius = sqrtf(-2.0f * logf(unit(a)));
    float sine, cosine;
    sincosTurns(unit(b), sine, cosine);
    return {radius * cosine, radius * sine};
}

// `paths` is a multiple of four; the mean and the squares' mean are in units of the discounted payoff.
extern "C" __global__ void __launch_bounds__(THREADS)
    MonteCarlo(const float *__restrict__ spot, const float *__restrict__ strike, const float *__restrict__ years,
               float rate, float volatility, unsigned paths, unsigned seed, float2 *__restrict__ result) {
    __shared__ float2 sums[THREADS];
    const unsigned option = blockIdx.x;
    const float s = spot[option];
    const float x = strike[option];
    const float t = years[option];
    const float deviation = volatility * sqrtf(t);
    const float drift = (rate - 0.5f * volatility * volatility) * t;
    float sum = 0.0f, squares = 0.0f;
    for (unsigned i = threadIdx.x; i < paths / 4; i += THREADS) {
        const uint4 bits = philox({i, option, 0, 0}, {seed, 0});
        const float2 n = normals(bits.x, bits.y);
        const float2 m = normals(bits.z, bits.w);
        const float draws[4] = {n.x, n.y, m.x, m.y};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float payoff = fmaxf(s * expf(fmaf(deviation, draws[j], drift)) - x, 0.0f);
            sum += payoff;
            squares = fmaf(payoff, payoff, squares);
        }
    }
    sums[threadIdx.x] = {sum, squares};
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x].x += sums[threadIdx.x + half].x;
            sums[threadIdx.x].y += sums[threadIdx.x + half].y;
        }
    }
    if (threadIdx.x == 0) {
        const float discount = expf(-rate * t);
        result[option] = {discount * (sums[0].x / static_cast<float>(paths)),
                          discount * discount * (sums[0].y / static_cast<float>(paths))};
    }
}
