// Vectors of one instruction set, and copies between strided storage and channel blocks. Included by kernels_body.h.
//
// A channel block is an array [pixels][B] of the arithmetic type. The B channels of a pixel are contiguous and fill NV
// vectors of L lanes. Channels past the tensor's last are zeros.

template <class W>
struct VectorType {
  typedef W type __attribute__((vector_size(ROI_VECTOR_BYTES)));
  typedef W unaligned __attribute__((vector_size(ROI_VECTOR_BYTES), aligned(alignof(W)), may_alias));
  static constexpr int lanes = ROI_VECTOR_BYTES / sizeof(W);
};
template <class W>
using Vec = typename VectorType<W>::type;

inline Vec<float> load(const float* p) { return *reinterpret_cast<const VectorType<float>::unaligned*>(p); }
inline Vec<double> load(const double* p) { return *reinterpret_cast<const VectorType<double>::unaligned*>(p); }
inline void store(float* p, Vec<float> v) { *reinterpret_cast<VectorType<float>::unaligned*>(p) = v; }
inline void store(double* p, Vec<double> v) { *reinterpret_cast<VectorType<double>::unaligned*>(p) = v; }

// Integers in lanes as wide as the arithmetic type; 32 bits in memory.
template <class W>
using lane_index_t = std::conditional_t<sizeof(W) == 4, int32_t, int64_t>;

inline Vec<int32_t> load(const int32_t* p) { return *reinterpret_cast<const VectorType<int32_t>::unaligned*>(p); }
inline Vec<int64_t> load(const int64_t* p) { return *reinterpret_cast<const VectorType<int64_t>::unaligned*>(p); }
inline void store(int32_t* p, Vec<int32_t> v) { *reinterpret_cast<VectorType<int32_t>::unaligned*>(p) = v; }
inline void store(int64_t* p, Vec<int64_t> v) { *reinterpret_cast<VectorType<int64_t>::unaligned*>(p) = v; }

typedef int32_t VecI32Half __attribute__((vector_size(ROI_VECTOR_BYTES / 2)));
inline void store(int32_t* p, Vec<int64_t> v) {
  const VecI32Half low = __builtin_convertvector(v, VecI32Half);
  __builtin_memcpy(p, &low, sizeof(low));
}

typedef uint32_t VecU32 __attribute__((vector_size(ROI_VECTOR_BYTES)));
typedef uint16_t VecU16 __attribute__((vector_size(ROI_VECTOR_BYTES / 2)));

inline Vec<float> load(const c10::BFloat16* p) {
  VecU16 bits;
  __builtin_memcpy(&bits, p, sizeof(bits));
  return reinterpret_cast<Vec<float>>(__builtin_convertvector(bits, VecU32) << 16);
}

inline void store(c10::BFloat16* p, Vec<float> v) {
  const VecU32 bits = reinterpret_cast<VecU32>(v);
  const VecU32 nearest_even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const VecU32 is_nan = reinterpret_cast<VecU32>(v != v);
  const VecU16 half = __builtin_convertvector((is_nan & 0x7fc0u) | (~is_nan & nearest_even), VecU16);
  __builtin_memcpy(p, &half, sizeof(half));
}

inline Vec<float> load(const c10::Half* p) {
#if ROI_VECTOR_BYTES == 64
  return reinterpret_cast<Vec<float>>(
      _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif ROI_VECTOR_BYTES == 32
  return reinterpret_cast<Vec<float>>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#else
  Vec<float> v;
  for (int i = 0; i < VectorType<float>::lanes; ++i) v[i] = static_cast<float>(p[i]);
  return v;
#endif
}

inline void store(c10::Half* p, Vec<float> v) {
#if ROI_VECTOR_BYTES == 64
  const __m256i half =
      _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
#elif ROI_VECTOR_BYTES == 32
  const __m128i half = _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), half);
#else
  for (int i = 0; i < VectorType<float>::lanes; ++i) p[i] = c10::Half(v[i]);
#endif
}

// Non-temporal stores, one 64-byte aligned line at a time. Results larger than the caches are not read back soon. A
// plain store would first read the line that it overwrites.
inline void stream(float* p, Vec<float> v) {
#if ROI_VECTOR_BYTES == 64
  _mm512_stream_ps(p, reinterpret_cast<__m512>(v));
#elif ROI_VECTOR_BYTES == 32
  _mm256_stream_ps(p, reinterpret_cast<__m256>(v));
#else
  store(p, v);
#endif
}
inline void stream(double* p, Vec<double> v) { stream(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(v)); }
inline void stream(int32_t* p, Vec<int32_t> v) { stream(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(v)); }

