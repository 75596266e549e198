// Samples at arbitrary places, on a GPU: one thread a sample, features and outputs in registers.
// M is the room for plane channels and for features alike, a template parameter so that loops unroll; what is beyond the
// real sizes is zero. Letters: C plane channels, H hidden width, K features, S plane side, P samples of a piece.
#pragma once

#include <initializer_list>

#include "for_each.h"

namespace gpu {

constexpr int64_t PIECE = 1 << 17;  // samples whose hidden gradients are held at a time
constexpr int64_t SLICES = 64;      // parts of a piece that weight gradients are summed over, then added up in order

template <class T>
struct Workspace {  // hands out parts of one block of memory; a null block only counts
  T* start;
  int64_t used = 0;
  T* take(int64_t count) {
    T* at = start ? start + used : nullptr;
    used += count;
    return at;
  }
};

struct Layout {
  int64_t channels, hidden, features, side, stride_p, stride_c, stride_h, stride_w, is_corrected;
  double box_warp;
  FIELD_FN int num_tables() const { return is_corrected ? 3 : 2; }
  FIELD_FN int64_t cols() const { return side + 3; }  // one texel of zeros before, two behind
  FIELD_FN int64_t entries() const { return cols() * cols(); }
};

// Which planes a table holds: (x, y) of plane 0, (x, z) of plane 1 and published plane 2, (y, z) of corrected plane 2.
FIELD_FN int table_of(int plane, bool is_corrected) { return plane < 2 ? plane : is_corrected ? 2 : 1; }

template <class T, int M>
struct Merge {
  Layout l;
  const T* planes;
  T* tables;  // [tables, rows, cols, M]
  FIELD_FN void operator()(int64_t i) const {
    const int64_t c = i % M, q = i / M % l.cols() - 1, r = i / M / l.cols() % l.cols() - 1;
    const int table = int(i / M / l.entries());
    T sum = 0;
    if (c < l.channels && r >= 0 && q >= 0 && r < l.side && q < l.side)
      for (int plane = 0; plane < 3; ++plane) {
        if (table_of(plane, l.is_corrected) != table) continue;
        const int64_t h = plane < 2 ? q : r, w = plane < 2 ? r : q;
        sum += planes[plane * l.stride_p + c * l.stride_c + h * l.stride_h + w * l.stride_w];
      }
    tables[i] = sum * T(1.0 / 3);
  }
};
template <class T, int M>
struct Unmerge {  // gradient of one sample's planes, one thread a texel and channel
  Layout l;
  const T* d_tables;
  T* d_planes;
  FIELD_FN void operator()(int64_t i) const {
    const int64_t w = i % l.side, h = i / l.side % l.side, c = i / l.side / l.side % l.channels;
    const int plane = int(i / l.side / l.side / l.channels);
    const int64_t r = (plane < 2 ? w : h) + 1, q = (plane < 2 ? h : w) + 1;
    const T g = d_tables[(table_of(plane, l.is_corrected) * l.entries() + r * l.cols() + q) * M + c];
    d_planes[plane * l.stride_p + c * l.stride_c + h * l.stride_h + w * l.stride_w] = g * T(1.0 / 3);
  }
};

template <class T, int M>
struct Weights {  // [H, M], [H], [H], [H, M], [1 + M]
  T *first, *first_bias, *density, *colour, *second_bias;
  Weights(Workspace<T>& space, const Layout& l)
      : first(space.take(l.hidden * M)), first_bias(space.take(l.hidden)), density(space.take(l.hidden)),
        colour(space.take(l.hidden * M)), second_bias(space.take(1 + M)) {}
};
template <class T, int M>
struct PadWeights {
  Layout l;
  const T *w1, *b1, *w2, *b2;
  Weights<T, M> to;
  FIELD_FN void operator()(int64_t i) const {  // i over (H + 1) * M
    const int64_t m = i % M, h = i / M;
    if (h == l.hidden) {
      if (m == 0) to.second_bias[0] = b2[0];
      to.second_bias[1 + m] = m < l.features ? b2[1 + m] : T(0);
      return;
    }
    to.first[i] = m < l.channels ? w1[h * l.channels + m] : T(0);
    to.colour[i] = m < l.features ? w2[(1 + m) * l.hidden + h] : T(0);
    if (m == 0) to.first_bias[h] = b1[h], to.density[h] = w2[h];
  }
};

template <class T, int M>
struct Field {
  Layout l;
  const T* tables;
  Weights<T, M> w;

