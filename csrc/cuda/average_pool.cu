// From a call of average pooling to the kernel of its layout.
#include "average_pool.cuh"
#include "transpose.cuh"

namespace roialign_ext::cuda {
namespace {

// Whether a map whose channels lie apart is copied to channels_last before it is pooled. Bins of a large box take few
// pixels of a row, and a load of single pixels moves a sector of eight for each; lanes that are channels use all that
// they load. A copy moves every element twice, which costs less than it saves where the map has few pixels beside those
// that its boxes take: at most (2 n P)^2 each, of n x n samples in P x P bins, and no more than the map has. Adaptive
// grids count as n = 2. Boxes of a pyramid are about as wide as their samples, so its maps are read in place.
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

void average_pool(const CallArgs& args, Scratch& scratch, Launcher& launcher) {
  with_storage(args.storage, [&](auto element) {
    using S = decltype(element);
    using W = typename Access<S>::W;
    const Products products = average_products(args);
    const auto taps = take_taps<W>(args, products, scratch);
    const bool together = reads_channels_last(args), copied = !together && pays_to_copy(args);
    const MapArgs& map = args.maps[0];
    const Sizes sizes = {args.images, args.channels, map.height, map.width};
    CallArgs read = args;
    if (copied) read.maps[0].pixels = take_channels_last(args.storage, sizes, scratch);
    if (scratch.counts_only()) return;
    build_taps(args, products, taps, launcher);
    if (copied) build_channels_last(args.storage, sizes, map.pixels, read.maps[0].pixels, launcher);
    if (together || copied) return launch_average_pool_channels_last<S>(read, products, taps, launcher);
    launch_average_pool_nchw<S>(args, products, taps, launcher);
  });
}

}  // namespace roialign_ext::cuda
