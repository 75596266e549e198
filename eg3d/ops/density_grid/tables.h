// Tables of a regular grid, on a CPU: features where two axes of the grid cross, the first layer applied to them, and both
// again backwards. cpu.cpp says what they are for.
//
// Shape letters: H hidden width padded to whole vectors, C channels likewise.
// Tables hold hidden values times log2(e), so that exp2 and log2 serve.
#pragma once

#include <limits>

#include "../features.h"
#include "spec.h"

namespace grid_tables {

using namespace planes;

inline Axis grid_axis(int64_t begin, int64_t end, const GridSpec& s) {
  Axis axis;
  axis.first = field::split_address(field::grid_address(double(begin), s.side, s.resolution)).texel;
  for (int64_t i = begin; i < end; ++i) {
    const field::Address at = field::split_address(field::grid_address(double(i), s.side, s.resolution));
    axis.low.push_back(at.texel - axis.first);
    axis.share.push_back(at.share);
  }
  return axis;
}

// All texels between two indices of the grid, with one to spare at each end: an address may round to the other side of a
// whole number elsewhere.
inline Axis texel_axis(double low_index, double high_index, const GridSpec& s) {
  const auto texel = [&](double index) {
    return field::split_address(field::grid_address(index, s.side, s.resolution)).texel;
  };
  return texels_from(texel(low_index) - 1, texel(high_index) - texel(low_index) + 4);
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
  bool has_bias;
  std::vector<Part> parts;
  Buffer<T> features, values, grad;  // [rows, cols, C], [rows, cols, H] twice
  T bound = 0;  // largest |value|, base 2; NaN if any is

  T* at(int64_t r, int64_t c, int64_t units) const { return values.get() + (r * cols.count() + c) * units; }

  void build(const GridSpec& s, const Weights<T>& w, const T* data, const Layout& layout) {
    features.resize(rows.count() * cols.count() * w.width);
    gather_features(data, layout, parts, rows, cols, features.get(), int(s.threads));
    values.resize(rows.count() * cols.count() * w.units);
    std::vector<T> bounds(size_t(rows.count()), T(0));
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic, 4)
    for (int64_t a = 0; a < rows.count(); ++a) {
      T* out = at(a, 0, w.units);
      multiply(features.get() + a * cols.count() * w.width, w.width, cols.count(), w.channels, w.first.get(), w.units,
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
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (int64_t stripe = 0; stripe < stripes; ++stripe)
      for (int64_t a = rows.count() * stripe / stripes; a < rows.count() * (stripe + 1) / stripes; ++a) {
        const T *g = grad.get() + a * n * w.units, *row = features.get() + a * n * w.width;
        T* sum = sums.get() + stripe * (w.channels + 1) * w.units;
        multiply<T>(g, w.units, n, w.hidden, w.first_back.get(), w.width, nullptr, d_features.get() + a * n * w.width);
        add_outer(row, w.width, n, w.channels, g, w.units, sum);
        for (int64_t p = 0; has_bias && p < n; ++p)
          for (int64_t h = 0; h < w.units; ++h) sum[w.channels * w.units + h] += g[p * w.units + h];
      }
    for (int64_t stripe = 0; stripe < stripes; ++stripe) {
      const T* sum = sums.get() + stripe * (w.channels + 1) * w.units;
      for (int64_t i = 0; i < w.channels * w.units; ++i) d_w1[i] += sum[i];
      for (int64_t h = 0; h < w.units; ++h) d_b1[h] += sum[w.channels * w.units + h];
    }
    scatter_features(d_features.get(), layout, parts, rows, cols, d_planes, int(s.threads));
  }
};

}  // namespace grid_tables
