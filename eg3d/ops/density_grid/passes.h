// Both passes over the points of a regular grid, on a CPU, given its tables. cpu.cpp says what they compute.
//
// Shape letters: X, Y, Z grid sides, H hidden width padded to whole vectors.
// Tables hold hidden values times log2(e), so that exp2 and log2 serve.
#pragma once

#include <utility>

#include "tables.h"

namespace grid_passes {

using namespace grid_tables;
using lanes::in_groups;
using lanes::log2;
using lanes::reciprocal;
using lanes::softplus2;

// log2(1 + p) and p / (1 + p) for p = exp(hidden); beyond the threshold as torch has it (no effect in float).
template <class T>
constexpr T LIMIT = T(485165195.4097903);  // exp(20)
template <class T, int N>
LANES_FN void softplus_of_exp(const vec<T>* p, vec<T>* value) {
  for (int j = 0; j < N; ++j) value[j] = p[j] + T(1);
  if constexpr (sizeof(T) == 8)
    for (int j = 0; j < N; ++j) value[j] = p[j] > LIMIT<T> ? p[j] : value[j];
  log2<N>(value);
}
template <class T>
LANES_FN vec<T> slope_of_exp(vec<T> p) {
  const vec<T> slope = p * reciprocal(p + T(1));
  if constexpr (sizeof(T) == 4) return slope;
  return p > LIMIT<T> ? fill<T>(1) : slope;
}

// Neighbours along z that are done at once: what is set up for a vector of hidden units serves all of them, and their
// entries of B, with gradients, stay in the nearest cache.
constexpr int FEWEST = 48, MOST = 2 * FEWEST;  // unless there are fewer in all
struct Span {
  int64_t first;
  int count;
};
inline std::vector<Span> spans_of(int64_t count) {
  const int64_t number = std::max<int64_t>(1, count / FEWEST);
  std::vector<Span> spans;
  for (int64_t i = 0; i < number; ++i) {
    const int64_t first = count * i / number;
    spans.push_back({first, int(count * (i + 1) / number - first)});
  }
  return spans;
}

template <class T>
struct Pass {
  const GridSpec& s;
  const Weights<T>& w;
  Table<T>*a, *b, *e;  // e is null with published plane axes
  bool is_separable;
  int64_t X, Y, Z;
  std::vector<Span> spans{};  // of Z
  bool is_rounded = false;  // skewed: addresses depend on all three indices, see field::skewed_index
  std::vector<T> move_x{}, share_y{};   // [Y, Z], skewed: texels along x that y and z add; share of the next column
  std::vector<int32_t> texel_y{};       // [Y, Z], skewed: column
  std::vector<field::Address> at_x{};   // [X], skewed: row of (x, 0, 0)

  void prepare_skew() {
    is_rounded = sizeof(T) == 4 && (s.resolution & (s.resolution - 1)) != 0;
    for (int64_t j = s.y0; j < s.y1; ++j)
      for (int64_t k = s.z0; k < s.z1; ++k) {
        const field::SkewedIndex index = field::skewed_index<double>(0, j, k, s.resolution);
        const field::Address y = field::split_address(field::grid_address(index.y, s.side, s.resolution));
        move_x.push_back(T(field::grid_address(index.x, s.side, s.resolution) - field::grid_address(0, s.side, s.resolution)));
        texel_y.push_back(int32_t(y.texel - a->cols.first)), share_y.push_back(T(y.share));
      }
    for (int64_t i = s.x0; i < s.x1; ++i)
      at_x.push_back(field::split_address(field::grid_address(double(i), s.side, s.resolution)));
  }

  int64_t num_stripes() const { return std::min<int64_t>(e ? 4 : STRIPES, X); }

  // Where a grid point lies between rows of A and B and columns of A (rows of E), and the shares of the next ones.
  struct Place {
    int64_t row, col;
    T fu, fv;
  };
  LANES_FN Place place(int64_t x, int64_t y, int64_t z) const {
    if (!s.is_skewed) return {x, y, 0, 0};
    if (is_rounded) return rounded_place(x, y, z);
    const int64_t at = y * Z + z;
    const T u = T(at_x[size_t(x)].share) + move_x[size_t(at)], whole = std::floor(u);
    return {at_x[size_t(x)].texel - a->rows.first + int64_t(whole), texel_y[size_t(at)], u - whole, share_y[size_t(at)]};
  }
  Place rounded_place(int64_t x, int64_t y, int64_t z) const {
    const field::SkewedIndex index = field::skewed_index<T>(x + s.x0, y + s.y0, z + s.z0, s.resolution);
    const field::Address u = field::split_address(field::grid_address(index.x, s.side, s.resolution));
    const field::Address v = field::split_address(field::grid_address(index.y, s.side, s.resolution));
    return {u.texel - a->rows.first, v.texel - a->cols.first, T(u.share), T(v.share)};
  }

