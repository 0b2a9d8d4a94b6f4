#include "transpose.cuh"

#include "tuning.cuh"
#include "work.cuh"

namespace roialign_ext::cuda {
namespace {

constexpr int kVectorBytes = 16, kVectorsOfPlace = 8;  // eight lanes write 128 bytes of one place

// A tile is read by elements, by vectors within a channel, or by vectors of one contiguous piece. The piece holds all
// channels of the tile.
enum class Reading { kElements, kVectors, kPiece };

// A tile is `channels` channels of `places` pixels of one image. The last two fields count tiles per image.
struct TransposePlan {
  Reading reading;
  int channels, places;
  unsigned channel_tiles, place_tiles;
};

// Shared memory holds the tile as the source does, channel by channel. The channels of one 16-byte vector of the result
// form a group, which is a whole number of vectors long. A padding vector after a group makes that number odd. Then
// eight lanes at one place of eight groups, times four neighbouring places, read 32 different banks.
template <class Word>
struct TileLayout {
  static constexpr int kGroup = kVectorBytes / sizeof(Word);  // channels of a vector
  int places, padding;                                        // in vectors; padding after every group

  __device__ explicit TileLayout(int places_of_tile) : places(places_of_tile), padding(1 - places_of_tile % 2) {}

  // Index of an element, and of a vector; `number` counts the vectors of the tile without padding.
  __device__ __forceinline__ int element(int group, int channel, int place) const {
    return group * (places + padding) * kGroup + channel * places + place;
  }
  __device__ __forceinline__ int vector(int group, int number) const { return group * padding + number; }
};

// threadIdx.x + i kThreads divided by a fixed divisor, without a division per step.
struct Division {
  int divisor, quotient, rest, quotient_of_step, rest_of_step;

  __device__ explicit Division(unsigned by)
      : divisor(by),
        quotient(threadIdx.x / by),
        rest(threadIdx.x % by),
        quotient_of_step(kThreads / by),
        rest_of_step(kThreads % by) {}

