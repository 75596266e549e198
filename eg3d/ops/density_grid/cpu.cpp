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

#include <type_traits>
#include <utility>

#include "tables.h"

namespace {

using namespace grid_tables;
using lanes::exp2;
using lanes::log2;
using lanes::reciprocal;

template <class T>
constexpr T THRESHOLD = T(field::SOFTPLUS_THRESHOLD* LOG2E);

// log2(1 + p) and p / (1 + p) for p = exp(hidden); beyond the threshold as torch has it (no effect in float).
template <class T>
LANES_FN vec<T> softplus_of_exp(vec<T> p) {
  if constexpr (sizeof(T) == 4) return log2(p + T(1));
  const T limit = T(485165195.4097903);  // exp(20)
  return log2(p > limit ? p : p + T(1));
}
template <class T>
LANES_FN vec<T> slope_of_exp(vec<T> p) {
  const vec<T> slope = T(1) - reciprocal(p + T(1));
  if constexpr (sizeof(T) == 4) return p * reciprocal(p + T(1));
  return p > T(485165195.4097903) ? fill<T>(1) : slope;
}

template <class T>
struct Pass {
  const GridSpec& s;
  const Weights<T>& w;
  Table<T>*a, *b, *e;  // e is null with published plane axes
  bool is_separable;
  int64_t X, Y, Z;
  std::vector<double> shift_x{};           // [Y, Z], skewed: what y and z add to the index along x
  std::vector<field::Address> at_y{};      // [Y, Z], skewed: address along y

  void prepare_skew() {
    for (int64_t j = s.y0; j < s.y1; ++j)
      for (int64_t k = s.z0; k < s.z1; ++k) {
        const double y = field::skewed_y(j, k, s.resolution);
        shift_x.push_back(y / double(s.resolution));
        at_y.push_back(field::split_address(field::grid_address(y, s.side, s.resolution)));
      }
  }

  int64_t num_stripes() const { return std::min<int64_t>(e ? 4 : STRIPES, X); }

  // ------------------------------------------------------------------------------------------------ forward
  template <int NV, bool HAS_E>
  void forward_separable(int64_t x, T* out, T b2) const {
    const int64_t units = w.units, nv = NV ? NV : units / WIDTH<T>;
    constexpr int W = WIDTH<T>;
    for (int64_t y = 0; y < Y; ++y) {
      const T* row_a = a->at(x, y, units);
      for (int64_t z0 = 0; z0 < Z; z0 += W) {
        vec<T> acc[W];
        const int m = int(std::min<int64_t>(W, Z - z0));
        for (int i = 0; i < W; ++i) acc[i] = vec<T>{};
        for (int i = 0; i < m; ++i) {
          const T* row_b = b->at(x, z0 + i, units);
          const T* row_e = HAS_E ? e->at(y, z0 + i, units) : nullptr;
          vec<T> total = {};
          for (int64_t v = 0; v < nv; ++v) {
            vec<T> p = load(row_a + v * W) * load(row_b + v * W);
            if (HAS_E) p *= load(row_e + v * W);
            total += softplus_of_exp<T>(p) * load(w.second.get() + v * W);
          }
          acc[i] = total;
        }
        T values[W];
        lanes::row_sums<T>(acc, values);
        for (int i = 0; i < m; ++i) out[(x * Y + y) * Z + z0 + i] = T(values[i] * T(LN2) + b2);
      }
    }
  }

