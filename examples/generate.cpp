// Images from a bundle's OpenVINO engine in C++, with neither Python nor this project where it runs.
//
//     stylert build bundle --backend openvino --precision int8
//     OV=$(python -c "import openvino, os; print(os.path.dirname(openvino.__file__))")
//     g++ -std=c++17 -O2 examples/generate.cpp -I $OV/include $OV/libs/libopenvino.so.* -Wl,-rpath,$OV/libs -o generate
//     ./generate bundle int8 7 0.7 cat.ppm
//
// A seed means the same image as in Python. The engine must have been built on this machine; its weights are mapped, not read.

#include <openvino/openvino.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <stdexcept>
#include <string>
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

int main(int count, char** arguments) try {
    if (count != 6) throw std::runtime_error("usage: generate BUNDLE PRECISION SEED PSI OUT.ppm");
    const std::string bundle = arguments[1], precision = arguments[2], out = arguments[5];
    const auto seed = static_cast<uint32_t>(std::stoul(arguments[3]));
    const float psi = std::stof(arguments[4]);

    ov::Core core;
    auto request = open(core, find(bundle, precision), precision).create_infer_request();
    request.set_input_tensor(map(core, bundle + "/mapping.onnx", seed, psi));
    request.infer();

    const auto image = request.get_output_tensor();  // uint8 [1, H, W, C]
    const auto shape = image.get_shape();
    if (image.get_element_type() != ov::element::u8) throw std::runtime_error("export the bundle with --output uint8");
    std::ofstream file(out, std::ios::binary);
    file << (shape[3] == 1 ? "P5\n" : "P6\n") << shape[2] << ' ' << shape[1] << "\n255\n";
    file.write(static_cast<const char*>(image.data()), static_cast<std::streamsize>(image.get_byte_size()));
    if (!file.flush()) throw std::runtime_error("cannot write " + out);
    return 0;
} catch (const std::exception& e) {
    std::cerr << "generate: " << e.what() << '\n';
    return 2;
}
