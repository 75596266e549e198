// Raw density on a regular grid, on a GPU. Definition: reference.py; the idea (tables of hidden values): cpu.cpp.
//
// Tables lie as [rows, H, cols], so that neighbouring threads (along z) read neighbouring entries. Every sum has a fixed
// order, except the gradient of the skewed grid's tables: several grid points share an entry there, runs of points are
// added up first and then added to the entry in any order (atomics).
// Letters: X, Y, Z grid sides, H hidden width, C channels, S plane side.

#include <initializer_list>

#include "../for_each.h"
#include "spec.h"

namespace {

using field::Address;

// Entries of a table along one axis: grid points begin, begin + 1, ..., or whole texels from `first` on.
struct Axis {
  int64_t first, count, begin, side, resolution;
  bool is_texels;
  FIELD_FN double address(int64_t a) const {
    return is_texels ? double(first + a) : field::grid_address(double(begin + a), side, resolution);
  }
  // Entries that may read texel t: [low, high).
  FIELD_FN void readers(int64_t t, int64_t* low, int64_t* high) const {
    if (is_texels) {
      *low = t - first, *high = t - first + 1;
    } else {
      const double scale = double(side) / double(resolution - 1);
      *low = int64_t(floor((double(t) - 0.5) / scale)) - begin;
      *high = int64_t(floor((double(t) + 1.5) / scale)) - begin + 2;
    }
    *low = *low > 0 ? *low : 0, *high = *high < count ? *high : count;
  }
};

Axis grid_axis(int64_t begin, int64_t end, const GridSpec& s) { return {0, end - begin, begin, s.side, s.resolution, false}; }
Axis texel_axis(double low, double high, const GridSpec& s) {  // one to spare at each end, for rounding
  const int64_t first = field::split_address(field::grid_address(low, s.side, s.resolution)).texel - 1;
  const int64_t last = field::split_address(field::grid_address(high, s.side, s.resolution)).texel + 3;
  return {first, last - first, 0, s.side, s.resolution, true};
}

template <class T>
struct Table {
  Axis rows, cols;
  int plane[2];            // planes that are added up; -1: none
  bool rows_are_width[2];  // how each lies
  bool has_bias;
  int64_t channels, hidden;
  T *features, *values, *grad;  // [rows, cols, C]; [rows, H, cols] twice
  int64_t entries() const { return rows.count * cols.count; }
};

template <class T>
struct MakeFeatures {
  GridSpec s;
  Table<T> t;
  const T* planes;
  FIELD_FN T texel(int part, int64_t c, int64_t r, int64_t q) const {
    if (r < 0 || q < 0 || r >= s.side || q >= s.side) return T(0);
    const int64_t h = t.rows_are_width[part] ? q : r, w = t.rows_are_width[part] ? r : q;
    return planes[t.plane[part] * s.stride_p + c * s.stride_c + h * s.stride_h + w * s.stride_w];
  }
  FIELD_FN void operator()(int64_t i) const {
    const int64_t c = i % t.channels, b = i / t.channels % t.cols.count, a = i / t.channels / t.cols.count;
    const Address r = field::split_address(t.rows.address(a)), q = field::split_address(t.cols.address(b));
    const T fr = T(r.share), fq = T(q.share);
    T sum = 0;
    for (int part = 0; part < 2; ++part) {
      if (t.plane[part] < 0) continue;
      sum += (1 - fr) * ((1 - fq) * texel(part, c, r.texel, q.texel) + fq * texel(part, c, r.texel, q.texel + 1));
      if (fr > 0)
        sum += fr * ((1 - fq) * texel(part, c, r.texel + 1, q.texel) + fq * texel(part, c, r.texel + 1, q.texel + 1));
    }
    t.features[i] = sum * T(1.0 / 3);
  }
};

template <class T>
struct MakeValues {
  Table<T> t;
  const T *w1, *b1;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t b = i % t.cols.count, h = i / t.cols.count % t.hidden, a = i / t.cols.count / t.hidden;
    const T* f = t.features + (a * t.cols.count + b) * t.channels;
    T sum = t.has_bias ? b1[h] : T(0);
    for (int64_t c = 0; c < t.channels; ++c) sum += f[c] * w1[h * t.channels + c];
    t.values[i] = sum;
  }
};

