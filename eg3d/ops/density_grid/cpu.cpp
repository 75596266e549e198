// Raw density on a regular grid, on a CPU. Definition: reference.py; entry points at the end.
//
// On the exact grid every plane is needed only at crossings of two axes. Features are interpolated there once, the first
// layer (linear) is applied to these tables, and the hidden layer of a grid point is a sum of table entries:
//   hidden(x, y, z) = A[x, y] + B[x, z] (+ E[y, z]),  softplus(a + b) = log(1 + exp(a) exp(b)),
// so that exponentials are taken on tables and a grid point pays one multiply-add and one logarithm a hidden unit.
// On the skewed grid x and y move with z by less than a cell: tables A, B, E then hold whole texels along x and y, and a
// grid point interpolates between neighbouring entries. The same loop serves an exact grid whose exponents are too large.
//
// Shape letters: X, Y, Z grid sides, H hidden width padded to whole vectors, C channels likewise.
// Tables hold hidden values times log2(e), so that exp2 and log2 serve.

#include "passes.h"

namespace {

using namespace grid_passes;

template <class T>
struct Field {
  Table<T> a, b, e;
  Pass<T> pass;
  Layout layout;

  Field(const GridSpec& s, const Weights<T>& w) : pass{s, w, &a, &b, s.is_corrected ? &e : nullptr, false, 0, 0, 0} {
    layout = {s.channels, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w};
    pass.X = s.x1 - s.x0, pass.Y = s.y1 - s.y0, pass.Z = s.z1 - s.z0, pass.spans = spans_of(pass.Z);
    const Axis z = grid_axis(s.z0, s.z1, s);
    Axis x = grid_axis(s.x0, s.x1, s), y = grid_axis(s.y0, s.y1, s);
    if (s.is_skewed) {
      const field::SkewedIndex low = field::skewed_index<double>(s.x0, s.y0, s.z0, s.resolution);
      const field::SkewedIndex high = field::skewed_index<double>(s.x1 - 1, s.y1 - 1, s.z1 - 1, s.resolution);
      x = texel_axis(low.x, high.x, s), y = texel_axis(low.y, high.y, s);
    }
    const auto parts = table_parts(s.is_corrected);
    a.rows = x, a.cols = y, a.has_bias = true, a.parts = parts[0];
    b.rows = x, b.cols = z, b.has_bias = false, b.parts = parts[1];
    if (s.is_corrected) e.rows = y, e.cols = z, e.has_bias = false, e.parts = parts[2];
    if (s.is_skewed) pass.prepare_skew();
  }

  void build(const T* planes) {
    const GridSpec& s = pass.s;
    T bound = 0;
    for (Table<T>* table : {&a, &b, pass.e})
      if (table) table->build(s, pass.w, planes, layout), bound += table->bound;
    const T limit = T((sizeof(T) == 4 ? 80 : 500) * LOG2E);  // exp(a) exp(b) neither over- nor underflows
    pass.is_separable = !s.is_skewed && bound <= limit;
    for (Table<T>* table : {&a, &b, pass.e})
      if (table && pass.is_separable) table->exponentiate(int(s.threads));
  }
};

template <class T>
void forward(const GridSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, T* out) {
  const Weights<T> w(s, w1, b1, w2);
  Field<T> f(s, w);
  for (int64_t n = 0; n < s.batch; ++n) {
    f.build(planes + n * s.stride_n);
    T* volume = out + n * f.pass.X * f.pass.Y * f.pass.Z;
    s.is_corrected ? f.pass.template forward_all<true>(volume, b2[0]) : f.pass.template forward_all<false>(volume, b2[0]);
  }
}

template <class T>
void backward(const GridSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* grad, T* d_planes,
              T* d_w1, T* d_b1, T* d_w2) {
  const Weights<T> w(s, w1, b1, w2);
  Field<T> f(s, w);
  std::vector<double> sum_w1(size_t(w.channels * w.units), 0), sum_b1(size_t(w.units), 0), logs(size_t(w.units), 0);
  for (int64_t n = 0; n < s.batch; ++n) {
    f.build(planes + n * s.stride_n);
    const T* g = grad + n * f.pass.X * f.pass.Y * f.pass.Z;
    s.is_corrected ? f.pass.template backward_all<true>(g, logs.data()) : f.pass.template backward_all<false>(g, logs.data());
    for (Table<T>* table : {&f.a, &f.b, f.pass.e})
      if (table) table->backward(s, w, f.layout, d_planes + n * s.stride_n, sum_w1.data(), sum_b1.data());
  }
  for (int64_t h = 0; h < w.hidden; ++h) {
    for (int64_t c = 0; c < w.channels; ++c) d_w1[h * w.channels + c] = T(sum_w1[size_t(c * w.units + h)] * w2[h]);
    d_b1[h] = T(sum_b1[size_t(h)] * w2[h]);
    d_w2[h] = T(logs[size_t(h)] * LN2);
  }
}

}  // namespace

#define DENSITY_GRID(T, suffix)                                                                                        \
  extern "C" void density_grid_forward_##suffix(const GridSpec* s, const T* planes, const T* w1, const T* b1,          \
                                                const T* w2, const T* b2, T* out) {                                    \
    forward<T>(*s, planes, w1, b1, w2, b2, out);                                                                       \
  }                                                                                                                    \
  extern "C" void density_grid_backward_##suffix(const GridSpec* s, const T* planes, const T* w1, const T* b1,         \
                                                 const T* w2, const T* grad, T* d_planes, T* d_w1, T* d_b1, T* d_w2) { \
    backward<T>(*s, planes, w1, b1, w2, grad, d_planes, d_w1, d_b1, d_w2);                                             \
  }
DENSITY_GRID(float, f32)
DENSITY_GRID(double, f64)
