// Rays through a tri-plane field, on a GPU. Definition: reference.py; steps as in cpu.cpp, one kernel a step, a piece of the
// rays at a time. Sums along a ray have a fixed order; gradients of planes are summed in any order.
// Letters: N batch, R rays (of a piece), S coarse and F fine samples, n = S + F, K features.

#include "../samples_gpu.h"
#include "spec.h"

namespace {

using namespace gpu;

constexpr int64_t RUN = 8;  // samples whose colours one thread adds up

Layout layout_of(const RaySpec& s) {
  return {s.channels, s.hidden, s.features, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w, s.is_corrected,
          s.box_warp};
}

template <class T>
struct Rays {
  const T *origins, *directions, *near, *far, *jitter, *importance;  // of the whole batch
  FIELD_FN void point(int64_t ray, T t, T* p) const {
    for (int axis = 0; axis < 3; ++axis) p[axis] = origins[ray * 3 + axis] + t * directions[ray * 3 + axis];
  }
};

// What is kept for a piece of the rays, [R, n] each; sums over runs of samples [R, runs, M].
template <class T, int M>
struct Held {
  T *t, *sigma_raw, *weight, *cdf, *share, *dot, *d_sigma_raw, *partial;
  int64_t n, runs, rays;  // samples a ray, runs a ray, rays of a piece
  Held(Workspace<T>& space, const RaySpec& s) : n(s.coarse + s.fine) {
    runs = (n + RUN - 1) / RUN;
    rays = PIECE / n > 1 ? PIECE / n : 1;
    for (T** part : {&t, &sigma_raw, &weight, &cdf, &share, &dot, &d_sigma_raw}) *part = space.take(rays * (n + 1));
    partial = space.take(rays * runs * M);
  }
};

template <class T, int M>
struct Coarse {
  RaySpec s;
  Field<T, M> f;
  Rays<T> rays;
  Held<T, M> held;
  int64_t first;  // ray of the batch at the start of the piece
  FIELD_FN void operator()(int64_t i) const {
    const int64_t r = i / s.coarse, k = i % s.coarse, ray = first + r;
    const T t = field::stratified(rays.near[ray], rays.far[ray], k, s.coarse,
                                  rays.jitter ? rays.jitter[ray * s.coarse + k] : T(0.5), s.is_disparity != 0);
    T point[3], features[M];
    rays.point(ray, t, point);
    f.look_up(f.place(point), features);
    held.t[r * held.n + k] = t;
    held.sigma_raw[r * held.n + k] = f.density(features);
  }
};

// Weights of the n - 1 intervals of sorted samples; returns nothing but fills `weight`.
template <class T>
FIELD_FN void weigh(const T* t, const T* sigma_raw, int64_t n, T* weight) {
  T light = 1;
  for (int64_t k = 0; k < n - 1; ++k) {
    const field::Interval<T> here = field::interval(sigma_raw[k], sigma_raw[k + 1], t[k + 1] - t[k]);
    weight[k] = here.alpha * light;
    light *= T(1) - here.alpha + T(1e-10);
  }
}

template <class T, int M>
struct Importance {
  RaySpec s;
  Rays<T> rays;
  Held<T, M> held;
  int64_t first;
  FIELD_FN void operator()(int64_t r) const {
    T *t = held.t + r * held.n, *weight = held.weight + r * held.n, *cdf = held.cdf + r * held.n;
    weigh(t, held.sigma_raw + r * held.n, s.coarse, weight);
    const int64_t count = field::cumulative(weight, s.coarse, cdf);
    for (int64_t k = 0; k < s.fine; ++k) {
      const T u = rays.importance ? rays.importance[(first + r) * s.fine + k] : (T(k) + T(0.5)) / T(s.fine);
      t[s.coarse + k] = field::inverse_cumulative(cdf, count, t, u, s.is_centred != 0);
    }
  }
};

template <class T, int M>
struct Fine {
  RaySpec s;
  Field<T, M> f;
  Rays<T> rays;
  Held<T, M> held;
  int64_t first;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t r = i / s.fine, k = s.coarse + i % s.fine;
    T point[3], features[M];
    rays.point(first + r, held.t[r * held.n + k], point);
    f.look_up(f.place(point), features);
    held.sigma_raw[r * held.n + k] = f.density(features);
  }
};

