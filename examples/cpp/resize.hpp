// Resizing as Pillow does it, to the bit: the network was trained on images that Pillow resized.
//
// OpenVINO's and OpenCV's bilinear resizing doesn't widen the filter when it shrinks, or rounds elsewhere. Source of the
// arithmetic: https://github.com/python-pillow/Pillow/blob/main/src/libImaging/Resample.c and Geometry.c
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

struct Image {
  int height = 0, width = 0, channels = 3;
  std::vector<uint8_t> pixels;  // height x width x channels
};

namespace pillow {

constexpr int kBits = 22;  // its weights are whole numbers of 2^-22

struct Mixture {
  int first = 0;             // of the pixels that are mixed
  std::vector<int> weights;  // of each
};

inline std::vector<Mixture> bilinear_weights(int from, int to) {
  const double scale = static_cast<double>(from) / to;
  const double support = std::max(scale, 1.0);  // wider than a pixel where the image shrinks: antialiasing
  std::vector<Mixture> table(to);
  for (int place = 0; place < to; ++place) {
    const double center = (place + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(center - support + 0.5));
    const int end = std::min(from, static_cast<int>(center + support + 0.5));
    std::vector<double> weights;
    double sum = 0;
    for (int at = first; at < end; ++at) {
      weights.push_back(std::max(0.0, 1 - std::abs((at - center + 0.5) * (1 / support))));
      sum += weights.back();
    }
    table[place].first = first;
    for (double weight : weights) table[place].weights.push_back(static_cast<int>(0.5 + weight / sum * (1 << kBits)));
  }
  return table;
}

// Mixes the pixels of one axis. The others are `outer` runs around it and `inner` numbers inside each of its pixels.
inline std::vector<uint8_t> resize_axis(const std::vector<uint8_t>& pixels, size_t outer, int from, int to,
                                        size_t inner) {
  std::vector<uint8_t> result(outer * to * inner);
  const std::vector<Mixture> table = bilinear_weights(from, to);
  for (size_t run = 0; run < outer; ++run) {
    for (int place = 0; place < to; ++place) {
      const auto& [first, weights] = table[place];
      for (size_t each = 0; each < inner; ++each) {
        const uint8_t* source = &pixels[(run * from + first) * inner + each];
        int sum = 1 << (kBits - 1);  // rounds half up
        for (size_t i = 0; i < weights.size(); ++i) sum += source[i * inner] * weights[i];
        result[(run * to + place) * inner + each] = static_cast<uint8_t>(std::min(255, sum >> kBits));
      }
    }
  }
  return result;
}

// Antialiased bilinear resizing: one axis, rounded to 8 bits, then the other. Columns come first where the height shrinks
// by more than twice what the width does: Pillow saves work so, and the rounding is another.
inline Image resize_bilinear(const Image& image, int height, int width) {
  const size_t channels = image.channels;
  const int less = image.height - height;
  if (less > 0 && less > 2 * (image.width - width)) {
    const auto columns = resize_axis(image.pixels, 1, image.height, height, image.width * channels);
    return {height, width, image.channels, resize_axis(columns, height, image.width, width, channels)};
  }
  const auto rows = resize_axis(image.pixels, image.height, image.width, width, channels);
  return {height, width, image.channels, resize_axis(rows, 1, image.height, height, width * channels)};
}

// For each of `to` pixels the one of `from` that it copies. Pillow adds up the step, and so its rounding.
inline std::vector<int> nearest(int from, int to) {
  const double step = static_cast<double>(from) / to;
  std::vector<int> places(to);
  double at = step * 0.5;
  for (int& place : places) {
    place = static_cast<int>(at);
    at += step;
  }
  return places;
}

// Nearest-neighbor resizing of a label map, one channel.
inline Image resize_nearest(const Image& labels, int height, int width) {
  const auto rows = nearest(labels.height, height), columns = nearest(labels.width, width);
  Image result{height, width, 1, std::vector<uint8_t>(static_cast<size_t>(height) * width)};
  for (size_t y = 0; y < rows.size(); ++y)
    for (size_t x = 0; x < columns.size(); ++x)
      result.pixels[y * width + x] = labels.pixels[static_cast<size_t>(rows[y]) * labels.width + columns[x]];
  return result;
}

}  // namespace pillow