  // Up to a vector's width of neighbours along z that lie between the same rows and columns of A: entries offset_a of A,
  // offset_b of B and offset_e of E (of the first point), with shares for each point.
  struct Run {
    int first, count;
    int64_t offset_a[4], offset_b[2], offset_e[2];
  };
  struct Block {
    int num_runs = 0;
    Run runs[WIDTH<T>];
    T share_a[4][WIDTH<T>], share_b[2][WIDTH<T>], share_e[2][WIDTH<T>];
  };
  void find_runs(int64_t x, int64_t y, int64_t z0, int count, Block& block) const {
    constexpr int W = WIDTH<T>;
    int64_t row[W], col[W];
    const int64_t step = s.is_skewed, n = a->cols.count(), units = w.units;
    for (int i = 0; i < count; ++i) {
      field::Address u{x, 0};
      row[i] = x, col[i] = y;
      T fu = 0, fv = 0;
      if (s.is_skewed) {
        const int64_t at = y * Z + z0 + i;
        u = field::split_address(field::grid_address(double(x + s.x0) + shift_x[size_t(at)], s.side, s.resolution));
        row[i] = u.texel - a->rows.first, fu = T(u.share);
        col[i] = at_y[size_t(at)].texel - a->cols.first, fv = T(at_y[size_t(at)].share);
      }
      block.share_a[0][i] = (1 - fu) * (1 - fv), block.share_a[1][i] = (1 - fu) * fv;
      block.share_a[2][i] = fu * (1 - fv), block.share_a[3][i] = fu * fv;
      block.share_b[0][i] = 1 - fu, block.share_b[1][i] = fu;
      block.share_e[0][i] = 1 - fv, block.share_e[1][i] = fv;
    }
    block.num_runs = 0;
    for (int i = 0; i < count; ++i) {
      if (i > 0 && row[i] == row[i - 1] && col[i] == col[i - 1]) {
        ++block.runs[block.num_runs - 1].count;
        continue;
      }
      Run& run = block.runs[block.num_runs++];
      run.first = i, run.count = 1;
      for (int k = 0; k < 4; ++k) run.offset_a[k] = ((row[i] + (k >> 1) * step) * n + col[i] + (k & 1) * step) * units;
      for (int k = 0; k < 2; ++k) {
        run.offset_b[k] = ((row[i] + k * step) * Z + z0 + i) * units;
        run.offset_e[k] = ((col[i] + k * step) * Z + z0 + i) * units;
      }
    }
  }

  // Hidden values, for one vector of units at `at`, of the points of a run; entries of A stay in registers.
  template <bool HAS_E>
  struct Hidden {
    vec<T> corner[4];
    const T *b0, *b1, *e0, *e1;
    int64_t units;
    LANES_FN Hidden(const Pass& pass, const Run& run, int64_t at) : units(pass.w.units) {
      for (int k = 0; k < 4; ++k) corner[k] = load(pass.a->values.get() + run.offset_a[k] + at);
      b0 = pass.b->values.get() + run.offset_b[0] + at, b1 = pass.b->values.get() + run.offset_b[1] + at;
      if (HAS_E) e0 = pass.e->values.get() + run.offset_e[0] + at, e1 = pass.e->values.get() + run.offset_e[1] + at;
    }
    LANES_FN vec<T> operator()(const Block& block, int i, int64_t k) const {
      vec<T> h = corner[0] * block.share_a[0][i] + corner[1] * block.share_a[1][i];
      h += corner[2] * block.share_a[2][i] + corner[3] * block.share_a[3][i];
      h += load(b0 + k * units) * block.share_b[0][i] + load(b1 + k * units) * block.share_b[1][i];
      if (HAS_E) h += load(e0 + k * units) * block.share_e[0][i] + load(e1 + k * units) * block.share_e[1][i];
      return h;
    }
  };