// Where grid point (x, y, z) of the part reads the tables: rows u and u + 1 of A and B, columns v and v + 1 of A (rows of E).
struct Place {
  int64_t u, v;
  double fu, fv;
};
template <class T>
struct Grid {
  GridSpec s;
  Table<T> a, b, e;
  int64_t X, Y, Z;
  FIELD_FN Place place(int64_t x, int64_t y, int64_t z) const {
    if (!s.is_skewed) return {x, y, 0, 0};
    const int64_t i = x + s.x0, j = y + s.y0, k = z + s.z0;
    const field::SkewedIndex index = field::skewed_index<T>(i, j, k, s.resolution);
    const Address u = field::split_address(field::grid_address(index.x, s.side, s.resolution));
    const Address v = field::split_address(field::grid_address(index.y, s.side, s.resolution));
    return {u.texel - a.rows.first, v.texel - a.cols.first, u.share, v.share};
  }
  FIELD_FN T at_a(int64_t u, int64_t v, int64_t h) const { return a.values[(u * a.hidden + h) * a.cols.count + v]; }
  FIELD_FN T at_b(int64_t u, int64_t z, int64_t h) const { return b.values[(u * a.hidden + h) * Z + z]; }
  FIELD_FN T at_e(int64_t v, int64_t z, int64_t h) const { return e.values[(v * a.hidden + h) * Z + z]; }
  FIELD_FN T hidden(const Place& p, int64_t z, int64_t h) const {
    if (!s.is_skewed) return at_a(p.u, p.v, h) + at_b(p.u, z, h) + (s.is_corrected ? at_e(p.v, z, h) : T(0));
    const T fu = T(p.fu), fv = T(p.fv);
    T x = (1 - fu) * ((1 - fv) * at_a(p.u, p.v, h) + fv * at_a(p.u, p.v + 1, h) + at_b(p.u, z, h));
    x += fu * ((1 - fv) * at_a(p.u + 1, p.v, h) + fv * at_a(p.u + 1, p.v + 1, h) + at_b(p.u + 1, z, h));
    return s.is_corrected ? x + (1 - fv) * at_e(p.v, z, h) + fv * at_e(p.v + 1, z, h) : x;
  }
};

template <class T>
struct Evaluate {
  Grid<T> g;
  const T *w2, *b2;
  T* out;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t z = i % g.Z, y = i / g.Z % g.Y, x = i / g.Z / g.Y;
    const Place p = g.place(x, y, z);
    T sum = b2[0];
    for (int64_t h = 0; h < g.a.hidden; ++h) sum += w2[h] * field::softplus(g.hidden(p, z, h));
    out[i] = sum;
  }
};

// Gradient of A (without w2) and of w2, one thread for (x, h, y): a sum along z.
template <class T>
struct AlongZ {
  Grid<T> g;
  const T* grad;
  T* log_sums;  // [X, H, Y]
  FIELD_FN void flush(const Place& p, int64_t h, const T* sums) const {
    for (int k = 0; k < (g.s.is_skewed ? 4 : 1); ++k) {
      T* to = g.a.grad + ((p.u + (k >> 1)) * g.a.hidden + h) * g.a.cols.count + p.v + (k & 1);
      if (g.s.is_skewed)
        add_in_any_order(to, sums[k]);
      else
        *to = sums[k];
    }
  }
  FIELD_FN void operator()(int64_t i) const {
    const int64_t y = i % g.Y, h = i / g.Y % g.a.hidden, x = i / g.Y / g.a.hidden;
    Place run = g.place(x, y, 0);
    T sums[4] = {0, 0, 0, 0}, log_sum = 0;
    for (int64_t z = 0; z < g.Z; ++z) {
      const Place p = g.place(x, y, z);
      if (p.u != run.u || p.v != run.v) {
        flush(run, h, sums);
        sums[0] = sums[1] = sums[2] = sums[3] = 0;
        run = p;
      }
      const T up = grad[(x * g.Y + y) * g.Z + z], value = g.hidden(p, z, h);
      const T slope = up * field::softplus_slope(value), fu = T(p.fu), fv = T(p.fv);
      sums[0] += slope * (1 - fu) * (1 - fv), sums[1] += slope * (1 - fu) * fv;
      sums[2] += slope * fu * (1 - fv), sums[3] += slope * fu * fv;
      log_sum += up * field::softplus(value);
    }
    flush(run, h, sums);
    log_sums[i] = log_sum;
  }
};

