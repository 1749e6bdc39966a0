// Memory that kernels allocate: each thread makes a list in one kernel, and another kernel reads the lists
// and frees them.
#include "cuda.h"

extern "C" __device__ void *malloc(size_t bytes);
extern "C" __device__ void free(void *);

struct Node {
    Node *next;
    unsigned value;
};

extern "C" __global__ void build(Node **lists, unsigned *failed) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    Node *list = nullptr;
    for (unsigned j = 0; j <= i % 8; ++j) {
        Node *node = static_cast<Node *>(malloc(sizeof(Node)));
        if (node == nullptr) {
            atomicAdd(failed, 1);
            break;
        }
        *node = {list, i * 16 + j};
        list = node;
    }
    lists[i] = list;
}

extern "C" __global__ void consume(Node **lists, unsigned *sums) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned sum = 0;
    for (Node *node = lists[i]; node != nullptr;) {
        Node *next = node->next;
        sum = sum * 3 + node->value;
        free(node);
        node = next;
    }
    sums[i] = sum;
}

// One array for a whole block, from its first thread.
extern "C" __global__ void blockArray(unsigned *to) {
    __shared__ unsigned *array;
    if (threadIdx.x == 0)
        array = static_cast<unsigned *>(malloc(blockDim.x * sizeof(unsigned)));
    __syncthreads();
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (array == nullptr) {
        to[i] = ~0u;
        return;
    }
    array[threadIdx.x] = i * i;
    __syncthreads();
    to[i] = array[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0)
        free(array);
}
