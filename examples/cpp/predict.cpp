// Prints the likeliest classes of raw frames, with a file of `octvideo export --inputs frames`.
//
//   predict model.onnx frames.raw [classes to print]

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

using Json = nlohmann::json;

// Returns what octvideo has written into the file about its use.
Json record_of(const Ort::Session& session, const std::string& path) {
  Ort::AllocatorWithDefaultOptions allocator;
  auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("octvideo", allocator);
  if (!text) throw std::runtime_error(path + " was not made by octvideo export");
  Json record = Json::parse(text.get());
  const std::string inputs = record.at("inputs");
  if (inputs != "frames")
    throw std::runtime_error(path + " takes " + inputs + ": export it with --inputs frames");
  return record;
}

std::vector<std::uint8_t> read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

// Returns the mean of the scores over all clips.
std::vector<double> score(Ort::Session& session, const Json& record,
                          std::vector<std::uint8_t>& frames) {
  std::vector<std::int64_t> shape{1};  // one clip at a time needs least memory
  const Json& whole = record.at("input_shape");  // "batch" T H W 3
  for (auto side = whole.begin() + 1; side != whole.end(); ++side)
    shape.push_back(side->is_number() ? *side : record.at("crop_size"));  // for any size: names
  const auto size = static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));
  if (frames.empty() || frames.size() % size)
    throw std::runtime_error("the frames have " + std::to_string(frames.size()) +
                             " bytes, no multiple of " + std::to_string(size) + " of a clip");
  const auto clips = frames.size() / size;
  std::vector<double> mean(record.at("num_classes").get<std::size_t>());
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char* const input = "frames";
  const char* const output = "scores";
  for (std::size_t i = 0; i < clips; ++i) {
    auto pixels = Ort::Value::CreateTensor(memory, frames.data() + i * size, size, shape.data(),
                                           shape.size());
    auto outputs = session.Run(Ort::RunOptions{}, &input, &pixels, 1, &output, 1);
    const float* scores = outputs[0].GetTensorData<float>();
    for (std::size_t k = 0; k < mean.size(); ++k) mean[k] += scores[k] / double(clips);
  }
  return mean;
}

int main(int count, char** words) try {
  if (count < 3) {
    std::fprintf(stderr, "usage: %s model.onnx frames.raw [classes to print]\n", words[0]);
    return 2;
  }
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(env, words[1], Ort::SessionOptions{});
  const Json record = record_of(session, words[1]);
  auto frames = read(words[2]);
  const auto scores = score(session, record, frames);

  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min<std::size_t>(order.size(), count > 3 ? std::stoul(words[3]) : 5));
  const auto names = record.at("class_names").get<std::vector<std::string>>();
  for (const auto label : order) {
    const auto name = names.empty() ? "class " + std::to_string(label) : names.at(label);
    std::printf("%.6f  %s\n", scores[label], name.c_str());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "error: %s\n", error.what());
  return 2;
}
