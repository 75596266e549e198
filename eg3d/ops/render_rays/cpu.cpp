// Rays through a tri-plane field, on a CPU: sampling, decoding and compositing of one ray at a time.
// Definition: reference.py. The backward pass evaluates the samples again at the kept distances and stores nothing else.
//
// Shape letters: N batch, R rays, S coarse and F fine samples, n = S + F, K features.

#include <omp.h>

#include "../samples.h"
#include "spec.h"

namespace {

using namespace samples;

constexpr int64_t TILE = 64;     // rays of one task
constexpr int64_t MAX_SUMS = 8;  // private gradient tables at most, and so threads of a backward pass

// Rays of task `tile`: squares of 8 x 8 pixels where the rays are a square image, else neighbours in the list.
int64_t ray_of(int64_t tile, int64_t i, int64_t rays, int64_t side) {
  if (side == 0) return std::min(tile * TILE + i, rays);
  const int64_t across = side / 8, row = tile / across * 8 + i / 8, col = tile % across * 8 + i % 8;
  return row * side + col;
}
int64_t square_side(int64_t rays) {
  const int64_t side = int64_t(std::llround(std::sqrt(double(rays))));
  return side * side == rays && side % 8 == 0 ? side : 0;
}

// Light along one ray from sorted distances and raw densities.
template <class T>
struct March {
  Buffer<T> alpha, passed, slope, weight, share, light;  // of intervals; share of samples; light before an interval
  T total, depth_sum, spread;
  explicit March(int64_t n)
      : alpha(n + WIDTH<T>), passed(n + WIDTH<T>), slope(n + WIDTH<T>), weight(n + WIDTH<T>), share(n + WIDTH<T>),
        light(n + WIDTH<T>) {}

  // t and sigma_raw are readable for a vector beyond n.
  void weigh(const T* t, const T* sigma_raw, int64_t n, bool keeps_slope) {
    for (int64_t k = 0; k < n - 1; k += WIDTH<T>) {
      vec<T> x = (load(sigma_raw + k) + load(sigma_raw + k + 1)) * T(0.5 * LOG2E) - T(LOG2E);
      const vec<T> step = load(t + k + 1) - load(t + k);
      vec<T> slopes;
      lanes::softplus2<1>(&x, keeps_slope ? &slopes : nullptr);  // density, times log2(e)
      vec<T> through = x * step * T(-1);
      lanes::exp2<1>(&through);
      store(passed.get() + k, through);
      store(alpha.get() + k, vec<T>(T(1) - through));
      if (keeps_slope) store(slope.get() + k, slopes);
    }
    T before = 1;
    for (int64_t k = 0; k < n - 1; ++k) {
      light[k] = before;
      weight[k] = alpha[k] * before;
      before *= T(1) - alpha[k] + T(1e-10);
    }
  }
  void summarise(const T* t, int64_t n) {
    total = depth_sum = spread = 0;
    for (int64_t k = 0; k < n - 1; ++k) {
      total += weight[k];
      depth_sum += weight[k] * T(0.5) * (t[k] + t[k + 1]);
    }
    const T mean = depth_sum / std::max(total, T(1e-8));
    for (int64_t k = 0; k < n - 1; ++k) {
      const T away = T(0.5) * (t[k] + t[k + 1]) - mean;
      spread += weight[k] * away * away;
    }
    for (int64_t k = 0; k < n; ++k)
      share[k] = T(0.5) * ((k > 0 ? weight[k - 1] : T(0)) + (k < n - 1 ? weight[k] : T(0)));
  }
};

template <class T>
struct Inputs {
  const T *planes, *w1, *b1, *w2, *b2, *origins, *directions, *near, *far, *jitter, *importance;
};

template <class T>
struct Renderer {
  const RaySpec& s;
  const Decoder<T>& d;
  const Tables<T>& tables;
  const Inputs<T>& in;
  int64_t n;