template <class T>
FIELD_FN void shares_of(const T* weight, int64_t n, T* share) {
  for (int64_t k = 0; k < n; ++k)
    share[k] = T(0.5) * ((k > 0 ? weight[k - 1] : T(0)) + (k < n - 1 ? weight[k] : T(0)));
}

// Sorts the samples of a ray by distance (by insertion: both passes come nearly sorted) and adds up what needs no colour.
template <class T, int M>
struct Sort {
  RaySpec s;
  Held<T, M> held;
  int64_t first;
  T *total, *depth_sum, *spread, *kept_t;
  FIELD_FN void operator()(int64_t r) const {
    const int64_t n = held.n, ray = first + r;
    T *t = held.t + r * n, *sigma_raw = held.sigma_raw + r * n, *weight = held.weight + r * n;
    for (int64_t k = s.coarse; k < n; ++k) {
      const T tk = t[k], sk = sigma_raw[k];
      int64_t j = k;
      for (; j > 0 && t[j - 1] > tk; --j) t[j] = t[j - 1], sigma_raw[j] = sigma_raw[j - 1];
      t[j] = tk, sigma_raw[j] = sk;
    }
    weigh(t, sigma_raw, n, weight);
    shares_of(weight, n, held.share + r * n);
    T sum = 0, depth = 0, away = 0;
    for (int64_t k = 0; k < n - 1; ++k) sum += weight[k], depth += weight[k] * T(0.5) * (t[k] + t[k + 1]);
    const T mean = depth / (sum > T(1e-8) ? sum : T(1e-8));
    for (int64_t k = 0; k < n - 1; ++k) {
      const T middle = T(0.5) * (t[k] + t[k + 1]) - mean;
      away += weight[k] * middle * middle;
    }
    total[ray] = sum, depth_sum[ray] = depth, spread[ray] = away;
    for (int64_t k = 0; k < n; ++k) kept_t[ray * n + k] = t[k];
  }
};

template <class T, int M>
struct Colours {  // of one run of samples
  Field<T, M> f;
  Rays<T> rays;
  Held<T, M> held;
  int64_t first;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t r = i / held.runs, begin = i % held.runs * RUN, end = begin + RUN < held.n ? begin + RUN : held.n;
    T sum[M], point[3], features[M], sigmoids[M];
    for (int k = 0; k < M; ++k) sum[k] = 0;
    for (int64_t j = begin; j < end; ++j) {
      const T share = held.share[r * held.n + j];
      if (share == 0) continue;
      rays.point(first + r, held.t[r * held.n + j], point);
      f.look_up(f.place(point), features);
      f.decode(features, sigmoids);
      for (int k = 0; k < M; ++k) sum[k] += share * (sigmoids[k] * T(1.002) - T(0.001));
    }
    for (int k = 0; k < M; ++k) held.partial[i * M + k] = sum[k];
  }
};
template <class T, int M>
struct AddRuns {
  Held<T, M> held;
  int64_t first, features;
  T* rgb;  // [N, R, K]
  FIELD_FN void operator()(int64_t i) const {
    const int64_t r = i / features, k = i % features;
    T sum = 0;
    for (int64_t run = 0; run < held.runs; ++run) sum += held.partial[(r * held.runs + run) * M + k];
    rgb[(first + r) * features + k] = sum;
  }
};

// ------------------------------------------------------------------------------------------------- backward
template <class T>
struct Upstream {
  const T *kept_t, *rgb, *total, *depth, *spread;  // [N, R, n], [N, R, K], [N, R] three times
};

