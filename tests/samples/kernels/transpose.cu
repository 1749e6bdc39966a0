// Four transpositions of a matrix of any size in tiles of 32 x 32, by blocks of 32 x 8: straight, through
// shared memory, the same without conflicts of its banks, and with blocks in diagonal order.
#include "cuda.h"

constexpr unsigned TILE = 32;
constexpr unsigned ROWS = 8;

extern "C" __global__ void __launch_bounds__(TILE *ROWS)
    transposeNaive(float *__restrict__ to, const float *__restrict__ from, unsigned width, unsigned height) {
    const unsigned x = blockIdx.x * TILE + threadIdx.x;
    const unsigned y = blockIdx.y * TILE + threadIdx.y;
    for (unsigned i = 0; i < TILE; i += ROWS)
        if (x < width && y + i < height)
            to[x * height + y + i] = from[(y + i) * width + x];
}

template <unsigned PITCH>
static __device__ __forceinline__ void tiled(float *__restrict__ to, const float *__restrict__ from,
                                             unsigned width, unsigned height, unsigned blockX, unsigned blockY) {
    __shared__ float tile[TILE][PITCH];
    const unsigned x = blockX * TILE + threadIdx.x;
    const unsigned y = blockY * TILE + threadIdx.y;
#pragma unroll
    for (unsigned i = 0; i < TILE; i += ROWS)
        if (x < width && y + i < height)
            tile[threadIdx.y + i][threadIdx.x] = from[(y + i) * width + x];
    __syncthreads();
    const unsigned tox = blockY * TILE + threadIdx.x;
    const unsigned toy = blockX * TILE + threadIdx.y;
#pragma unroll
    for (unsigned i = 0; i < TILE; i += ROWS)
        if (tox < height && toy + i < width)
            to[(toy + i) * height + tox] = tile[threadIdx.x][threadIdx.y + i];
}

extern "C" __global__ void __launch_bounds__(TILE *ROWS)
    transposeCoalesced(float *__restrict__ to, const float *__restrict__ from, unsigned width, unsigned height) {
    tiled<TILE>(to, from, width, height, blockIdx.x, blockIdx.y);
}

extern "C" __global__ void __launch_bounds__(TILE *ROWS)
    transposeNoBankConflicts(float *__restrict__ to, const float *__restrict__ from, unsigned width,
                             unsigned height) {
    tiled<TILE + 1>(to, from, width, height, blockIdx.x, blockIdx.y);
}

extern "C" __global__ void __launch_bounds__(TILE *ROWS)
    transposeDiagonal(float *__restrict__ to, const float *__restrict__ from, unsigned width, unsigned height) {
    const unsigned block = blockIdx.y * gridDim.x + blockIdx.x;
    const unsigned blockY = block % gridDim.y;
    const unsigned blockX = (block / gridDim.y + blockY) % gridDim.x;
    tiled<TILE + 1>(to, from, width, height, blockX, blockY);
}
