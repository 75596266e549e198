// The field at arbitrary points, on a CPU. Definition: reference.py. The backward pass computes the samples again.
// Shape letters: N batch, P points, K features.

#include <omp.h>

#include "../samples.h"
#include "spec.h"

namespace {

using namespace samples;

constexpr int64_t CAPACITY = 64;  // points of one block
constexpr int64_t MAX_SUMS = 8;   // private gradient tables at most, and so threads of a backward pass

template <class T>
Tables<T> tables_of(const PointSpec& s) {
  return Tables<T>({s.channels, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w}, s.is_corrected, s.box_warp);
}

template <class T>
void look_up(Block<T>& block, const Tables<T>& tables, const T* points, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    block.places[size_t(i)] = tables.place(points + i * 3);
    tables.gather(block.places[size_t(i)], block.features.get() + i * block.d.width);
  }
}

template <class T>
void forward(const PointSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, const T* points,
             T* sigma_raw, T* rgb) {
  const Decoder<T> d(s.channels, s.hidden, s.features, w1, b1, w2, b2);
  Tables<T> tables = tables_of<T>(s);
  for (int64_t item = 0; item < s.batch; ++item) {
    tables.build(planes + item * s.stride_n, int(s.threads));
#pragma omp parallel num_threads(int(s.threads))
    {
      Block<T> block(d, CAPACITY, false);
#pragma omp for schedule(dynamic, 16)
      for (int64_t begin = 0; begin < s.points; begin += CAPACITY) {
        const int64_t count = std::min(CAPACITY, s.points - begin), at = item * s.points + begin;
        look_up(block, tables, points + at * 3, count);
        block.densities(0, count, false);
        std::copy(block.sigma_raw.get(), block.sigma_raw.get() + count, sigma_raw + at);
        if (s.features == 0) continue;
        block.colours(0, count);
        for (int64_t i = 0; i < count; ++i)
          for (int64_t k = 0; k < s.features; ++k)
            rgb[(at + i) * s.features + k] = block.colour[i * d.colours + k] * T(1.002) - T(0.001);
      }
    }
  }
}

template <class T>
void backward(const PointSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, const T* points,
              const T* d_sigma_raw, const T* d_rgb, T* d_planes, double* d_weights) {
  const Decoder<T> d(s.channels, s.hidden, s.features, w1, b1, w2, b2);
  Tables<T> tables = tables_of<T>(s);
  const int64_t blocks = (s.points + CAPACITY - 1) / CAPACITY;
  const int64_t sums = std::min({s.threads, MAX_SUMS, std::max<int64_t>(blocks, 1)});
  std::vector<std::vector<Buffer<T>>> d_tables(static_cast<size_t>(sums));
  std::vector<DecoderGradient<T>> d_decoder;
  for (int64_t i = 0; i < sums; ++i) {
    for (size_t k = 0; k < tables.parts.size(); ++k) d_tables[size_t(i)].emplace_back(tables.size());
    d_decoder.emplace_back(d);
  }
  for (int64_t item = 0; item < s.batch; ++item) {
    tables.build(planes + item * s.stride_n, int(s.threads));
#pragma omp parallel for num_threads(int(sums)) schedule(static, 1)
    for (int64_t part = 0; part < sums; ++part) {
      Block<T> block(d, CAPACITY, true);
      for (auto& buffer : d_tables[size_t(part)]) buffer.clear();
      for (int64_t b = blocks * part / sums; b < blocks * (part + 1) / sums; ++b) {
        const int64_t begin = b * CAPACITY, count = std::min(CAPACITY, s.points - begin), at = item * s.points + begin;
        look_up(block, tables, points + at * 3, count);
        block.densities(0, count, true);
        std::copy(d_sigma_raw + at, d_sigma_raw + at + count, block.d_sigma_raw.get());
        if (s.features > 0) {
          block.colours(0, count);
          memset(block.d_colour.get(), 0, size_t(count * d.colours) * sizeof(T));
          for (int64_t i = 0; i < count; ++i)
            for (int64_t k = 0; k < s.features; ++k)
              block.d_colour[i * d.colours + k] = d_rgb[(at + i) * s.features + k];
        }
        block.backward(count, d_decoder[size_t(part)], s.features > 0);
        for (int64_t i = 0; i < count; ++i)
          tables.scatter(block.places[size_t(i)], block.d_features.get() + i * d.width, d_tables[size_t(part)]);
        d_decoder[size_t(part)].flush();
      }
    }
    tables.backward(sum_tables(d_tables, tables.size(), int(s.threads)), d_planes + item * s.stride_n, int(s.threads));
  }
  for (auto& part : d_decoder) part.add_to(d, d_weights);
}

}  // namespace

// d_weights: w1, b1, w2, b2 one after the other, cleared by the caller.
#define FIELD_POINTS(T, suffix)                                                                                        \
  extern "C" void field_points_forward_##suffix(const PointSpec* s, const T* planes, const T* w1, const T* b1,         \
                                                const T* w2, const T* b2, const T* points, T* sigma_raw, T* rgb) {     \
    forward<T>(*s, planes, w1, b1, w2, b2, points, sigma_raw, rgb);                                                    \
  }                                                                                                                    \
  extern "C" void field_points_backward_##suffix(const PointSpec* s, const T* planes, const T* w1, const T* b1,        \
                                                 const T* w2, const T* b2, const T* points, const T* d_sigma_raw,      \
                                                 const T* d_rgb, T* d_planes, double* d_weights) {                     \
    backward<T>(*s, planes, w1, b1, w2, b2, points, d_sigma_raw, d_rgb, d_planes, d_weights);                          \
  }
FIELD_POINTS(float, f32)
FIELD_POINTS(double, f64)
