// Speckle-reducing anisotropic diffusion (Y. Yu, S. Acton, 2002) of an image: in each step the speckle's
// size from the whole image's mean and variance, then a diffusion coefficient for each pixel, then the
// diffusion. Beyond the image's edge is its outermost pixel.
#include "cuda.h"

constexpr unsigned THREADS = 256;

extern "C" __global__ void extract(float *image, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        image[i] = expf(image[i] / 255.0f);
}

extern "C" __global__ void compress(float *image, unsigned n) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        image[i] = logf(image[i]) * 255.0f;
}

static __device__ __forceinline__ void blockSums(float sum, float squares, float2 *result) {
    __shared__ float2 sums[THREADS];
    sums[threadIdx.x] = {sum, squares};
    for (unsigned half = THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
            sums[threadIdx.x].x += sums[threadIdx.x + half].x;
            sums[threadIdx.x].y += sums[threadIdx.x + half].y;
        }
    }
    if (threadIdx.x == 0)
        *result = sums[0];
}

// A block's sums of its pixels and of their squares.
extern "C" __global__ void __launch_bounds__(THREADS)
    reduce(const float *__restrict__ image, unsigned n, float2 *__restrict__ sums) {
    float sum = 0.0f, squares = 0.0f;
    for (unsigned i = blockIdx.x * THREADS + threadIdx.x; i < n; i += gridDim.x * THREADS) {
        sum += image[i];
        squares = fmaf(image[i], image[i], squares);
    }
    blockSums(sum, squares, &sums[blockIdx.x]);
}

// Of the blocks' sums one block makes the square of the speckle's coefficient of variation.
extern "C" __global__ void __launch_bounds__(THREADS)
    speckle(const float2 *__restrict__ sums, unsigned blocks, unsigned n, float *__restrict__ q0) {
    __shared__ float2 total;
    float sum = 0.0f, squares = 0.0f;
    for (unsigned i = threadIdx.x; i < blocks; i += THREADS) {
        sum += sums[i].x;
        squares += sums[i].y;
    }
    blockSums(sum, squares, &total);
    if (threadIdx.x == 0) {
        const float mean = total.x / static_cast<float>(n);
        const float variance = total.y / static_cast<float>(n) - mean * mean;
        *q0 = variance / (mean * mean);
    }
}

extern "C" __global__ void coefficients(const float *__restrict__ image, int width, int height,
                                        const float *__restrict__ q0, float *__restrict__ c) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    const float j = image[y * width + x];
    const float north = image[(y > 0 ? y - 1 : y) * width + x] - j;
    const float south = image[(y < height - 1 ? y + 1 : y) * width + x] - j;
    const float west = image[y * width + (x > 0 ? x - 1 : x)] - j;
    const float east = image[y * width + (x < width - 1 ? x + 1 : x)] - j;
    const float gradient = (north * north + south * south + west * west + east * east) / (j * j);
    const float laplacian = (north + south + west + east) / j;
    const float numerator = 0.5f * gradient - 0.0625f * (laplacian * laplacian);
    const float denominator = 1.0f + 0.25f * laplacian;
    const float q = numerator / (denominator * denominator);
    const float speckleSize = *q0;
    const float value = 1.0f / (1.0f + (q - speckleSize) / (speckleSize * (1.0f + speckleSize)));
    c[y * width + x] = fminf(fmaxf(value, 0.0f), 1.0f);
}

extern "C" __global__ void diffuse(float *__restrict__ to, const float *__restrict__ from,
                                   const float *__restrict__ c, int width, int height, float lambda) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    const int below = y < height - 1 ? y + 1 : y;
    const int right = x < width - 1 ? x + 1 : x;
    const float j = from[y * width + x];
    const float own = c[y * width + x];
    float divergence = own * (from[(y > 0 ? y - 1 : y) * width + x] - j);
    divergence = fmaf(c[below * width + x], from[below * width + x] - j, divergence);
    divergence = fmaf(own, from[y * width + (x > 0 ? x - 1 : x)] - j, divergence);
    divergence = fmaf(c[y * width + right], from[y * width + right] - j, divergence);
    to[y * width + x] = fmaf(0.25f * lambda, divergence, j);
}
