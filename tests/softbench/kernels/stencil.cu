// One step of heat diffusion on an nx by ny by nz grid: seven points, the border stays. A thread walks
// up a column in z and keeps the values below and above in registers.
#include "cuda.h"

extern "C" __global__ void __launch_bounds__(256)
    stencil(const float *__restrict__ in, float *__restrict__ out, unsigned nx, unsigned ny, unsigned nz,
            float centre, float side) {
    const unsigned x = blockIdx.x * blockDim.x + threadIdx.x;
    const unsigned y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < 1 || x >= nx - 1 || y < 1 || y >= ny - 1)
        return;
    const unsigned plane = nx * ny;
    unsigned at = y * nx + x;
    float below = in[at];
    float here = in[at + plane];
    for (unsigned z = 1; z < nz - 1; ++z) {
        at += plane;
        const float above = in[at + plane];
        const float sides = in[at - 1] + in[at + 1] + in[at - nx] + in[at + nx] + below + above;
        out[at] = fmaf(centre, here, side * sides);
        below = here;
        here = above;
    }
}