  template <int NV, bool HAS_E>
  void forward_general(int64_t x, T* out, T b2) const {
    const int64_t nv = NV ? NV : w.units / WIDTH<T>;
    constexpr int W = WIDTH<T>;
    Block block;
    for (int64_t y = 0; y < Y; ++y)
      for (int64_t z0 = 0; z0 < Z; z0 += W) {
        vec<T> acc[W];
        const int m = int(std::min<int64_t>(W, Z - z0));
        for (int i = 0; i < W; ++i) acc[i] = vec<T>{};
        find_runs(x, y, z0, m, block);
        for (int r = 0; r < block.num_runs; ++r) {
          const Run& run = block.runs[r];
          for (int64_t v = 0; v < nv; ++v) {
            const Hidden<HAS_E> hidden(*this, run, v * W);
            const vec<T> w2 = load(w.second.get() + v * W);
            for (int k = 0; k < run.count; ++k) {
              const vec<T> h = hidden(block, run.first + k, k);
              const vec<T> soft = log2(exp2(h) + T(1));
              acc[run.first + k] += (h > THRESHOLD<T> ? h : soft) * w2;
            }
          }
        }
        T values[W];
        lanes::row_sums<T>(acc, values);
        for (int i = 0; i < m; ++i) out[(x * Y + y) * Z + z0 + i] = T(values[i] * T(LN2) + b2);
      }
  }

  template <int NV, bool HAS_E>
  void forward_all(T* out, T b2) const {
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (int64_t x = 0; x < X; ++x)
      is_separable ? forward_separable<NV, HAS_E>(x, out, b2) : forward_general<NV, HAS_E>(x, out, b2);
  }

  // ----------------------------------------------------------------------------------------------- backward
  // Gradients to the tables without w2, and `log_sums` [H]: the gradient of w2 over ln 2.
  template <int NV, bool HAS_E>
  void backward_separable(int64_t x, const T* grad, T* grad_e, double* log_sums) const {
    const int64_t units = w.units, nv = NV ? NV : units / WIDTH<T>;
    constexpr int W = WIDTH<T>;
    T* rows_b = b->grad.get() + x * Z * units;
    memset(rows_b, 0, size_t(Z * units) * sizeof(T));
    Buffer<T> space(2 * units);
    for (int64_t y = 0; y < Y; ++y) {
      const T* row_a = a->at(x, y, units);
      vec<T> sum_a[NV ? NV : 1], sum_w[NV ? NV : 1];
      for (auto& v : sum_a) v = vec<T>{};
      for (auto& v : sum_w) v = vec<T>{};
      space.clear();
      for (int64_t z = 0; z < Z; ++z) {
        const T g = grad[(x * Y + y) * Z + z];
        const T* row_b = b->at(x, z, units);
        const T* row_e = HAS_E ? e->at(y, z, units) : nullptr;
        for (int64_t v = 0; v < nv; ++v) {
          vec<T> p = load(row_a + v * W) * load(row_b + v * W);
          if (HAS_E) p *= load(row_e + v * W);
          const vec<T> r = slope_of_exp<T>(p) * g;
          const vec<T> soft = softplus_of_exp<T>(p) * g;
          if (NV) {
            sum_a[v] += r;
            sum_w[v] += soft;
          } else {
            store(space.get() + v * W, vec<T>(load(space.get() + v * W) + r));
            store(space.get() + units + v * W, vec<T>(load(space.get() + units + v * W) + soft));
          }
          T* to_b = rows_b + z * units + v * W;
          store(to_b, vec<T>(load(to_b) + r));
          if (HAS_E) {
            T* to_e = grad_e + (y * Z + z) * units + v * W;
            store(to_e, vec<T>(load(to_e) + r));
          }
        }
      }
      for (int64_t v = 0; NV && v < nv; ++v) {
        store(space.get() + v * W, sum_a[v]);
        store(space.get() + units + v * W, sum_w[v]);
      }
      std::copy(space.get(), space.get() + units, a->grad.get() + (x * Y + y) * units);
      for (int64_t h = 0; h < units; ++h) log_sums[h] += space[units + h];
    }
  }

