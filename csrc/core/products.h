// The product rule for averages as data: which tables of an axis a call needs, and the products of a y table and an x
// table whose sum it is (docs/math.md, (20) to (22')).
#pragma once

#include "box_axis.h"

namespace roialign_ext {

// Along what a table is differentiated: a direction of the call, or one of the edges of the axis.
enum Along { kAlongU, kAlongV, kAlongLowEdge, kAlongHighEdge };

// Order 0 is the table itself. `first` and `second` say along what the derivatives of order 1 and 2 are.
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
// D_u D_v A = Wy[u] Wx[v] + Wy[v] Wx[u] + Wy[u,v] Wx + Wy Wx[u,v]; the last two exist only for integrals
inline Products average_products(Rule rule, int directions) {
  if (directions == 0) return {1, {kValue}, 1, {{0, 0}}};
  if (directions == 1) return {2, {kValue, along(kAlongU)}, 2, {{1, 0}, {0, 1}}};
  if (!is_integral(rule)) return {2, {along(kAlongU), along(kAlongV)}, 2, {{0, 1}, {1, 0}}};
  return {4, {along(kAlongU), along(kAlongV), along(kAlongU, kAlongV), kValue}, 4, {{0, 1}, {1, 0}, {2, 3}, {3, 2}}};
}

// For grad_boxes, along a direction or along none. Tables come in threes: the factor that stays, then the other factor
// differentiated along its low edge and along its high edge.
inline Products grad_boxes_products(Rule rule, int directions) {
  const TableKind low = along(kAlongLowEdge), high = along(kAlongHighEdge);
  if (directions == 0) return {3, {kValue, low, high}, 0, {}};
  if (!is_integral(rule)) return {3, {along(kAlongU), low, high}, 0, {}};
  return {6, {along(kAlongU), low, high, kValue, along(kAlongLowEdge, kAlongU), along(kAlongHighEdge, kAlongU)}, 0, {}};
}

// The contribution of samples outside the map, which have this value, to a bin of `samples` along each axis: their
// share of the mean.
template <class W>
ROI_HOST_DEVICE W extrapolated(double value, int64_t samples, double on_map_y, double on_map_x) {
  const double all = static_cast<double>(samples) * static_cast<double>(samples);
  const double share = (all - on_map_y * on_map_x) / all;
  return share == 0 ? W(0) : static_cast<W>(value * share);  // 0 times infinity is not 0
}

}  // namespace roialign_ext
