// C (m x n) = A (m x k) * B (k x n), row-major, in square tiles that a block keeps in shared memory.
// Sizes need not be multiples of the tile: what lies outside a matrix is read as zero.
#include "cuda.h"

template <int TILE>
static __device__ __forceinline__ void multiply(const float *__restrict__ a, const float *__restrict__ b,
                                                float *__restrict__ c, unsigned m, unsigned n, unsigned k) {
    __shared__ float tileA[TILE][TILE];
    __shared__ float tileB[TILE][TILE];

    const unsigned tx = threadIdx.x;
    const unsigned ty = threadIdx.y;
    const unsigned column = blockIdx.x * TILE + tx;
    const unsigned row = blockIdx.y * TILE + ty;

    float sum = 0.0f;
    for (unsigned start = 0; start < k; start += TILE) {
        const unsigned acrossA = start + tx;
        const unsigned downB = start + ty;
        tileA[ty][tx] = row < m && acrossA < k ? a[static_cast<size_t>(row) * k + acrossA] : 0.0f;
        tileB[ty][tx] = downB < k && column < n ? b[static_cast<size_t>(downB) * n + column] : 0.0f;
        __syncthreads();
#pragma unroll
        for (int i = 0; i < TILE; ++i)
            sum = fmaf(tileA[ty][i], tileB[i][tx], sum);
        __syncthreads();
    }
    if (row < m && column < n)
        c[static_cast<size_t>(row) * n + column] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    matrixMul16(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, unsigned m,
                unsigned n, unsigned k) {
    multiply<16>(a, b, c, m, n, k);
}

extern "C" __global__ void __launch_bounds__(1024)
    matrixMul32(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, unsigned m,
                unsigned n, unsigned k) {
    multiply<32>(a, b, c, m, n, k);
}