template <class T, int M>
struct Again {  // density of a kept sample, and its colour times the upstream gradient
  Field<T, M> f;
  Rays<T> rays;
  Held<T, M> held;
  Upstream<T> up;
  int64_t first;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t ray = first + i / held.n;
    T point[3], features[M], sigmoids[M], dot = 0;
    rays.point(ray, up.kept_t[first * held.n + i], point);
    f.look_up(f.place(point), features);
    held.sigma_raw[i] = f.decode(features, sigmoids);
    for (int64_t k = 0; k < f.l.features; ++k)
      dot += up.rgb[ray * f.l.features + k] * (sigmoids[k] * T(1.002) - T(0.001));
    held.dot[i] = dot;
  }
};
template <class T, int M>
struct MarchBack {  // gradients of the densities of one ray
  Held<T, M> held;
  Upstream<T> up;
  int64_t first;
  FIELD_FN void operator()(int64_t r) const {
    const int64_t n = held.n, ray = first + r;
    const T *t = up.kept_t + ray * n, *sigma_raw = held.sigma_raw + r * n, *dot = held.dot + r * n;
    T *weight = held.weight + r * n, *light = held.cdf + r * n, *d_sigma_raw = held.d_sigma_raw + r * n;
    weigh(t, sigma_raw, n, weight);
    shares_of(weight, n, held.share + r * n);
    T total = 0, depth = 0, before = 1;
    for (int64_t k = 0; k < n - 1; ++k) {
      total += weight[k], depth += weight[k] * T(0.5) * (t[k] + t[k + 1]);
      light[k] = before;
      before *= T(1) - field::interval(sigma_raw[k], sigma_raw[k + 1], t[k + 1] - t[k]).alpha + T(1e-10);
    }
    const T limited = total > T(1e-8) ? total : T(1e-8), mean = depth / limited;
    const T pull = total < T(1e-8) ? T(-2) * (depth - mean * total) / limited : T(0);
    for (int64_t k = 0; k < n; ++k) d_sigma_raw[k] = 0;
    T g_light = 0;
    for (int64_t k = n - 2; k >= 0; --k) {
      const T step = t[k + 1] - t[k], middle = T(0.5) * (t[k] + t[k + 1]), away = middle - mean;
      const field::Interval<T> here = field::interval(sigma_raw[k], sigma_raw[k + 1], step);
      const T g = T(0.5) * (dot[k] + dot[k + 1]) + up.total[ray] + up.depth[ray] * middle +
                  up.spread[ray] * (away * away + pull * middle);
      const T g_alpha = (g - g_light) * light[k];
      g_light = g * here.alpha + g_light * (T(1) - here.alpha + T(1e-10));
      const T slope = field::softplus_slope(T(0.5) * (sigma_raw[k] + sigma_raw[k + 1]) - T(1));
      const T g_sigma_raw = T(0.5) * g_alpha * here.passed * step * slope;
      d_sigma_raw[k] += g_sigma_raw, d_sigma_raw[k + 1] += g_sigma_raw;
    }
  }
};
template <class T, int M>
struct SampleBack {
  Field<T, M> f;
  Piece<T, M> piece;
  Rays<T> rays;
  Held<T, M> held;
  Upstream<T> up;
  int64_t first;
  T* d_tables;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t ray = first + i / held.n;
    T point[3], d_colour[M];
    rays.point(ray, up.kept_t[first * held.n + i], point);
    for (int k = 0; k < M; ++k)
      d_colour[k] = k < f.l.features ? held.share[i] * up.rgb[ray * f.l.features + k] : T(0);
    piece.backward(f, point, i, held.d_sigma_raw[i], d_colour, d_tables);
  }
};

template <class T, int M>
int64_t forward(const RaySpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, const Rays<T>& rays,
                T* rgb, T* total, T* depth_sum, T* spread, T* kept_t, T* memory, Stream stream) {
  Workspace<T> space{memory};
  const Context<T, M> context(space, layout_of(s), false);
  const Held<T, M> held(space, s);
  context.pad(w1, b1, w2, b2, stream);
  for (int64_t item = 0; item < s.batch; ++item) {
    const Field<T, M> f = context.field(planes + item * s.stride_n, stream);
    for (int64_t begin = 0; begin < s.rays; begin += held.rays) {
      const int64_t count = s.rays - begin < held.rays ? s.rays - begin : held.rays, first = item * s.rays + begin;
      for_each(count * s.coarse, stream, Coarse<T, M>{s, f, rays, held, first});
      if (s.fine > 0) {
        for_each(count, stream, Importance<T, M>{s, rays, held, first});
        for_each(count * s.fine, stream, Fine<T, M>{s, f, rays, held, first});
      }
      for_each(count, stream, Sort<T, M>{s, held, first, total, depth_sum, spread, kept_t});
      for_each(count * held.runs, stream, Colours<T, M>{f, rays, held, first});
      for_each(count * s.features, stream, AddRuns<T, M>{held, first, s.features, rgb});
    }
  }
  return launch_error();
}

