// The product rule for averages as data (docs/math.md, (20) to (22')). A call needs some tables of each axis, and is a
// sum of terms. A term is one product of a y table and an x table.
#pragma once

#include "box_axis.h"

namespace roialign_ext {

// A table is differentiated along a direction of the call, or along one of the edges of the axis.
enum Along { kAlongU, kAlongV, kAlongLowEdge, kAlongHighEdge };

// Order 0 is the table itself, order 1 its derivative along `first`, order 2 that along `first` and `second`.
struct TableKind {
  int order;
  Along first, second;
};

constexpr TableKind kValue = {0, kAlongU, kAlongU};
constexpr TableKind along(Along first) { return {1, first, first}; }
constexpr TableKind along(Along first, Along second) { return {2, first, second}; }

constexpr int kMaxTables = 6, kMaxTerms = 4;
struct Products {
  int tables;  // the same on both axes
  TableKind kinds[kMaxTables];
  int terms;
  struct {
    int y, x;  // into kinds
  } term[kMaxTerms];
};

// A = Wy Wx        D_u A = Wy[u] Wx + Wy Wx[u]
// D_u D_v A = Wy[u] Wx[v] + Wy[v] Wx[u] + Wy[u,v] Wx + Wy Wx[u,v]
// The last two terms exist only for integrals.
inline Products average_products(Rule rule, int directions) {
  if (directions == 0) return {1, {kValue}, 1, {{0, 0}}};
  if (directions == 1) return {2, {kValue, along(kAlongU)}, 2, {{1, 0}, {0, 1}}};
  if (!is_integral(rule)) return {2, {along(kAlongU), along(kAlongV)}, 2, {{0, 1}, {1, 0}}};
  return {4, {along(kAlongU), along(kAlongV), along(kAlongU, kAlongV), kValue}, 4, {{0, 1}, {1, 0}, {2, 3}, {3, 2}}};
}

// The tables of one term of grad_boxes, in their order. One axis keeps its table. The table of the other axis is
// differentiated with respect to its low edge and its high edge.
enum EdgeTable { kKept, kByLowEdge, kByHighEdge, kEdgeTables };

// For grad_boxes, along a direction or along none: the tables of each term (EdgeTable).
inline Products grad_boxes_products(Rule rule, int directions) {
  const TableKind low = along(kAlongLowEdge), high = along(kAlongHighEdge);
  if (directions == 0) return {3, {kValue, low, high}, 0, {}};
  if (!is_integral(rule)) return {3, {along(kAlongU), low, high}, 0, {}};
  return {6, {along(kAlongU), low, high, kValue, along(kAlongLowEdge, kAlongU), along(kAlongHighEdge, kAlongU)}, 0, {}};
}

// The contribution of samples outside the map, which have this value, to the mean of a bin. The bin has `samples`
// samples along each axis.
template <class W>
ROI_HOST_DEVICE W extrapolated(double value, int64_t samples, double on_map_y, double on_map_x) {
  const double all = static_cast<double>(samples) * static_cast<double>(samples);
  const double share = (all - on_map_y * on_map_x) / all;
  return share == 0 ? W(0) : static_cast<W>(value * share);  // 0 times infinity is not 0
}

}  // namespace roialign_ext
