// The sizes and settings of a grid of raw densities, as op.py hands them to the kernels of every device.
#pragma once

#include <cstdint>

struct GridSpec {  // mirrored by a ctypes structure in op.py
  int64_t batch, channels, hidden, side;
  int64_t stride_n, stride_p, stride_c, stride_h, stride_w;  // of planes and of their gradient
  int64_t resolution, x0, x1, y0, y1, z0, z1;
  int64_t is_skewed, is_corrected, threads;
};
