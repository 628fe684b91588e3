// Images from a bundle's OpenVINO engine in C++, with neither Python nor this project where it runs.
//
//     stylert build bundle --backend openvino --precision int8
//     OV=$(python -c "import openvino, os; print(os.path.dirname(openvino.__file__))")
//     g++ -std=c++17 -O2 examples/generate.cpp -I $OV/include $OV/libs/libopenvino.so.* -Wl,-rpath,$OV/libs -o generate
//     ./generate bundle int8 7 0.7 cat.ppm
//
// A seed means the same image as in Python. The engine must have been built on this machine; its weights are mapped, not read.

#include <openvino/openvino.hpp>

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

// NumPy's RandomState(seed).randn(n): the Mersenne Twister, and normal numbers in pairs by Marsaglia's polar method.
std::vector<float> randn(uint32_t seed, size_t n) {
    std::mt19937 twister(seed);
    auto uniform = [&] {  // 53 bits of two draws
        const double high = twister() >> 5, low = twister() >> 6;
        return 2 * ((high * 67108864.0 + low) / 9007199254740992.0) - 1;
    };
    std::vector<float> numbers;
    while (numbers.size() < n) {
        const double x = uniform(), y = uniform(), square = x * x + y * y;
        if (square >= 1 || square == 0) continue;
        const double factor = std::sqrt(-2 * std::log(square) / square);
        numbers.push_back(static_cast<float>(factor * y));
        numbers.push_back(static_cast<float>(factor * x));
    }
    numbers.resize(n);
    return numbers;
}

// The latents of one image, ws [1, num_ws, w_dim]: the mapping network, truncated by psi.
ov::Tensor map(ov::Core& core, const std::string& file, uint32_t seed, float psi) {
    auto network = core.compile_model(file, "CPU", ov::hint::inference_precision(ov::element::f32));
    if (network.inputs().size() != 2) throw std::runtime_error("networks with labels are not for this example");
    auto request = network.create_infer_request();
    const auto z_dim = static_cast<size_t>(network.input("z").get_partial_shape()[1].get_length());
    const auto num_ws = static_cast<size_t>(network.input("psi").get_partial_shape()[1].get_length());
    ov::Tensor z(ov::element::f32, {1, z_dim}), factors(ov::element::f32, {1, num_ws});
    const auto numbers = randn(seed, z_dim);
    std::copy(numbers.begin(), numbers.end(), z.data<float>());
    std::fill_n(factors.data<float>(), num_ws, psi);
    request.set_tensor("z", z);
    request.set_tensor("psi", factors);
    request.infer();
    return request.get_output_tensor();
}

// The built engine of a precision, told by its manifest.
std::string find(const std::string& bundle, const std::string& precision) {
    for (const auto& folder : std::filesystem::directory_iterator(bundle + "/engines")) {
        if (folder.path().filename().string().rfind("openvino-cpu-", 0) != 0) continue;
        std::ifstream manifest(folder.path() / "engine.json");
        const std::string text{std::istreambuf_iterator<char>(manifest), {}};
        if (text.find("\"precision\": \"" + precision + "\"") != std::string::npos) return folder.path() / "engine.blob";
    }
    throw std::runtime_error("no " + precision + " engine: stylert build " + bundle + " --backend openvino");
}

