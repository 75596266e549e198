// Samples at arbitrary places, on a CPU: look-up in merged planes, decoder, and both again backwards.
// Shape letters: P samples of a block, C plane channels, H hidden width, F features (all padded to whole vectors), S side.
#pragma once

#include "features.h"

namespace samples {

using namespace planes;

// The decoder with its gains, laid out for both directions. Hidden values are kept as log2(1 + 2^x'), x' = x log2(e).
template <class T>
struct Decoder {
  int64_t channels, hidden, features, width, units, colours;  // the last three are padded
  Buffer<T> first, first_bias, first_back;                    // [C, H], [H]; [H, C]
  Buffer<T> density, density_back;                            // [H]
  Buffer<T> colour, colour_bias, colour_back;                 // [H, F], [F]; [F, H]
  T density_bias;

  // w1 [H, C], b1 [H], w2 [1 + F, H], b2 [1 + F]; the first output is the raw density.
  Decoder(int64_t c, int64_t h, int64_t f, const T* w1, const T* b1, const T* w2, const T* b2)
      : channels(c), hidden(h), features(f), width(padded<T>(c)), units(padded<T>(h)), colours(padded<T>(f)),
        first(c * units), first_bias(units), first_back(units * width), density(units), density_back(units),
        colour(units * colours), colour_bias(colours), colour_back(f * units), density_bias(b2[0]) {
    for (Buffer<T>* b : {&first, &first_bias, &first_back, &density, &density_back, &colour, &colour_bias, &colour_back})
      b->clear();
    for (int64_t i = 0; i < h; ++i) {
      for (int64_t k = 0; k < c; ++k) {
        first[k * units + i] = T(w1[i * c + k] * LOG2E);
        first_back[i * width + k] = w1[i * c + k];
      }
      first_bias[i] = T(b1[i] * LOG2E);
      density[i] = T(w2[i] * LN2), density_back[i] = w2[i];
      for (int64_t k = 0; k < f; ++k) {
        colour[i * colours + k] = -w2[(1 + k) * h + i];  // -log2(e) ln(2): what sigmoid wants of log2 values
        colour_back[k * units + i] = w2[(1 + k) * h + i];
      }
    }
    for (int64_t k = 0; k < f; ++k) colour_bias[k] = T(-LOG2E * b2[1 + k]);
  }
};

// Sums of one thread, in double between blocks.
template <class T>
struct DecoderGradient {
  int64_t channels, units, features;
  Buffer<T> block;
  std::vector<double> total;
  explicit DecoderGradient(const Decoder<T>& d)
      : channels(d.channels), units(d.units), features(d.features),
        block((d.channels + 1 + 1 + d.features) * d.units + d.features + 1), total(size_t(block.size()), 0.0) {
    block.clear();
  }
  T* first() { return block.get(); }                              // [C, H]
  T* first_bias() { return first() + channels * units; }          // [H]
  T* density() { return first_bias() + units; }                   // [H], over ln 2
  T* colour() { return density() + units; }                       // [F, H], over ln 2
  T* second_bias() { return colour() + features * units; }        // [1 + F]
  void flush() {
    for (int64_t i = 0; i < block.size(); ++i) total[size_t(i)] += block[i];
    block.clear();
  }
  // Adds to d_w1 [H, C], d_b1 [H], d_w2 [1 + F, H], d_b2 [1 + F], which stand one after the other.
  void add_to(const Decoder<T>& d, double* d_w1) {
    double* d_b1 = d_w1 + d.hidden * channels;
    double *d_w2 = d_b1 + d.hidden, *d_b2 = d_w2 + (1 + features) * d.hidden;
    flush();
    const double* sum = total.data();
    for (int64_t h = 0; h < d.hidden; ++h) {
      for (int64_t c = 0; c < channels; ++c) d_w1[h * channels + c] += sum[c * units + h];
      d_b1[h] += sum[channels * units + h];
      for (int64_t k = 0; k < 1 + features; ++k) d_w2[k * d.hidden + h] += sum[(channels + 1 + k) * units + h] * LN2;
    }
    for (int64_t k = 0; k < 1 + features; ++k) d_b2[k] += sum[(channels + 2 + features) * units + k];
  }
};

// Merged planes with a border of zeros, and where a coordinate falls in them.
template <class T>
struct Tables {
  Layout layout;
  std::vector<std::vector<Part>> parts;
  Axis texels_of_axis;
  int64_t side, width;  // with the border
  T scale, limit;
  std::vector<Buffer<T>> texels;

