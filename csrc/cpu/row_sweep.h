// Schedule of a row sweep: the rows of a plane from top to bottom, and on each the boxes that touch it. A box holds
// a scratch slot from its first row to its last, so scratch is bounded by the boxes alive on one row.
#pragma once

#include <algorithm>
#include <vector>

#include "plan.h"

namespace roialign_ext {

struct SweepEntry {
  int64_t box;
  int64_t row;  // index into TablesByPixel::rows
  int32_t slot;
  bool opens, closes;  // the box's first or last row
};

struct PlaneSweep {
  std::vector<int64_t> begin;        // [height + 1] into entries
  std::vector<SweepEntry> entries;   // by row, then in box order
  std::vector<int32_t> first, last;  // [height] columns [first, last) that some box on the row touches
  std::vector<int64_t> untouched;    // boxes without any row
  int64_t slots = 0;
};

// For plans of one term: items are boxes.
template <class W>
PlaneSweep make_plane_sweep(const AveragePlan<W>& plan, int64_t plane, int64_t height) {
  PlaneSweep sweep;
  sweep.begin.assign(static_cast<size_t>(height) + 1, 0);
  sweep.first.assign(static_cast<size_t>(height), INT32_MAX);
  sweep.last.assign(static_cast<size_t>(height), 0);
  const int64_t box_begin = plan.by_plane.begin[plane], box_end = plan.by_plane.begin[plane + 1];
  for (int64_t b = box_begin; b < box_end; ++b) {
    const int64_t k = plan.by_plane.boxes[b];
    const int64_t row_begin = plan.y.begin[k], row_end = plan.y.begin[k + 1];
    if (row_begin == row_end) sweep.untouched.push_back(k);
    for (int64_t r = row_begin; r < row_end; ++r) {
      const int32_t y = plan.y.rows[r].pixel;
      ++sweep.begin[y + 1];
      sweep.first[y] = std::min(sweep.first[y], plan.x.first[k]);
      sweep.last[y] = std::max(sweep.last[y], plan.x.last[k]);
    }
  }
  for (int64_t y = 0; y < height; ++y) sweep.begin[y + 1] += sweep.begin[y];
  sweep.entries.resize(static_cast<size_t>(sweep.begin[height]));
  std::vector<int64_t> next(sweep.begin.begin(), sweep.begin.end() - 1);
  for (int64_t b = box_begin; b < box_end; ++b) {
    const int64_t k = plan.by_plane.boxes[b];
    const int64_t row_begin = plan.y.begin[k], row_end = plan.y.begin[k + 1];
    for (int64_t r = row_begin; r < row_end; ++r) {
      sweep.entries[next[plan.y.rows[r].pixel]++] = {k, r, 0, r == row_begin, r + 1 == row_end};
    }
  }
  std::vector<int32_t> free_slots;
  std::vector<int32_t> slot_of_box(static_cast<size_t>(plan.y.begin.size()), 0);
  for (SweepEntry& entry : sweep.entries) {
    if (entry.opens) {
      if (free_slots.empty()) free_slots.push_back(static_cast<int32_t>(sweep.slots++));
      slot_of_box[entry.box] = free_slots.back();
      free_slots.pop_back();
    }
    entry.slot = slot_of_box[entry.box];
    if (entry.closes) free_slots.push_back(entry.slot);
  }
  return sweep;
}

}  // namespace roialign_ext