ov::CompiledModel open(ov::Core& core, const std::string& file, const std::string& precision) {
    // The engine's own file is the network for one image; batch4.blob beside it is for four.
    const auto size = static_cast<int64_t>(std::filesystem::file_size(file));
    const auto blob = ov::read_tensor_data(file, ov::element::u8, {size}, 0);
    // As in Python: around 8-bit convolutions bfloat16 is exact enough, float32 is asked for by name.
    const bool brief = precision == "int8" || precision == "bf16";
    return core.import_model(blob, "CPU", ov::hint::inference_precision(brief ? ov::element::bf16 : ov::element::f32),
                             ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
}

// A seed from 0 to 2^32 - 1.
uint32_t read_seed(const std::string& text) {
    const bool is_whole = !text.empty() && text.size() <= 10 && text.find_first_not_of("0123456789") == std::string::npos;
    const uint64_t seed = is_whole ? std::stoull(text) : UINT64_MAX;
    if (seed > UINT32_MAX) throw std::runtime_error("a seed is a whole number from 0 to 4294967295, not " + text);
    return static_cast<uint32_t>(seed);
}

float read_psi(const std::string& text) {
    size_t length = 0;
    float psi = NAN;
    try {
        psi = std::stof(text, &length);
    } catch (const std::exception&) {  // the next line tells it
    }
    if (length != text.size() || !(std::abs(psi) <= 1000))
        throw std::runtime_error("psi is a number from -1000 to 1000, not " + text);
    return psi;
}

// The second line of a picture that this program wrote. It replaces no other file.
const std::string MARK = "# stylert generate";

// The place of the picture, without links.
std::filesystem::path checked_place(const std::string& out) {
    const auto place = std::filesystem::weakly_canonical(out);
    if (!std::filesystem::exists(place)) return place;
    if (!std::filesystem::is_regular_file(place)) throw std::runtime_error("cannot write " + out + ": it is not a regular file");
    std::ifstream file(place, std::ios::binary);
    std::string format, mark;
    std::getline(file, format) && std::getline(file, mark);
    if (mark != MARK && std::filesystem::file_size(place) > 0)
        throw std::runtime_error("cannot write " + out + ": another program made the file there; choose another name");
    return place;
}

// Writes pixels [height, width, channels] as PPM or PGM, whole or not at all: beside its place, and then renamed.
void write_picture(const std::filesystem::path& place, size_t height, size_t width, size_t channels, const void* pixels) {
    if (channels != 1 && channels != 3) throw std::runtime_error("a PPM holds 1 or 3 channels, not " + std::to_string(channels));
    for (const int number : {SIGHUP, SIGINT, SIGTERM}) std::signal(number, SIG_IGN);  // they would leave a part; the end is near
    auto partial = place;
    partial += ".partial";
    std::FILE* file = std::fopen(partial.c_str(), "wbx");  // x: a file that is there stays
    if (!file) throw std::runtime_error("cannot write " + partial.string() + ": " + std::strerror(errno));
    const std::string size_line = std::to_string(width) + ' ' + std::to_string(height);
    const std::string head = (channels == 1 ? "P5\n" : "P6\n") + MARK + '\n' + size_line + "\n255\n";
    const size_t size = height * width * channels;
    bool is_whole = std::fwrite(head.data(), 1, head.size(), file) == head.size() && std::fwrite(pixels, 1, size, file) == size;
    is_whole = std::fflush(file) == 0 && is_whole;
    is_whole = fsync(fileno(file)) == 0 && is_whole;
    is_whole = std::fclose(file) == 0 && is_whole;
    std::error_code error;
    if (is_whole) std::filesystem::rename(partial, place, error);
    if (!is_whole || error) {
        std::filesystem::remove(partial, error);
        throw std::runtime_error("cannot write " + place.string());
    }
}

int main(int count, char** arguments) try {
    if (count != 6) throw std::runtime_error("usage: generate BUNDLE PRECISION SEED PSI OUT.ppm");
    const std::string bundle = arguments[1], precision = arguments[2], out = arguments[5];
    const auto seed = read_seed(arguments[3]);
    const float psi = read_psi(arguments[4]);
    const auto place = checked_place(out);

    ov::Core core;
    auto request = open(core, find(bundle, precision), precision).create_infer_request();
    request.set_input_tensor(map(core, bundle + "/mapping.onnx", seed, psi));
    request.infer();

    const auto image = request.get_output_tensor();  // uint8 [1, H, W, C]
    const auto shape = image.get_shape();
    if (image.get_element_type() != ov::element::u8) throw std::runtime_error("export the bundle with --output uint8");
    write_picture(place, shape[1], shape[2], shape[3], image.data());
    return 0;
} catch (const std::exception& e) {
    std::cerr << "generate: " << e.what() << '\n';
    return 2;
}
