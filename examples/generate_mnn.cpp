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

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

std::vector<float> read_floats(const std::string& name, size_t count) {
    std::ifstream file(name, std::ios::binary | std::ios::ate);
    if (!file || static_cast<size_t>(file.tellg()) != count * sizeof(float))
        throw std::runtime_error(name + " must hold " + std::to_string(count) + " float32 numbers");
    std::vector<float> values(count);
    file.seekg(0);
    file.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(float)));
    for (const float value : values)
        if (!(std::abs(value) <= 1e12f)) throw std::runtime_error(name + " holds numbers that are not finite, or too large");
    return values;
}

// The second line of a picture that this program wrote. It replaces no other file.
const std::string MARK = "# stylert generate_mnn";

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
    if (count != 4) throw std::runtime_error("usage: generate_mnn ENGINE.mnn WS.bin OUT.ppm");
    const auto place = checked_place(arguments[3]);

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
    const auto height = static_cast<size_t>(size[1]), width = static_cast<size_t>(size[2]), channels = static_cast<size_t>(size[3]);
    write_picture(place, height, width, channels, pixels.host<char>());
    return 0;
} catch (const std::exception& e) {
    std::cerr << "generate_mnn: " << e.what() << '\n';
    return 2;
}
