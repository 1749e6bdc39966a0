// A module of the size that a program's own kernels have together: every benchmark's kernel in one text,
// to measure how long loading it takes beside how long the compiler takes to write it.
#include "cuda.h"

namespace black_scholes {
#include "../../samples/kernels/BlackScholes.cu"
}
namespace histogram_of_bytes {
#include "../../samples/kernels/histogram.cu"
}
namespace matrix {
#include "../../samples/kernels/matrixMul.cu"
}
namespace products {
#include "../../samples/kernels/scalarProd.cu"
}
namespace bodies {
#include "nbody.cu"
}
namespace sums {
#include "scan.cu"
}
namespace heat {
#include "stencil.cu"
}