// Gradient of B, one thread for (x, h, z): a sum along y.
template <class T>
struct AlongY {
  Grid<T> g;
  const T* grad;
  FIELD_FN void flush(int64_t u, int64_t h, int64_t z, const T* sums) const {
    for (int k = 0; k < (g.s.is_skewed ? 2 : 1); ++k) {
      T* to = g.b.grad + ((u + k) * g.a.hidden + h) * g.Z + z;
      if (g.s.is_skewed)
        add_in_any_order(to, sums[k]);
      else
        *to = sums[k];
    }
  }
  FIELD_FN void operator()(int64_t i) const {
    const int64_t z = i % g.Z, h = i / g.Z % g.a.hidden, x = i / g.Z / g.a.hidden;
    int64_t run = g.place(x, 0, z).u;
    T sums[2] = {0, 0};
    for (int64_t y = 0; y < g.Y; ++y) {
      const Place p = g.place(x, y, z);
      if (p.u != run) {
        flush(run, h, z, sums);
        sums[0] = sums[1] = 0;
        run = p.u;
      }
      const T slope = grad[(x * g.Y + y) * g.Z + z] * field::softplus_slope(g.hidden(p, z, h));
      sums[0] += slope * T(1 - p.fu), sums[1] += slope * T(p.fu);
    }
    flush(run, h, z, sums);
  }
};

// Gradient of E, one thread for (y, h, z): a sum along x; rows do not depend on x.
template <class T>
struct AlongX {
  Grid<T> g;
  const T* grad;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t z = i % g.Z, h = i / g.Z % g.a.hidden, y = i / g.Z / g.a.hidden;
    T sum = 0;
    for (int64_t x = 0; x < g.X; ++x)
      sum += grad[(x * g.Y + y) * g.Z + z] * field::softplus_slope(g.hidden(g.place(x, y, z), z, h));
    const Place p = g.place(0, y, z);
    T* to = g.e.grad + (p.v * g.a.hidden + h) * g.Z + z;
    if (!g.s.is_skewed) {
      *to = sum;
      return;
    }
    add_in_any_order(to, sum * T(1 - p.fv));
    add_in_any_order(to + g.a.hidden * g.Z, sum * T(p.fv));
  }
};

// Gradient of w1, part by part: one thread for (row, h, c), c = C for the bias; then rows are added up.
template <class T>
struct WeightRows {
  Table<T> t;
  T* sums;  // [rows, H, C + 1]
  FIELD_FN void operator()(int64_t i) const {
    const int64_t c = i % (t.channels + 1), h = i / (t.channels + 1) % t.hidden, a = i / (t.channels + 1) / t.hidden;
    T sum = 0;
    for (int64_t b = 0; b < t.cols.count; ++b) {
      const T g = t.grad[(a * t.hidden + h) * t.cols.count + b];
      sum += c == t.channels ? g : g * t.features[(a * t.cols.count + b) * t.channels + c];
    }
    sums[i] = sum;
  }
};
template <class T>
struct AddWeightRows {
  Table<T> t;
  const T *sums, *w2;
  T *d_w1, *d_b1;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t c = i % (t.channels + 1), h = i / (t.channels + 1);
    double sum = 0;
    for (int64_t a = 0; a < t.rows.count; ++a) sum += sums[a * t.hidden * (t.channels + 1) + i];
    if (c < t.channels)
      d_w1[h * t.channels + c] += T(sum * w2[h]);
    else if (t.has_bias)
      d_b1[h] += T(sum * w2[h]);
  }
};
template <class T>
struct AddLogs {
  const T* log_sums;
  int64_t X, Y, hidden;
  T* d_w2;
  FIELD_FN void operator()(int64_t h) const {
    double sum = 0;
    for (int64_t x = 0; x < X; ++x)
      for (int64_t y = 0; y < Y; ++y) sum += log_sums[(x * hidden + h) * Y + y];
    d_w2[h] += T(sum);
  }
};