  Tables(const Layout& l, bool is_corrected, double box_warp)
      : layout(l), parts(table_parts(is_corrected)), texels_of_axis(texels_from(-1, l.side + 3)), side(l.side + 3), width(padded<T>(l.channels)),
        scale(T(2 / box_warp)), limit(T(l.side)) {
    for (size_t i = 0; i < parts.size(); ++i) texels.emplace_back(size());
  }
  int64_t size() const { return side * side * width; }
  void build(const T* planes, int threads) {
    for (size_t i = 0; i < parts.size(); ++i) 
      gather_features(planes, layout, parts[i], texels_of_axis, texels_of_axis, texels[i].get(), threads);
  }
  // Plane gradient of one sample from table gradients.
  void backward(const std::vector<Buffer<T>>& grads, T* d_planes, int threads) const {
    for (size_t i = 0; i < parts.size(); ++i)
      scatter_features(grads[i].get(), layout, parts[i], texels_of_axis, texels_of_axis, d_planes, threads);
  }

  struct Place {
    int64_t offset[3];
    T share[3];
  };
  LANES_FN Place place(const T* point) const {
    Place p;
    for (int axis = 0; axis < 3; ++axis) {
      T address = ((point[axis] * scale + 1) * T(layout.side) - 1) / 2;
      address = address > T(-1) ? address : T(-1);  // also catches NaN
      address = address < limit ? address : limit;
      const T whole = std::floor(address);
      p.offset[axis] = int64_t(whole) + 1;
      p.share[axis] = address - whole;
    }
    return p;
  }
  static constexpr int AXES[3][2] = {{0, 1}, {0, 2}, {1, 2}};  // of table 0, 1, 2

  LANES_FN void corners(const Place& p, size_t table, int64_t* offset, T* share) const {
    const int row = AXES[table][0], col = AXES[table][1];
    const T fr = p.share[row], fc = p.share[col];
    offset[0] = (p.offset[row] * side + p.offset[col]) * width;
    offset[1] = offset[0] + width, offset[2] = offset[0] + side * width, offset[3] = offset[2] + width;
    share[0] = (1 - fr) * (1 - fc), share[1] = (1 - fr) * fc, share[2] = fr * (1 - fc), share[3] = fr * fc;
  }
  LANES_FN void gather(const Place& p, T* out) const {
    for (size_t table = 0; table < parts.size(); ++table) {
      int64_t offset[4];
      T share[4];
      corners(p, table, offset, share);
      const T* from = texels[table].get();
      for (int64_t c = 0; c < width; c += WIDTH<T>) {
        vec<T> sum = table ? load(out + c) : vec<T>{};
        for (int i = 0; i < 4; ++i) sum += load(from + offset[i] + c) * share[i];
        store(out + c, sum);
      }
    }
  }
  LANES_FN void scatter(const Place& p, const T* grad, const std::vector<Buffer<T>>& to_tables) const {
    for (size_t table = 0; table < parts.size(); ++table) {
      int64_t offset[4];
      T share[4];
      corners(p, table, offset, share);
      T* to = to_tables[table].get();
      for (int64_t c = 0; c < width; c += WIDTH<T>) {
        const vec<T> g = load(grad + c);
        for (int i = 0; i < 4; ++i) store(to + offset[i] + c, vec<T>(load(to + offset[i] + c) + g * share[i]));
      }
    }
  }
};

// The sum over threads of their gradient tables, in the first one.
template <class T>
const std::vector<Buffer<T>>& sum_tables(const std::vector<std::vector<Buffer<T>>>& parts, int64_t size, int threads) {
  for (size_t table = 0; table < parts[0].size(); ++table) {
    T* to = parts[0][table].get();
#pragma omp parallel for num_threads(threads) schedule(dynamic, 4096)
    for (int64_t i = 0; i < size; i += WIDTH<T>)
      for (size_t part = 1; part < parts.size(); ++part)
        store(to + i, vec<T>(load(to + i) + load(parts[part][table].get() + i)));
  }
  return parts[0];
}

// Values of up to `capacity` samples on their way through the decoder.
template <class T>
struct Block {
  const Decoder<T>& d;
  std::vector<typename Tables<T>::Place> places;
  Buffer<T> features, hidden, slope, sigma_raw, colour;   // [P, C], [P, H] as log2, [P, H], [P], [P, F] as sigmoid
  Buffer<T> d_hidden, d_features, d_colour, d_sigma_raw;  // [P, H], [P, C], [P, F] before the sigmoid, [P]

