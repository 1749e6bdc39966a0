// Turns an image about its middle, by a texture whose sampler filters and handles what lies outside.
#include "cuda.h"

using Texture = unsigned long long;

// The texture of a point, in the coordinates that the texture object asks for.
static __device__ __forceinline__ float tex2D(Texture texture, float x, float y) {
    float r, g, b, a;
    asm("tex.2d.v4.f32.f32 {%0, %1, %2, %3}, [%4, {%5, %6}];"
        : "=f"(r), "=f"(g), "=f"(b), "=f"(a)
        : "l"(texture), "f"(x), "f"(y));
    return r;
}

// A pixel's middle is at a half; coordinates are normalised if `normalised` is not 0.
extern "C" __global__ void rotate(float *__restrict__ to, unsigned width, unsigned height, float sine,
                                  float cosine, Texture texture, unsigned normalised) {
    const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= width || y >= height)
        return;
    const float w = static_cast<float>(width);
    const float h = static_cast<float>(height);
    const float u = static_cast<float>(x) + 0.5f - 0.5f * w;
    const float v = static_cast<float>(y) + 0.5f - 0.5f * h;
    float s = fmaf(u, cosine, fmaf(-v, sine, 0.5f * w));
    float t = fmaf(v, cosine, fmaf(u, sine, 0.5f * h));
    if (normalised != 0) {
        s /= w;
        t /= h;
    }
    to[y * width + x] = tex2D(texture, s, t);
}
