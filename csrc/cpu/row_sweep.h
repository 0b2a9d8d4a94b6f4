// Schedule of a row sweep. It visits the rows of a plane from top to bottom, and on each row the boxes that touch it. A
// box holds a scratch slot from its first row to its last. So the boxes that share a row bound the scratch memory.
#pragma once

#include <algorithm>
#include <vector>

#include "planes.h"

namespace roialign_ext {

struct SweepVisit {
  int64_t box;
  int64_t y_entry;  // of the box, as an index into the plan
  int32_t slot;
  bool opens, closes;  // the box's first or last visit
};

struct PlaneSweep {
  std::vector<int64_t> begin;        // [height + 1] into visits
  std::vector<SweepVisit> visits;    // by row, then in box order
  std::vector<int32_t> first, last;  // [height] columns [first, last) that some box on the row touches
  std::vector<int64_t> untouched;    // boxes that touch no row
  int64_t slots = 0;
};

// Boxes of one plane: those visited one by one, and those visited by a sweep.
struct PlanePart {
  int64_t plane;
  std::vector<int64_t> boxes;
  PlaneSweep sweep;  // empty if all boxes are visited one by one
};

// Splits the boxes of every plane into up to `parts` parts, in box order, still without sweeps.
inline std::vector<PlanePart> split_planes(const BoxesByPlane& by_plane, int64_t parts) {
  std::vector<PlanePart> split;
  for (int64_t plane = 0; plane + 1 < static_cast<int64_t>(by_plane.begin.size()); ++plane) {
    const auto boxes = by_plane.boxes.begin() + by_plane.begin[plane];
    const int64_t count = by_plane.begin[plane + 1] - by_plane.begin[plane];
    const int64_t of_plane = std::max<int64_t>(std::min(parts, count), 1);
    for (int64_t i = 0; i < of_plane; ++i) {
      split.push_back({plane, {boxes + count * i / of_plane, boxes + count * (i + 1) / of_plane}, {}});
    }
  }
  return split;
}

// Box k has the y entries [first_y_entry(k), first_y_entry(k + 1)) of the plan, and touches the columns
// [first_column(k), last_column(k)). A y entry reads the map rows rows(y_entry), and is visited on the first of them.
template <class Plan>
PlaneSweep make_plane_sweep(const Plan& plan, const std::vector<int64_t>& boxes, int64_t height) {
  PlaneSweep sweep;
  sweep.begin.assign(static_cast<size_t>(height) + 1, 0);
  sweep.first.assign(static_cast<size_t>(height), INT32_MAX);
  sweep.last.assign(static_cast<size_t>(height), 0);
  for (int64_t k : boxes) {
    if (plan.first_y_entry(k) == plan.first_y_entry(k + 1)) sweep.untouched.push_back(k);
    for (int64_t y_entry = plan.first_y_entry(k); y_entry < plan.first_y_entry(k + 1); ++y_entry) {
      const RowRange rows = plan.rows(y_entry);
      ++sweep.begin[rows.begin + 1];
      for (int32_t y = rows.begin; y < rows.end; ++y) {
        sweep.first[y] = std::min(sweep.first[y], plan.first_column(k));
        sweep.last[y] = std::max(sweep.last[y], plan.last_column(k));
      }
    }
  }
  for (int64_t y = 0; y < height; ++y) sweep.begin[y + 1] += sweep.begin[y];
  sweep.visits.resize(static_cast<size_t>(sweep.begin[height]));
  std::vector<int64_t> next(sweep.begin.begin(), sweep.begin.end() - 1);
  for (int64_t k : boxes) {
    for (int64_t y_entry = plan.first_y_entry(k); y_entry < plan.first_y_entry(k + 1); ++y_entry) {
      sweep.visits[next[plan.rows(y_entry).begin]++] = {k, y_entry, 0, false, false};
    }
  }
  struct Box {
    int32_t slot;
    int64_t visited;
  };
  std::vector<Box> state(boxes.empty() ? 0 : static_cast<size_t>(boxes.back()) + 1, Box{});
  std::vector<int32_t> free_slots;
  for (SweepVisit& visit : sweep.visits) {
    Box& box = state[visit.box];
    visit.opens = box.visited == 0;
    if (visit.opens) {
      if (free_slots.empty()) free_slots.push_back(static_cast<int32_t>(sweep.slots++));
      box.slot = free_slots.back();
      free_slots.pop_back();
    }
    visit.slot = box.slot;
    visit.closes = ++box.visited == plan.first_y_entry(visit.box + 1) - plan.first_y_entry(visit.box);
    if (visit.closes) free_slots.push_back(box.slot);
  }
  return sweep;
}

}  // namespace roialign_ext