  // Entries and shares of the four corners in table `k` of a place given by entry and share along each axis.
  struct Place {
    int64_t entry[3];
    T share[3];
  };
  FIELD_FN Place place(const T* point) const {
    Place p;
    for (int axis = 0; axis < 3; ++axis) {
      T address = ((point[axis] * T(2 / l.box_warp) + 1) * T(l.side) - 1) / 2;
      address = address > T(-1) ? address : T(-1);  // also catches NaN
      address = address < T(l.side) ? address : T(l.side);
      const T whole = floor(address);
      p.entry[axis] = int64_t(whole) + 1, p.share[axis] = address - whole;
    }
    return p;
  }
  FIELD_FN void corners(const Place& p, int k, int64_t* at, T* share) const {
    const int row = k == 2 ? 1 : 0, col = k == 0 ? 1 : 2;
    at[0] = ((k * l.cols() + p.entry[row]) * l.cols() + p.entry[col]) * M;
    at[1] = at[0] + M, at[2] = at[0] + l.cols() * M, at[3] = at[2] + M;
    const T fr = p.share[row], fc = p.share[col];
    share[0] = (1 - fr) * (1 - fc), share[1] = (1 - fr) * fc, share[2] = fr * (1 - fc), share[3] = fr * fc;
  }
  FIELD_FN void look_up(const Place& p, T* features) const {
    for (int c = 0; c < M; ++c) features[c] = 0;
    for (int k = 0; k < l.num_tables(); ++k) {
      int64_t at[4];
      T share[4];
      corners(p, k, at, share);
      for (int i = 0; i < 4; ++i)
        for (int c = 0; c < M; ++c) features[c] += share[i] * tables[at[i] + c];
    }
  }
  FIELD_FN T hidden(const T* features, int64_t h) const {  // before softplus
    T x = w.first_bias[h];
    for (int c = 0; c < M; ++c) x += features[c] * w.first[h * M + c];
    return x;
  }
  FIELD_FN T density(const T* features) const {
    T sigma_raw = w.second_bias[0];
    for (int64_t h = 0; h < l.hidden; ++h) sigma_raw += w.density[h] * field::softplus(hidden(features, h));
    return sigma_raw;
  }
  // Raw density, and sigmoids of the colour outputs.
  FIELD_FN T decode(const T* features, T* sigmoids) const {
    T sigma_raw = w.second_bias[0];
    for (int k = 0; k < M; ++k) sigmoids[k] = w.second_bias[1 + k];
    for (int64_t h = 0; h < l.hidden; ++h) {
      const T s = field::softplus(hidden(features, h));
      sigma_raw += w.density[h] * s;
      for (int k = 0; k < M; ++k) sigmoids[k] += w.colour[h * M + k] * s;
    }
    for (int k = 0; k < M; ++k) sigmoids[k] = T(1) / (T(1) + exp(-sigmoids[k]));
    return sigma_raw;
  }
};

// What the backward pass of P samples leaves for the weight gradients.
template <class T, int M>
struct Piece {
  T *d_hidden, *hidden, *features, *d_outputs;  // [P, H] before and after softplus, [P, M], [P, 1 + M]
  Piece(Workspace<T>& space, const Layout& l)
      : d_hidden(space.take(PIECE * l.hidden)), hidden(space.take(PIECE * l.hidden)), features(space.take(PIECE * M)),
        d_outputs(space.take(PIECE * (1 + M))) {}