  Block(const Decoder<T>& decoder, int64_t capacity, bool has_gradients)
      : d(decoder), places(size_t(capacity)), features(capacity * d.width), hidden(capacity * d.units),
        slope(has_gradients ? capacity * d.units : 0), sigma_raw(capacity + WIDTH<T>), colour(capacity * d.colours),
        d_hidden(has_gradients ? capacity * d.units : 0), d_features(has_gradients ? capacity * d.width : 0),
        d_colour(has_gradients ? capacity * d.colours : 0), d_sigma_raw(capacity) {}

  // Raw densities of samples [begin, end) whose features are there; keeps slopes if asked.
  void densities(int64_t begin, int64_t end, bool keeps_slope) {
    constexpr int W = WIDTH<T>;
    multiply(features.get() + begin * d.width, d.width, end - begin, d.channels, d.first.get(), d.units,
             d.first_bias.get(), hidden.get() + begin * d.units);
    for (int64_t i0 = begin; i0 < end; i0 += W) {
      const int m = int(std::min<int64_t>(W, end - i0));
      vec<T> sums[W];
      for (int i = 0; i < W; ++i) sums[i] = vec<T>{};
      for (int i = 0; i < m; ++i) {
        const int64_t at = (i0 + i) * d.units;
        lanes::in_groups<T>(d.units / W, [&](int64_t v, auto together) LANES_LAMBDA {
          constexpr int N = decltype(together)::value;
          vec<T> soft[N], slopes[N];
          for (int j = 0; j < N; ++j) soft[j] = load(hidden.get() + at + (v + j) * W);
          lanes::softplus2<N>(soft, keeps_slope ? slopes : nullptr);
          for (int j = 0; j < N; ++j) {
            store(hidden.get() + at + (v + j) * W, soft[j]);
            if (keeps_slope) store(slope.get() + at + (v + j) * W, slopes[j]);
            sums[i] += soft[j] * load(d.density.get() + (v + j) * W);
          }
        });
      }
      T values[W];
      lanes::row_sums<T>(sums, values);
      for (int i = 0; i < m; ++i) sigma_raw[i0 + i] = values[i] + d.density_bias;
    }
  }

  // Sigmoids of the colour outputs of samples [begin, end).
  void colours(int64_t begin, int64_t end) {
    multiply<T>(hidden.get() + begin * d.units, d.units, end - begin, d.hidden, d.colour.get(), d.colours,
                d.colour_bias.get(), colour.get() + begin * d.colours);
    for (int64_t i = begin * d.colours; i < end * d.colours; i += WIDTH<T>) {
      vec<T> x = load(colour.get() + i);
      x = x > T(100) ? fill<T>(100) : x;  // 2^100: beyond it the reciprocal would lose its correction
      lanes::exp2<1>(&x);
      store(colour.get() + i, lanes::reciprocal(x + T(1)));
    }
  }

  // From d_sigma_raw [P] and d_colour [P, F] (after the sigmoid, before it here) to features and weights of [0, count).
  void backward(int64_t count, DecoderGradient<T>& sums, bool has_colours) {
    if (has_colours) {
      for (int64_t i = 0; i < count * d.colours; i += WIDTH<T>) {
        const vec<T> s = load(colour.get() + i);
        store(d_colour.get() + i, vec<T>(load(d_colour.get() + i) * s * (T(1) - s) * T(1.002)));
      }
      multiply<T>(d_colour.get(), d.colours, count, d.features, d.colour_back.get(), d.units, nullptr, d_hidden.get());
      add_outer<T>(d_colour.get(), d.colours, count, d.features, hidden.get(), d.units, sums.colour());
      for (int64_t p = 0; p < count; ++p)
        for (int64_t k = 0; k < d.features; ++k) sums.second_bias()[1 + k] += d_colour[p * d.colours + k];
    } else {
      memset(d_hidden.get(), 0, size_t(count * d.units) * sizeof(T));
    }
    for (int64_t p = 0; p < count; ++p) {
      const T g = d_sigma_raw[p];
      sums.second_bias()[0] += g;
      for (int64_t at = p * d.units, v = 0; v < d.units; v += WIDTH<T>) {
        const vec<T> grad = load(d_hidden.get() + at + v) + load(d.density_back.get() + v) * g;
        const vec<T> dx = grad * load(slope.get() + at + v);
        store(d_hidden.get() + at + v, dx);
        store(sums.density() + v, vec<T>(load(sums.density() + v) + load(hidden.get() + at + v) * g));
        store(sums.first_bias() + v, vec<T>(load(sums.first_bias() + v) + dx));
      }
    }
    add_outer<T>(features.get(), d.width, count, d.channels, d_hidden.get(), d.units, sums.first());
    multiply<T>(d_hidden.get(), d.units, count, d.hidden, d.first_back.get(), d.width, nullptr, d_features.get());
  }
};

}  // namespace samples