  // One thread's space.
  struct Space {
    Block<T> block;
    March<T> march;
    Buffer<T> t, sorted_t, sorted_sigma_raw, cdf;
    std::vector<int32_t> order;
    Space(const Decoder<T>& d, int64_t n, bool has_gradients)
        : block(d, n + 1, has_gradients), march(n), t(n + WIDTH<T> + 1), sorted_t(n + WIDTH<T> + 1),
          sorted_sigma_raw(n + WIDTH<T> + 1), cdf(n + 1), order(size_t(n)) {
      sorted_t.clear(), sorted_sigma_raw.clear(), t.clear();
      memset(block.sigma_raw.get(), 0, size_t(block.sigma_raw.size()) * sizeof(T));
    }
  };

  void look_up(Space& space, int64_t ray, const T* t, int64_t begin, int64_t end) const {
    const T *o = in.origins + ray * 3, *v = in.directions + ray * 3;
    for (int64_t k = begin; k < end; ++k) {
      const T point[3] = {o[0] + t[k] * v[0], o[1] + t[k] * v[1], o[2] + t[k] * v[2]};
      space.block.places[size_t(k)] = tables.place(point);
      tables.gather(space.block.places[size_t(k)], space.block.features.get() + k * d.width);
    }
  }

  // Distances and densities of all samples of `ray` (its index over the whole batch), in rising order.
  void sample(Space& space, int64_t ray) const {
    T* t = space.t.get();
    for (int64_t k = 0; k < s.coarse; ++k)
      t[k] = field::stratified(in.near[ray], in.far[ray], k, s.coarse,
                               in.jitter ? in.jitter[ray * s.coarse + k] : T(0.5), s.is_disparity != 0);
    look_up(space, ray, t, 0, s.coarse);
    space.block.densities(0, s.coarse, false);
    for (int64_t k = 0; k < n; ++k) space.order[size_t(k)] = int32_t(k);
    if (s.fine > 0) {
      T* sigma_raw = space.block.sigma_raw.get();
      space.march.weigh(t, sigma_raw, s.coarse, false);
      const int64_t count = field::cumulative(space.march.weight.get(), s.coarse, space.cdf.get());
      for (int64_t k = 0; k < s.fine; ++k) {
        const T u = in.importance ? in.importance[ray * s.fine + k] : (T(k) + T(0.5)) / T(s.fine);
        t[s.coarse + k] = field::inverse_cumulative(space.cdf.get(), count, t, u, s.is_centred != 0);
      }
      look_up(space, ray, t, s.coarse, n);
      space.block.densities(s.coarse, n, false);
      const auto is_nearer = [t](int32_t a, int32_t b) {  // NaN last, or sorting would run wild
        return t[a] < t[b] || (t[b] != t[b] && t[a] == t[a]);
      };
      std::sort(space.order.begin() + s.coarse, space.order.end(), is_nearer);
      std::inplace_merge(space.order.begin(), space.order.begin() + s.coarse, space.order.end(), is_nearer);
    }
    for (int64_t k = 0; k < n; ++k) {
      space.sorted_t[k] = t[space.order[size_t(k)]];
      space.sorted_sigma_raw[k] = space.block.sigma_raw[space.order[size_t(k)]];
    }
  }

  void forward(Space& space, int64_t ray, T* rgb, T* total, T* depth_sum, T* spread, T* kept_t) const {
    sample(space, ray);
    March<T>& march = space.march;
    march.weigh(space.sorted_t.get(), space.sorted_sigma_raw.get(), n, false);
    march.summarise(space.sorted_t.get(), n);
    space.block.colours(0, n);
    Buffer<T> sum(d.colours);
    sum.clear();
    T shares = 0;
    for (int64_t k = 0; k < n; ++k) {
      const T share = march.share[k];
      const T* colour = space.block.colour.get() + space.order[size_t(k)] * d.colours;
      shares += share;
      for (int64_t v = 0; v < d.colours; v += WIDTH<T>)
        store(sum.get() + v, vec<T>(load(sum.get() + v) + load(colour + v) * share));
    }
    for (int64_t c = 0; c < s.features; ++c) rgb[ray * s.features + c] = T(1.002) * sum[c] - T(0.001) * shares;
    total[ray] = march.total, depth_sum[ray] = march.depth_sum, spread[ray] = march.spread;
    std::copy(space.sorted_t.get(), space.sorted_t.get() + n, kept_t + ray * n);
  }

