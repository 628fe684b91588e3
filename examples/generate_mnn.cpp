// Images from a bundle's MNN engine in C++, with neither Python nor this project where it runs.
//
//     stylert build bundle --backend mnn --precision fp32
//     g++ -std=c++17 -O2 examples/generate_mnn.cpp -I MNN/include -L MNN/build -lMNN -Wl,-rpath,MNN/build -o generate_mnn
//     ./generate_mnn bundle/engines/mnn-cpu-…/engine.mnn ws.bin cat.ppm
//
// MNN is a source tree of version 3.6.1 with its built library: MNN's wheel has no headers. The file ws.bin holds the latents
// of one image, float32 [num_ws, w_dim], as `Generator.map` returns them: ws[0].tofile("ws.bin"). An engine runs on any processor.

#include <MNN/Interpreter.hpp>
#include <MNN/Tensor.hpp>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

std::vector<float> read_floats(const std::string& name, size_t count) {
    std::ifstream file(name, std::ios::binary | std::ios::ate);
    if (!file || static_cast<size_t>(file.tellg()) != count * sizeof(float))
        throw std::runtime_error(name + " must hold " + std::to_string(count) + " float32 numbers");
    std::vector<float> values(count);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(float)));
    return values;
}

int main(int count, char** arguments) try {
    if (count != 4) throw std::runtime_error("usage: generate_mnn ENGINE.mnn WS.bin OUT.ppm");
    const std::string out = arguments[3];

    std::unique_ptr<MNN::Interpreter> network(MNN::Interpreter::createFromFile(arguments[1]));
    if (!network) throw std::runtime_error(std::string("cannot open ") + arguments[1]);
    MNN::ScheduleConfig config;
    config.type = MNN_FORWARD_CPU;
    config.numThread = static_cast<int>(std::thread::hardware_concurrency());
    MNN::BackendConfig arithmetic;
    arithmetic.precision = MNN::BackendConfig::Precision_Normal;  // Precision_Low takes float16 on ARM: measure its PSNR
    config.backendConfig = &arithmetic;
    auto* session = network->createSession(config);
    if (!session) throw std::runtime_error("cannot make a session");

    auto* ws = network->getSessionInput(session, "ws");
    auto shape = ws->shape();
    shape[0] = 1;
    network->resizeTensor(ws, shape);
    network->resizeSession(session);

    auto values = read_floats(arguments[2], static_cast<size_t>(shape[1]) * shape[2]);
    std::unique_ptr<MNN::Tensor> host_ws(MNN::Tensor::create<float>(shape, values.data(), MNN::Tensor::CAFFE));
    ws->copyFromHostTensor(host_ws.get());
    if (network->runSession(session) != MNN::NO_ERROR) throw std::runtime_error("the network did not run");

    const auto* image = network->getSessionOutput(session, "image");  // uint8 [1, H, W, C]
    if (image->getType() != halide_type_of<uint8_t>()) throw std::runtime_error("export the bundle with --output uint8");
    MNN::Tensor pixels(image, MNN::Tensor::CAFFE);
    image->copyToHostTensor(&pixels);
    const auto size = image->shape();
    std::ofstream file(out, std::ios::binary);
    file << (size[3] == 1 ? "P5\n" : "P6\n") << size[2] << ' ' << size[1] << "\n255\n";
    file.write(pixels.host<char>(), static_cast<std::streamsize>(size[1]) * size[2] * size[3]);
    if (!file.flush()) throw std::runtime_error("cannot write " + out);
    return 0;
} catch (const std::exception& e) {
    std::cerr << "generate_mnn: " << e.what() << '\n';
    return 2;
}
