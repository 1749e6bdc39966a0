// European call and put options by the Black-Scholes formula, two options a step.
#include "cuda.h"

// The cumulative normal distribution by formula 26.2.17 of Abramowitz and Stegun's Handbook of
// Mathematical Functions; its absolute error is below 7.5e-8.
static __device__ __forceinline__ float cumulativeNormal(float d) {
    const float t = 1.0f / fmaf(0.2316419f, fabsf(d), 1.0f);
    float p = 1.330274429f;
    p = fmaf(p, t, -1.821255978f);
    p = fmaf(p, t, 1.781477937f);
    p = fmaf(p, t, -0.356563782f);
    p = fmaf(p, t, 0.319381530f);
    const float density = 0.398942280f * expf(-0.5f * d * d);
    const float tail = density * (p * t);
    return d > 0.0f ? 1.0f - tail : tail;
}

static __device__ __forceinline__ void price(float &call, float &put, float spot, float strike, float years,
                                             float rate, float volatility) {
    const float deviation = volatility * sqrtf(years);
    const float d1 = (logf(spot / strike) + fmaf(0.5f * volatility, volatility, rate) * years) / deviation;
    const float d2 = d1 - deviation;
    const float n1 = cumulativeNormal(d1);
    const float n2 = cumulativeNormal(d2);
    const float discounted = strike * expf(-rate * years);
    call = spot * n1 - discounted * n2;
    put = discounted * (1.0f - n2) - spot * (1.0f - n1);
}

extern "C" __global__ void __launch_bounds__(128)
    BlackScholes(float *__restrict__ call, float *__restrict__ put, const float *__restrict__ spot,
                 const float *__restrict__ strike, const float *__restrict__ years, float rate,
                 float volatility, unsigned n) {
    const unsigned first = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned stride = gridDim.x * blockDim.x;

    float2 *call2 = reinterpret_cast<float2 *>(call);
    float2 *put2 = reinterpret_cast<float2 *>(put);
    const float2 *spot2 = reinterpret_cast<const float2 *>(spot);
    const float2 *strike2 = reinterpret_cast<const float2 *>(strike);
    const float2 *years2 = reinterpret_cast<const float2 *>(years);
    for (unsigned i = first; i < n / 2; i += stride) {
        const float2 s = spot2[i];
        const float2 x = strike2[i];
        const float2 t = years2[i];
        float2 c, p;
        price(c.x, p.x, s.x, x.x, t.x, rate, volatility);
        price(c.y, p.y, s.y, x.y, t.y, rate, volatility);
        call2[i] = c;
        put2[i] = p;
    }
    if (first == 0 && n % 2 != 0)
        price(call[n - 1], put[n - 1], spot[n - 1], strike[n - 1], years[n - 1], rate, volatility);
}