  // Gradients of the outputs of one ray to tables and weights.
  void backward(Space& space, int64_t ray, const T* kept_t, const T* g_rgb, const T* g_total, const T* g_depth,
                const T* g_spread, const std::vector<Buffer<T>>& d_tables, DecoderGradient<T>& sums) const {
    Block<T>& b = space.block;
    March<T>& march = space.march;
    T* t = space.sorted_t.get();
    std::copy(kept_t + ray * n, kept_t + (ray + 1) * n, t);
    look_up(space, ray, t, 0, n);
    b.densities(0, n, true);
    march.weigh(t, b.sigma_raw.get(), n, true);
    march.summarise(t, n);
    b.colours(0, n);
    T* g = space.cdf.get();  // gradient of the share of each sample; cdf has n + 1 entries
    const T* gr = g_rgb + ray * s.features;
    T g_all = 0;
    Buffer<T> upstream(d.colours);
    upstream.clear();
    for (int64_t c = 0; c < s.features; ++c) upstream[c] = gr[c], g_all += gr[c];
    for (int64_t k = 0; k < n; ++k) {
      vec<T> dot = {};
      for (int64_t v = 0; v < d.colours; v += WIDTH<T>) {
        dot += load(b.colour.get() + k * d.colours + v) * load(upstream.get() + v);
        store(b.d_colour.get() + k * d.colours + v, vec<T>(load(upstream.get() + v) * march.share[k]));
      }
      g[k] = T(1.002) * lanes::sum<T>(dot) - T(0.001) * g_all;
      b.d_sigma_raw[k] = 0;
    }
    const T total = std::max(march.total, T(1e-8)), mean = march.depth_sum / total;
    // The mean inside the spread matters only where the total is limited from below.
    const T pull = march.total < T(1e-8) ? T(-2) * (march.depth_sum - mean * march.total) / total : T(0);
    T g_light = 0;
    for (int64_t k = n - 2; k >= 0; --k) {
      const T middle = T(0.5) * (t[k] + t[k + 1]), away = middle - mean;
      const T gw = T(0.5) * (g[k] + g[k + 1]) + g_total[ray] + g_depth[ray] * middle +
                   g_spread[ray] * (away * away + pull * middle);
      const T g_alpha = gw * march.light[k] - g_light * march.light[k];
      g_light = gw * march.alpha[k] + g_light * (T(1) - march.alpha[k] + T(1e-10));
      const T g_sigma_raw = T(0.5) * g_alpha * march.passed[k] * (t[k + 1] - t[k]) * march.slope[k];
      b.d_sigma_raw[k] += g_sigma_raw, b.d_sigma_raw[k + 1] += g_sigma_raw;
    }
    b.backward(n, sums, true);
    for (int64_t k = 0; k < n; ++k) tables.scatter(b.places[size_t(k)], b.d_features.get() + k * d.width, d_tables);
  }
};

template <class T>
void forward(const RaySpec& s, const Inputs<T>& in, T* rgb, T* total, T* depth_sum, T* spread, T* kept_t) {
  const Decoder<T> d(s.channels, s.hidden, s.features, in.w1, in.b1, in.w2, in.b2);
  Tables<T> tables({s.channels, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w}, s.is_corrected, s.box_warp);
  const Renderer<T> renderer{s, d, tables, in, s.coarse + s.fine};
  const int64_t side = square_side(s.rays), tiles = (s.rays + TILE - 1) / TILE;
  for (int64_t item = 0; item < s.batch; ++item) {
    tables.build(in.planes + item * s.stride_n, int(s.threads));
#pragma omp parallel num_threads(int(s.threads))
    {
      typename Renderer<T>::Space space(d, renderer.n, false);
#pragma omp for schedule(dynamic)
      for (int64_t tile = 0; tile < tiles; ++tile)
        for (int64_t i = 0; i < TILE; ++i) {
          const int64_t ray = ray_of(tile, i, s.rays, side);
          if (ray < s.rays) renderer.forward(space, item * s.rays + ray, rgb, total, depth_sum, spread, kept_t);
        }
    }
  }
}

template <class T>
void backward(const RaySpec& s, const Inputs<T>& in, const T* kept_t, const T* g_rgb, const T* g_total, const T* g_depth,
              const T* g_spread, T* d_planes, double* d_weights) {
  const Decoder<T> d(s.channels, s.hidden, s.features, in.w1, in.b1, in.w2, in.b2);
  Tables<T> tables({s.channels, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w}, s.is_corrected, s.box_warp);
  const Renderer<T> renderer{s, d, tables, in, s.coarse + s.fine};
  const int64_t side = square_side(s.rays), tiles = (s.rays + TILE - 1) / TILE;
  const int64_t sums = std::min({s.threads, MAX_SUMS, std::max<int64_t>(tiles, 1)});
  std::vector<std::vector<Buffer<T>>> d_tables(static_cast<size_t>(sums));
  std::vector<DecoderGradient<T>> d_decoder;
  for (int64_t i = 0; i < sums; ++i) {
    for (size_t k = 0; k < tables.parts.size(); ++k) d_tables[size_t(i)].emplace_back(tables.size());
    d_decoder.emplace_back(d);
  }
  for (int64_t item = 0; item < s.batch; ++item) {
    tables.build(in.planes + item * s.stride_n, int(s.threads));
#pragma omp parallel for num_threads(int(sums)) schedule(static, 1)
    for (int64_t part = 0; part < sums; ++part) {
      typename Renderer<T>::Space space(d, renderer.n, true);
      for (auto& buffer : d_tables[size_t(part)]) buffer.clear();
      for (int64_t tile = part; tile < tiles; tile += sums) {  // a fixed share: sums repeat bit for bit
        for (int64_t i = 0; i < TILE; ++i) {
          const int64_t ray = ray_of(tile, i, s.rays, side);
          if (ray < s.rays)
            renderer.backward(space, item * s.rays + ray, kept_t, g_rgb, g_total, g_depth, g_spread,
                              d_tables[size_t(part)], d_decoder[size_t(part)]);
        }
        d_decoder[size_t(part)].flush();
      }
    }
    tables.backward(sum_tables(d_tables, tables.size(), int(s.threads)), d_planes + item * s.stride_n, int(s.threads));
  }
  for (auto& part : d_decoder) part.add_to(d, d_weights);
}

}  // namespace