// Gradient of table features, in the place of the features.
template <class T>
struct FeatureGradient {
  Table<T> t;
  const T *w1, *w2;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t c = i % t.channels, b = i / t.channels % t.cols.count, a = i / t.channels / t.cols.count;
    T sum = 0;
    for (int64_t h = 0; h < t.hidden; ++h)
      sum += t.grad[(a * t.hidden + h) * t.cols.count + b] * w2[h] * w1[h * t.channels + c];
    t.features[i] = sum;
  }
};

// Gradient of one plane, one thread a texel and channel: the entries that read it, found by their addresses.
template <class T>
struct PlaneGradient {
  GridSpec s;
  Table<T> t;
  int part;
  T* d_planes;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t w = i % s.side, h = i / s.side % s.side, c = i / s.side / s.side;
    const int64_t r = t.rows_are_width[part] ? w : h, q = t.rows_are_width[part] ? h : w;
    int64_t a0, a1, b0, b1;
    t.rows.readers(r, &a0, &a1), t.cols.readers(q, &b0, &b1);
    T sum = 0;
    for (int64_t a = a0; a < a1; ++a) {
      const double share_a = 1 - fabs(t.rows.address(a) - double(r));
      if (share_a <= 0) continue;
      for (int64_t b = b0; b < b1; ++b) {
        const double share_b = 1 - fabs(t.cols.address(b) - double(q));
        if (share_b > 0) sum += T(share_a * share_b) * t.features[(a * t.cols.count + b) * t.channels + c];
      }
    }
    d_planes[t.plane[part] * s.stride_p + c * s.stride_c + h * s.stride_h + w * s.stride_w] = sum * T(1.0 / 3);
  }
};

template <class T>
struct Clear {
  T* data;
  FIELD_FN void operator()(int64_t i) const { data[i] = 0; }
};

// The tables over a workspace of the caller; `used` counts its elements (with a null workspace: how many are needed).
template <class T>
struct Plan {
  Grid<T> g;
  T *sums, *log_sums;
  int64_t used = 0;

  Plan(const GridSpec& s, T* workspace, bool has_gradients) {
    g.s = s, g.X = s.x1 - s.x0, g.Y = s.y1 - s.y0, g.Z = s.z1 - s.z0;
    const Axis z = grid_axis(s.z0, s.z1, s);
    Axis x = grid_axis(s.x0, s.x1, s), y = grid_axis(s.y0, s.y1, s);
    if (s.is_skewed) {
      const field::SkewedIndex low = field::skewed_index<double>(s.x0, s.y0, s.z0, s.resolution);
      const field::SkewedIndex high = field::skewed_index<double>(s.x1 - 1, s.y1 - 1, s.z1 - 1, s.resolution);
      x = texel_axis(low.x, high.x, s), y = texel_axis(low.y, high.y, s);
    }
    g.a = {x, y, {0, -1}, {true, true}, true, s.channels, s.hidden, nullptr, nullptr, nullptr};
    g.b = {x, z, {1, s.is_corrected ? -1 : 2}, {true, false}, false, s.channels, s.hidden, nullptr, nullptr, nullptr};
    g.e = {y, z, {2, -1}, {false, false}, false, s.channels, s.hidden, nullptr, nullptr, nullptr};
    int64_t most_rows = 0;
    for (Table<T>* t : {&g.a, &g.b, &g.e}) {
      if (t == &g.e && !s.is_corrected) continue;
      t->features = take(workspace, t->entries() * s.channels);
      t->values = take(workspace, t->entries() * s.hidden);
      if (has_gradients) t->grad = take(workspace, t->entries() * s.hidden);
      most_rows = t->rows.count > most_rows ? t->rows.count : most_rows;
    }
    sums = has_gradients ? take(workspace, most_rows * s.hidden * (s.channels + 1)) : nullptr;
    log_sums = has_gradients ? take(workspace, g.X * s.hidden * g.Y) : nullptr;
  }
  T* take(T* workspace, int64_t count) {
    T* at = workspace ? workspace + used : nullptr;
    used += count;
    return at;
  }
  int num_tables() const { return g.s.is_corrected ? 3 : 2; }
  Table<T> table(int i) const { return i == 0 ? g.a : i == 1 ? g.b : g.e; }

