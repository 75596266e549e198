// Lanes of float or double with the compiler's vector extensions: no intrinsics needed, a few used where AVX-512 is.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES_FN inline __attribute__((always_inline))

namespace lanes {

constexpr double LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453;  // exp2 and log2 serve for exp and log

constexpr int BYTES = 64;
template <class T>
constexpr int WIDTH = BYTES / int(sizeof(T));

template <class T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(64)));
  typedef int32_t bits __attribute__((vector_size(64)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(64)));
  typedef int64_t bits __attribute__((vector_size(64)));
};
template <class T>
using vec = typename Vector<T>::type;

template <class T>
LANES_FN vec<T> load(const T* p) {
  vec<T> v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
LANES_FN void store(T* p, vec<T> v) {
  memcpy(p, &v, sizeof v);
}
template <class T>
LANES_FN vec<T> fill(T x) {
  return x - vec<T>{};
}
template <class T>
LANES_FN T sum(vec<T> v) {
  T total = 0;
  for (int i = 0; i < WIDTH<T>; ++i) total += v[i];
  return total;
}

// 2^x, float: relative error 2e-7 (fit of degree 5 on [-0.5, 0.5]) for |x| <= 126, beyond it monotone; NaN stays NaN.
LANES_FN vec<float> exp2_polynomial(vec<float> f) {
  vec<float> p = f * 0.0013400432653725147f + 0.009676037356257439f;
  p = p * f + 0.05550327152013779f;
  p = p * f + 0.2402210682630539f;
  p = p * f + 0.6931471824645996f;
  return p * f + 1.0000001192092896f;
}
LANES_FN vec<float> exp2(vec<float> x) {
#ifdef __AVX512F__
  const vec<float> n = (vec<float>)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT);
  return (vec<float>)_mm512_scalef_ps((__m512)exp2_polynomial(x - n), (__m512)n);
#else
  typedef Vector<float>::bits bits;
  x = x < -126.0f ? fill<float>(-126.0f) : x;
  x = x > 126.0f ? fill<float>(126.0f) : x;
  const vec<float> magic = fill<float>(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number
  const vec<float> shifted = x + magic;
  bits n;
  memcpy(&n, &shifted, sizeof n);
  n = (n - (0x4B400000 - 127)) << 23;
  vec<float> scale;
  memcpy(&scale, &n, sizeof n);
  return exp2_polynomial(x - (shifted - magic)) * scale;
#endif
}

// log2(s) of s >= 1, float: absolute error 1.1e-7 (fit of degree 8 on mantissas in [0.75, 1.5)), NaN stays NaN.
LANES_FN vec<float> log2(vec<float> s) {
  vec<float> f, exponent;
#ifdef __AVX512F__
  f = (vec<float>)_mm512_getmant_ps((__m512)s, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src) - 1.0f;
  exponent = (vec<float>)_mm512_getexp_ps((__m512)(s * (4.0f / 3.0f)));
#else
  typedef Vector<float>::bits bits;
  bits i;
  memcpy(&i, &s, sizeof i);
  const bits e = (i - 0x3F400000) >> 23;
  i -= e << 23;
  vec<float> m;
  memcpy(&m, &i, sizeof i);
  exponent = __builtin_convertvector(e, vec<float>);
  f = (s == s ? m : s) - 1.0f;
#endif
  vec<float> p = f * -0.09616397321224213f + 0.20412734150886536f;
  p = p * f + -0.2506521940231323f;
  p = p * f + 0.29007357358932495f;
  p = p * f + -0.3603352904319763f;
  p = p * f + 0.4808475077152252f;
  p = p * f + -0.7213506698608398f;
  p = p * f + 1.4426952600479126f;
  return p * f + exponent;
}

LANES_FN vec<float> reciprocal(vec<float> s) {
#ifdef __AVX512F__
  const vec<float> r = (vec<float>)_mm512_rcp14_ps((__m512)s);
  return r * (2.0f - s * r);
#else
  return 1.0f / s;
#endif
}

// double serves exactness, not speed: the library's functions, lane by lane.
LANES_FN vec<double> exp2(vec<double> x) {
  for (int i = 0; i < WIDTH<double>; ++i) x[i] = std::exp2(x[i]);
  return x;
}
LANES_FN vec<double> log2(vec<double> s) {
  for (int i = 0; i < WIDTH<double>; ++i) s[i] = std::log2(s[i]);
  return s;
}
LANES_FN vec<double> reciprocal(vec<double> s) { return 1.0 / s; }

// out[i] = sum of the lanes of rows[i], for as many rows as there are lanes: sums of halves, then of quarters, ...
template <class T>
LANES_FN void row_sums(const vec<T>* rows, T* out) {
  constexpr int W = WIDTH<T>;
  T buffer[W][W] __attribute__((aligned(64)));
  for (int i = 0; i < W; ++i) store<T>(buffer[i], rows[i]);
  for (int i = 0; i < W; ++i) {
    T total[4] = {0, 0, 0, 0};
    for (int l = 0; l < W; l += 4)
      for (int m = 0; m < 4; ++m) total[m] += buffer[i][l + m];
    out[i] = (total[0] + total[1]) + (total[2] + total[3]);
  }
}
#if defined(__AVX512F__)
// Sixteen sums at once by merging pairs of rows.
template <>
LANES_FN void row_sums<float>(const vec<float>* rows, float* out) {
  __m512 r[16];
  for (int i = 0; i < 16; ++i) r[i] = (__m512)rows[i];
  for (int i = 0; i < 8; ++i)  // lanes 0-7: row i, lanes 8-15: row i + 8
    r[i] = _mm512_add_ps(_mm512_shuffle_f32x4(r[i], r[i + 8], 0x44), _mm512_shuffle_f32x4(r[i], r[i + 8], 0xEE));
  for (int i = 0; i < 4; ++i)  // quarters: rows i, i + 4, i + 8, i + 12
    r[i] = _mm512_add_ps(_mm512_shuffle_f32x4(r[i], r[i + 4], 0x88), _mm512_shuffle_f32x4(r[i], r[i + 4], 0xDD));
  for (int i = 0; i < 2; ++i)
    r[i] = _mm512_add_ps(_mm512_unpacklo_ps(r[i], r[i + 2]), _mm512_unpackhi_ps(r[i], r[i + 2]));
  r[0] = _mm512_add_ps(_mm512_unpacklo_ps(r[0], r[1]), _mm512_unpackhi_ps(r[0], r[1]));
  _mm512_storeu_ps(out, _mm512_shuffle_f32x4(r[0], r[0], 0xD8));  // quarters held rows 0, 8, 4, 12 onwards
}
#endif

// Aligned memory that is not cleared.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0) { resize(count); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer(Buffer&& other) noexcept : data_(other.data_), count_(other.count_) { other.data_ = nullptr; }
  ~Buffer() { std::free(data_); }
  void resize(int64_t count) {
    std::free(data_);
    count_ = count;
    const size_t bytes = (size_t(count) * sizeof(T) + 127) / 64 * 64;
    data_ = static_cast<T*>(std::aligned_alloc(64, bytes));
    if (!data_) throw std::bad_alloc();
  }
  void clear() { memset(data_, 0, size_t(count_) * sizeof(T)); }
  T* get() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }
  int64_t size() const { return count_; }

 private:
  T* data_ = nullptr;
  int64_t count_ = 0;
};

template <class T>
LANES_FN int64_t padded(int64_t n) {
  return (n + WIDTH<T> - 1) / WIDTH<T> * WIDTH<T>;
}

}  // namespace lanes