  // Sample `p` of the piece, from the gradients of its density and of its sigmoids times 1.002.
  FIELD_FN void backward(const Field<T, M>& f, const T* point, int64_t p, T d_sigma_raw, T* d_colour,
                         T* d_tables) const {
    const typename Field<T, M>::Place place = f.place(point);
    T feature[M], sigmoid[M], d_feature[M];
    f.look_up(place, feature);
    f.decode(feature, sigmoid);
    d_outputs[p * (1 + M)] = d_sigma_raw;
    for (int k = 0; k < M; ++k) {
      d_colour[k] *= T(1.002) * sigmoid[k] * (T(1) - sigmoid[k]);
      d_outputs[p * (1 + M) + 1 + k] = d_colour[k];
      features[p * M + k] = feature[k], d_feature[k] = 0;
    }
    for (int64_t h = 0; h < f.l.hidden; ++h) {
      const T x = f.hidden(feature, h);
      T g = d_sigma_raw * f.w.density[h];
      for (int k = 0; k < M; ++k) g += d_colour[k] * f.w.colour[h * M + k];
      g *= field::softplus_slope(x);
      d_hidden[p * f.l.hidden + h] = g, hidden[p * f.l.hidden + h] = field::softplus(x);
      for (int c = 0; c < M; ++c) d_feature[c] += g * f.w.first[h * M + c];
    }
    for (int k = 0; k < f.l.num_tables(); ++k) {  // samples meet in texels: any order
      int64_t at[4];
      T share[4];
      f.corners(place, k, at, share);
      for (int i = 0; i < 4; ++i)
        for (int64_t c = 0; c < f.l.channels; ++c) add_in_any_order(d_tables + at[i] + c, share[i] * d_feature[c]);
    }
  }
};

// Weight gradients of a piece: one thread for (slice, h, column); columns: C of w1, b1, 1 + K of w2; b2 at h = H.
template <class T, int M>
struct SliceSums {
  Layout l;
  Piece<T, M> piece;
  int64_t count;
  T* sums;  // [SLICES, H + 1, C + 1 + 1 + K]
  FIELD_FN void operator()(int64_t i) const {
    const int64_t columns = l.channels + 2 + l.features, col = i % columns, h = i / columns % (l.hidden + 1);
    const int64_t slice = i / columns / (l.hidden + 1), out = col - l.channels - 1;
    T sum = 0;
    for (int64_t p = count * slice / SLICES; p < count * (slice + 1) / SLICES; ++p) {
      if (h == l.hidden)
        sum += out >= 0 ? piece.d_outputs[p * (1 + M) + out] : T(0);
      else if (out >= 0)
        sum += piece.d_outputs[p * (1 + M) + out] * piece.hidden[p * l.hidden + h];
      else
        sum += piece.d_hidden[p * l.hidden + h] * (col < l.channels ? piece.features[p * M + col] : T(1));
    }
    sums[i] = sum;
  }
};
template <class T>
struct AddSlices {
  Layout l;
  const T* sums;
  double* d_weights;  // w1 [H, C], b1 [H], w2 [1 + K, H], b2 [1 + K]
  FIELD_FN void operator()(int64_t i) const {
    const int64_t columns = l.channels + 2 + l.features, col = i % columns, h = i / columns, out = col - l.channels - 1;
    if (h == l.hidden && out < 0) return;
    double sum = 0;
    for (int64_t slice = 0; slice < SLICES; ++slice) sum += sums[slice * (l.hidden + 1) * columns + i];
    const int64_t b1 = l.hidden * l.channels, w2 = b1 + l.hidden, b2 = w2 + (1 + l.features) * l.hidden;
    d_weights[h == l.hidden ? b2 + out : out >= 0 ? w2 + out * l.hidden + h : col == l.channels ? b1 + h : h * l.channels + col] += sum;
  }
};

template <class T>
struct Clear {
  T* data;
  FIELD_FN void operator()(int64_t i) const { data[i] = 0; }
};

// Everything that does not depend on how samples are placed.
template <class T, int M>
struct Context {
  Layout l;
  T *tables, *d_tables, *sums;
  Weights<T, M> weights;
  Piece<T, M> piece;
  Context(Workspace<T>& space, const Layout& layout, bool has_gradients)
      : l(layout), tables(space.take(table_size())), d_tables(has_gradients ? space.take(table_size()) : nullptr),
        sums(has_gradients ? space.take(SLICES * (l.hidden + 1) * (l.channels + 2 + l.features)) : nullptr),
        weights(space, l), piece(space, has_gradients ? l : Layout{}) {}
  int64_t table_size() const { return l.num_tables() * l.entries() * M; }
  void pad(const T* w1, const T* b1, const T* w2, const T* b2, Stream stream) const {
    for_each((l.hidden + 1) * M, stream, PadWeights<T, M>{l, w1, b1, w2, b2, weights});
  }
  Field<T, M> field(const T* planes, Stream stream) const {
    for_each(table_size(), stream, Merge<T, M>{l, planes, tables});
    return {l, tables, weights};
  }
  void add_weights(int64_t count, double* d_weights, Stream stream) const {
    const int64_t columns = (l.hidden + 1) * (l.channels + 2 + l.features);
    for_each(SLICES * columns, stream, SliceSums<T, M>{l, piece, count, sums});
    for_each(columns, stream, AddSlices<T>{l, sums, d_weights});
  }
  void unmerge(T* d_planes, Stream stream) const {
    for_each(3 * l.channels * l.side * l.side, stream, Unmerge<T, M>{l, d_tables, d_planes});
  }
};

// Calls run(room) with the smallest room for `size` channels or features as a constant; -1 if there is none.
template <int M>
struct Room {
  static constexpr int value = M;
};
template <class Run>
int64_t with_room(int64_t size, Run run) {
  return size <= 16 ? run(Room<16>()) : size <= 32 ? run(Room<32>()) : size <= 64 ? run(Room<64>()) : -1;
}

}  // namespace gpu
