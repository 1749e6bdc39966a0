// Copies arrays of structures of several sizes and alignments, field by field: the alignment that a type
// promises decides how wide its loads and stores are.
#include "cuda.h"

struct Bytes4Unaligned {
    unsigned char r, g, b, a;
};

struct Words2Unaligned {
    unsigned l, a;
};

struct Words3 {
    unsigned r, g, b;
};

struct Words4Unaligned {
    unsigned r, g, b, a;
};

struct alignas(4) Bytes4 {
    unsigned char r, g, b, a;
};

struct alignas(8) Words2 {
    unsigned l, a;
};

struct alignas(16) Words3Aligned {
    unsigned r, g, b;
};

struct alignas(16) Words4 {
    unsigned r, g, b, a;
};

struct alignas(16) Words8 {
    Words4 first, second;
};

template <typename T> static __device__ __forceinline__ void copy(T *to, const T *from, unsigned n) {
    const unsigned stride = gridDim.x * blockDim.x;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        to[i] = from[i];
}

#define COPY(name, type)                                                                               \
    extern "C" __global__ void name(type *__restrict__ to, const type *__restrict__ from, unsigned n) { \
        copy(to, from, n);                                                                             \
    }

COPY(copyUint8, unsigned char)
COPY(copyUint16, unsigned short)
COPY(copyUint32, unsigned)
COPY(copyUint64, unsigned long long)
COPY(copyBytes4Unaligned, Bytes4Unaligned)
COPY(copyWords2Unaligned, Words2Unaligned)
COPY(copyWords3, Words3)
COPY(copyWords4Unaligned, Words4Unaligned)
COPY(copyBytes4, Bytes4)
COPY(copyWords2, Words2)
COPY(copyWords3Aligned, Words3Aligned)
COPY(copyWords4, Words4)
COPY(copyWords8, Words8)
