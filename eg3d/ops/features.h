// Features of a sample's planes at the entries of tables, channels last, and their gradients back to the planes.
//
// A table looks at a plane along straight lines, so that interpolation goes one axis after the other, and texels that no
// entry needs are not copied. Where two planes see the same axes one table holds their sum. Shape letters: C channels padded to whole vectors, S plane side.
#pragma once

#include "planes.h"

namespace planes {

// One axis of a table: entry a lies between texels first + low[a] and the next, with the share of the latter.
struct Axis {
  int64_t first;
  std::vector<int64_t> low;
  std::vector<double> share;
  int64_t count() const { return int64_t(low.size()); }
};

// Entries are the texels from `first` on, `count` of them.
inline Axis texels_from(int64_t first, int64_t count) {
  Axis axis{first, {}, std::vector<double>(size_t(count), 0.0)};
  for (int64_t a = 0; a < count; ++a) axis.low.push_back(a);
  return axis;
}

// The texels of a plane, [2] along one axis, that an entry is made of; outside the plane the weight is zero.
template <class T>
struct Taps {
  int64_t texel[2];
  T weight[2];
};
template <class T>
std::vector<Taps<T>> taps_of(const Axis& axis, int64_t side) {
  std::vector<Taps<T>> taps;
  for (size_t i = 0; i < axis.low.size(); ++i) {
    Taps<T> tap;
    for (int k = 0; k < 2; ++k) {
      const int64_t texel = axis.first + axis.low[i] + k;
      const bool is_inside = texel >= 0 && texel < side;
      tap.texel[k] = is_inside ? texel : 0;
      tap.weight[k] = is_inside ? T(k ? axis.share[i] : 1 - axis.share[i]) : T(0);
    }
    taps.push_back(tap);
  }
  return taps;
}

constexpr int64_t CHANNELS = 8;  // done together

// One plane of one sample as a table sees it: entries along the plane's height and width, and where they lie in the table.
template <class T>
struct View {
  std::vector<Taps<T>> down, across;
  int64_t step_down, step_across;  // in a table [rows, cols, C]
  Layout layout;
  int64_t left, right;  // columns of the plane that entries look at

  View(const Layout& l, const Part& part, const Axis& rows, const Axis& cols, int64_t width)
      : down(taps_of<T>(part.rows_are_width ? cols : rows, l.side)),
        across(taps_of<T>(part.rows_are_width ? rows : cols, l.side)), layout(l), left(l.side), right(0) {
    const int64_t row = cols.count() * width;
    step_down = part.rows_are_width ? width : row, step_across = part.rows_are_width ? row : width;
    for (const Taps<T>& tap : across)
      for (int k = 0; k < 2; ++k)
        if (tap.weight[k] != 0) left = std::min(left, tap.texel[k]), right = std::max(right, tap.texel[k] + 1);
  }
  bool is_channel_last() const { return layout.stride_c == 1; }

  // Adds a third of the features of entries at height `d` to `table`; `space` as `space_of`.
  void gather(const T* plane, size_t d, T* space, T* table) const {
    T* out = table + int64_t(d) * step_down;
    if (is_channel_last()) return gather_last(plane, down[d], out);
    int64_t c = 0;
    for (; c + CHANNELS <= layout.channels; c += CHANNELS) gather_first(plane, down[d], c, ALL, space, out);
    if (c < layout.channels) gather_first(plane, down[d], c, layout.channels - c, space, out);
  }

  // Writes zeros to a row of the plane.
  void clear(int64_t h, T* plane) const {
    T* row = plane + h * layout.stride_h;
    if (is_channel_last()) {
      for (int64_t x = 0; x < layout.side; ++x) std::fill_n(row + x * layout.stride_w, layout.channels, T(0));
      return;
    }
    for (int64_t c = 0; c < layout.channels; ++c)
      for (int64_t x = 0; x < layout.side; ++x) row[c * layout.stride_c + x * layout.stride_w] = 0;
  }
  // The adjoint for `count` channels from c on, at most CHANNELS: adds to their plane gradient.
  void scatter(const T* table, int64_t c, int64_t count, T* space, T* plane) const {
    for (size_t d = 0; d < down.size(); ++d) {
      const T* in = table + int64_t(d) * step_down;
      if (is_channel_last()) scatter_last(down[d], in, c, count, plane);
      else if (count == CHANNELS) scatter_first(down[d], in, c, ALL, space, plane);
      else scatter_first(down[d], in, c, count, space, plane);
    }
  }

  // Lines of the plane [CHANNELS, S], and the same with channels last.
  static int64_t space_of(int64_t side) { return 2 * CHANNELS * side; }

 private:
  typedef std::integral_constant<int64_t, CHANNELS> All;  // a count that loops unroll for
  static constexpr All ALL{};

