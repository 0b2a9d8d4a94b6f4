"""Builds one library of operators for each device, a Python module, and a file with the facts of the build.

The libraries use only the stable ABI of torch. Built with any torch from OLDEST_TORCH on, they run with every one.
The CUDA kernels are built if torch has CUDA and a toolkit of its version is found, with or without a GPU.

Environment variables:

- MAX_JOBS limits the number of compilers that run at once. CXX and CXXFLAGS have their usual meaning.
- CUDA_HOME names the toolkit.
- TORCH_CUDA_ARCH_LIST names the architectures. The default is those of the GPUs here; without a GPU it is those of
  RELEASE_ARCHITECTURES that nvcc knows. "release" is the latter in any case. With "native" there are no CUDA kernels
  without a GPU.
- FORCE_CUDA=1 makes a build without CUDA kernels an error. ROIALIGN_EXT_CUDA=0 omits them.
- ROIALIGN_EXT_SANITIZE=1 builds with the address and undefined-behaviour sanitizers, for the CPU only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import setuptools

ROOT = Path(__file__).parent
OLDEST_TORCH = (2, 11)  # also in roialign_ext/_environment.py
OLDEST_SETUPTOOLS = 77
INSTALL = "then run `pip install --no-build-isolation .`"
RELEASE_ARCHITECTURES = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")


def is_on(variable: str, default: str = "0") -> bool:
    """Whether an environment variable is set to anything but 0."""
    return (os.environ.get(variable) or default) != "0"


SANITIZE = is_on("ROIALIGN_EXT_SANITIZE")


def stop(sentence: str) -> NoReturn:
    """Ends the build with one sentence and no traceback."""
    sys.exit(f"roialign_ext: {sentence}")


if sys.platform != "linux":
    stop(f"builds on Linux only so far, and this platform is {sys.platform}.")


def isolated_builder() -> tuple[str, str] | None:
    """The tool that runs this build in isolation, and how to turn isolation off; None without isolation."""
    if any("pip-build-env-" in entry for entry in sys.path):
        return "pip", "add --no-build-isolation, as in `pip install --no-build-isolation .`"
    if re.search(r"[/\\]builds-v\d+[/\\]", sys.prefix):
        return "uv", "add --no-build-isolation, as in `uv pip install --no-build-isolation .`"
    if Path(sys.prefix).name.startswith("build-env-"):
        return "python -m build", "add --no-isolation"
    return None


def torch_outside() -> bool:
    """Whether the environment that pip runs in has torch. pip hides that environment only by PYTHONPATH."""
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([sys.executable, "-E", "-c", look], check=False).returncode == 0


def no_torch() -> str:
    """The reason why torch cannot be imported here, and what to do."""
    install = f"install torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer"
    builder = isolated_builder()
    if builder is None:
        return f"{install} first, {INSTALL} (a build in isolation does not see the torch of your environment)."
    tool, remedy = builder
    if tool == "pip":
        first = "" if torch_outside() else f"{install} first, then "
    else:
        first = f"{install} if your environment has none, then "
    return f"{tool} builds in isolation and does not see the torch of your environment: {first}{remedy}."


try:
    import torch
except ModuleNotFoundError:
    stop(no_torch())
TORCH_VERSION = str(torch.__version__)
RUNNING_TORCH = tuple(int(number) for number in re.findall(r"\d+", TORCH_VERSION)[:2])
if RUNNING_TORCH < OLDEST_TORCH:
    stop(
        f"install torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer first (version {TORCH_VERSION} is installed), "
        f"{INSTALL}."
    )
# Older releases of setuptools do not understand the licence in pyproject.toml. A copy without that file accepts them.
if (ROOT / "pyproject.toml").is_file() and int(setuptools.__version__.split(".")[0]) < OLDEST_SETUPTOOLS:
    stop(
        f'run `pip install "setuptools>={OLDEST_SETUPTOOLS}"` first (version {setuptools.__version__} is installed), '
        f"{INSTALL}."
    )

# These need the checks above.
from setuptools.command.build import build  # noqa: E402
from setuptools.command.egg_info import egg_info  # noqa: E402
from setuptools.command.sdist import sdist  # noqa: E402
from torch.utils import cpp_extension  # noqa: E402

# One build folder for each torch and kind of build, so that no object or module of another one is ever packed.
BUILD_FOLDER = f"build/torch-{TORCH_VERSION}{'-sanitize' if SANITIZE else ''}"
PACKAGE = "roialign_ext"
CPU_LIBRARY, CUDA_LIBRARY = "libroialign_ext_cpu", "libroialign_ext_cuda"


def compile_flags() -> list[str]:
    """Flags for every C++ file, except -std: torch adds the one that its headers need (C++17 or C++20)."""
    # A fused multiply-add would change the rounding of sample coordinates, and so the pixels of a sample.
    # -Wno-psabi: only functions of one file pass vectors wider than the baseline to each other.
    flags = ["-ffp-contract=off", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"]
    # torch's stable headers declare the functions of this version.
    flags.append(f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000")
    if SANITIZE:
        # GCC compiles checks faster as calls than inline.
        return [*flags, "-Og", "-g1", "--param=asan-instrumentation-with-call-threshold=0", *sanitizer_flags()]
    # Python's own flags end in -g, which would add debug information to the libraries.
    return [*flags, "-O2", "-g0"]


def sanitizer_flags() -> list[str]:
    """Flags of a sanitizer build for the compiler and the linker; empty for other builds."""
    return ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if SANITIZE else []


def compiler_version() -> str:
    """The first line of the C++ compiler's output for --version."""
    command = [*shlex.split(cpp_extension.get_cxx_compiler()), "--version"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        stop(f"found no working C++ compiler (`{shlex.join(command)}` failed): install g++ or set CXX, {INSTALL}.")


def relative(paths: list[Path]) -> list[str]:
    """Sorted paths relative to the source folder, as setuptools requires."""
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


@dataclass(frozen=True)
class Toolkit:
    """The CUDA toolkit of a build, and the architectures to build for."""

    home: Path
    version: str
    architectures: str  # in the form of TORCH_CUDA_ARCH_LIST

    def __str__(self) -> str:
        return f"CUDA {self.version} in {self.home}, architectures {self.architectures}"


class NoCudaError(Exception):
    """A build without CUDA kernels. The message is the reason, as the end of a sentence."""


def toolkit_folders() -> list[tuple[str, Path]]:
    """Possible folders of a toolkit, with the origin of each. CUDA_HOME or CUDA_PATH, if set, is the only one."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            return [(variable, Path(os.environ[variable]))]
    folders = []
    if nvcc := shutil.which("nvcc"):
        folders += [("nvcc on the PATH", path.parent.parent) for path in (Path(nvcc), Path(nvcc).resolve())]
    folders.append(("the usual place", Path("/usr/local/cuda")))
    major = str(torch.version.cuda).split(".")[0]
    folders.append(("torch's packages", Path(torch.__file__).parent.parent / "nvidia" / f"cu{major}"))
    return list({path: (how, path) for how, path in reversed(folders)}.values())[::-1]


def lacks(home: Path) -> str | None:
    """The fault of a folder that is no toolkit for this torch, as the end of "it has"; None for a toolkit."""
    libraries = [home / folder / "libcudart_static.a" for folder in ("lib64", "lib")]
    for name, found in (
        ("bin/nvcc", (home / "bin" / "nvcc").is_file()),
        ("include/cuda_runtime.h", (home / "include" / "cuda_runtime.h").is_file()),
        ("lib64/libcudart_static.a", any(path.is_file() for path in libraries)),
    ):
        if not found:
            return f"no {name}"
    version = nvcc_version(home)
    if version is None:
        return "an nvcc that does not run"
    if version.split(".")[0] != str(torch.version.cuda).split(".")[0]:
        return f"CUDA {version} where torch has {torch.version.cuda}"
    return None


def ask_nvcc(home: Path, argument: str) -> str:
    """The output of nvcc; empty if it does not run."""
    command = [str(home / "bin" / "nvcc"), argument]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def nvcc_version(home: Path) -> str | None:
    """The release of nvcc, such as "13.0"; None if it does not run."""
    found = re.search(r"release (\d+\.\d+)", ask_nvcc(home, "--version"))
    return None if found is None else found[1]


def architectures(home: Path) -> str:
    """The architectures to compile for: those of TORCH_CUDA_ARCH_LIST, of the GPUs here, or of a release."""
    request = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if request not in ("", "native", "release"):
        return request
    if request == "native" and torch.cuda.device_count() == 0:
        raise NoCudaError("TORCH_CUDA_ARCH_LIST=native builds for the GPUs here, and there is none")
    known = {
        f"{int(number) // 10}.{int(number) % 10}"
        for number in re.findall(r"compute_(\d+)", ask_nvcc(home, "--list-gpu-arch"))
    }
    devices = {".".join(map(str, torch.cuda.get_device_capability(i))) for i in range(torch.cuda.device_count())}
    if devices and devices <= known and request != "release":
        return ";".join(sorted(devices, key=float))
    release = [name for name in RELEASE_ARCHITECTURES if name in known]
    if not release:
        raise NoCudaError(f"nvcc in {home} knows none of the architectures {' '.join(RELEASE_ARCHITECTURES)}")
    return ";".join(release) + "+PTX"


def find_toolkit() -> Toolkit:
    """The toolkit of this build. Raises NoCudaError if there is none."""
    if not is_on("ROIALIGN_EXT_CUDA", "1"):
        raise NoCudaError("ROIALIGN_EXT_CUDA=0 leaves them out")
    if SANITIZE:
        raise NoCudaError("ROIALIGN_EXT_SANITIZE=1 builds for the CPU alone")
    if torch.version.cuda is None:
        raise NoCudaError(f"torch {TORCH_VERSION} was built without CUDA")
    looked_at = []
    for how, home in toolkit_folders():
        missing = lacks(home)
        if missing is None:
            return Toolkit(home, str(nvcc_version(home)), architectures(home))
        looked_at.append(f"{home} ({how}) has {missing}")
    raise NoCudaError(f"no toolkit of CUDA {torch.version.cuda} was found: {', '.join(looked_at)}")


def toolkit_or_reason() -> tuple[Toolkit | None, str]:
    """The toolkit and "", or None and the reason. Without a toolkit FORCE_CUDA=1 ends the build."""
    try:
        return find_toolkit(), ""
    except NoCudaError as reason:
        if is_on("FORCE_CUDA"):
            stop(f"FORCE_CUDA=1 asks for CUDA kernels, but {reason}.")
        return None, str(reason)


def fingerprint(*versions: str) -> str:
    """A macro that no source reads. ninja compiles a file again if its command changed, and another compiler under the
    same name does not change it. The macro does."""
    return f"-DROIALIGN_EXT_BUILT_WITH=0x{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:8]}"


# An editable install imports the Python files from the sources. The compiled files lie in this package in the
# environment. So several environments can share the sources, and `pip uninstall` removes the compiled files.
EDITABLE = "_roialign_ext_editable"
FINDER = '''"""Written by setup.py for an editable install: finds the files that were compiled for this environment."""

import os
from importlib.machinery import PathFinder

SOURCES = {sources!r}
MODULES = ("roialign_ext._C", "roialign_ext._build_info")


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in MODULES or SOURCES not in map(os.path.realpath, path or ()):
            return None
        return PathFinder.find_spec(name, __path__)
'''


class Build(cpp_extension.BuildExtension):
    """Builds the libraries and the module, and writes the facts of the build beside them."""

    build_temp: str | None  # the folder of the objects

    def finalize_options(self) -> None:
        # By default an editable install builds in a temporary folder, and puts the module into the sources.
        if self.build_temp is None:
            self.build_temp = str(ROOT / BUILD_FOLDER / f"objects-{sys.implementation.cache_tag}")
        self.toolkit, self.no_toolkit = toolkit_or_reason()
        cuda = [] if self.toolkit is None else [cuda_library(self.toolkit)]
        self.distribution.ext_modules = [cpu_library(), python_module(), *cuda]
        super().finalize_options()
        if self.editable_mode:
            self.inplace = False
        # setuptools compares timestamps, which do not show a change of torch or of flags. ninja compares commands.
        self.force = True

    def run(self) -> None:
        compiler, toolkit = compiler_version(), self.toolkit
        cpu, module = self.extensions[:2]
        module.extra_objects = [self.get_ext_fullpath(cpu.name)]
        for extension in (cpu, module):
            extension.extra_compile_args.append(fingerprint(compiler, TORCH_VERSION))
        if toolkit is not None:
            arguments = self.extensions[2].extra_compile_args
            arguments["cxx"].append(fingerprint(compiler, TORCH_VERSION))
            arguments["nvcc"].append(fingerprint(ask_nvcc(toolkit.home, "--version"), compiler, TORCH_VERSION))
        print(f"roialign_ext: torch {TORCH_VERSION}, {compiler}; CUDA kernels: {toolkit or f'no, {self.no_toolkit}'}")
        super().run()
        info = {
            "TORCH_VERSION": TORCH_VERSION,
            "COMPILER": compiler,
            "FLAGS": shlex.join(compile_flags()),
            "CUDA": "" if toolkit is None else toolkit.version,
            "CUDA_ARCHITECTURES": "" if toolkit is None else toolkit.architectures,
            "NO_CUDA": self.no_toolkit,
        }
        lines = ['"""Written by setup.py: what the libraries were built with."""', ""]
        lines += [f"{name} = {value!r}" for name, value in info.items()]
        self.build_info().write_text("\n".join(lines) + "\n")
        if self.editable_mode:
            self.put_into_environment()

    def _define_torch_extension_name(self, extension: setuptools.Extension) -> None:
        """Omits a macro with the name of the library, so that libraries share objects. No source reads it."""

    def get_ext_filename(self, fullname: str) -> str:
        """File names of libraries have no suffix for a version of Python."""
        if fullname.split(".")[-1].startswith("lib"):
            return f"{fullname.replace('.', os.sep)}.so"
        return str(super().get_ext_filename(fullname))

    def build_info(self) -> Path:
        return Path(self.get_ext_fullpath(f"{PACKAGE}._C")).with_name("_build_info.py")

    def put_into_environment(self) -> None:
        """Adds the compiled files to the wheel of an editable install."""
        wheel = Path(self.get_finalized_command("install").install_platlib)
        folder = wheel / EDITABLE
        folder.mkdir()
        for path in (
            *(Path(self.get_ext_fullpath(extension.name)) for extension in self.extensions),
            self.build_info(),
        ):
            shutil.copy(path, folder)
        (folder / "__init__.py").write_text(FINDER.format(sources=os.path.realpath(ROOT / PACKAGE)))
        (wheel / f"{EDITABLE}.pth").write_text(f"import sys, {EDITABLE}; sys.meta_path.insert(0, {EDITABLE}.Finder)\n")

    def get_outputs(self) -> list[str]:
        return [*super().get_outputs(), str(self.build_info())]


class CleanBuild(build):
    """Starts from an empty folder, so that no deleted module is packed. Objects lie elsewhere."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib) / "roialign_ext", ignore_errors=True)
        super().run()


class Metadata(egg_info):
    """Adds the device to the version of a wheel, and writes its files outside the sources. pip and importlib.metadata
    would take these files for an installation."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.egg_base = BUILD_FOLDER

    def finalize_options(self) -> None:
        Path(self.egg_base).mkdir(parents=True, exist_ok=True)
        if "sdist" not in self.distribution.commands:
            toolkit, _ = toolkit_or_reason()
            self.tag_build = "+cpu" if toolkit is None else f"+cu{toolkit.version.replace('.', '')}"
        super().finalize_options()


class SourceArchive(sdist):
    """Omits setuptools' own list of the files, which lies in the build folder."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, [name for name in files if not name.startswith("build/")])


def library(name: str, sources: list[Path], *torch_libraries: str) -> setuptools.Extension:
    """A library of operators. It uses torch's stable ABI and no Python."""
    return setuptools.Extension(
        name=f"{PACKAGE}.{name}",
        sources=relative(sources),
        depends=HEADERS,
        include_dirs=["csrc"],
        # -isystem: no warnings about torch's headers.
        extra_compile_args=[*compile_flags(), *(word for path in TORCH_INCLUDES for word in ("-isystem", path))],
        libraries=list(torch_libraries),
        library_dirs=cpp_extension.library_paths(),
        extra_link_args=[f"-Wl,-soname,{name}.so", *sanitizer_flags()],
        language="c++",
    )


CSRC = ROOT / "csrc"
HEADERS = relative([path for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh")])
TORCH_INCLUDES = cpp_extension.include_paths()
# Each library has its own copy of these files, which do not depend on the device.
ANY_DEVICE = [CSRC / name for name in ("private_ops.cpp", "public_ops.cpp", "checks.cpp", "tensor.cpp")]


def cpu_library() -> setuptools.Extension:
    return library(CPU_LIBRARY, [CSRC / "schemas.cpp", *ANY_DEVICE, *(CSRC / "cpu").glob("*.cpp")], "torch_cpu")


def cuda_library(toolkit: Toolkit) -> setuptools.Extension:
    """The library of the CUDA kernels. This function also sets the toolkit and the architectures for torch."""
    os.environ["TORCH_CUDA_ARCH_LIST"] = toolkit.architectures
    cpp_extension.CUDA_HOME = str(toolkit.home)
    kernels = [*(CSRC / "cuda").glob("*.cpp"), *(CSRC / "cuda").glob("*.cu")]
    # The runtime is linked statically, so that the library depends on no toolkit.
    runtime = ["cudart_static", "dl", "rt", "pthread"]
    extension = library(CUDA_LIBRARY, [*ANY_DEVICE, *kernels], "torch_cuda", "torch_cpu", *runtime)
    extension.extra_compile_args = {
        "cxx": extension.extra_compile_args,
        # torch's flags disable the conversions of half precision, which the kernels use.
        "nvcc": ["-std=c++17", "-O3", "-Xcompiler", "-fvisibility=hidden", "-Xfatbin", "-compress-all"]
        + [f"-U__CUDA_NO_{name}__" for name in ("HALF_CONVERSIONS", "BFLOAT16_CONVERSIONS")],
    }
    extension.library_dirs += [str(toolkit.home / name) for name in ("lib64", "lib") if (toolkit.home / name).is_dir()]
    return extension


def python_module() -> setuptools.Extension:
    """The module `_C`, which calls the CPU library beside it."""
    return setuptools.Extension(
        name=f"{PACKAGE}._C",
        sources=["csrc/module.cpp"],
        depends=["csrc/cpu/hooks.h"],
        include_dirs=["csrc"],
        extra_compile_args=compile_flags(),
        # The module calls no function of the C library itself, but auditwheel has to find the library's kind there.
        extra_link_args=["-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed,-lc,--as-needed", *sanitizer_flags()],
        language="c++",
        py_limited_api=True,
    )


options: dict[str, dict[str, Any]] = {"build": {"build_base": BUILD_FOLDER}, "bdist_wheel": {"py_limited_api": "cp310"}}
setuptools.setup(
    ext_modules=[python_module()],  # Build adds the libraries
    cmdclass={"build": CleanBuild, "build_ext": Build, "egg_info": Metadata, "sdist": SourceArchive},
    options=options,
)
