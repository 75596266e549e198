// The sizes and settings of rendered rays, as op.py hands them to the kernels of every device.
#pragma once

#include <cstdint>

struct RaySpec {  // mirrored by a ctypes structure in op.py
  int64_t batch, rays, coarse, fine;
  int64_t channels, hidden, features, side;
  int64_t stride_n, stride_p, stride_c, stride_h, stride_w;  // of planes and of their gradient
  int64_t is_corrected, is_disparity, is_centred, threads;
  double box_warp;
};