  // Up to MOST neighbours along z, in runs between the same rows and columns of A. Offsets are those of the
  // first point's entries in A, B and E.
  struct Run {
    int first, count;
    int64_t offset_a, offset_b, offset_e;
  };
  struct Block {
    int num_runs;
    Run runs[MOST];
    T fu[MOST], fv[MOST];
  };
  void find_runs(int64_t x, int64_t y, int64_t z0, int count, Block& block) const {
    const int64_t n = a->cols.count(), units = w.units, at = y * Z + z0;
    const auto start = [&](int64_t row, int64_t col, int i) -> Run {
      return {i, 0, (row * n + col) * units, (row * Z + z0 + i) * units, (col * Z + z0 + i) * units};
    };
    const Place first = place(x, y, z0), last = place(x, y, z0 + count - 1);
    if (s.is_skewed && !is_rounded && first.row == last.row && first.col == last.col) {
      block.num_runs = 1, block.runs[0] = start(first.row, first.col, 0), block.runs[0].count = count;
      for (int i = 0; i < count; ++i) {
        block.fu[i] = move_x[size_t(at + i)] + (first.fu - move_x[size_t(at)]);
        block.fv[i] = share_y[size_t(at + i)];
      }
      return;
    }
    int64_t row = -1, col = -1;
    block.num_runs = 0;
    for (int i = 0; i < count; ++i) {
      const Place p = place(x, y, z0 + i);
      block.fu[i] = p.fu, block.fv[i] = p.fv;
      if (p.row != row || p.col != col)
        block.runs[block.num_runs++] = start(p.row, p.col, i);
      row = p.row, col = p.col;
      ++block.runs[block.num_runs - 1].count;
    }
  }
  // From an entry to that of the next row of A, next column of A, next row of B and next row of E.
  struct Steps {
    int64_t row_a, col_a, row_b, row_e;
  };
  Steps steps() const {
    if (!s.is_skewed) return {0, 0, 0, 0};
    return {a->cols.count() * w.units, w.units, Z * w.units, Z * w.units};
  }

  // Hidden values, for one vector of units, of the points of a run: those of A are start + fv along_v + fu (along_u + fv
  // along_uv), so that its four corners stay in registers.
  template <bool HAS_E>
  struct Hidden {
    vec<T> start, along_u, along_v, along_uv;
    const T *b0, *b1, *e0, *e1;
    int64_t units;
    LANES_FN Hidden(const Pass& pass, const Steps& step, const Run& run, int64_t at) : units(pass.w.units) {
      const T* corner = pass.a->values.get() + run.offset_a + at;
      start = load(corner);
      along_u = load(corner + step.row_a) - start, along_v = load(corner + step.col_a) - start;
      along_uv = load(corner + step.row_a + step.col_a) - load(corner + step.row_a) - along_v;
      b0 = pass.b->values.get() + run.offset_b + at, b1 = b0 + step.row_b;
      if (HAS_E) e0 = pass.e->values.get() + run.offset_e + at, e1 = e0 + step.row_e;
    }
    LANES_FN vec<T> operator()(T fu, T fv, int64_t k) const {
      const vec<T> b = load(b0 + k * units), slope = along_u + along_uv * fv + (load(b1 + k * units) - b);
      vec<T> h = start + along_v * fv + b;
      if (HAS_E) {
        const vec<T> e = load(e0 + k * units);
        h += e + (load(e1 + k * units) - e) * fv;
      }
      return h + slope * fu;
    }
  };

  // ------------------------------------------------------------------------------------------------ forward
  // Density of up to MOST neighbours along z, from sums over hidden units, readable for a vector beyond them.
  void put(const vec<T>* sums, int count, T b2, T* out) const {
    T values[MOST + WIDTH<T>];
    for (int i = 0; i < count; i += WIDTH<T>) lanes::row_sums<T>(sums + i, values + i);
    for (int i = 0; i < count; ++i) out[i] = T(values[i] * T(LN2) + b2);
  }

