// Errors that Python knows by type. std::invalid_argument becomes ValueError and std::out_of_range IndexError: torch's
// stable ABI carries both. Every other exception arrives as RuntimeError.
#pragma once

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

namespace roialign_ext {

// "[2, 3, 5]".
template <class T>
std::string list_text(torch::headeronly::HeaderOnlyArrayRef<T> numbers) {
  std::ostringstream stream;
  stream << '[';
  for (size_t i = 0; i < numbers.size(); ++i) stream << (i == 0 ? "" : ", ") << numbers[i];
  stream << ']';
  return stream.str();
}

template <class... Pieces>
std::string text(const Pieces&... pieces) {
  std::ostringstream stream;
  (stream << ... << pieces);
  return stream.str();
}

}  // namespace roialign_ext

// A message is built only if the condition fails.
#define ROI_CHECK_AS(exception, condition, ...)                         \
  do {                                                                  \
    if (!(condition)) throw exception(roialign_ext::text(__VA_ARGS__)); \
  } while (false)
#define ROI_CHECK_VALUE(condition, ...) ROI_CHECK_AS(std::invalid_argument, condition, __VA_ARGS__)
#define ROI_CHECK_INDEX(condition, ...) ROI_CHECK_AS(std::out_of_range, condition, __VA_ARGS__)
#define ROI_CHECK_RUNTIME(condition, ...) ROI_CHECK_AS(std::runtime_error, condition, __VA_ARGS__)
