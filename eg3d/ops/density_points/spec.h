// The sizes and settings of samples at points, as op.py hands them to the kernels of every device.
#pragma once

#include <cstdint>

struct PointSpec {  // mirrored by a ctypes structure in op.py
  int64_t batch, points, channels, hidden, features, side;
  int64_t stride_n, stride_p, stride_c, stride_h, stride_w;  // of planes and of their gradient
  int64_t is_corrected, threads;
  double box_warp;
};
