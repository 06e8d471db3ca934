// Resize a PPM (bilinear) or PGM (nearest) file as Pillow does, for the tests: resize IN OUT HEIGHT WIDTH
#include "resize.hpp"

#include <exception>
#include <iostream>
#include <string>

#include "netpbm.hpp"

int main(int count, char** arguments) try {
  if (count != 5) throw std::runtime_error("usage: resize IN OUT HEIGHT WIDTH");
  const Image image = read_netpbm(arguments[1]);
  const int height = std::stoi(arguments[3]), width = std::stoi(arguments[4]);
  write_netpbm(arguments[2], image.channels == 1 ? pillow::resize_nearest(image, height, width)
                                                 : pillow::resize_bilinear(image, height, width));
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