  template <int NV, bool HAS_E>
  void backward_general(int64_t x, const T* grad, T* grad_a, T* grad_b, T* grad_e, double* log_sums) const {
    const int64_t units = w.units, nv = NV ? NV : units / WIDTH<T>, ends = s.is_skewed ? 2 : 1;
    constexpr int W = WIDTH<T>;
    Buffer<T> sums(units);
    Block block;
    for (int64_t y = 0; y < Y; ++y) {
      sums.clear();
      for (int64_t z0 = 0; z0 < Z; z0 += W) {
        const T* g = grad + (x * Y + y) * Z + z0;
        find_runs(x, y, z0, int(std::min<int64_t>(W, Z - z0)), block);
        for (int r = 0; r < block.num_runs; ++r) {
          const Run& run = block.runs[r];
          for (int64_t v = 0; v < nv; ++v) {
            const int64_t at = v * W;
            const Hidden<HAS_E> hidden(*this, run, at);
            vec<T> corner[4] = {{}, {}, {}, {}}, log_sum = {};
            for (int k = 0; k < run.count; ++k) {
              const int i = run.first + k;
              const vec<T> h = hidden(block, i, k), p = exp2(h), q = p + T(1);
              const vec<T> ratio = p * reciprocal(q);
              const vec<T> slope = (h > THRESHOLD<T> ? fill<T>(1) : ratio) * g[i];
              const vec<T> soft = log2(q);
              log_sum += (h > THRESHOLD<T> ? h : soft) * g[i];
              for (int c = 0; c < 4; ++c) corner[c] += slope * block.share_a[c][i];
              for (int64_t end = 0; end < ends; ++end) {
                T* to = grad_b + run.offset_b[end] + k * units + at;
                store(to, vec<T>(load(to) + slope * block.share_b[end][i]));
                if (HAS_E) {
                  T* to_e = grad_e + run.offset_e[end] + k * units + at;
                  store(to_e, vec<T>(load(to_e) + slope * block.share_e[end][i]));
                }
              }
            }
            for (int c = 0; c < (s.is_skewed ? 4 : 1); ++c) {
              T* to = grad_a + run.offset_a[c] + at;
              store(to, vec<T>(load(to) + corner[c]));
            }
            store(sums.get() + at, vec<T>(load(sums.get() + at) + log_sum));
          }
        }
      }
      for (int64_t h = 0; h < units; ++h) log_sums[h] += sums[h];
    }
  }

  // Rows of A and B that slices [x_begin, x_end) of the grid touch, with one to spare for rounding.
  std::pair<int64_t, int64_t> touched_rows(int64_t x_begin, int64_t x_end) const {
    if (!s.is_skewed) return {x_begin, x_end};
    const double low = double(x_begin + s.x0) + shift_x.front(), high = double(x_end - 1 + s.x0) + shift_x.back();
    const int64_t first = field::split_address(field::grid_address(low, s.side, s.resolution)).texel - a->rows.first;
    const int64_t last = field::split_address(field::grid_address(high, s.side, s.resolution)).texel - a->rows.first;
    return {std::max<int64_t>(0, first - 1), std::min(a->rows.count(), last + 3)};
  }

  template <int NV, bool HAS_E>
  void backward_all(const T* grad, double* log_sums) const {
    const int64_t units = w.units, stripes = num_stripes(), row_a = a->cols.count() * units, row_b = Z * units;
    a->grad.resize(a->values.size()), b->grad.resize(b->values.size());
    if (e) e->grad.resize(e->values.size()), e->grad.clear();
    std::vector<double> logs(size_t(stripes * units), 0.0);
    std::vector<Buffer<T>> parts_a(static_cast<size_t>(stripes)), parts_b(static_cast<size_t>(stripes)),
        parts_e(static_cast<size_t>(stripes));
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (int64_t stripe = 0; stripe < stripes; ++stripe) {
      const int64_t begin = X * stripe / stripes, end = X * (stripe + 1) / stripes;
      const auto [low, high] = touched_rows(begin, end);
      Buffer<T>&pa = parts_a[stripe], &pb = parts_b[stripe], &pe = parts_e[stripe];
      if (!is_separable) pa.resize((high - low) * row_a), pa.clear(), pb.resize((high - low) * row_b), pb.clear();
      if (HAS_E) pe.resize(e->values.size()), pe.clear();
      double* log_sum = logs.data() + stripe * units;
      for (int64_t x = begin; x < end; ++x) {
        if (is_separable)
          backward_separable<NV, HAS_E>(x, grad, pe.get(), log_sum);
        else
          backward_general<NV, HAS_E>(x, grad, pa.get() - low * row_a, pb.get() - low * row_b, pe.get(), log_sum);
      }
    }
    if (!is_separable) a->grad.clear(), b->grad.clear();
    for (int64_t stripe = 0; stripe < stripes; ++stripe) {
      const int64_t low = touched_rows(X * stripe / stripes, X * (stripe + 1) / stripes).first;
      if (!is_separable) add(parts_a[stripe], a->grad.get() + low * row_a), add(parts_b[stripe], b->grad.get() + low * row_b);
      if (HAS_E) add(parts_e[stripe], e->grad.get());
      for (int64_t h = 0; h < units; ++h) log_sums[h] += logs[size_t(stripe * units + h)];
    }
  }
  void add(const Buffer<T>& from, T* to) const {
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic, 1024)
    for (int64_t i = 0; i < from.size(); i += WIDTH<T>) store(to + i, vec<T>(load(to + i) + load(from.get() + i)));
  }
};

