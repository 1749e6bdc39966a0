// Bodies that attract each other, all pairs: a block walks over all bodies a tile at a time, which its
// threads read into shared memory together. Positions and velocities are two sets, so that a step reads
// one and writes the other. The fourth component of a position is the mass.
#include "cuda.h"

extern __shared__ float4 tile[];

static __device__ __forceinline__ void attract(float3 &acceleration, float4 own, float4 other, float softening2) {
    const float x = other.x - own.x;
    const float y = other.y - own.y;
    const float z = other.z - own.z;
    const float distance2 = fmaf(x, x, fmaf(y, y, fmaf(z, z, softening2)));
    const float inverse = rsqrtf(distance2);
    const float pull = other.w * inverse * inverse * inverse;
    acceleration.x = fmaf(x, pull, acceleration.x);
    acceleration.y = fmaf(y, pull, acceleration.y);
    acceleration.z = fmaf(z, pull, acceleration.z);
}

// The number of bodies is a multiple of blockDim.x.
extern "C" __global__ void integrate(float4 *__restrict__ newPosition, float4 *__restrict__ newVelocity,
                                     const float4 *__restrict__ position, const float4 *__restrict__ velocity,
                                     unsigned n, float seconds, float softening2) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    float4 p = position[i];
    float3 acceleration = {0.0f, 0.0f, 0.0f};
    for (unsigned start = 0; start < n; start += blockDim.x) {
        tile[threadIdx.x] = position[start + threadIdx.x];
        __syncthreads();
#pragma unroll 4
        for (unsigned j = 0; j < blockDim.x; ++j)
            attract(acceleration, p, tile[j], softening2);
        __syncthreads();
    }
    float4 v = velocity[i];
    v.x = fmaf(acceleration.x, seconds, v.x);
    v.y = fmaf(acceleration.y, seconds, v.y);
    v.z = fmaf(acceleration.z, seconds, v.z);
    p.x = fmaf(v.x, seconds, p.x);
    p.y = fmaf(v.y, seconds, p.y);
    p.z = fmaf(v.z, seconds, p.z);
    newPosition[i] = p;
    newVelocity[i] = v;
}
