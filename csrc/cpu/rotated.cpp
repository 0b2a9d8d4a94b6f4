#include "rotated.h"

#include "schedule.h"

namespace roialign_ext {

template <class W, class T>
void rotated_pool(const CallArgs<T>& args, const std::vector<const T*>& directions, const Pyramid<ConstView>& maps,
                  const MutableView& output) {
  const Kernels<W> kernels = select_kernels<W>();
  const RotatedPlan<W> plan = make_rotated_plan<W>(args, directions);
  const ChannelBlocks blocks = choose_blocks(kernels.lanes, output.channels, maps.planes());
  const RotatedPoolJob<W> job = {maps, output, &plan, blocks, nullptr};
  run_units(maps.planes() * blocks.count, static_cast<double>(maps.elements() + output.elements()),
            [&](int64_t begin, int64_t end) { kernels.rotated_pool_units(job, begin, end); });
}

template <class W, class T>
void rotated_grad_input(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<MutableView>& grad_input) {
  const Kernels<W> kernels = select_kernels<W>();
  const RotatedPlan<W> plan = make_rotated_plan<W>(args, directions);
  const ChannelBlocks blocks = choose_blocks(kernels.lanes, grad.channels, grad_input.planes());
  const RotatedGradInputJob<W> job = {grad_input, grad, &plan, blocks, nullptr};
  run_units(grad_input.planes() * blocks.count, static_cast<double>(grad_input.elements() + grad.elements()),
            [&](int64_t begin, int64_t end) { kernels.rotated_grad_input_units(job, begin, end); });
}

template <class W, class T>
void rotated_grad_boxes(const CallArgs<T>& args, const std::vector<const T*>& directions, const ConstView& grad,
                        const Pyramid<ConstView>& maps, T* grad_boxes) {
  const Kernels<W> kernels = select_kernels<W>();
  const RotatedPlan<W> plan = make_rotated_grad_boxes_plan<W>(args, directions);
  const ChannelBlocks blocks = summed_blocks(kernels.lanes, grad.channels);
  std::vector<W> partial(static_cast<size_t>(args.boxes * blocks.count * kRotatedParameters));
  const RotatedGradBoxesJob<W> job = {maps, grad, &plan, blocks, partial.data()};
  run_units(maps.planes() * blocks.count, static_cast<double>(maps.elements() + grad.elements()),
            [&](int64_t begin, int64_t end) { kernels.rotated_grad_boxes_units(job, begin, end); });
  const W* from = partial.data();
  for (int64_t k = 0; k < args.boxes; ++k) {
    for (int64_t block = 0; block < blocks.count; ++block) {
      for (int m = 0; m < kRotatedParameters; ++m) grad_boxes[args.columns * k + 1 + m] += static_cast<T>(*from++);
    }
  }
}

#define INSTANTIATE(W, T)                                                                                       \
  template void rotated_pool<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const Pyramid<ConstView>&, \
                                   const MutableView&);                                                         \
  template void rotated_grad_input<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const ConstView&,    \
                                         const Pyramid<MutableView>&);                                          \
  template void rotated_grad_boxes<W, T>(const CallArgs<T>&, const std::vector<const T*>&, const ConstView&,    \
                                         const Pyramid<ConstView>&, T*);
INSTANTIATE(float, float)
INSTANTIATE(float, double)
INSTANTIATE(double, double)

}  // namespace roialign_ext
