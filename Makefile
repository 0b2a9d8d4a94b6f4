# The targets need Python 3.10+ with venv, a C++ compiler and make; everything else goes into .venv-make, one virtual
# environment for all of them.
PYTHON ?= python3
INSTALL_ARGS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
# Without a GPU no time goes into CUDA kernels, which no target could run.
TORCH_CUDA_ARCH_LIST ?= native

export TORCH_CUDA_ARCH_LIST
export PIP_DISABLE_PIP_VERSION_CHECK = 1
SHELL = bash
.SHELLFLAGS = -o pipefail -c

VENV = .venv-make
IN_VENV = PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
SANITIZED = build/sanitized
SANITIZER_TESTS ?= robustness/test_bad_boxes.py robustness/test_bad_arguments.py robustness/test_nasty_numbers.py \
    numbers/test_layouts.py numbers/test_maximum.py numbers/test_double_backward.py numbers/test_gradients.py
CPP_FILES = $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cuh csrc/*/*.cu tests/core/*.cpp \
    tests/core/*.cu tests/cuda/shim/*.cpp tests/cuda/shim/*.h tests/cuda/shim/include/*.h \
    tests/cuda/shim/include/torch/csrc/stable/*.h examples/cpp/*.cpp)
# ninja prints whole commands; of those of the compiler the file is enough. That there is no GPU is no news.
PROGRESS = sed -u -E -e 's|^(\[[0-9]+/[0-9]+\]) .* -c [^ ]*/(csrc/[^ ]+) .*|\1 \2|' -e '/No CUDA runtime is found/d'
# Compiles in sight; pip, which would do it in silence, packs what is there and installs it.
COMPILE = $(IN_VENV) python -u setup.py --quiet build_ext 2>&1 | $(PROGRESS)
INSTALL = $(COMPILE) && $(IN_VENV) pip install --quiet --no-build-isolation --no-deps --force-reinstall .
# With WHEEL=FILE the targets use that wheel and compile nothing.
WHEEL ?=

.PHONY: help demo demo-distributed recipes pictures test test-slow bench wheel wheels docs installed lint format sanitize sanitize-kernels cuda-architectures clean another-python
.DEFAULT_GOAL := help

help:
	@echo "make demo    trains Mask R-CNN with these layers and with torchvision's, writes outputs/ (DEMO_ARGS=--help)"
	@echo "make demo-distributed    trains it in two processes (PROCESSES=4, DEMO_ARGS=--help)"
	@echo "make recipes runs the short programs of docs/recipes.md, writes outputs/"
	@echo "make test    runs the tests (TEST_ARGS: arguments of pytest)"
	@echo "make test-slow    runs those that train or compile whole detectors, or build a program in C++"
	@echo "make bench   measures the operators against torchvision (BENCH_ARGS=--help)"
	@echo "make wheel   makes the source archive and a wheel for Python 3.10+ and torch 2.11+, into dist/"
	@echo "make wheels  makes wheels to hand out, for the CPU and for CUDA, and an index for pip, into dist/"
	@echo "make docs    builds the documentation as a site, build/site/index.html, and checks every link"
	@echo "make lint, format, sanitize, cuda-architectures: CONTRIBUTING.md"
	@echo "make clean   removes the environments and everything that was built"
	@echo
	@echo "The first of them installs pinned packages, torch among them, into $(VENV) (5 to 6 GB) and compiles roialign_ext."
	@echo "PYTHON=python3.12 chooses the interpreter, MAX_JOBS=2 limits the compilers that run at once."

demo: installed
	@echo "== Training Mask R-CNN on a photograph of coins"
	@$(VENV)/bin/python examples/train_coins.py $(DEMO_ARGS)

PROCESSES ?= 2
demo-distributed: installed
	@echo "== Training Mask R-CNN on a photograph of coins in $(PROCESSES) processes"
	@TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 $(VENV)/bin/torchrun --standalone --nproc-per-node $(PROCESSES) \
	    --max-restarts 3 examples/train_coins_distributed.py $(DEMO_ARGS)

DRAWING = learn_boxes gradient_penalty box_features
recipes: installed
	@set -e; for name in $(DRAWING) export_onnx pool_volumes two_scales; do \
	    echo "== examples/$$name.py"; $(VENV)/bin/python examples/$$name.py; done

# The pictures of docs/recipes.md.
pictures: installed
	@set -e; for name in $(DRAWING); do $(VENV)/bin/python examples/$$name.py --outputs docs/pictures/recipes; done

bench: installed
	$(VENV)/bin/python -m benchmarks.run $(BENCH_ARGS)