inline bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// Transposition of an L x L tile in registers, in log2(L) steps. A step exchanges the off-diagonal quarters of all
// squares of side 2 * s. The two functions return the lane of the pair (a, b) for lane l of the results of a step.
template <int s, int L>
constexpr int transposed_low(int l) {
  return (l & s) == 0 ? l : L + l - s;
}
template <int s, int L>
constexpr int transposed_high(int l) {
  return (l & s) == 0 ? l + s : L + l;
}

template <int s, class V, size_t... l>
inline void transpose_pair(V& a, V& b, std::index_sequence<l...>) {
  constexpr int L = sizeof...(l);
  const V low = __builtin_shufflevector(a, b, transposed_low<s, L>(l)...);
  b = __builtin_shufflevector(a, b, transposed_high<s, L>(l)...);
  a = low;
}

// Always inline: a call would keep the tile in memory. Otherwise the other functions of the file would decide whether
// GCC inlines this one.
template <int s, int L, class V>
[[gnu::always_inline]] inline void transpose_step(V (&tile)[L]) {
  if constexpr (s < L) {
    for (int i = 0; i < L; ++i) {
      if ((i & s) == 0) transpose_pair<s>(tile[i], tile[i | s], std::make_index_sequence<L>());
    }
    transpose_step<2 * s>(tile);
  }
}

// Storage -> block: block[i * B + c] = source[c * stride_c + i * stride_i] for i < count.
template <int B, class S, class W>
inline void pack(const S* source, int64_t stride_c, int64_t stride_i, int64_t channels, int64_t count, W* block) {
  constexpr int L = VectorType<W>::lanes;
  if (stride_c == 1 && channels == B) {
    // Pixel by pixel. Cache lines a power of two apart map to few cache sets. They would be evicted between one vector
    // of channels and the next.
    for (int64_t i = 0; i < count; ++i) {
      for (int c = 0; c < B; c += L) store(block + i * B + c, load(source + i * stride_i + c));
    }
    return;
  }
  for (int64_t c = 0; c < B; c += L) {
    const S* from = source + c * stride_c;
    W* to = block + c;
    const int64_t present = channels - c;
    if (present >= L && stride_c == 1) {
      for (int64_t i = 0; i < count; ++i) store(to + i * B, load(from + i * stride_i));
    } else if (present >= L && stride_i == 1 && count >= L) {
      for (int64_t i = 0; i < count; i += L) {
        if (i > count - L) i = count - L;  // the last tile overlaps the previous one
        Vec<W> tile[L];
        for (int l = 0; l < L; ++l) tile[l] = load(from + l * stride_c + i);
        transpose_step<1>(tile);
        for (int l = 0; l < L; ++l) store(to + (i + l) * B, tile[l]);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        for (int l = 0; l < L; ++l) {
          to[i * B + l] = l < present ? static_cast<W>(from[l * stride_c + i * stride_i]) : W(0);
        }
      }
    }
  }
}

// Block -> storage, the reverse, with one rounding to the storage type.
template <int B, class S, class W>
inline void unpack(const W* block, int64_t count, S* target, int64_t stride_c, int64_t stride_i, int64_t channels,
                   bool past_caches) {
  constexpr int L = VectorType<W>::lanes;
  if constexpr (std::is_same_v<S, W>) {
    const bool aligned = is_aligned(target) && stride_i * sizeof(S) % 64 == 0;
    if (past_caches && aligned && stride_c == 1 && channels == B) {
      for (int64_t i = 0; i < count; ++i) {
        for (int c = 0; c < B; c += L) stream(target + i * stride_i + c, load(block + i * B + c));
      }
      return;
    }
  }
  if (stride_c == 1 && channels == B) {
    // Pixel by pixel, as in pack.
    for (int64_t i = 0; i < count; ++i) {
      for (int c = 0; c < B; c += L) store(target + i * stride_i + c, load(block + i * B + c));
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += L) {
    const W* from = block + c;
    S* to = target + c * stride_c;
    const int64_t present = channels - c;
    if (present >= L && stride_c == 1) {
      for (int64_t i = 0; i < count; ++i) store(to + i * stride_i, load(from + i * B));
    } else if (present >= L && stride_i == 1 && count >= L) {
      for (int64_t i = 0; i < count; i += L) {
        if (i > count - L) i = count - L;
        Vec<W> tile[L];
        for (int l = 0; l < L; ++l) tile[l] = load(from + (i + l) * B);
        transpose_step<1>(tile);
        for (int l = 0; l < L; ++l) store(to + l * stride_c + i, tile[l]);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t l = 0; l < present && l < L; ++l)
          to[l * stride_c + i * stride_i] = static_cast<S>(from[i * B + l]);
      }
    }
  }
}

