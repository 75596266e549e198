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

// The published grid divides the flat index as a real number, in the type of the coordinates: a coordinate carries the
// faster ones and, in float where the resolution is no power of two, what rounding the quotient does.
struct SkewedIndex {
  double x, y;
};
template <class T>
FIELD_FN SkewedIndex skewed_index(int64_t i, int64_t j, int64_t k, int64_t resolution) {
  const T rows = T((i * resolution + j) * resolution + k) / T(resolution);
  return {double(rows / T(resolution)), double(rows - T(i * resolution))};
}

// ------------------------------------------------------------------------------------------------- rays

// Distance of coarse sample k of n: stratified, jitter in [0, 1).
template <class T>
FIELD_FN T stratified(T near, T far, int64_t k, int64_t n, T jitter, bool is_disparity) {
  const T fraction = (T(k) + jitter) / T(n - 1);
  return is_disparity ? T(1) / ((T(1) - fraction) / near + fraction / far) : near + fraction * (far - near);
}

// Opacity of the interval between raw densities a and b at a distance `step`; `passed` is what it lets through.
template <class T>
struct Interval {
  T alpha, passed;
};
template <class T>
FIELD_FN Interval<T> interval(T a, T b, T step) {
  const T sigma = softplus(T(0.5) * (a + b) - T(1));
  const T passed = T(exp(-sigma * step));
  return {T(1) - passed, passed};
}

// Cumulative weights of n coarse samples (rising, n - 3 + 1 of them) from n - 1 interval weights: see
// eg3d/rendering/sampling.py. Returns how many there are.
template <class T>
FIELD_FN int64_t cumulative(const T* weights, int64_t n, T* cdf) {
  const int64_t count = n - 3;
  T total = 0;
  cdf[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t k = i + 1;  // interval; both neighbours exist
    const T left = weights[k - 1] > weights[k] ? weights[k - 1] : weights[k];
    const T right = weights[k] > weights[k + 1] ? weights[k] : weights[k + 1];
    cdf[i + 1] = T(0.5) * (left + right) + T(0.01) + T(1e-5);
    total += cdf[i + 1];
  }
  for (int64_t i = 0; i < count; ++i) cdf[i + 1] = cdf[i] + cdf[i + 1] / total;
  return count + 1;
}

// Distance at which the cumulative weight reaches u; edge i is the middle of coarse samples i and i + 1, or sample i + 1.
template <class T>
FIELD_FN T inverse_cumulative(const T* cdf, int64_t count, const T* t, T u, bool is_centred) {
  int64_t low = 0, high = count;  // first entry above u
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (cdf[middle] > u)
      high = middle;
    else
      low = middle + 1;
  }
  const int64_t below = low > 0 ? low - 1 : 0, above = low < count - 1 ? low : count - 1;
  const T edge_low = is_centred ? t[below + 1] : T(0.5) * (t[below] + t[below + 1]);
  const T edge_high = is_centred ? t[above + 1] : T(0.5) * (t[above] + t[above + 1]);
  const T mass = cdf[above] - cdf[below];
  return edge_low + (u - cdf[below]) / (mass < T(1e-5) ? T(1) : mass) * (edge_high - edge_low);
}

}  // namespace field
