// Runs one kernel on a file: blocks of a length (8 bytes) and as many bytes, the first the spec, the others what its
// pointers point to (length 0: null). The blocks are written back.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#define OF_TYPES(X, name) X(name##_f32) X(name##_f64)
#define KERNELS(X)                                                               \
  OF_TYPES(X, density_grid_forward) OF_TYPES(X, density_grid_backward)           \
  OF_TYPES(X, field_points_forward) OF_TYPES(X, field_points_backward)           \
  OF_TYPES(X, render_rays_forward) OF_TYPES(X, render_rays_backward)
#define DECLARED(name) extern "C" void name();
KERNELS(DECLARED)

typedef void Kernel(void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*, void*,
                    void*, void*, void*, void*, void*);  // more than any takes: what a kernel does not read does no harm

int main(int, char** words) {
  Kernel* kernel = nullptr;
#define FOUND(name) \
  if (!strcmp(words[1], #name)) kernel = reinterpret_cast<Kernel*>(reinterpret_cast<void*>(&name));
  KERNELS(FOUND)
  if (!kernel) return 2;
  std::vector<std::vector<unsigned char>> blocks;
  FILE* file = fopen(words[2], "rb");
  for (uint64_t size; fread(&size, sizeof size, 1, file) == 1;) {
    blocks.emplace_back(size);
    if (size && fread(blocks.back().data(), 1, size, file) != size) return 3;
  }
  fclose(file);
  void* p[20] = {};
  for (size_t i = 0; i < blocks.size(); ++i) p[i] = blocks[i].empty() ? nullptr : blocks[i].data();
  kernel(p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], p[12], p[13], p[14], p[15], p[16], p[17],
         p[18], p[19]);
  file = fopen(words[2], "wb");
  for (const auto& block : blocks) {
    const uint64_t size = block.size();
    fwrite(&size, sizeof size, 1, file);
    fwrite(block.data(), 1, size, file);
  }
  return fclose(file);
}
