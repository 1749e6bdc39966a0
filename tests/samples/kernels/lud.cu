// The LU decomposition of a matrix in place, without pivoting, in blocks of 16: for each diagonal block
// the block itself, then the blocks right of it and below it, then all that is to the right and below.
#include "cuda.h"

constexpr int BLOCK = 16;

extern "C" __global__ void __launch_bounds__(BLOCK) luDiagonal(float *m, int n, int offset) {
    __shared__ float block[BLOCK][BLOCK];
    float *corner = m + static_cast<size_t>(offset) * n + offset;
    const int t = threadIdx.x;
    for (int i = 0; i < BLOCK; ++i)
        block[i][t] = corner[i * n + t];
    __syncthreads();
    for (int k = 0; k < BLOCK - 1; ++k) {
        if (t > k) {
            const float factor = block[t][k] / block[k][k];
            block[t][k] = factor;
            for (int j = k + 1; j < BLOCK; ++j)
                block[t][j] = fmaf(-factor, block[k][j], block[t][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < BLOCK; ++i)
        corner[i * n + t] = block[i][t];
}

// Half of the threads solves for a block of U right of the diagonal, a column each; the other half for a
// block of L below it, a row each.
extern "C" __global__ void __launch_bounds__(2 * BLOCK) luPerimeter(float *m, int n, int offset) {
    __shared__ float diagonal[BLOCK][BLOCK];
    __shared__ float right[BLOCK][BLOCK];
    __shared__ float below[BLOCK][BLOCK];
    const int distance = (blockIdx.x + 1) * BLOCK;
    float *corner = m + static_cast<size_t>(offset) * n + offset;
    float *toRight = corner + distance;
    float *toBelow = corner + static_cast<size_t>(distance) * n;
    const int t = threadIdx.x % BLOCK;
    const bool upper = threadIdx.x < BLOCK;
    for (int i = upper ? 0 : BLOCK / 2; i < (upper ? BLOCK / 2 : BLOCK); ++i)
        diagonal[i][t] = corner[i * n + t];
    for (int i = 0; i < BLOCK; ++i) {
        if (upper)
            right[i][t] = toRight[i * n + t];
        else
            below[i][t] = toBelow[i * n + t];
    }
    __syncthreads();
    if (upper) {
        for (int i = 1; i < BLOCK; ++i)
            for (int k = 0; k < i; ++k)
                right[i][t] = fmaf(-diagonal[i][k], right[k][t], right[i][t]);
    } else {
        for (int i = 0; i < BLOCK; ++i) {
            for (int k = 0; k < i; ++k)
                below[t][i] = fmaf(-below[t][k], diagonal[k][i], below[t][i]);
            below[t][i] /= diagonal[i][i];
        }
    }
    __syncthreads();
    for (int i = 0; i < BLOCK; ++i) {
        if (upper)
            toRight[i * n + t] = right[i][t];
        else
            toBelow[i * n + t] = below[i][t];
    }
}

extern "C" __global__ void __launch_bounds__(BLOCK *BLOCK) luInternal(float *m, int n, int offset) {
    __shared__ float left[BLOCK][BLOCK];
    __shared__ float above[BLOCK][BLOCK];
    const int column = offset + (blockIdx.x + 1) * BLOCK + threadIdx.x;
    const int row = offset + (blockIdx.y + 1) * BLOCK + threadIdx.y;
    left[threadIdx.y][threadIdx.x] = m[static_cast<size_t>(row) * n + offset + threadIdx.x];
    above[threadIdx.y][threadIdx.x] = m[static_cast<size_t>(offset + threadIdx.y) * n + column];
    __syncthreads();
    float sum = m[static_cast<size_t>(row) * n + column];
#pragma unroll
    for (int k = 0; k < BLOCK; ++k)
        sum = fmaf(-left[threadIdx.y][k], above[k][threadIdx.x], sum);
    m[static_cast<size_t>(row) * n + column] = sum;
}