template <class T>
struct Field {
  Table<T> a, b, e;
  Pass<T> pass;
  Layout layout;

  Field(const GridSpec& s, const Weights<T>& w) : pass{s, w, &a, &b, s.is_corrected ? &e : nullptr, false, 0, 0, 0, {}, {}} {
    layout = {s.channels, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w};
    pass.X = s.x1 - s.x0, pass.Y = s.y1 - s.y0, pass.Z = s.z1 - s.z0;
    const int64_t n = s.resolution;
    const Axis z = grid_axis(s.z0, s.z1, s);
    Axis x = grid_axis(s.x0, s.x1, s), y = grid_axis(s.y0, s.y1, s);
    if (s.is_skewed) {
      x = texel_axis(field::skewed_x(s.x0, s.y0, s.z0, n), field::skewed_x(s.x1 - 1, s.y1 - 1, s.z1 - 1, n), s);
      y = texel_axis(field::skewed_y(s.y0, s.z0, n), field::skewed_y(s.y1 - 1, s.z1 - 1, n), s);
      pass.prepare_skew();
    }
    const auto parts = table_parts(s.is_corrected);
    a.rows = x, a.cols = y, a.has_bias = true, a.parts = parts[0];
    b.rows = x, b.cols = z, b.has_bias = false, b.parts = parts[1];
    if (s.is_corrected) e.rows = y, e.cols = z, e.has_bias = false, e.parts = parts[2];
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

template <class T, class Run>
void by_width(int64_t units, bool has_e, Run run) {
  const int64_t nv = units / WIDTH<T>;
  auto call = [&](auto nv_constant) {
    has_e ? run(nv_constant, std::true_type()) : run(nv_constant, std::false_type());
  };
  if (sizeof(T) == 4 && nv == 2) call(std::integral_constant<int, 2>());
  else if (sizeof(T) == 4 && nv == 4) call(std::integral_constant<int, 4>());
  else call(std::integral_constant<int, 0>());
}

template <class T>
void forward(const GridSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, T* out) {
  const Weights<T> w(s, w1, b1, w2);
  Field<T> f(s, w);
  for (int64_t n = 0; n < s.batch; ++n) {
    f.build(planes + n * s.stride_n);
    T* volume = out + n * f.pass.X * f.pass.Y * f.pass.Z;
    by_width<T>(w.units, s.is_corrected, [&](auto nv, auto has_e) {
      f.pass.template forward_all<decltype(nv)::value, decltype(has_e)::value>(volume, b2[0]);
    });
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
    by_width<T>(w.units, s.is_corrected, [&](auto nv, auto has_e) {
      constexpr int NV = decltype(nv)::value;
      constexpr bool HAS_E = decltype(has_e)::value;
      f.pass.template backward_all<NV, HAS_E>(g, logs.data());
    });
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
