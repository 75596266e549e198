// The arithmetic of one sample, shared by the C++ and the CUDA kernels, so that CPU tests cover both.
// Everything is a pure function of scalars; FIELD_FN makes it callable on a GPU as well.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FIELD_FN __host__ __device__ __forceinline__
#else
#define FIELD_FN inline __attribute__((always_inline))
#endif

namespace field {

// torch.nn.functional.softplus returns x itself above this.
constexpr double SOFTPLUS_THRESHOLD = 20.0;

template <class T>
FIELD_FN T softplus(T x) {
  return x > T(SOFTPLUS_THRESHOLD) ? x : T(log1p(exp(x)));
}

// Derivative of softplus; 1 above the threshold, as torch has it.
template <class T>
FIELD_FN T softplus_slope(T x) {
  return x > T(SOFTPLUS_THRESHOLD) ? T(1) : T(1) / (T(1) + exp(-x));
}

// Where a row of `side` texels is read: whole texel, which may lie outside the row, and the share of the next one.
struct Address {
  int64_t texel;
  double share;
};

FIELD_FN Address split_address(double address) {
  const double whole = floor(address);
  return {int64_t(whole), address - whole};
}

// grid_sample with align_corners=False at the fractional index of a cube of `resolution` points a side: coordinate
// index / (resolution - 1) * 2 - 1, address ((coordinate + 1) * side - 1) / 2. The side of the box cancels.
FIELD_FN double grid_address(double index, int64_t side, int64_t resolution) {
  return index * (double(side) / double(resolution - 1)) - 0.5;
}

// The published grid divides the flat index as a real number, so that a coordinate carries the faster ones.
FIELD_FN double skewed_y(int64_t j, int64_t k, int64_t resolution) { return double(j) + double(k) / double(resolution); }
FIELD_FN double skewed_x(int64_t i, int64_t j, int64_t k, int64_t resolution) {
  return double(i) + skewed_y(j, k, resolution) / double(resolution);
}

}  // namespace field