// d_weights: w1, b1, w2, b2 one after the other, cleared by the caller.
#define INPUTS(T)                                                                                               \
  const RaySpec *s, const T *planes, const T *w1, const T *b1, const T *w2, const T *b2, const T *origins,      \
      const T *directions, const T *near, const T *far, const T *jitter, const T *importance
#define RENDER_RAYS(T, suffix)                                                                                         \
  extern "C" void render_rays_forward_##suffix(INPUTS(T), T* rgb, T* total, T* depth_sum, T* spread, T* kept_t) {      \
    const Inputs<T> in{planes, w1, b1, w2, b2, origins, directions, near, far, jitter, importance};                    \
    forward<T>(*s, in, rgb, total, depth_sum, spread, kept_t);                                                         \
  }                                                                                                                    \
  extern "C" void render_rays_backward_##suffix(INPUTS(T), const T* kept_t, const T* g_rgb, const T* g_total,          \
                                                const T* g_depth, const T* g_spread, T* d_planes, double* d_weights) { \
    const Inputs<T> in{planes, w1, b1, w2, b2, origins, directions, near, far, jitter, importance};                    \
    backward<T>(*s, in, kept_t, g_rgb, g_total, g_depth, g_spread, d_planes, d_weights);                               \
  }
RENDER_RAYS(float, f32)
RENDER_RAYS(double, f64)
