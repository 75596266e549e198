// One function object for every index of a range: a CUDA kernel under nvcc, a loop under any other compiler.
// Kernels written this way share nothing between threads, so the loop computes what the GPU computes: the CPU tests of the
// CUDA sources rest on it.
#pragma once

#include "field_math.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>
typedef cudaStream_t Stream;

template <class F>
__global__ void each_of(int64_t count, F f) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) f(i);
}
template <class F>
void for_each(int64_t count, Stream stream, F f) {
  if (count == 0) return;
  const int64_t blocks = (count + 255) / 256;
  each_of<<<unsigned(blocks < (1 << 20) ? blocks : (1 << 20)), 256, 0, stream>>>(count, f);
}
inline int64_t launch_error() { return int64_t(cudaGetLastError()); }
#else
typedef void* Stream;
template <class F>
void for_each(int64_t count, Stream, F f) {
  for (int64_t i = 0; i < count; ++i) f(i);
}
inline int64_t launch_error() { return 0; }
#endif

// Sums in whatever order the threads come: only where said so.
template <class T>
FIELD_FN void add_in_any_order(T* to, T value) {
#ifdef __CUDA_ARCH__
  atomicAdd(to, value);
#else
  *to += value;
#endif
}
