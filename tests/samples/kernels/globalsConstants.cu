// Variables of a module in every state space: a table in constant memory and one in global memory, both
// initialised, one written by the host, a counter, a pointer to a variable, and shared memory whose size
// the launch gives.
#include "cuda.h"

__constant__ int initialised[8] = {3, 1, 4, 1, 5, 9, 2, 6};
__constant__ unsigned fromHost[256];
__device__ unsigned squares[5] = {0, 1, 4, 9, 16};
__device__ unsigned counter = 1000;
__device__ unsigned step = 7;
__device__ unsigned *pointer = &step;
__device__ unsigned history[64];

extern __shared__ unsigned buffer[];

// A block reverses a permuted stretch of `blockDim.x` numbers in its dynamic shared memory.
extern "C" __global__ void permute(const unsigned *__restrict__ from, unsigned *__restrict__ to) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    buffer[threadIdx.x] = from[i] + fromHost[threadIdx.x % 256];
    __syncthreads();
    const unsigned value = buffer[blockDim.x - 1 - threadIdx.x];
    to[i] = value + initialised[threadIdx.x % 8] + squares[blockIdx.x % 5] + *pointer;
    if (threadIdx.x == 0) {
        const unsigned ticket = atomicAdd(&counter, 1);
        history[ticket % 64] = ticket;
    }
}
