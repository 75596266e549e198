// The field at arbitrary points, on a GPU. Definition: reference.py. Gradients of planes are summed in any order.

#include "../samples_gpu.h"
#include "spec.h"

namespace {

using namespace gpu;

Layout layout_of(const PointSpec& s) {
  return {s.channels, s.hidden, s.features, s.side, s.stride_p, s.stride_c, s.stride_h, s.stride_w, s.is_corrected,
          s.box_warp};
}

template <class T, int M>
struct Decode {
  Field<T, M> f;
  const T* points;
  T *sigma_raw, *rgb;  // [P], [P, K]
  FIELD_FN void operator()(int64_t i) const {
    T features[M], sigmoids[M];
    f.look_up(f.place(points + i * 3), features);
    if (f.l.features == 0) {
      sigma_raw[i] = f.density(features);
      return;
    }
    sigma_raw[i] = f.decode(features, sigmoids);
    for (int64_t k = 0; k < f.l.features; ++k) rgb[i * f.l.features + k] = sigmoids[k] * T(1.002) - T(0.001);
  }
};
template <class T, int M>
struct Backward {
  Field<T, M> f;
  Piece<T, M> piece;
  const T *points, *d_sigma_raw, *d_rgb;
  T* d_tables;
  FIELD_FN void operator()(int64_t i) const {
    T d_colour[M];
    for (int k = 0; k < M; ++k) d_colour[k] = k < f.l.features ? d_rgb[i * f.l.features + k] : T(0);
    piece.backward(f, points + i * 3, i, d_sigma_raw[i], d_colour, d_tables);
  }
};

template <class T, int M>
int64_t forward(const PointSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, const T* points,
                T* sigma_raw, T* rgb, T* memory, Stream stream) {
  Workspace<T> space{memory};
  const Context<T, M> context(space, layout_of(s), false);
  context.pad(w1, b1, w2, b2, stream);
  for (int64_t n = 0; n < s.batch; ++n) {
    const int64_t at = n * s.points;
    const Field<T, M> f = context.field(planes + n * s.stride_n, stream);
    for_each(s.points, stream, Decode<T, M>{f, points + at * 3, sigma_raw + at, rgb + at * s.features});
  }
  return launch_error();
}
template <class T, int M>
int64_t backward(const PointSpec& s, const T* planes, const T* w1, const T* b1, const T* w2, const T* b2, const T* points,
                 const T* d_sigma_raw, const T* d_rgb, T* d_planes, double* d_weights, T* memory, Stream stream) {
  Workspace<T> space{memory};
  const Context<T, M> context(space, layout_of(s), true);
  context.pad(w1, b1, w2, b2, stream);
  for (int64_t n = 0; n < s.batch; ++n) {
    const Field<T, M> f = context.field(planes + n * s.stride_n, stream);
    for_each(context.table_size(), stream, Clear<T>{context.d_tables});
    for (int64_t begin = 0; begin < s.points; begin += PIECE) {
      const int64_t count = s.points - begin < PIECE ? s.points - begin : PIECE, at = n * s.points + begin;
      for_each(count, stream, Backward<T, M>{f, context.piece, points + at * 3, d_sigma_raw + at,
                                             d_rgb + at * s.features, context.d_tables});
      context.add_weights(count, d_weights, stream);
    }
    context.unmerge(d_planes + n * s.stride_n, stream);
  }
  return launch_error();
}
template <class T, int M>
int64_t workspace(const PointSpec& s, bool has_gradients) {
  Workspace<T> space{nullptr};
  Context<T, M>(space, layout_of(s), has_gradients);
  return space.used;
}
int64_t room(const PointSpec& s) { return s.channels > s.features ? s.channels : s.features; }

}  // namespace

// All return 0, or the code of a CUDA error, or -1 for more than 64 channels or features.
#define FIELD_POINTS(T, suffix)                                                                                        \
  extern "C" int64_t field_points_workspace_##suffix(const PointSpec* s, int64_t has_gradients) {                      \
    return with_room(room(*s), [&](auto m) { return workspace<T, decltype(m)::value>(*s, has_gradients != 0); });      \
  }                                                                                                                    \
  extern "C" int64_t field_points_forward_##suffix(const PointSpec* s, const T* planes, const T* w1, const T* b1,      \
                                                   const T* w2, const T* b2, const T* points, T* sigma_raw, T* rgb,    \
                                                   T* memory, void* stream) {                                          \
    return with_room(room(*s), [&](auto m) {                                                                           \
      return forward<T, decltype(m)::value>(*s, planes, w1, b1, w2, b2, points, sigma_raw, rgb, memory,                \
                                            Stream(stream));                                                           \
    });                                                                                                                \
  }                                                                                                                    \
  extern "C" int64_t field_points_backward_##suffix(const PointSpec* s, const T* planes, const T* w1, const T* b1,     \
                                                    const T* w2, const T* b2, const T* points, const T* d_sigma_raw,   \
                                                    const T* d_rgb, T* d_planes, double* d_weights, T* memory,         \
                                                    void* stream) {                                                    \
    return with_room(room(*s), [&](auto m) {                                                                           \
      return backward<T, decltype(m)::value>(*s, planes, w1, b1, w2, b2, points, d_sigma_raw, d_rgb, d_planes,         \
                                             d_weights, memory, Stream(stream));                                       \
    });                                                                                                                \
  }
FIELD_POINTS(float, f32)
FIELD_POINTS(double, f64)
