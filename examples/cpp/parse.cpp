// Parse a photograph with an `openvino` bundle of fptk: parse BUNDLE PHOTOGRAPH MASK.ppm
#include <chrono>
#include <cstring>
#include <exception>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <openvino/openvino.hpp>

#ifdef WITH_PNG
#include <png.h>
#endif

#include "netpbm.hpp"
#include "resize.hpp"

namespace fs = std::filesystem;
constexpr int kRuns = 20;

#ifdef WITH_PNG
// RGB with 8 bits a channel; transparency is dropped, as in training.
Image read_png(const std::string& path) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_file(&png, path.c_str())) throw std::runtime_error(path + ": " + png.message);
  if (png.format & PNG_FORMAT_FLAG_LINEAR) {
    png_image_free(&png);
    throw std::runtime_error(path + " has 16 bits a channel; save it with 8");
  }
  png.format = PNG_FORMAT_RGBA;
  std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(png));
  if (!png_image_finish_read(&png, nullptr, pixels.data(), 0, nullptr))
    throw std::runtime_error(path + ": " + png.message);
  Image image{static_cast<int>(png.height), static_cast<int>(png.width), 3, {}};
  for (size_t at = 0; at < pixels.size(); at += 4)
    image.pixels.insert(image.pixels.end(), {pixels[at], pixels[at + 1], pixels[at + 2]});
  return image;
}
#endif

Image read_photograph(const std::string& path) {
#ifdef WITH_PNG
  if (fs::path(path).extension() == ".png") return read_png(path);
#endif
  Image image = read_netpbm(path);
  if (image.channels != 3) throw std::runtime_error(path + " is gray; save it in color");
  return image;
}

// The text of a top-level key of fptk.json; `otherwise` where it is null. fptk writes these before any nested key of
// the same name.
std::string manifest_text(const std::string& manifest, const std::string& key, const std::string& otherwise = "") {
  const std::string before = "\"" + key + "\":";
  size_t at = manifest.find(before);
  if (at == std::string::npos) throw std::runtime_error("fptk.json has no " + key);
  at = manifest.find_first_not_of(" \n", at + before.size());
  if (at == std::string::npos || manifest[at] != '"') return otherwise;
  return manifest.substr(at + 1, manifest.find('"', at + 1) - at - 1);
}

// RGB of each class: the numbers of fptk.palette, which the engine's file carries.
std::vector<uint8_t> palette_of(const ov::Model& model) {
  std::vector<uint8_t> numbers;
  const auto text = model.get_rt_info<std::string>("framework", "fptk.palette");
  for (size_t at = 0; (at = text.find_first_of("0123456789", at)) != std::string::npos;) {
    size_t length = 0;
    numbers.push_back(static_cast<uint8_t>(std::stoi(text.substr(at), &length)));
    at += length;
  }
  return numbers;
}

// Whether the processor has bfloat16 arithmetic. OpenVINO's own list counts all processors with AVX-512.
bool has_bf16() {
  std::ifstream file("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  return text.find("bf16") != std::string::npos;
}

void parse(const fs::path& bundle, const std::string& photograph_path, const std::string& mask_path) {
  std::ifstream file(bundle / "fptk.json");
  const std::string manifest{std::istreambuf_iterator<char>(file), {}};
  if (manifest_text(manifest, "target") != "openvino")
    throw std::runtime_error(bundle.string() + " is no openvino bundle");
  if (manifest_text(manifest, "resize") != "bilinear") throw std::runtime_error("this example resizes bilinear only");
  const Image photograph = read_photograph(photograph_path);

  ov::Core core;
  const auto model = core.read_model((bundle / manifest_text(manifest, "engine")).string());
  const auto palette = palette_of(*model);
  // Without the hint a processor with AMX computes a float32 engine in bfloat16.
  std::string hint = manifest_text(manifest, "precision_hint", "f32");
  if (hint == "bf16-or-f32") hint = has_bf16() ? "bf16" : "f32";
  auto compiled =
      core.compile_model(model, "CPU", ov::AnyMap{{"INFERENCE_PRECISION_HINT", hint}, {"NUM_STREAMS", "1"}});
  auto request = compiled.create_infer_request();
  ov::Tensor images = request.get_input_tensor();  // uint8 (1, H, W, 3)
  const int height = static_cast<int>(images.get_shape()[1]), width = static_cast<int>(images.get_shape()[2]);
  const Image resized = pillow::resize_bilinear(photograph, height, width);
  std::memcpy(images.data<uint8_t>(), resized.pixels.data(), resized.pixels.size());

  request.infer();
  const auto start = std::chrono::steady_clock::now();
  for (int run = 0; run < kRuns; ++run) request.infer();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;

  const uint8_t* first = request.get_output_tensor().data<uint8_t>();  // uint8 (1, H, W)
  const Image labels{height, width, 1, {first, first + static_cast<size_t>(height) * width}};
  const Image full = pillow::resize_nearest(labels, photograph.height, photograph.width);
  Image mask{photograph.height, photograph.width, 3, {}};
  for (const uint8_t label : full.pixels)
    for (size_t channel = 0; channel < 3; ++channel) mask.pixels.push_back(palette.at(3 * label + channel));
  write_netpbm(mask_path, mask);
  std::cout << kRuns / seconds.count() << " FPS, wrote " << mask_path << '\n';
}

int main(int count, char** arguments) try {
  if (count != 4) throw std::runtime_error("usage: parse BUNDLE PHOTOGRAPH MASK.ppm");
  if (fs::exists(arguments[3])) throw std::runtime_error(std::string(arguments[3]) + " exists; choose another name");
  parse(arguments[1], arguments[2], arguments[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 2;
}
