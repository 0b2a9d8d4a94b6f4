#include "rotated_boxes.cuh"

namespace roialign_ext::cuda {
namespace {

// Pixels near the interval centre +- half, in map pixels; the whole map if the interval is NaN.
template <class T>
__device__ __forceinline__ Span pixels_near(T centre, T half, int64_t length) {
  const T margin = T(2) + T(4e-6) * (std::fabs(centre) + half);  // one pixel, and rounding errors
  const T from = centre - half - margin, to = centre + half + margin, end = static_cast<T>(length);
  return {from > T(0) ? static_cast<int>(from < end ? from : end) : 0,
          to < end ? static_cast<int>(to > T(0) ? to : T(0)) : static_cast<int>(length)};
}

// A thread has one box. Blocks that write lists come first.
template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_rotated_boxes(const __grid_constant__ CallArgs args, const RotatedBoxes<T> boxes,
                       const BoxesByPlane by_plane) {
  const int64_t block = blockIdx.x - list_blocks(args, by_plane);
  if (block < 0) return list_boxes<T>(args, by_plane, static_cast<int>(blockIdx.x));
  const int64_t k = block * kThreads + threadIdx.x;
  if (k >= args.boxes) return;
  const T* data = static_cast<const T*>(args.box_data) + kRotatedColumns * k;
  const int plane = find_plane(args, k, data);
  const MapArgs& map = args.maps[plane < 0 ? 0 : plane / args.images];
  const RotatedBox<T> box = make_rotated_box<T>(args.rule, data + 1, static_cast<T>(map.scale), args.bins_y,
                                                args.bins_x, map.height, map.width, args.sampling_ratio);
  const T cosine = std::fabs(box.cosine), sine = std::fabs(box.sine);
  const T half_y = std::fabs(box.y.start), half_x = std::fabs(box.x.start);
  boxes.plane_of_box[k] = plane;
  boxes.boxes[k] = box;
  boxes.y_pixels[k] = pixels_near(box.centre_y, half_y * cosine + half_x * sine, map.height);
  boxes.x_pixels[k] = pixels_near(box.centre_x, half_y * sine + half_x * cosine, map.width);
}

}  // namespace

template <class T>
void build_rotated_boxes(const CallArgs& args, const RotatedBoxes<T>& boxes, const BoxesByPlane& by_plane,
                         Launcher& launcher) {
  launcher.launch("fill_rotated_boxes", fill_rotated_boxes<T>, list_blocks(args, by_plane) + blocks_for(args.boxes),
                  kThreads, kBoxesByPlaneBytes, args, boxes, by_plane);
}

template void build_rotated_boxes(const CallArgs&, const RotatedBoxes<float>&, const BoxesByPlane&, Launcher&);
template void build_rotated_boxes(const CallArgs&, const RotatedBoxes<double>&, const BoxesByPlane&, Launcher&);

}  // namespace roialign_ext::cuda
