// Tables of a regular grid, on a CPU: features where two axes of the grid cross, the first layer applied to them, and both
// again backwards. cpu.cpp says what they are for.
//
// Shape letters: H hidden width padded to whole vectors, C channels likewise.
// Tables hold hidden values times log2(e), so that exp2 and log2 serve.
#pragma once

#include <limits>

#include "../planes.h"
#include "spec.h"

namespace grid_tables {

using namespace planes;

// One axis of a table: entry a lies between texels first + low[a] and the next, with the share of the latter.
struct Axis {
  int64_t first, texels;
  std::vector<int64_t> low;
  std::vector<double> share;
  bool is_texels;  // entries are the texels themselves
  int64_t count() const { return int64_t(low.size()); }
};

inline Axis grid_axis(int64_t begin, int64_t end, const GridSpec& s) {
  Axis axis;
  axis.is_texels = false;
  axis.first = field::split_address(field::grid_address(double(begin), s.side, s.resolution)).texel;
  for (int64_t i = begin; i < end; ++i) {
    const field::Address at = field::split_address(field::grid_address(double(i), s.side, s.resolution));
    axis.low.push_back(at.texel - axis.first);
    axis.share.push_back(at.share);
  }
  axis.texels = axis.low.back() + 2;
  return axis;
}

inline Axis texel_axis(double low_index, double high_index, const GridSpec& s) {
  Axis axis;
  axis.is_texels = true;
  // One texel to spare at each end: an address may round to the other side of a whole number elsewhere.
  axis.first = field::split_address(field::grid_address(low_index, s.side, s.resolution)).texel - 1;
  axis.texels = field::split_address(field::grid_address(high_index, s.side, s.resolution)).texel + 3 - axis.first;
  for (int64_t a = 0; a < axis.texels; ++a) axis.low.push_back(a), axis.share.push_back(0);
  return axis;
}

// Features [cols, C] of row `a` of a table; points into the window or into `space`.
template <class T>
const T* row_features(const T* window, const Axis& rows, const Axis& cols, int64_t a, int64_t width, T* space) {
  const T* r0 = window + rows.low[a] * cols.texels * width;
  if (rows.is_texels && cols.is_texels) return r0;
  const T* r1 = rows.is_texels ? r0 : r0 + cols.texels * width;
  const T fr = T(rows.share[a]);
  for (int64_t b = 0; b < cols.count(); ++b) {
    const int64_t at = cols.low[b] * width;
    const T fc = T(cols.share[b]);
    for (int64_t c = 0; c < width; c += WIDTH<T>) {
      const vec<T> near = load(r0 + at + c) * (1 - fc) + load(r0 + at + width + c) * fc;
      const vec<T> far = load(r1 + at + c) * (1 - fc) + load(r1 + at + width + c) * fc;
      store(space + b * width + c, vec<T>(near * (1 - fr) + far * fr));
    }
  }
  return space;
}

template <class T>
struct Weights {
  int64_t channels, hidden, width, units;  // width, units: padded
  Buffer<T> first, first_back, bias, second;
  Weights(const GridSpec& s, const T* w1, const T* b1, const T* w2)
      : channels(s.channels), hidden(s.hidden), width(padded<T>(s.channels)), units(padded<T>(s.hidden)),
        first(channels * units), first_back(units * width), bias(units), second(units) {
    first.clear(), first_back.clear(), bias.clear(), second.clear();
    for (int64_t h = 0; h < hidden; ++h) {
      for (int64_t c = 0; c < channels; ++c) {
        first[c * units + h] = T(w1[h * channels + c] * LOG2E);
        first_back[h * width + c] = w1[h * channels + c] * w2[h];  // table gradients come without w2
      }
      bias[h] = T(b1[h] * LOG2E);
      second[h] = w2[h];
    }
  }
};

constexpr int64_t STRIPES = 16;  // fixed, so that sums do not depend on the number of threads

// A table [rows, cols, H], what it was made from, and its gradient.
template <class T>
struct Table {
  Axis rows, cols;
  Window window;
  bool has_bias;
  std::vector<Part> parts;
  Buffer<T> texels, values, grad;
  T bound = 0;  // largest |value|, base 2; NaN if any is

  T* at(int64_t r, int64_t c, int64_t units) const { return values.get() + (r * cols.count() + c) * units; }

