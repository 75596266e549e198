// Planes as the kernels read them: merged where two planes see the same axes, channel last, only the texels needed.
// Shape letters: C channels (padded to whole vectors), H hidden width (padded), P table entries.
#pragma once

#include <algorithm>
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

// out[P, n] (+)= bias[n] + in[P, k] · weight[k, n]; n a multiple of the lanes, bias may be null.
template <class T>
void multiply(const T* in, int64_t in_stride, int64_t count, int64_t k, const T* weight, int64_t n, const T* bias, T* out) {
  constexpr int W = WIDTH<T>;
  constexpr int ROWS = 8;
  for (int64_t v = 0; v < n; v += W) {
    const vec<T> start = bias ? load(bias + v) : vec<T>{};
    int64_t p = 0;
    for (; p + ROWS <= count; p += ROWS) {
      vec<T> acc[ROWS];
      for (int r = 0; r < ROWS; ++r) acc[r] = start;
      for (int64_t c = 0; c < k; ++c) {
        const vec<T> w = load(weight + c * n + v);
        for (int r = 0; r < ROWS; ++r) acc[r] += w * in[(p + r) * in_stride + c];
      }
      for (int r = 0; r < ROWS; ++r) store(out + (p + r) * n + v, acc[r]);
    }
    for (; p < count; ++p) {
      vec<T> acc = start;
      for (int64_t c = 0; c < k; ++c) acc += load(weight + c * n + v) * in[p * in_stride + c];
      store(out + p * n + v, acc);
    }
  }
}

// out[k, n] += in[P, k]ᵀ · grad[P, n].
template <class T>
void add_outer(const T* in, int64_t in_stride, int64_t count, int64_t k, const T* grad, int64_t n, T* out) {
  constexpr int W = WIDTH<T>;
  constexpr int ROWS = 8;
  for (int64_t v = 0; v < n; v += W)
    for (int64_t c0 = 0; c0 < k; c0 += ROWS) {
      const int m = int(std::min<int64_t>(ROWS, k - c0));
      vec<T> acc[ROWS];
      for (int r = 0; r < ROWS; ++r) acc[r] = vec<T>{};
      if (m == ROWS) {
        for (int64_t p = 0; p < count; ++p) {
          const vec<T> g = load(grad + p * n + v);
          for (int r = 0; r < ROWS; ++r) acc[r] += g * in[p * in_stride + c0 + r];
        }
      } else {
        for (int64_t p = 0; p < count; ++p) {
          const vec<T> g = load(grad + p * n + v);
          for (int r = 0; r < m; ++r) acc[r] += g * in[p * in_stride + c0 + r];
        }
      }
      for (int r = 0; r < m; ++r) store(out + (c0 + r) * n + v, load(out + (c0 + r) * n + v) + acc[r]);
    }
}

}  // namespace planes
