// c = a + b, four elements at a time where they lie together.
#include "cuda.h"

extern "C" __global__ void __launch_bounds__(256)
    vectorAdd(const float *__restrict__ a, const float *__restrict__ b, float *__restrict__ c, size_t n) {
    const size_t first = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t stride = static_cast<size_t>(gridDim.x) * blockDim.x;

    // Allocations are aligned to 256 bytes, so whole vectors of 16 are too.
    const float4 *a4 = reinterpret_cast<const float4 *>(a);
    const float4 *b4 = reinterpret_cast<const float4 *>(b);
    float4 *c4 = reinterpret_cast<float4 *>(c);
    for (size_t i = first; i < n / 4; i += stride) {
        const float4 x = a4[i];
        const float4 y = b4[i];
        c4[i] = {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w};
    }
    for (size_t i = n / 4 * 4 + first; i < n; i += stride)
        c[i] = a[i] + b[i];
}