  void build(const GridSpec& s, const Weights<T>& w, const T* data, const Layout& layout) {
    window = {rows.first, cols.first, rows.texels, cols.texels};
    texels.resize(window.rows * window.cols * w.width);
    gather_window(data, layout, parts, window, texels.get(), int(s.threads));
    values.resize(rows.count() * cols.count() * w.units);
    std::vector<T> bounds(size_t(rows.count()), T(0));
#pragma omp parallel num_threads(int(s.threads))
    {
      Buffer<T> space(cols.count() * w.width);
#pragma omp for schedule(dynamic, 4)
      for (int64_t a = 0; a < rows.count(); ++a) {
        const T* features = row_features(texels.get(), rows, cols, a, w.width, space.get());
        T* out = at(a, 0, w.units);
        multiply(features, w.width, cols.count(), w.channels, w.first.get(), w.units,
                 has_bias ? w.bias.get() : nullptr, out);
        vec<T> most = {}, odd = {};
        for (int64_t i = 0; i < cols.count() * w.units; i += WIDTH<T>) {
          const vec<T> v = load(out + i), size = v < 0 ? -v : v;
          most = size > most ? size : most;
          odd += v - v;  // 0 unless something is not finite
        }
        T largest = lanes::sum<T>(odd);
        for (int l = 0; l < WIDTH<T>; ++l) largest = most[l] > largest ? most[l] : largest;
        bounds[size_t(a)] = largest == largest ? largest : std::numeric_limits<T>::infinity();
      }
    }
    bound = *std::max_element(bounds.begin(), bounds.end());
  }

  void exponentiate(int threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1024)
    for (int64_t i = 0; i < values.size(); i += WIDTH<T>) {
      vec<T> v = load(values.get() + i);
      lanes::exp2<1>(&v);
      store(values.get() + i, v);
    }
  }

  // From grad [rows, cols, H] (without w2) to the plane gradient, and to sums for w1 [C, H] and b1 [H].
  void backward(const GridSpec& s, const Weights<T>& w, const Layout& layout, T* d_planes, double* d_w1, double* d_b1) {
    const int64_t stripes = std::min(STRIPES, rows.count()), n = cols.count();
    Buffer<T> d_features(rows.count() * n * w.width), sums(stripes * (w.channels + 1) * w.units);
    sums.clear();
#pragma omp parallel num_threads(int(s.threads))
    {
      Buffer<T> space(n * w.width);
#pragma omp for schedule(dynamic)
      for (int64_t stripe = 0; stripe < stripes; ++stripe)
        for (int64_t a = rows.count() * stripe / stripes; a < rows.count() * (stripe + 1) / stripes; ++a) {
          const T* g = grad.get() + a * n * w.units;
          T* sum = sums.get() + stripe * (w.channels + 1) * w.units;
          multiply<T>(g, w.units, n, w.hidden, w.first_back.get(), w.width, nullptr, d_features.get() + a * n * w.width);
          const T* features = row_features(texels.get(), rows, cols, a, w.width, space.get());
          add_outer(features, w.width, n, w.channels, g, w.units, sum);
          for (int64_t p = 0; has_bias && p < n; ++p)
            for (int64_t h = 0; h < w.units; ++h) sum[w.channels * w.units + h] += g[p * w.units + h];
        }
    }
    for (int64_t stripe = 0; stripe < stripes; ++stripe) {
      const T* sum = sums.get() + stripe * (w.channels + 1) * w.units;
      for (int64_t i = 0; i < w.channels * w.units; ++i) d_w1[i] += sum[i];
      for (int64_t h = 0; h < w.units; ++h) d_b1[h] += sum[w.channels * w.units + h];
    }
    const T* d_texels = spread(d_features, w.width, int(s.threads));
    for (const Part& part : parts) scatter_window(d_texels, layout, part, window, d_planes, int(s.threads));
  }

 private:
  // The adjoint of row_features: gradients of table features to texels, row by row of the texels.
  const T* spread(const Buffer<T>& d_features, int64_t width, int threads) {
    if (rows.is_texels && cols.is_texels) {
      std::copy(d_features.get(), d_features.get() + d_features.size(), texels.get());
      return texels.get();
    }
    const int64_t n = cols.count();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4)
    for (int64_t r = 0; r < rows.texels; ++r) {
      T* to = texels.get() + r * cols.texels * width;
      memset(to, 0, size_t(cols.texels * width) * sizeof(T));
      const int64_t begin = std::lower_bound(rows.low.begin(), rows.low.end(), r - 1) - rows.low.begin();
      for (int64_t a = begin; a < rows.count() && rows.low[a] <= r; ++a) {
        const T fr = T(rows.low[a] == r ? 1 - rows.share[a] : rows.share[a]);
        if (fr == 0) continue;
        for (int64_t b = 0; b < n; ++b) {
          const T* from = d_features.get() + (a * n + b) * width;
          T *low = to + cols.low[b] * width, *high = low + width;
          const T f0 = T(1 - cols.share[b]) * fr, f1 = T(cols.share[b]) * fr;
          for (int64_t c = 0; c < width; c += WIDTH<T>) {
            const vec<T> g = load(from + c);
            store(low + c, vec<T>(load(low + c) + g * f0));
            store(high + c, vec<T>(load(high + c) + g * f1));
          }
        }
      }
    }
    return texels.get();
  }
};

}  // namespace grid_tables