// The same for a plane of a view or the bins of one box, with rows of any stride.
template <int B, class W>
inline void pack_plane(const ConstView& view, int64_t n, int64_t c, int64_t channels, W* block) {
  with_storage<W>(view.storage, [&](auto storage) {
    const auto* source = view.at<decltype(storage)>(n, c);
    if (view.flat()) return pack<B>(source, view.stride_c, view.stride_x, channels, view.area(), block);
    for (int64_t y = 0; y < view.height; ++y) {
      pack<B>(source + y * view.stride_y, view.stride_c, view.stride_x, channels, view.width,
              block + y * view.width * B);
    }
  });
}

// Results are contiguous (NCHW or channels_last), so their planes and rows are runs of pixels.
template <int B, class W>
inline void unpack_pixels(const W* block, const MutableView& view, int64_t n, int64_t c, int64_t channels,
                          int64_t first, int64_t count) {
  with_storage<W>(view.storage, [&](auto storage) {
    unpack<B>(block, count, view.at<decltype(storage)>(n, c) + first * view.stride_x, view.stride_c, view.stride_x,
              channels, view.past_caches());
  });
}

template <int B, class W>
inline void unpack_plane(const W* block, const MutableView& view, int64_t n, int64_t c, int64_t channels) {
  unpack_pixels<B>(block, view, n, c, channels, 0, view.area());
}

// A row of the map for the kernels: pixel x of the block starts at data + x * pitch.
template <class W>
struct Row {
  const W* data;
  int64_t pitch;
};

// True if the kernels can read this block of channels in place.
template <int B, class W>
inline bool readable_in_place(const ConstView& view, int64_t channels) {
  constexpr Storage own = std::is_same_v<W, double> ? Storage::kDouble : Storage::kFloat;
  const bool spread_over_cache = view.stride_x * static_cast<int64_t>(sizeof(W)) % kCacheSetPeriod != 0;
  return view.storage == own && view.stride_c == 1 && channels == B && spread_over_cache;
}

// Reads rows of one block of one image, in place if the layout allows it. Otherwise packs them into `buffer`, of size
// [width][B], where only columns [first, last) of the row are valid.
template <int B, class W>
struct RowReader {
  const ConstView& view;
  int64_t n, c, channels;
  bool in_place;

  RowReader(const ConstView& features, int64_t image, int64_t channel, int64_t present)
      : view(features), n(image), c(channel), channels(present), in_place(readable_in_place<B, W>(features, present)) {}

  Row<W> read(int64_t y, int64_t first, int64_t last, W* buffer) const {
    if (in_place) return {view.at<W>(n, c) + y * view.stride_y, view.stride_x};
    with_storage<W>(view.storage, [&](auto storage) {
      const auto* source = view.at<decltype(storage)>(n, c) + y * view.stride_y + first * view.stride_x;
      pack<B>(source, view.stride_c, view.stride_x, channels, last - first, buffer + first * B);
    });
    return {buffer, B};
  }
};

template <class W>
inline W sum_of_lanes(Vec<W> v) {
  W sum = 0;
  for (int l = 0; l < VectorType<W>::lanes; ++l) sum += v[l];
  return sum;
}

// Calls run(NV, part or box, first channel, channels) for units [begin, end), with NV as a constant.
template <class W, class Run>
inline void for_each_unit(const ChannelBlocks& blocks, int64_t channels, int64_t begin, int64_t end, Run&& run) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / blocks.count, c = unit % blocks.count * blocks.width;
    const int64_t present = std::min(blocks.width, channels - c);
    if (blocks.width == VectorType<W>::lanes) {
      run(std::integral_constant<int, 1>(), n, c, present);
    } else {
      run(std::integral_constant<int, kVectorsOfWideBlock>(), n, c, present);
    }
  }
}
