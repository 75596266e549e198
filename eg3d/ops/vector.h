// Lanes of float or double with the compiler's vector extensions: no intrinsics needed, a few used where they help.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <type_traits>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES_FN inline __attribute__((always_inline))
#define LANES_LAMBDA __attribute__((always_inline))

namespace lanes {

constexpr double LOG2E = 1.4426950408889634, LN2 = 0.6931471805599453;  // exp2 and log2 serve for exp and log

// As wide as the registers of the processor that the build is for: wider lanes are split, and spilled to memory.
#if defined(__AVX512F__)
#define LANES_BYTES 64
#elif defined(__AVX2__)
#define LANES_BYTES 32
#else
#define LANES_BYTES 16
#endif
constexpr int BYTES = LANES_BYTES;
template <class T>
constexpr int WIDTH = BYTES / int(sizeof(T));

template <class T>
struct Vector;
template <>
struct Vector<float> {
  typedef float type __attribute__((vector_size(LANES_BYTES)));
  typedef int32_t bits __attribute__((vector_size(LANES_BYTES)));
};
template <>
struct Vector<double> {
  typedef double type __attribute__((vector_size(LANES_BYTES)));
  typedef int64_t bits __attribute__((vector_size(LANES_BYTES)));
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
typedef Vector<float>::bits vec_bits;
LANES_FN vec_bits bits(vec<float> v) { return (vec_bits)v; }
LANES_FN vec<float> floats(vec_bits v) { return (vec<float>)v; }
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

// The larger of a number and v; NaN stays NaN.
LANES_FN vec<float> at_least(float low, vec<float> v) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_max_ps(_mm512_set1_ps(low), (__m512)v);
#elif defined(__AVX2__)
  return (vec<float>)_mm256_max_ps(_mm256_set1_ps(low), (__m256)v);
#else
  return v < low ? fill<float>(low) : v;
#endif
}

// What follows takes N vectors at once, step by step: a step waits for the one before it, so that a processor that cannot
// look far ahead computes one vector no faster than four.
template <class T>
constexpr int TOGETHER = WIDTH<T> < 4 ? WIDTH<T> : 4;

// run(i, N) for vectors i to i + N of `count`: N is TOGETHER, as a constant type, and 1 for what is left.
template <class T, class Run>
LANES_FN void in_groups(int64_t count, Run run) {
  int64_t i = 0;
  for (; i + TOGETHER<T> <= count; i += TOGETHER<T>) run(i, std::integral_constant<int, TOGETHER<T>>());
  for (; i < count; ++i) run(i, std::integral_constant<int, 1>());
}

// y = c[0] x^(K-1) + ... + c[K-1].
template <int N, int K>
LANES_FN void polynomial(const float (&c)[K], const vec<float>* x, vec<float>* y) {
  for (int j = 0; j < N; ++j) y[j] = x[j] * c[0] + c[1];
  for (int k = 2; k < K; ++k)
    for (int j = 0; j < N; ++j) y[j] = y[j] * x[j] + c[k];
}

// 2^x in place, float, for x <= 126: relative error 2e-7 (fit of degree 5 on [-0.5, 0.5]) from -126 on; NaN stays NaN.
constexpr float EXP2_FIT[] = {0.0013400432653725147f, 0.009676037356257439f, 0.05550327152013779f,
                              0.2402210682630539f,    0.6931471824645996f,   1.0000001192092896f};
template <int N>
LANES_FN void exp2(vec<float>* x) {
  vec<float> p[N], scale[N];
#ifdef __AVX512F__
  for (int j = 0; j < N; ++j) {
    scale[j] = (vec<float>)_mm512_roundscale_ps((__m512)x[j], _MM_FROUND_TO_NEAREST_INT);
    x[j] = x[j] - scale[j];
  }
  polynomial<N>(EXP2_FIT, x, p);
  for (int j = 0; j < N; ++j) x[j] = (vec<float>)_mm512_scalef_ps((__m512)p[j], (__m512)scale[j]);
#else
  constexpr float MAGIC = 12582912.0f + 127.0f;  // 1.5 * 2^23: adding it rounds to a whole number
  for (int j = 0; j < N; ++j) x[j] = at_least(-126.0f, x[j]);
  for (int j = 0; j < N; ++j) {
    const vec<float> shifted = x[j] + MAGIC;
    scale[j] = floats(bits(shifted) << 23);  // its lowest bits are the exponent of the scale
    x[j] = x[j] - (shifted - MAGIC);
  }
  polynomial<N>(EXP2_FIT, x, p);
  for (int j = 0; j < N; ++j) x[j] = p[j] * scale[j];
#endif
}

// log2(s) in place, float, of finite s >= 1: absolute error 1.1e-7 (fit of degree 8 on mantissas in [0.75, 1.5)).
constexpr float LOG2_FIT[] = {-0.09616397321224213f, 0.20412734150886536f, -0.2506521940231323f,
                              0.29007357358932495f,  -0.3603352904319763f, 0.4808475077152252f,
                              -0.7213506698608398f,  1.4426952600479126f};
template <int N>
LANES_FN void log2(vec<float>* s) {
  vec<float> p[N], exponent[N];
  for (int j = 0; j < N; ++j) {
#ifdef __AVX512F__
    exponent[j] = (vec<float>)_mm512_getexp_ps((__m512)(s[j] * (4.0f / 3.0f)));
    s[j] = (vec<float>)_mm512_getmant_ps((__m512)s[j], _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src) - 1.0f;
#else
    const vec_bits e = (bits(s[j]) - 0x3F400000) >> 23;
    exponent[j] = __builtin_convertvector(e, vec<float>);
    s[j] = floats(bits(s[j]) - (e << 23)) - 1.0f;
#endif
  }
  polynomial<N>(LOG2_FIT, s, p);
  for (int j = 0; j < N; ++j) s[j] = p[j] * s[j] + exponent[j];
}

// 1 / s for |s| from 2^-100 to 2^100: an estimate of the processor and one step of Newton, where it has one.
LANES_FN vec<float> reciprocal(vec<float> s) {
#if defined(__AVX512F__)
  const vec<float> r = (vec<float>)_mm512_rcp14_ps((__m512)s);
  return r * (2.0f - s * r);
#elif defined(__AVX2__)
  const vec<float> r = (vec<float>)_mm256_rcp_ps((__m256)s);
  return r * (2.0f - s * r);
#else
  return 1.0f / s;
#endif
}

// log2(1 + 2^h) in place, and its slope 1 / (1 + 2^-h) unless that is null, float: from q = 2^-|h|, which cannot overflow.
// Absolute error 2e-7 beside rounding (fit of degree 7 of log2(1 + q) / q on [0, 1]); NaN stays NaN.
constexpr float SOFTPLUS_FIT[] = {-0.009309150278568268f, 0.05205895006656647f, -0.13752126693725586f, 0.24186471104621887f,
                                  -0.34730106592178345f,  0.4786836802959442f,  -0.7211657762527466f,  1.4426898956298828f};
template <int N>
LANES_FN void softplus2(vec<float>* h, vec<float>* slope = nullptr) {
  vec<float> q[N], p[N];
  for (int j = 0; j < N; ++j) q[j] = floats(bits(h[j]) | int32_t(0x80000000));
  exp2<N>(q);
  if (slope)
    for (int j = 0; j < N; ++j) {
      const vec<float> r = reciprocal(q[j] + 1.0f), rq = r * q[j];
      slope[j] = h[j] < 0.0f ? rq : r;
    }
  for (int j = 0; j < N; ++j) h[j] = at_least(0.0f, h[j]);
  polynomial<N>(SOFTPLUS_FIT, q, p);
  for (int j = 0; j < N; ++j) h[j] = p[j] * q[j] + h[j];
}

// double serves exactness, not speed: the library's functions, lane by lane.
template <int N>
LANES_FN void exp2(vec<double>* x) {
  for (int j = 0; j < N; ++j)
    for (int i = 0; i < WIDTH<double>; ++i) x[j][i] = std::exp2(x[j][i]);
}
template <int N>
LANES_FN void log2(vec<double>* s) {
  for (int j = 0; j < N; ++j)
    for (int i = 0; i < WIDTH<double>; ++i) s[j][i] = std::log2(s[j][i]);
}
LANES_FN vec<double> reciprocal(vec<double> s) { return 1.0 / s; }
// As torch has it: h itself, and slope 1, where h is beyond 20 of base e.
template <int N>
LANES_FN void softplus2(vec<double>* h, vec<double>* slope = nullptr) {
  constexpr double THRESHOLD = 20.0 * LOG2E;
  for (int j = 0; j < N; ++j) {
    vec<double> p = h[j];
    exp2<1>(&p);
    vec<double> log = p + 1.0;
    const vec<double> ratio = p / log;
    log2<1>(&log);
    if (slope) slope[j] = h[j] > THRESHOLD ? fill<double>(1.0) : ratio;
    h[j] = h[j] > THRESHOLD ? h[j] : log;
  }
}

// out[i] = sum of the lanes of rows[i], for as many rows as there are lanes.
template <class T>
LANES_FN void row_sums(const vec<T>* rows, T* out) {
  for (int i = 0; i < WIDTH<T>; ++i) out[i] = sum<T>(rows[i]);
}
#if defined(__AVX512F__)
// Sums of halves, then of quarters, ..., by merging pairs of rows.
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
#elif defined(__AVX2__)
template <>
LANES_FN void row_sums<float>(const vec<float>* rows, float* out) {
  __m256 half[2];  // of the low and of the high lanes, rows 0-3 and 4-7
  for (int i = 0; i < 2; ++i) {
    const __m256 a = _mm256_hadd_ps((__m256)rows[4 * i], (__m256)rows[4 * i + 1]);
    half[i] = _mm256_hadd_ps(a, _mm256_hadd_ps((__m256)rows[4 * i + 2], (__m256)rows[4 * i + 3]));
  }
  const __m256 low = _mm256_permute2f128_ps(half[0], half[1], 0x20);
  _mm256_storeu_ps(out, _mm256_add_ps(low, _mm256_permute2f128_ps(half[0], half[1], 0x31)));
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
