// Reading and writing PPM (RGB) and PGM (gray) files: binary, 8 bits a channel.
#pragma once

#include <fstream>
#include <limits>
#include <stdexcept>
#include <string>

#include "resize.hpp"

inline int read_number(std::istream& file) {
  int value = 0;
  while (file >> std::ws && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  file >> value;
  return value;
}

inline Image read_netpbm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  char magic[2] = {};
  file.read(magic, 2);
  Image image;
  image.width = read_number(file);
  image.height = read_number(file);
  const int largest = read_number(file);
  const bool color = magic[0] == 'P' && magic[1] == '6', gray = magic[0] == 'P' && magic[1] == '5';
  const bool sane = image.width > 0 && image.height > 0 && image.width < 1 << 15 && image.height < 1 << 15;
  if (!file || !(color || gray) || largest != 255 || !sane) throw std::runtime_error(path + " is no binary 8-bit PPM");
  image.channels = color ? 3 : 1;
  image.pixels.resize(static_cast<size_t>(image.width) * image.height * image.channels);
  file.get();
  file.read(reinterpret_cast<char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!file) throw std::runtime_error(path + " is truncated");
  return image;
}

inline void write_netpbm(const std::string& path, const Image& image) {
  std::ofstream file(path, std::ios::binary);
  file << (image.channels == 3 ? "P6\n" : "P5\n") << image.width << ' ' << image.height << "\n255\n";
  file.write(reinterpret_cast<const char*>(image.pixels.data()), static_cast<std::streamsize>(image.pixels.size()));
  if (!file.flush()) throw std::runtime_error(path + " cannot be written");
}
