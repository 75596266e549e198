// Planes in memory, the tables that the kernels make of them, and small matrix products.
// Shape letters: C channels (padded to whole vectors), H hidden width (padded), P table entries.
#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "field_math.h"
#include "vector.h"

namespace planes {

using lanes::Buffer;
using lanes::fill;
using lanes::LN2;
using lanes::load;
using lanes::LOG2E;
using lanes::padded;
using lanes::store;
using lanes::vec;
using lanes::WIDTH;

// Square planes of one sample in memory, with the strides of planes [N, 3, C, side, side] in elements.
struct Layout {
  int64_t channels, side, stride_p, stride_c, stride_h, stride_w;
};

// A plane of one sample and which way it lies in a table: rows of the table run along its width or its height.
struct Part {
  int64_t plane;
  bool rows_are_width;
};

// The tables of the two plane orders: (x, y), (x, z) and, if corrected, (y, z). See eg3d/rendering/planes.py.
inline std::vector<std::vector<Part>> table_parts(bool corrected) {
  if (corrected) return {{{0, true}}, {{1, true}}, {{2, false}}};
  return {{{0, true}}, {{1, true}, {2, false}}};
}

// Register blocks of the products below: COLS vectors of columns by ROWS rows, as many as the registers hold (32 of
// AVX-512, 16 elsewhere), so that a value that was loaded serves several multiply-adds.
constexpr int ROWS = 6, COLS = lanes::BYTES == 64 ? 4 : 2;

// use(v, N) for columns [0, n), N vectors from column v on: COLS as a constant type, then 2, then 1 for what is left.
template <class T, class Use>
void by_columns(int64_t n, Use use) {
  int64_t v = 0;
  const auto part = [&](auto columns) {
    for (; v + columns * WIDTH<T> <= n; v += columns * WIDTH<T>) use(v, columns);
  };
  part(std::integral_constant<int, COLS>());
  part(std::integral_constant<int, 2>());
  part(std::integral_constant<int, 1>());
}

// out[p, n] = bias[n] + in[p, k] · weight[k, n] for ROWS_ rows from `p` and COLS_ vectors from column `v`.
template <class T, int ROWS_, int COLS_>
LANES_FN void multiply_block(const T* in, int64_t in_stride, int64_t k, const T* weight, int64_t n, const T* bias, T* out) {
  constexpr int W = WIDTH<T>;
  vec<T> acc[ROWS_][COLS_];
  for (int r = 0; r < ROWS_; ++r)
    for (int v = 0; v < COLS_; ++v) acc[r][v] = bias ? load(bias + v * W) : vec<T>{};
  for (int64_t c = 0; c < k; ++c) {
    vec<T> w[COLS_];
    for (int v = 0; v < COLS_; ++v) w[v] = load(weight + c * n + v * W);
    for (int r = 0; r < ROWS_; ++r) {
      const vec<T> x = fill(in[r * in_stride + c]);
      for (int v = 0; v < COLS_; ++v) acc[r][v] += w[v] * x;
    }
  }
  for (int r = 0; r < ROWS_; ++r)
    for (int v = 0; v < COLS_; ++v) store(out + r * n + v * W, acc[r][v]);
}
template <class T, int COLS_>
void multiply_columns(const T* in, int64_t in_stride, int64_t count, int64_t k, const T* weight, int64_t n, const T* bias,
                      T* out) {
  int64_t p = 0;
  for (; p + ROWS <= count; p += ROWS)
    multiply_block<T, ROWS, COLS_>(in + p * in_stride, in_stride, k, weight, n, bias, out + p * n);
  for (; p < count; ++p) multiply_block<T, 1, COLS_>(in + p * in_stride, in_stride, k, weight, n, bias, out + p * n);
}

// out[P, n] = bias[n] + in[P, k] · weight[k, n]; n a multiple of the lanes, bias may be null.
template <class T>
void multiply(const T* in, int64_t in_stride, int64_t count, int64_t k, const T* weight, int64_t n, const T* bias, T* out) {
  by_columns<T>(n, [&](int64_t v, auto columns) {
    multiply_columns<T, decltype(columns)::value>(in, in_stride, count, k, weight + v, n, bias ? bias + v : nullptr, out + v);
  });
}

// out[k, n] += in[P, k]ᵀ · grad[P, n], for ROWS_ of the k and COLS_ vectors of the n.
template <class T, int ROWS_, int COLS_>
LANES_FN void outer_block(const T* in, int64_t in_stride, int64_t count, const T* grad, int64_t n, T* out) {
  constexpr int W = WIDTH<T>;
  vec<T> acc[ROWS_][COLS_];
  for (int r = 0; r < ROWS_; ++r)
    for (int v = 0; v < COLS_; ++v) acc[r][v] = vec<T>{};
  for (int64_t p = 0; p < count; ++p) {
    vec<T> g[COLS_];
    for (int v = 0; v < COLS_; ++v) g[v] = load(grad + p * n + v * W);
    for (int r = 0; r < ROWS_; ++r) {
      const vec<T> x = fill(in[p * in_stride + r]);
      for (int v = 0; v < COLS_; ++v) acc[r][v] += g[v] * x;
    }
  }
  for (int r = 0; r < ROWS_; ++r)
    for (int v = 0; v < COLS_; ++v) store(out + r * n + v * W, vec<T>(load(out + r * n + v * W) + acc[r][v]));
}

// out[k, n] += in[P, k]ᵀ · grad[P, n]; n a multiple of the lanes.
template <class T>
void add_outer(const T* in, int64_t in_stride, int64_t count, int64_t k, const T* grad, int64_t n, T* out) {
  constexpr int BLOCK = 4;  // divides the usual k
  by_columns<T>(n, [&](int64_t v, auto columns) {
    constexpr int NUM = decltype(columns)::value;
    int64_t c = 0;
    for (; c + BLOCK <= k; c += BLOCK) outer_block<T, BLOCK, NUM>(in + c, in_stride, count, grad + v, n, out + c * n + v);
    for (; c < k; ++c) outer_block<T, 1, NUM>(in + c, in_stride, count, grad + v, n, out + c * n + v);
  });
}

}  // namespace planes
