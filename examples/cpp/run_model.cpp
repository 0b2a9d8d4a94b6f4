// Runs a saved model that has operators of roialign_ext, without Python.
// usage: run_model LIBRARY MODEL
//   LIBRARY  libroialign_ext_cpu.so, whose path `python -m roialign_ext` prints
//   MODEL    a module saved by torch.jit.save (.pt) or a package of AOTInductor (.pt2) that takes features and boxes
#include <dlfcn.h>

#include <iomanip>
#include <iostream>
#include <string>

#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: run_model LIBRARY MODEL\n";
    return 2;
  }
  // Loading the library registers the operators, which a model needs as soon as it is read.
  if (dlopen(argv[1], RTLD_NOW) == nullptr) {
    std::cerr << dlerror() << '\n';
    return 1;
  }
  const at::NoGradGuard no_grad;
  const std::string path = argv[2];
  const at::Tensor features = torch::arange(64, torch::kFloat).reshape({1, 1, 8, 8});
  const at::Tensor boxes = torch::tensor({{0.0f, 2.0f, 2.0f, 6.0f, 6.0f}, {0.0f, 1.0f, 0.0f, 7.5f, 3.0f}});
  at::Tensor pooled;
  if (path.ends_with(".pt2")) {
    torch::inductor::AOTIModelPackageLoader package(path);
    pooled = package.run({features, boxes}).at(0);
  } else {
    torch::jit::Module module = torch::jit::load(path);
    pooled = module.forward({features, boxes}).toTensor();
  }
  const at::Tensor values = pooled.flatten().contiguous();
  std::cout << std::setprecision(9);
  for (int64_t i = 0; i < values.numel(); ++i) std::cout << values.const_data_ptr<float>()[i] << '\n';
}
