// The temperature of a chip under its parts' power, by explicit steps in time. A block computes several
// steps of its tile from one reading: with each step the outermost ring of what it read goes stale, and
// what is still fresh after the last is written. At the chip's edge a cell's neighbour is the cell itself.
#include "cuda.h"

constexpr int TILE = 16;

extern "C" __global__ void __launch_bounds__(TILE *TILE)
    hotspot(float *__restrict__ to, const float *__restrict__ from, const float *__restrict__ power, int width,
            int height, int steps, float perStep, float perX, float perY, float perZ, float ambient) {
    __shared__ float before[TILE][TILE];
    __shared__ float after[TILE][TILE];
    const int tx = threadIdx.x;
    const int ty = threadIdx.y;
    const int fresh = TILE - 2 * steps;
    const int x = static_cast<int>(blockIdx.x) * fresh + tx - steps;
    const int y = static_cast<int>(blockIdx.y) * fresh + ty - steps;
    const bool inside = x >= 0 && x < width && y >= 0 && y < height;
    const float heat = inside ? power[y * width + x] : 0.0f;
    before[ty][tx] = inside ? from[y * width + x] : 0.0f;
    __syncthreads();

    const int west = x > 0 ? tx - 1 : tx;
    const int east = x < width - 1 ? tx + 1 : tx;
    const int north = y > 0 ? ty - 1 : ty;
    const int south = y < height - 1 ? ty + 1 : ty;
    for (int ring = 1; ring <= steps; ++ring) {
        if (inside && tx >= ring && tx < TILE - ring && ty >= ring && ty < TILE - ring) {
            const float t = before[ty][tx];
            const float dy = before[south][tx] + before[north][tx] - 2.0f * t;
            const float dx = before[ty][east] + before[ty][west] - 2.0f * t;
            after[ty][tx] = t + perStep * (heat + dy * perY + dx * perX + (ambient - t) * perZ);
        }
        __syncthreads();
        before[ty][tx] = after[ty][tx];
        __syncthreads();
    }
    if (inside && tx >= steps && tx < TILE - steps && ty >= steps && ty < TILE - steps)
        to[y * width + x] = before[ty][tx];
}
