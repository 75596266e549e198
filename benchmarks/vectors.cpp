// softplus of many numbers by vector libraries, for vectors.py: one function each, float[count] -> float[count].
#include <cmath>
#include <cstdint>

#include "../eg3d/ops/vector.h"

#define VARIANT(name) extern "C" void softplus_##name(const float* in, float* out, int64_t count)

// Base 2 inside, as in the kernels.
VARIANT(ours) {
  using namespace lanes;
  constexpr int W = WIDTH<float>, N = TOGETHER<float>;
  for (int64_t i = 0; i < count; i += N * W) {
    vec<float> h[N];
    for (int j = 0; j < N; ++j) h[j] = load(in + i + j * W) * float(LOG2E);
    softplus2<N>(h);
    for (int j = 0; j < N; ++j) store(out + i + j * W, vec<float>(h[j] * float(LN2)));
  }
}

VARIANT(libm) {
  for (int64_t i = 0; i < count; ++i) out[i] = in[i] > 20.0f ? in[i] : log1pf(expf(in[i]));
}

#ifdef WITH_ATEN
#include <ATen/cpu/vec/vec.h>
VARIANT(aten) {
  using V = at::vec::Vectorized<float>;
  const V limit(20.0f);
  for (int64_t i = 0; i < count; i += V::size()) {
    const V x = V::loadu(in + i);
    V::blendv(x.exp().log1p(), x, x > limit).store(out + i);
  }
}
#endif

#ifdef WITH_HIGHWAY
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>
VARIANT(highway) {
  namespace hn = hwy::HWY_NAMESPACE;
  const hn::ScalableTag<float> d;
  for (int64_t i = 0; i < count; i += int64_t(hn::Lanes(d))) {
    const auto x = hn::LoadU(d, in + i);
    hn::StoreU(hn::IfThenElse(hn::Gt(x, hn::Set(d, 20.0f)), x, hn::Log1p(d, hn::Exp(d, x))), d, out + i);
  }
}
#endif

#ifdef WITH_XSIMD
#include <xsimd/xsimd.hpp>
VARIANT(xsimd) {
  using V = xsimd::batch<float>;
  for (int64_t i = 0; i < count; i += int64_t(V::size)) {
    const V x = V::load_unaligned(in + i);
    xsimd::select(x > V(20.0f), x, xsimd::log1p(xsimd::exp(x))).store_unaligned(out + i);
  }
}
#endif

#ifdef WITH_STD_SIMD
#include <experimental/simd>
VARIANT(std_simd) {
  namespace stdx = std::experimental;
  using V = stdx::native_simd<float>;
  for (int64_t i = 0; i < count; i += int64_t(V::size())) {
    const V x(in + i, stdx::element_aligned);
    V y = stdx::log1p(stdx::exp(x));
    where(x > 20.0f, y) = x;
    y.copy_to(out + i, stdx::element_aligned);
  }
}
#endif
