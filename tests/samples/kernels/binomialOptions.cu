// European call options on a binomial tree (J. Cox, S. Ross, M. Rubinstein, 1979): a block has an option,
// a thread several leaves, and the prices go back from the leaves to the root in shared memory.
#include "cuda.h"

extern __shared__ float price[];

// A step's threads read what others are about to write, so there are two arrays of steps + 1 prices.
extern "C" __global__ void binomialOptions(const float *__restrict__ spot, const float *__restrict__ strike,
                                           const float *__restrict__ years, float rate, float volatility,
                                           unsigned steps, float *__restrict__ call) {
    const float s = spot[blockIdx.x];
    const float x = strike[blockIdx.x];
    const float t = years[blockIdx.x];
    const float step = t / static_cast<float>(steps);
    const float move = volatility * sqrtf(step);
    const float up = expf(move);
    const float down = 1.0f / up;
    const float discount = expf(-rate * step);
    const float rise = (expf(rate * step) - down) / (up - down);
    const float weightUp = rise * discount;
    const float weightDown = (1.0f - rise) * discount;
    float *from = price;
    float *to = price + steps + 1;
    for (unsigned i = threadIdx.x; i <= steps; i += blockDim.x) {
        const float moves = static_cast<float>(static_cast<int>(2 * i) - static_cast<int>(steps));
        from[i] = fmaxf(s * expf(move * moves) - x, 0.0f);
    }
    for (unsigned left = steps; left > 0; --left) {
        __syncthreads();
        for (unsigned i = threadIdx.x; i < left; i += blockDim.x)
            to[i] = fmaf(weightUp, from[i + 1], weightDown * from[i]);
        float *swapped = from;
        from = to;
        to = swapped;
    }
    if (threadIdx.x == 0)
        call[blockIdx.x] = from[0];
}
