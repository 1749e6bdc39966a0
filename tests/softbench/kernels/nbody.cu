// Accelerations of n bodies under each other's gravity, all pairs, a tile of bodies at a time in shared
// memory. A body is x, y, z, mass; n is a multiple of the block.
#include "cuda.h"

constexpr unsigned TILE = 256;
constexpr float SOFTENING = 1e-3f;

extern "C" __global__ void __launch_bounds__(TILE)
    nbody(const float4 *__restrict__ bodies, float4 *__restrict__ accelerations, unsigned n) {
    __shared__ float4 tile[TILE];
    const unsigned i = blockIdx.x * TILE + threadIdx.x;
    const float4 own = bodies[i];
    float ax = 0.0f, ay = 0.0f, az = 0.0f;
    for (unsigned start = 0; start < n; start += TILE) {
        tile[threadIdx.x] = bodies[start + threadIdx.x];
        __syncthreads();
#pragma unroll 8
        for (unsigned j = 0; j < TILE; ++j) {
            const float4 other = tile[j];
            const float dx = other.x - own.x;
            const float dy = other.y - own.y;
            const float dz = other.z - own.z;
            const float square = fmaf(dz, dz, fmaf(dy, dy, fmaf(dx, dx, SOFTENING)));
            const float inverse = 1.0f / sqrtf(square);
            const float weight = other.w * (inverse * inverse * inverse);
            ax = fmaf(dx, weight, ax);
            ay = fmaf(dy, weight, ay);
            az = fmaf(dz, weight, az);
        }
        __syncthreads();
    }
    accelerations[i] = float4{ax, ay, az, 0.0f};
}