  template <class Use>
  void each_corner(const Taps<T>& tall, Use use) const {
    for (size_t q = 0; q < across.size(); ++q)
      for (int k = 0; k < 4; ++k) {
        const T weight = tall.weight[k >> 1] * across[q].weight[k & 1] * T(1.0 / 3);
        const int64_t at = tall.texel[k >> 1] * layout.stride_h + across[q].texel[k & 1] * layout.stride_w;
        if (weight != 0) use(int64_t(q) * step_across, at, weight);
      }
  }
  void gather_last(const T* plane, const Taps<T>& tall, T* out) const {
    each_corner(tall, [&](int64_t entry, int64_t at, T weight) {
      for (int64_t c = 0; c < layout.channels; ++c) out[entry + c] += plane[at + c] * weight;
    });
  }
  void scatter_last(const Taps<T>& tall, const T* in, int64_t c0, int64_t count, T* plane) const {
    each_corner(tall, [&](int64_t entry, int64_t at, T weight) {
      for (int64_t c = c0; c < c0 + count; ++c) plane[at + c] += in[entry + c] * weight;
    });
  }

  template <class Use>
  void each_row(const Taps<T>& tall, int64_t c0, int64_t count, Use use) const {
    for (int64_t c = 0; c < count; ++c)
      for (int k = 0; k < 2; ++k)
        if (tall.weight[k] != 0)
          use(c * layout.side, (c0 + c) * layout.stride_c + tall.texel[k] * layout.stride_h, tall.weight[k] * T(1.0 / 3));
  }
  template <class Use>
  void each_tap(Use use) const {
    for (size_t q = 0; q < across.size(); ++q)
      for (int k = 0; k < 2; ++k)
        if (across[q].weight[k] != 0) use(int64_t(q) * step_across, across[q].texel[k] * CHANNELS, across[q].weight[k]);
  }
  template <class Count>
  void gather_first(const T* plane, const Taps<T>& tall, int64_t c0, Count count, T* lines, T* out) const {
    T* last = lines + CHANNELS * layout.side;
    std::fill(lines, last, T(0));
    each_row(tall, c0, count, [&](int64_t line, int64_t at, T weight) {
      for (int64_t x = left; x < right; ++x) lines[line + x] += plane[at + x * layout.stride_w] * weight;
    });
    for (int64_t x = left; x < right; ++x)
      for (int64_t c = 0; c < count; ++c) last[x * CHANNELS + c] = lines[c * layout.side + x];
    each_tap([&](int64_t entry, int64_t at, T weight) {
      for (int64_t c = 0; c < count; ++c) out[entry + c0 + c] += last[at + c] * weight;
    });
  }
  template <class Count>
  void scatter_first(const Taps<T>& tall, const T* in, int64_t c0, Count count, T* lines, T* plane) const {
    T* last = lines + CHANNELS * layout.side;
    std::fill(last, last + CHANNELS * layout.side, T(0));
    each_tap([&](int64_t entry, int64_t at, T weight) {
      for (int64_t c = 0; c < count; ++c) last[at + c] += in[entry + c0 + c] * weight;
    });
    for (int64_t c = 0; c < count; ++c)
      for (int64_t x = left; x < right; ++x) lines[c * layout.side + x] = last[x * CHANNELS + c];
    each_row(tall, c0, count, [&](int64_t line, int64_t at, T weight) {
      for (int64_t x = left; x < right; ++x) plane[at + x * layout.stride_w] += lines[line + x] * weight;
    });
  }
};

// Mean over the planes, as far as `parts` go, at the entries of a table: out [rows, cols, C].
template <class T>
void gather_features(const T* planes, const Layout& l, const std::vector<Part>& parts, const Axis& rows, const Axis& cols,
                     T* out, int threads) {
  const int64_t width = padded<T>(l.channels);
  memset(out, 0, size_t(rows.count() * cols.count() * width) * sizeof(T));
  for (const Part& part : parts) {
    const View<T> view(l, part, rows, cols, width);
#pragma omp parallel num_threads(threads)
    {
      Buffer<T> space(view.space_of(l.side));
#pragma omp for schedule(dynamic, 4)
      for (size_t d = 0; d < view.down.size(); ++d) view.gather(planes + part.plane * l.stride_p, d, space.get(), out);
    }
  }
}

// The adjoint: writes the whole gradients of the planes of `parts`, from `grad` [rows, cols, C].
template <class T>
void scatter_features(const T* grad, const Layout& l, const std::vector<Part>& parts, const Axis& rows, const Axis& cols,
                      T* planes, int threads) {
  for (const Part& part : parts) {
    const View<T> view(l, part, rows, cols, padded<T>(l.channels));
#pragma omp parallel num_threads(threads)
    {
      Buffer<T> space(view.space_of(l.side));
      T* plane = planes + part.plane * l.stride_p;
#pragma omp for schedule(dynamic, 4)
      for (int64_t h = 0; h < l.side; ++h) view.clear(h, plane);
#pragma omp for schedule(dynamic)
      for (int64_t c = 0; c < l.channels; c += CHANNELS)
        view.scatter(grad, c, std::min(CHANNELS, l.channels - c), space.get(), plane);
    }
  }
}

}  // namespace planes
