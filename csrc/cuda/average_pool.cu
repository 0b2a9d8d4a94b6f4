// Chooses the kernel of average pooling by the layout of the maps.
#include "average_pool.cuh"
#include "transpose.cuh"

namespace roialign_ext::cuda {
namespace {

// Whether an NCHW map is copied to channels_last before pooling. Bins of a large box take few pixels of a row. So an
// NCHW load moves a sector of eight floats per pixel, whereas a channels_last load uses its whole sector. The copy
// moves every element twice. That pays off if the boxes read many more pixels than the map has. A box of P x P bins
// with n x n samples reads at most (2 n P)^2 pixels, and at most the map. Adaptive grids count as n = 2. Pyramids are
// read in place, since their boxes are about as wide as their samples.
bool pays_to_copy(const CallArgs& args) {
  if (args.levels > 1 || args.channels < kWarp) return false;
  const MapArgs& map = args.maps[0];
  const bool fixed = args.sampling_ratio > 0 && !is_integral(args.rule);
  const double samples = fixed ? static_cast<double>(args.sampling_ratio) : 2.0;
  const double taken = 4 * samples * samples * static_cast<double>(args.bins_y) * static_cast<double>(args.bins_x);
  const double pixels = static_cast<double>(map.height) * static_cast<double>(map.width);
  return static_cast<double>(args.images) * pixels <
         kCopyBelow * static_cast<double>(args.boxes) * std::min(taken, pixels);
}

}  // namespace

void enqueue_average_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args.rule, args.direction_count);
    const auto taps = take_taps_by_bin<W>(args, products, scratch);
    const bool is_channels_last = reads_channels_last(args), copies = !is_channels_last && pays_to_copy(args);
    const MapArgs& map = args.maps[0];
    const Shape shape = {args.images, args.channels, map.height, map.width};
    CallArgs channels_last = args;
    if (copies) channels_last.maps[0].pixels = take_channels_last(args.storage, shape, scratch);
    if (scratch.counts_only()) return;
    build_taps_by_bin(args, products, taps, launcher);
    if (copies) build_channels_last(args.storage, shape, map.pixels, channels_last.maps[0].pixels, launcher);
    if (!is_channels_last && !copies) return launch_average_pool_nchw<S>(args, products, taps, launcher);
    launch_average_pool_channels_last<S>(channels_last, products, taps, launcher);
  });
}

}  // namespace roialign_ext::cuda