  template <bool HAS_E>
  void forward_separable(int64_t x, T* out, T b2) const {
    constexpr int W = WIDTH<T>;
    const int64_t units = w.units;
    for (int64_t y = 0; y < Y; ++y)
      for (int64_t z0 = 0; z0 < Z; z0 += W) {
        const T *row_a = a->at(x, y, units), *rows_b = b->at(x, z0, units);
        const T* rows_e = HAS_E ? e->at(y, z0, units) : nullptr;
        const int count = int(std::min<int64_t>(W, Z - z0));
        vec<T> sums[W] = {};
        for (int i = 0; i < count; ++i)
          in_groups<T>(units / W, [&](int64_t group, auto together) LANES_LAMBDA {
            constexpr int N = decltype(together)::value;
            vec<T> p[N], value[N];
            for (int j = 0; j < N; ++j) {
              const int64_t v = (group + j) * W;
              p[j] = load(row_a + v) * load(rows_b + i * units + v);
              if (HAS_E) p[j] *= load(rows_e + i * units + v);
            }
            softplus_of_exp<T, N>(p, value);
            for (int j = 0; j < N; ++j) sums[i] += value[j] * load(w.second.get() + (group + j) * W);
          });
        put(sums, count, b2, out + (x * Y + y) * Z + z0);
      }
  }

  template <bool HAS_E>
  void forward_general(int64_t x, T* out, T b2) const {
    constexpr int W = WIDTH<T>;
    const Steps step = steps();
    Block block;
    for (int64_t y = 0; y < Y; ++y)
      for (const Span& z : spans) {
        vec<T> sums[MOST + W];
        for (int i = 0; i < z.count + W; ++i) sums[i] = vec<T>{};
        find_runs(x, y, z.first, z.count, block);
        for (int r = 0; r < block.num_runs; ++r) {
          const Run& run = block.runs[r];
          for (int64_t v = 0; v < w.units; v += W) {
            const Hidden<HAS_E> hidden(*this, step, run, v);
            const vec<T> w2 = load(w.second.get() + v);
            in_groups<T>(run.count, [&](int64_t k, auto together) LANES_LAMBDA {
              constexpr int N = decltype(together)::value;
              const int64_t i = run.first + k;
              vec<T> h[N];
              for (int j = 0; j < N; ++j) h[j] = hidden(block.fu[i + j], block.fv[i + j], k + j);
              softplus2<N>(h);
              for (int j = 0; j < N; ++j) sums[i + j] += h[j] * w2;
            });
          }
        }
        put(sums, z.count, b2, out + (x * Y + y) * Z + z.first);
      }
  }

  template <bool HAS_E>
  void forward_all(T* out, T b2) const {
#pragma omp parallel for num_threads(int(s.threads)) schedule(dynamic)
    for (int64_t x = 0; x < X; ++x)
      is_separable ? forward_separable<HAS_E>(x, out, b2) : forward_general<HAS_E>(x, out, b2);
  }

  // ----------------------------------------------------------------------------------------------- backward
  // Gradients to the tables without w2, and `log_sums` [H]: the gradient of w2 over ln 2.
  template <bool HAS_E>
  void backward_separable(int64_t x, const T* grad, T* grad_e, double* log_sums) const {
    constexpr int W = WIDTH<T>;
    const int64_t units = w.units;
    memset(b->grad.get() + x * Z * units, 0, size_t(Z * units) * sizeof(T));
    memset(a->grad.get() + x * Y * units, 0, size_t(Y * units) * sizeof(T));
    Buffer<T> logs(units);
    for (int64_t y = 0; y < Y; ++y) {
      logs.clear();
      for (const Span& z : spans) {
        const T *row_a = a->at(x, y, units), *rows_b = b->at(x, z.first, units);
        const T *rows_e = HAS_E ? e->at(y, z.first, units) : nullptr, *g = grad + (x * Y + y) * Z + z.first;
        T *to_a = a->grad.get() + (x * Y + y) * units, *to_b = b->grad.get() + (x * Z + z.first) * units;
        T* to_e = HAS_E ? grad_e + (y * Z + z.first) * units : nullptr;
        for (int64_t v = 0; v < units; v += W) {
          const vec<T> exp_a = load(row_a + v);
          vec<T> sum = load(to_a + v), log_sum = load(logs.get() + v);
          in_groups<T>(z.count, [&](int64_t i, auto together) LANES_LAMBDA {
            constexpr int N = decltype(together)::value;
            vec<T> p[N], value[N];
            for (int j = 0; j < N; ++j) {
              p[j] = exp_a * load(rows_b + (i + j) * units + v);
              if (HAS_E) p[j] *= load(rows_e + (i + j) * units + v);
            }
            softplus_of_exp<T, N>(p, value);
            for (int j = 0; j < N; ++j) {
              const vec<T> slope = slope_of_exp<T>(p[j]) * g[i + j];
              log_sum += value[j] * g[i + j];
              sum += slope;
              add_to(to_b + (i + j) * units + v, slope);
              if (HAS_E) add_to(to_e + (i + j) * units + v, slope);
            }
          });
          store(to_a + v, sum), store(logs.get() + v, log_sum);
        }
      }
      for (int64_t h = 0; h < units; ++h) log_sums[h] += logs[h];
    }
  }