  __device__ __forceinline__ void next() {
    quotient += quotient_of_step;
    rest += rest_of_step;
    if (rest >= divisor) {
      rest -= divisor;
      ++quotient;
    }
  }
};

// Word is an unsigned integer of the element size: elements are copied as bits.
template <class Word>
__global__ void __launch_bounds__(kThreads)
    transpose_channels(const TransposePlan plan, const Shape shape, const __grid_constant__ View<void> source,
                       const __grid_constant__ View<void> copy) {
  constexpr int kGroup = TileLayout<Word>::kGroup;
  ROI_SHARED_BYTES(shared);
  uint4* const vectors = reinterpret_cast<uint4*>(shared);
  Word* const elements = reinterpret_cast<Word*>(shared);
  // Tiles of channels vary fastest: neighbouring blocks complete the places of the copy. All of these numbers are below
  // the number of blocks, so they fit 32 bits.
  const unsigned place_tile = blockIdx.x / plan.channel_tiles, image = place_tile / plan.place_tiles;
  const int64_t first_channel = int64_t(blockIdx.x - place_tile * plan.channel_tiles) * plan.channels;
  const int64_t first_place = int64_t(place_tile - image * plan.place_tiles) * plan.places;
  const int channels = static_cast<int>(min(shape.c - first_channel, int64_t(plan.channels)));
  const int places = static_cast<int>(min(shape.h * shape.w - first_place, int64_t(plan.places)));
  const TileLayout<Word> layout(places);
  const Word* const from =
      static_cast<const Word*>(source.data) + image * source.stride_n + first_channel * source.stride_c;
  if (plan.reading == Reading::kElements) {
    const unsigned width = static_cast<unsigned>(shape.w);
    const int64_t first_y = first_place / shape.w;
    const unsigned first_x = static_cast<unsigned>(first_place - first_y * shape.w);
    Division own(places);  // quotient: channel; rest: place
    for (int i = threadIdx.x; i < channels * places; i += kThreads, own.next()) {
      const unsigned x = first_x + own.rest, rows = x / width;
      elements[layout.element(own.quotient / kGroup, own.quotient % kGroup, own.rest)] =
          __ldg(from + own.quotient * source.stride_c + (first_y + rows) * source.stride_y +
                int64_t(x - rows * width) * source.stride_x);
    }
  } else {
    const bool is_piece = plan.reading == Reading::kPiece;
    Division own(is_piece ? places : places / kGroup);  // quotient: group or channel; rest: vector
    for (int i = threadIdx.x; i < channels * places / kGroup; i += kThreads, own.next()) {
      const int64_t at =
          is_piece ? int64_t(i) * kGroup : own.quotient * source.stride_c + first_place + own.rest * kGroup;
      vectors[layout.vector(is_piece ? own.quotient : own.quotient / kGroup, i)] =
          __ldg(reinterpret_cast<const uint4*>(from + at));
    }
  }
  __syncthreads();
  // Eight lanes have the groups of one place. The four sets of eight lanes of a warp have neighbouring places.
  const int groups = (channels + kGroup - 1) / kGroup, lane = threadIdx.x % kVectorsOfPlace;
  Word* const to = static_cast<Word*>(copy.data) + image * copy.stride_n + first_channel;
  for (int place = threadIdx.x / kVectorsOfPlace; place < places; place += kThreads / kVectorsOfPlace) {
    for (int group = lane; group < groups; group += kVectorsOfPlace) {
      Word own[kGroup];
#pragma unroll
      for (int c = 0; c < kGroup; ++c) own[c] = elements[layout.element(group, c, place)];
      uint4 vector;
      memcpy(&vector, own, sizeof(vector));
      *reinterpret_cast<uint4*>(to + (first_place + place) * copy.stride_x + group * kGroup) = vector;
    }
  }
}

unsigned tiles_of(int64_t length, int64_t size) { return static_cast<unsigned>((length + size - 1) / size); }

template <class Word>
TransposePlan make_plan(const Shape& shape, const View<void>& source) {
  constexpr int kGroup = TileLayout<Word>::kGroup;
  const int64_t places = shape.h * shape.w;
  TransposePlan plan;
  plan.places = static_cast<int>(places <= kMaxPlacesOfTile ? places : kPlacesOfTile);
  plan.channels = kVectorsOfPlace * kGroup * (plan.places <= kNarrowTile ? 2 : 1);
  plan.channel_tiles = tiles_of(shape.c, plan.channels);
  plan.place_tiles = tiles_of(places, plan.places);
  const auto aligned = [](int64_t elements) { return elements % kGroup == 0; };
  const bool planes_are_contiguous = source.stride_x == 1 && (shape.h == 1 || source.stride_y == shape.w) &&
                                     reinterpret_cast<uintptr_t>(source.data) % kVectorBytes == 0 &&
                                     aligned(source.stride_n);
  const bool is_piece = plan.places == places && source.stride_c == places && aligned(shape.c);
  plan.reading = !planes_are_contiguous                        ? Reading::kElements
                 : is_piece                                    ? Reading::kPiece
                 : aligned(places) && aligned(source.stride_c) ? Reading::kVectors
                                                               : Reading::kElements;
  return plan;
}

template <class Word>
void launch(const Shape& shape, const View<void>& source, const View<void>& copy, Launcher& launcher) {
  const TransposePlan plan = make_plan<Word>(shape, source);
  const int64_t blocks = shape.n * plan.place_tiles * plan.channel_tiles;
  const int64_t groups = plan.channels / TileLayout<Word>::kGroup;
  launcher.launch("transpose_channels", transpose_channels<Word>, blocks, kThreads,
                  groups * (plan.places + 1) * kVectorBytes, plan, shape, source, copy);
}

}  // namespace

View<void> take_channels_last(Storage storage, const Shape& shape, Scratch& scratch) {
  const int64_t bytes = bytes_of(storage), group = kVectorBytes / bytes;
  const int64_t pixel = (shape.c + group - 1) / group * group;
  void* const data = scratch.take<char>(shape.n * shape.h * shape.w * pixel * bytes);
  return {data, shape.h * shape.w * pixel, 1, shape.w * pixel, pixel};
}

void build_channels_last(Storage storage, const Shape& shape, const View<void>& source, const View<void>& copy,
                         Launcher& launcher) {
  switch (bytes_of(storage)) {
    case 2:
      return launch<uint16_t>(shape, source, copy, launcher);
    case 4:
      return launch<uint32_t>(shape, source, copy, launcher);
    default:
      return launch<uint64_t>(shape, source, copy, launcher);
  }
}

}  // namespace roialign_ext::cuda
