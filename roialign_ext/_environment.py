"""Loads the compiled parts of this installation, explains why they do not load, and makes the report of
`python -m roialign_ext`.

One binary serves every torch from OLDEST_TORCH on. Importing this file needs no compiled part."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import site
import sys
import sysconfig
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError(
        f"roialign_ext needs torch, which {sys.executable} does not have: start the Python of the environment that "
        "has both, or install torch there and then roialign_ext with `pip install --no-build-isolation`.",
        name="roialign_ext",
    ) from None

OLDEST_TORCH = (2, 11)  # also in setup.py, which cannot import this package
REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps <folder of roialign_ext's sources>"


def has_compiled_module() -> bool:
    """Whether there is a compiled module, in this folder or in that of an editable install."""
    return find_spec("roialign_ext._C") is not None


def library(device: str) -> Path:
    """The library with the operators for "cpu" or "cuda", beside the compiled module."""
    spec = find_spec("roialign_ext._C")
    if spec is None or spec.origin is None:
        raise ImportError("there is no compiled module")
    return Path(spec.origin).with_name(f"libroialign_ext_{device}.so")


def load_libraries() -> None:
    """Registers schemas and CPU kernels, and CUDA kernels if they were built and torch has CUDA."""
    ctypes.CDLL(str(library("cpu")))
    if torch.version.cuda is not None and library("cuda").exists():
        ctypes.CDLL(str(library("cuda")))


def installed_elsewhere() -> Path | None:
    """Another folder of this package that has a compiled module, or None."""
    here = Path(__file__).resolve().parent
    known = [*sys.path, *(sysconfig.get_path(name) for name in ("platlib", "purelib")), *site.getsitepackages()]
    for entry in [*known, site.getusersitepackages()]:
        folder = Path(entry) / "roialign_ext"
        if folder.resolve() != here and PathFinder.find_spec("roialign_ext._C", [str(folder)]) is not None:
            return folder
    editable = sys.modules.get("_roialign_ext_editable")  # setup.py writes it
    return None if editable is None else Path(editable.SOURCES)


def _hidden_by_sources(installed: Path) -> str:
    """One sentence about sources that precede the installed package on the path of Python."""
    sources = Path(__file__).resolve().parent
    folder = sources.parent
    if folder in [Path(entry).resolve() for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]:
        remedy = f"take {folder} off PYTHONPATH"
    else:
        safe_path = ", or start it with `python -P`" if sys.version_info >= (3, 11) else ""
        remedy = f"start Python, or the notebook, in another folder than {folder}{safe_path}"
    return f"roialign_ext is installed in {installed}, but Python found its sources in {sources} first: {remedy}."


def outdated_torch(running: str = torch.__version__) -> str | None:
    """One sentence if the libraries cannot run with torch `running`, else None."""
    if tuple(int(number) for number in re.findall(r"\d+", running)[:2]) >= OLDEST_TORCH:
        return None
    oldest = ".".join(map(str, OLDEST_TORCH))
    return f"roialign_ext needs torch {oldest} or newer, and torch {running} is running: install a newer torch."


def load_failure(error: Exception) -> str:
    """One sentence that says why the compiled parts could not be loaded, and what to do."""
    here = Path(__file__).parent
    if not has_compiled_module():
        installed = installed_elsewhere()
        if installed is not None:
            return _hidden_by_sources(installed)
        return (
            f"roialign_ext in {here} has no compiled module: build and install it with "
            "`pip install --no-build-isolation .` in its source folder, and import it from any other folder."
        )
    return f"roialign_ext could not be loaded beside torch {torch.__version__} ({error}): rebuild it with `{REBUILD}`."


def _capability() -> str:
    return ".".join(str(number) for number in torch.cuda.get_device_capability())


def runs_on(architectures: str, capability: str) -> bool:
    """Whether kernels built for a TORCH_CUDA_ARCH_LIST run on a GPU of that compute capability.

    A binary runs on later GPUs of the same major number, and PTX on every later GPU.
    """
    major, minor = (int(number) for number in capability.split("."))
    for entry in architectures.replace(" ", ";").split(";"):
        found = re.fullmatch(r"(\d+)\.(\d+)[af]?(\+PTX)?", entry)
        if found is None:
            return True  # a name such as "Hopper", which has no numbers to compare
        built = (int(found[1]), int(found[2]))
        if built <= (major, minor) and (built[0] == major or found[3]):
            return True
    return False


@dataclass(frozen=True)
class Environment:
    """The facts of the report. `threads_seen` is the number of threads that took part in one parallel loop."""

    package: str
    folder: str
    python: str
    torch_running: str
    torch_built: str
    library: str
    compiler: str
    flags: str
    cuda_built: str  # version of the toolkit of the CUDA kernels; "" without kernels
    cuda_architectures: str
    cuda_missing: str  # why there are no CUDA kernels
    torch_cuda: str | None
    cuda_device: str | None
    cuda_capability: str | None
    instruction_set: str
    instruction_set_request: str | None
    threads: int
    threads_seen: int

    @classmethod
    def collect(cls) -> Environment:
        """The environment of this process."""
        from . import _C, __version__, _build_info, cpu_capability

        return cls(
            package=__version__,
            folder=str(Path(__file__).parent),
            python=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
            torch_running=torch.__version__,
            torch_built=_build_info.TORCH_VERSION,
            library=str(library("cpu")),
            compiler=_build_info.COMPILER,
            flags=_build_info.FLAGS,
            cuda_built=_build_info.CUDA,
            cuda_architectures=_build_info.CUDA_ARCHITECTURES,
            cuda_missing=_build_info.NO_CUDA,
            torch_cuda=torch.version.cuda,
            cuda_device=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            cuda_capability=_capability() if torch.cuda.is_available() else None,
            instruction_set=cpu_capability(),
            instruction_set_request=os.environ.get("ATEN_CPU_CAPABILITY"),
            threads=torch.get_num_threads(),
            threads_seen=_C.num_threads_seen(),
        )

    def next_steps(self) -> list[str]:
        """The next steps of the user, one sentence each; empty if nothing is wrong."""
        steps = []
        if self.cuda_device is not None and not self.cuda_built and "-fsanitize" not in self.flags:
            steps.append(
                f"The GPU ({self.cuda_device}) stays unused, because {self.cuda_missing}: "
                f"rebuild with `FORCE_CUDA=1 {REBUILD}`."
            )
        if (
            self.cuda_built
            and self.cuda_capability is not None
            and not runs_on(self.cuda_architectures, self.cuda_capability)
        ):
            steps.append(
                f"The CUDA kernels, built for {self.cuda_architectures}, do not run on {self.cuda_device}: "
                f"rebuild with `TORCH_CUDA_ARCH_LIST={self.cuda_capability} {REBUILD}`."
            )
        if "-fsanitize" in self.flags:
            steps.append(f"This is a slow build for the sanitizers: unset ROIALIGN_EXT_SANITIZE and `{REBUILD}`.")
        return steps

    def report(self) -> str:
        """The report as plain text, one fact per line."""
        torch_cuda = "no CUDA in this torch" if self.torch_cuda is None else f"torch has CUDA {self.torch_cuda}"
        device = (
            "no CUDA device visible"
            if self.cuda_device is None
            else f"{self.cuda_device}, {self.cuda_capability}{'' if self.cuda_built else ', stays unused'}"
        )
        kernels = (
            f"built with CUDA {self.cuda_built} for {self.cuda_architectures}"
            if self.cuda_built
            else f"no: {self.cuda_missing}"
        )
        request = self.instruction_set_request
        asked = "chosen by the processor" if request is None else f"ATEN_CPU_CAPABILITY={request}"
        rows = {
            "roialign_ext": f"{self.package} in {self.folder}",
            "Python": self.python,
            "torch": f"{self.torch_running}, headers of the build {self.torch_built}",
            "CPU library": self.library,
            "compiler": self.compiler,
            "flags": self.flags,
            "CUDA kernels": f"{kernels} ({torch_cuda}; {device})",
            "instruction set": f"{self.instruction_set} ({asked})",
            "threads": f"{self.threads} asked for, {self.threads_seen} seen in a parallel loop",
        }
        width = max(map(len, rows)) + 2
        lines = [f"{name:<{width}}{value}" for name, value in rows.items()]
        steps = self.next_steps()
        lines += [f"Next step: {step}" for step in steps] or ["Nothing to do: everything is in order."]
        return "\n".join(lines)
