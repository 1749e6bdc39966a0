// A separable filter of 17 x 17 over an image whose sizes are multiples of the tile: rows, then columns.
// A block keeps its tile and the halo around it in shared memory; beyond the image all is zero.
#include "cuda.h"

constexpr int RADIUS = 8;

__constant__ float weights[2 * RADIUS + 1];

constexpr int ROW_TILE_X = 128;
constexpr int ROW_TILE_Y = 4;

extern "C" __global__ void __launch_bounds__(ROW_TILE_Y * 32)
    convolutionRows(float *__restrict__ to, const float *__restrict__ from, int width, int height) {
    __shared__ float tile[ROW_TILE_Y][ROW_TILE_X + 2 * RADIUS];
    const int y = blockIdx.y * ROW_TILE_Y + threadIdx.y;
    const int start = blockIdx.x * ROW_TILE_X;
    if (y >= height)
        return;
    for (int i = threadIdx.x; i < ROW_TILE_X + 2 * RADIUS; i += 32) {
        const int x = start + i - RADIUS;
        tile[threadIdx.y][i] = x >= 0 && x < width ? from[y * width + x] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < ROW_TILE_X && start + i < width; i += 32) {
        float sum = 0.0f;
#pragma unroll
        for (int j = -RADIUS; j <= RADIUS; ++j)
            sum = fmaf(weights[RADIUS - j], tile[threadIdx.y][RADIUS + i + j], sum);
        to[y * width + start + i] = sum;
    }
}

constexpr int COLUMN_TILE_X = 16;
constexpr int COLUMN_TILE_Y = 64;

extern "C" __global__ void __launch_bounds__(COLUMN_TILE_X * 8)
    convolutionColumns(float *__restrict__ to, const float *__restrict__ from, int width, int height) {
    __shared__ float tile[COLUMN_TILE_X][COLUMN_TILE_Y + 2 * RADIUS + 1];
    const int x = blockIdx.x * COLUMN_TILE_X + threadIdx.x;
    const int start = blockIdx.y * COLUMN_TILE_Y;
    for (int i = threadIdx.y; i < COLUMN_TILE_Y + 2 * RADIUS; i += 8) {
        const int y = start + i - RADIUS;
        tile[threadIdx.x][i] = x < width && y >= 0 && y < height ? from[y * width + x] : 0.0f;
    }
    __syncthreads();
    for (int i = threadIdx.y; i < COLUMN_TILE_Y && start + i < height; i += 8) {
        float sum = 0.0f;
#pragma unroll
        for (int j = -RADIUS; j <= RADIUS; ++j)
            sum = fmaf(weights[RADIUS - j], tile[threadIdx.x][RADIUS + i + j], sum);
        if (x < width)
            to[(start + i) * width + x] = sum;
    }
}