# The tests run in their folder, because in this one the sources would hide the installed package.
test: installed
	@cd tests && ../$(VENV)/bin/python -m roialign_ext
	@echo "== Running the tests"
	cd tests && ../$(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not sanitizers and not budgets and not slow" $(TEST_ARGS)

# Detectors and programs in processes of their own: compiled, distributed, in C++.
test-slow: installed
	cd tests && ../$(VENV)/bin/python -m pytest -n auto --dist loadfile -m slow $(TEST_ARGS)

installed: $(VENV)/installed
ifeq ($(WHEEL),)
	@echo "== Compiling roialign_ext (half a minute the first time, then what has changed)"
	@$(INSTALL)
else
	$(VENV)/bin/pip install --quiet --no-deps --force-reinstall $(WHEEL)
endif

# One wheel runs with every Python from 3.10 on and every torch from 2.11 on, whichever made it.
wheel: $(VENV)/installed
	bash .ci/wheel.sh $(VENV)/bin/python dist

# Those to hand out: CPU, and CUDA for every architecture of a release. auditwheel is in the environment of the linters.
wheels: $(VENV)/installed .venv-lint/installed
	PATH="$(CURDIR)/.venv-lint/bin:$$PATH" TORCH_CUDA_ARCH_LIST=release \
	    bash .ci/wheel.sh $(VENV)/bin/python dist cpu cuda

# Sphinx and its theme have an environment of their own, which borrows torch and this package from that of the targets.
docs: installed .venv-docs/installed
	packages='import site; print(site.getsitepackages()[0])'; \
	    $(VENV)/bin/python -c "$$packages" > "$$(.venv-docs/bin/python -c "$$packages")/targets.pth"
	.venv-docs/bin/sphinx-build --fail-on-warning --keep-going --quiet --conf-dir docs --fresh-env . build/site

lint: .venv-lint/installed $(VENV)/installed
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/clang-format --dry-run -Werror $(CPP_FILES)
	.venv-lint/bin/mypy --python-executable $(VENV)/bin/python

format: .venv-lint/installed
	.venv-lint/bin/ruff check --fix .
	.venv-lint/bin/ruff format .
	.venv-lint/bin/clang-format -i $(CPP_FILES)

sanitize-kernels: installed
	cd tests && ../$(VENV)/bin/python -m pytest -q $(TEST_OPTIONS) -n 0 -m sanitizers cuda/test_kernels.py

sanitize: export ROIALIGN_EXT_SANITIZE = 1
sanitize: $(VENV)/installed
	@echo "== Compiling roialign_ext with the sanitizers into $(SANITIZED)"
	@rm -rf $(SANITIZED)
	@$(INSTALL) --target $(SANITIZED)
	bash .ci/sanitize.sh $(VENV)/bin/python $(SANITIZED) $(SANITIZER_TESTS)

# Compiles the CUDA kernels for every architecture of a release (minutes; needs nvcc, no GPU), and holds them to budgets
# of registers, instructions and memory requests. A warning of the compiler is an error.
cuda-architectures: export FORCE_CUDA = 1
cuda-architectures: export NVCC_APPEND_FLAGS = --Werror all-warnings
cuda-architectures: TORCH_CUDA_ARCH_LIST = release
cuda-architectures: installed
	cd tests && ../$(VENV)/bin/python -m pytest -q $(TEST_OPTIONS) -n auto --dist loadfile -m budgets cuda

clean:
	rm -rf .venv-make .venv-lint .venv-docs .venv-torch-* build dist outputs *.egg-info .pytest_cache .mypy_cache \
	    .ruff_cache .hypothesis roialign_ext/_build_info.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find roialign_ext -name '*.so' -delete

$(VENV)/installed: requirements.txt
# An interpreter that is asked for and is not that of the environment makes a new one.
ifneq ($(origin PYTHON),file)
ifneq ($(shell cat $(VENV)/installed 2>/dev/null),$(PYTHON))
$(VENV)/installed: another-python
endif
endif
.venv-lint/installed: .ci/lint-requirements.txt
.venv-docs/installed: .ci/docs-requirements.txt

# An old pip says nothing while it installs several GB.
.venv-%/installed:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "roialign_ext needs Python 3.10 or newer, \
	and $(PYTHON) is " + sys.version.split()[0] + ": choose another with make PYTHON=...")'
	@echo "== Creating $(@D)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet pip==25.3
	@echo "== Installing what $< pins"
	$(@D)/bin/pip install $(INSTALL_ARGS) -r $<
	@echo $(PYTHON) > $@