template <class T, int M>
int64_t backward(const RaySpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2,
                 const Rays<T>& rays, const Upstream<T>& up, T* d_planes, double* d_weights, T* memory, Stream stream) {
  Workspace<T> space{memory};
  const Context<T, M> context(space, layout_of(s), true);
  const Held<T, M> held(space, s);
  context.pad(w1, b1, w2, b2, stream);
  for (int64_t item = 0; item < s.batch; ++item) {
    const Field<T, M> f = context.field(planes + item * s.stride_n, stream);
    for_each(context.table_size(), stream, Clear<T>{context.d_tables});
    for (int64_t begin = 0; begin < s.rays; begin += held.rays) {
      const int64_t count = s.rays - begin < held.rays ? s.rays - begin : held.rays, first = item * s.rays + begin;
      for_each(count * held.n, stream, Again<T, M>{f, rays, held, up, first});
      for_each(count, stream, MarchBack<T, M>{held, up, first});
      for_each(count * held.n, stream, SampleBack<T, M>{f, context.piece, rays, held, up, first, context.d_tables});
      context.add_weights(count * held.n, d_weights, stream);
    }
    context.unmerge(d_planes + item * s.stride_n, stream);
  }
  return launch_error();
}

template <class T, int M>
int64_t workspace(const RaySpec& s, bool has_gradients) {
  Workspace<T> space{nullptr};
  const Context<T, M> context(space, layout_of(s), has_gradients);
  const Held<T, M> held(space, s);
  return space.used;
}
int64_t room(const RaySpec& s) { return s.channels > s.features ? s.channels : s.features; }

}  // namespace

// All return 0, or the code of a CUDA error, or -1 for more than 64 channels or features.
#define INPUTS(T)                                                                                          \
  const RaySpec *s, const T *planes, const T *w1, const T *b1, const T *w2, const T *b2, const T *origins, \
      const T *directions, const T *near, const T *far, const T *jitter, const T *importance
#define RENDER_RAYS(T, suffix)                                                                                         \
  extern "C" int64_t render_rays_workspace_##suffix(const RaySpec* s, int64_t has_gradients) {                         \
    return with_room(room(*s), [&](auto m) { return workspace<T, decltype(m)::value>(*s, has_gradients != 0); });      \
  }                                                                                                                    \
  extern "C" int64_t render_rays_forward_##suffix(INPUTS(T), T* rgb, T* total, T* depth_sum, T* spread, T* kept_t,     \
                                                  T* memory, void* stream) {                                           \
    const Rays<T> rays{origins, directions, near, far, jitter, importance};                                            \
    return with_room(room(*s), [&](auto m) {                                                                           \
      return forward<T, decltype(m)::value>(*s, planes, w1, b1, w2, b2, rays, rgb, total, depth_sum, spread, kept_t,   \
                                            memory, Stream(stream));                                                   \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int64_t render_rays_backward_##suffix(INPUTS(T), const T* kept_t, const T* g_rgb, const T* g_total,       \
                                                   const T* g_depth, const T* g_spread, T* d_planes,                   \
                                                   double* d_weights, T* memory, void* stream) {                       \
    const Rays<T> rays{origins, directions, near, far, jitter, importance};                                            \
    const Upstream<T> up{kept_t, g_rgb, g_total, g_depth, g_spread};                                                   \
    return with_room(room(*s), [&](auto m) {                                                                           \
      return backward<T, decltype(m)::value>(*s, planes, w1, b1, w2, b2, rays, up, d_planes, d_weights, memory,        \
                                             Stream(stream));                                                          \
    });                                                                                                                \
  }
RENDER_RAYS(float, f32)
RENDER_RAYS(double, f64)
