// Planes as the kernels read them: merged where two planes see the same axes, channel last, only the texels needed.
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

// Texels [rows, cols, C] from (first_row, first_col) on; texels outside the plane are zero.
struct Window {
  int64_t first_row, first_col, rows, cols;
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

// Sum over `parts`, divided by 3 for the mean over the planes: window texels [rows, cols, C padded].
template <class T>
void gather_window(const T* data, const Layout& l, const std::vector<Part>& parts, const Window& w, T* out, int threads) {
  const int64_t width = padded<T>(l.channels), block = 32;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t r0 = 0; r0 < w.rows; r0 += block) {
    const int64_t r1 = std::min(r0 + block, w.rows);
    memset(out + r0 * w.cols * width, 0, size_t((r1 - r0) * w.cols * width) * sizeof(T));
    const int64_t low = std::max(r0, -w.first_row), high = std::min(r1, l.side - w.first_row);
    const int64_t left = std::max<int64_t>(0, -w.first_col), right = std::min(w.cols, l.side - w.first_col);
    for (const Part& part : parts) {
      const int64_t row = part.rows_are_width ? l.stride_w : l.stride_h;
      const int64_t col = part.rows_are_width ? l.stride_h : l.stride_w;
      const T* origin = data + part.plane * l.stride_p + w.first_row * row + w.first_col * col;
      for (int64_t c0 = 0; c0 < l.channels; c0 += 16) {
        const int64_t c1 = std::min(c0 + 16, l.channels);
        for (int64_t q0 = left; q0 < right; q0 += block) {
          const int64_t q1 = std::min(q0 + block, right);
          if (l.stride_c == 1) {
            for (int64_t r = low; r < high; ++r)
              for (int64_t q = q0; q < q1; ++q) {
                const T* from = origin + r * row + q * col;
                T* to = out + (r * w.cols + q) * width;
                for (int64_t c = c0; c < c1; ++c) to[c] += from[c] * T(1.0 / 3);
              }
          } else {
            for (int64_t c = c0; c < c1; ++c)
              for (int64_t r = low; r < high; ++r)
                for (int64_t q = q0; q < q1; ++q)
                  out[(r * w.cols + q) * width + c] += origin[c * l.stride_c + r * row + q * col] * T(1.0 / 3);
          }
        }
      }
    }
  }
}

// The adjoint for one part: writes the whole gradient of its plane, zero outside the window.
template <class T>
void scatter_window(const T* grad, const Layout& l, const Part& part, const Window& w, T* out, int threads) {
  const int64_t width = padded<T>(l.channels);
  T* plane = out + part.plane * l.stride_p;
  const int64_t first_h = part.rows_are_width ? w.first_col : w.first_row;
  const int64_t first_w = part.rows_are_width ? w.first_row : w.first_col;
  const int64_t num_h = part.rows_are_width ? w.cols : w.rows, num_w = part.rows_are_width ? w.rows : w.cols;
  const int64_t step_h = (part.rows_are_width ? 1 : w.cols) * width, step_w = (part.rows_are_width ? w.cols : 1) * width;
  const int64_t left = std::max<int64_t>(0, first_w), right = std::min(l.side, first_w + num_w);
  const bool is_channel_last = l.stride_c == 1;
  const int64_t block = is_channel_last ? 1 : 32;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (int64_t h0 = 0; h0 < l.side; h0 += block)
    for (int64_t c0 = 0; c0 < l.channels; c0 += 16) {
      const int64_t h1 = std::min(h0 + block, l.side), c1 = std::min(c0 + 16, l.channels);
      for (int64_t c = c0; c < (is_channel_last ? c0 + 1 : c1); ++c)
        for (int64_t h = h0; h < h1; ++h) {
          T* to = plane + c * l.stride_c + h * l.stride_h;
          const bool is_inside = h >= first_h && h < first_h + num_h;
          const T* from = grad + (h - first_h) * step_h + c;
          if (is_channel_last) {
            for (int64_t x = 0; x < l.side; ++x)
              for (int64_t k = 0; k < c1 - c0; ++k)
                to[x * l.stride_w + k] =
                    is_inside && x >= left && x < right ? from[(x - first_w) * step_w + k] * T(1.0 / 3) : T(0);
          } else {
            for (int64_t x = 0; x < l.side; ++x)
              to[x * l.stride_w] = is_inside && x >= left && x < right ? from[(x - first_w) * step_w] * T(1.0 / 3) : T(0);
          }
        }
    }
}

// Register blocks of the products below: COLS vectors of columns by ROWS rows, as many as the registers hold (32 of
// AVX-512, 16 elsewhere), so that a value that was loaded serves several multiply-adds.
constexpr int ROWS = 6, COLS = lanes::BYTES == 64 ? 4 : 2;

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
  int64_t v = 0;
  const auto part = [&](auto columns) {
    constexpr int NUM = decltype(columns)::value;
    for (; v + NUM * WIDTH<T> <= n; v += NUM * WIDTH<T>)
      multiply_columns<T, NUM>(in, in_stride, count, k, weight + v, n, bias ? bias + v : nullptr, out + v);
  };
  part(std::integral_constant<int, COLS>());
  part(std::integral_constant<int, 2>());
  part(std::integral_constant<int, 1>());
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
  int64_t v = 0;
  const auto part = [&](auto columns) {
    constexpr int NUM = decltype(columns)::value;
    for (; v + NUM * WIDTH<T> <= n; v += NUM * WIDTH<T>) {
      int64_t c = 0;
      for (; c + BLOCK <= k; c += BLOCK) outer_block<T, BLOCK, NUM>(in + c, in_stride, count, grad + v, n, out + c * n + v);
      for (; c < k; ++c) outer_block<T, 1, NUM>(in + c, in_stride, count, grad + v, n, out + c * n + v);
    }
  };
  part(std::integral_constant<int, COLS>());
  part(std::integral_constant<int, 2>());
  part(std::integral_constant<int, 1>());
}

}  // namespace planes