  void build(const T* planes, const T* w1, const T* b1, Stream stream) const {
    for (int i = 0; i < num_tables(); ++i) {
      const Table<T> t = table(i);
      for_each(t.entries() * t.channels, stream, MakeFeatures<T>{g.s, t, planes});
      for_each(t.entries() * t.hidden, stream, MakeValues<T>{t, w1, b1});
    }
  }
};

template <class T>
int64_t forward(const GridSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, T* out,
                T* workspace, Stream stream) {
  const Plan<T> plan(s, workspace, false);
  const int64_t points = plan.g.X * plan.g.Y * plan.g.Z;
  for (int64_t n = 0; n < s.batch; ++n) {
    plan.build(planes + n * s.stride_n, w1, b1, stream);
    for_each(points, stream, Evaluate<T>{plan.g, w2, b2, out + n * points});
  }
  return launch_error();
}

// d_w1, d_b1, d_w2: cleared here.
template <class T>
int64_t backward(const GridSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* grad, T* d_planes,
                 T* d_w1, T* d_b1, T* d_w2, T* workspace, Stream stream) {
  const Plan<T> plan(s, workspace, true);
  const Grid<T>& g = plan.g;
  for_each(s.hidden * s.channels, stream, Clear<T>{d_w1});
  for_each(s.hidden, stream, Clear<T>{d_b1});
  for_each(s.hidden, stream, Clear<T>{d_w2});
  for (int64_t n = 0; n < s.batch; ++n) {
    plan.build(planes + n * s.stride_n, w1, b1, stream);
    const T* up = grad + n * g.X * g.Y * g.Z;
    for (int i = 0; s.is_skewed && i < plan.num_tables(); ++i)
      for_each(plan.table(i).entries() * s.hidden, stream, Clear<T>{plan.table(i).grad});
    for_each(g.X * s.hidden * g.Y, stream, AlongZ<T>{g, up, plan.log_sums});
    for_each(g.X * s.hidden * g.Z, stream, AlongY<T>{g, up});
    if (s.is_corrected) for_each(g.Y * s.hidden * g.Z, stream, AlongX<T>{g, up});
    for_each(s.hidden, stream, AddLogs<T>{plan.log_sums, g.X, g.Y, s.hidden, d_w2});
    for (int i = 0; i < plan.num_tables(); ++i) {
      const Table<T> t = plan.table(i);
      for_each(t.rows.count * s.hidden * (s.channels + 1), stream, WeightRows<T>{t, plan.sums});
      for_each(s.hidden * (s.channels + 1), stream, AddWeightRows<T>{t, plan.sums, w2, d_w1, d_b1});
      for_each(t.entries() * s.channels, stream, FeatureGradient<T>{t, w1, w2});
      for (int part = 0; part < 2; ++part)
        if (t.plane[part] >= 0)
          for_each(s.channels * s.side * s.side, stream, PlaneGradient<T>{s, t, part, d_planes + n * s.stride_n});
    }
  }
  return launch_error();
}

}  // namespace

// All return 0, or the code of a CUDA error. workspace: as many elements as the function of that name says.
#define DENSITY_GRID(T, suffix)                                                                                        \
  extern "C" int64_t density_grid_workspace_##suffix(const GridSpec* s, int64_t has_gradients) {                       \
    return Plan<T>(*s, nullptr, has_gradients != 0).used;                                                              \
  }                                                                                                                    \
  extern "C" int64_t density_grid_forward_##suffix(const GridSpec* s, const T* planes, const T* w1, const T* b1,       \
                                                   const T* w2, const T* b2, T* out, T* workspace, void* stream) {     \
    return forward<T>(*s, planes, w1, b1, w2, b2, out, workspace, Stream(stream));                                     \
  }                                                                                                                    \
  extern "C" int64_t density_grid_backward_##suffix(const GridSpec* s, const T* planes, const T* w1, const T* b1,      \
                                                    const T* w2, const T* grad, T* d_planes, T* d_w1, T* d_b1,         \
                                                    T* d_w2, T* workspace, void* stream) {                             \
    return backward<T>(*s, planes, w1, b1, w2, grad, d_planes, d_w1, d_b1, d_w2, workspace, Stream(stream));           \
  }
DENSITY_GRID(float, f32)
DENSITY_GRID(double, f64)
