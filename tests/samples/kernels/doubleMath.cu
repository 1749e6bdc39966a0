// Elementary functions in double precision, and Newton's method on a polynomial.
#include "cuda.h"

extern "C" __global__ void functions(const double *__restrict__ x, unsigned n, double *__restrict__ result) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    const double value = x[i];
    double sine, cosine;
    sincos(value, sine, cosine);
    result[i] = exp(value);
    result[n + i] = log(fabs(value) + 1.0);
    result[2 * n + i] = sine;
    result[3 * n + i] = cosine;
    result[4 * n + i] = sqrt(fabs(value));
    result[5 * n + i] = static_cast<double>(static_cast<long long>(value * 1e6)) / 1e6;
}

// The real root of t^3 + 3 t - x, whose derivative is never below 3.
extern "C" __global__ void cubicRoot(const double *__restrict__ x, unsigned n, double *__restrict__ root) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    double t = x[i] / 3.0;
    for (int step = 0; step < 60; ++step) {
        const double change = fma(fma(t, t, 3.0), t, -x[i]) / fma(3.0 * t, t, 3.0);
        t -= change;
        if (fabs(change) <= 1e-15 * fabs(t))
            break;
    }
    root[i] = t;
}
