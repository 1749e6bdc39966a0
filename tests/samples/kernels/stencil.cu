// A step of a stencil of seven points over a box: a block walks along z over its tile of x and y, with the
// plane it is in in shared memory and those above and below in registers. Cells at the box's faces stay.
#include "cuda.h"

constexpr unsigned TILE_X = 32;
constexpr unsigned TILE_Y = 8;

extern "C" __global__ void __launch_bounds__(TILE_X *TILE_Y)
    stencil7(float *__restrict__ to, const float *__restrict__ from, unsigned nx, unsigned ny, unsigned nz,
             float centre, float side) {
    __shared__ float plane[TILE_Y + 2][TILE_X + 2];
    const unsigned x = blockIdx.x * TILE_X + threadIdx.x;
    const unsigned y = blockIdx.y * TILE_Y + threadIdx.y;
    const bool in = x < nx && y < ny;
    const bool inner = x > 0 && x + 1 < nx && y > 0 && y + 1 < ny;
    const unsigned tx = threadIdx.x + 1;
    const unsigned ty = threadIdx.y + 1;
    const size_t layer = static_cast<size_t>(nx) * ny;
    const size_t at = static_cast<size_t>(y) * nx + x;
    float below = 0.0f;
    float own = in ? from[at] : 0.0f;
    for (unsigned z = 0; z < nz; ++z) {
        const float *level = from + z * layer;
        const float above = in && z + 1 < nz ? level[layer + at] : 0.0f;
        __syncthreads();
        plane[ty][tx] = own;
        if (threadIdx.x == 0)
            plane[ty][0] = in && x > 0 ? level[at - 1] : 0.0f;
        if (threadIdx.x == TILE_X - 1)
            plane[ty][TILE_X + 1] = x + 1 < nx && y < ny ? level[at + 1] : 0.0f;
        if (threadIdx.y == 0)
            plane[0][tx] = in && y > 0 ? level[at - nx] : 0.0f;
        if (threadIdx.y == TILE_Y - 1)
            plane[TILE_Y + 1][tx] = x < nx && y + 1 < ny ? level[at + nx] : 0.0f;
        __syncthreads();
        if (in) {
            float result = own;
            if (inner && z > 0 && z + 1 < nz) {
                const float sum = plane[ty][tx - 1] + plane[ty][tx + 1] + plane[ty - 1][tx] + plane[ty + 1][tx] +
                                  below + above;
                result = fmaf(side, sum, centre * own);
            }
            to[z * layer + at] = result;
        }
        below = own;
        own = above;
    }
}