  template <bool HAS_E>
  void backward_general(int64_t x, const T* grad, T* grad_a, T* grad_b, T* grad_e, double* log_sums) const {
    constexpr int W = WIDTH<T>;
    const int64_t units = w.units;
    const Steps step = steps();
    Buffer<T> logs(units);
    Block block;
    for (int64_t y = 0; y < Y; ++y) {
      logs.clear();
      for (const Span& z : spans) {
        const T* g = grad + (x * Y + y) * Z + z.first;
        find_runs(x, y, z.first, z.count, block);
        for (int r = 0; r < block.num_runs; ++r) {
          const Run& run = block.runs[r];
          for (int64_t v = 0; v < units; v += W) {
            const Hidden<HAS_E> hidden(*this, step, run, v);
            T *to_a = grad_a + run.offset_a + v, *to_b = grad_b + run.offset_b + v;
            T* to_e = HAS_E ? grad_e + run.offset_e + v : nullptr;
            vec<T> log_sum = load(logs.get() + v), all = {}, all_u = {}, all_v = {}, all_uv = {};
            in_groups<T>(run.count, [&](int64_t k, auto together) LANES_LAMBDA {
              constexpr int N = decltype(together)::value;
              const int64_t i = run.first + k;
              vec<T> h[N], slope[N];
              for (int j = 0; j < N; ++j) h[j] = hidden(block.fu[i + j], block.fv[i + j], k + j);
              softplus2<N>(h, slope);
              for (int j = 0; j < N; ++j) {
                const T fu = block.fu[i + j], fv = block.fv[i + j];
                log_sum += h[j] * g[i + j];
                slope[j] *= g[i + j];
                const vec<T> slope_u = slope[j] * fu;
                all += slope[j], all_u += slope_u, all_v += slope[j] * fv, all_uv += slope_u * fv;
                T* to = to_b + (k + j) * units;
                add_to(to, slope[j] - slope_u), add_to(to + step.row_b, slope_u);
                if (HAS_E) {
                  const vec<T> slope_v = slope[j] * fv;
                  to = to_e + (k + j) * units;
                  add_to(to, slope[j] - slope_v), add_to(to + step.row_e, slope_v);
                }
              }
            });
            store(logs.get() + v, log_sum);
            add_to(to_a, all - all_u - (all_v - all_uv)), add_to(to_a + step.row_a, all_u - all_uv);
            add_to(to_a + step.col_a, all_v - all_uv), add_to(to_a + step.row_a + step.col_a, all_uv);
          }
        }
      }
      for (int64_t h = 0; h < units; ++h) log_sums[h] += logs[h];
    }
  }
  LANES_FN static void add_to(T* to, vec<T> v) { store(to, vec<T>(load(to) + v)); }

  // Rows of A and B that slices [x_begin, x_end) of the grid touch, with one to spare for rounding.
  std::pair<int64_t, int64_t> touched_rows(int64_t x_begin, int64_t x_end) const {
    if (!s.is_skewed) return {x_begin, x_end};
    const auto row = [&](int64_t i, int64_t j, int64_t k) {
      const double index = field::skewed_index<double>(i, j, k, s.resolution).x;
      return field::split_address(field::grid_address(index, s.side, s.resolution)).texel - a->rows.first;
    };
    const int64_t first = row(x_begin + s.x0, s.y0, s.z0), last = row(x_end - 1 + s.x0, s.y1 - 1, s.z1 - 1);
    return {std::max<int64_t>(0, first - 1), std::min(a->rows.count(), last + 3)};
  }

  template <bool HAS_E>
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
          backward_separable<HAS_E>(x, grad, pe.get(), log_sum);
        else
          backward_general<HAS_E>(x, grad, pa.get() - low * row_a, pb.get() - low * row_b, pe.get(), log_sum);
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

}  // namespace grid_passes
