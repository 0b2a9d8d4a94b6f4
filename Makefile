# `make demo` and `make test` need Python 3.10+ with venv, a C++ compiler and make; everything else goes into virtual
# environments of their own in this folder. PYTHON=... chooses the interpreter, MAX_JOBS=... limits the compilers.
PYTHON ?= python3
INSTALL_ARGS ?=
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# $(call install,VENV): builds this folder with the tools of VENV and installs it there.
install = PATH="$(CURDIR)/$(1)/bin:$$PATH" $(1)/bin/pip install --quiet --no-build-isolation --no-deps .
NINJA = $(shell grep '^ninja==' tests/requirements.txt)
SANITIZED = build/sanitized
SANITIZER_TESTS ?= test_bad_input.py test_layouts.py test_max_pool.py test_double_backward.py \
    test_family_gradients.py test_family_nasty_numbers.py
CPP_FILES = $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cuh csrc/*/*.cu tests/core/*.cpp \
    tests/core/*.cu tests/shim/*.cpp tests/shim/include/*.h tests/shim/include/c10/cuda/*.h)

.PHONY: demo test bench lint format sanitize cuda-architectures clean
.DEFAULT_GOAL := test

demo: .venv-demo/installed
	@echo "== Building roialign_ext into .venv-demo (about a minute the first time)"
	@$(call install,.venv-demo)
	@echo "== Training Mask R-CNN on a photograph of coins"
	.venv-demo/bin/python examples/train_coins.py $(DEMO_ARGS)

bench: .venv-demo/installed
	@echo "== Building roialign_ext into .venv-demo (about a minute the first time)"
	@$(call install,.venv-demo)
	.venv-demo/bin/python -m benchmarks.run $(BENCH_ARGS)

# The tests run in their folder, because in this one the sources would hide the installed package.
test: .venv-test/installed
	@echo "== Building roialign_ext into .venv-test (about a minute the first time)"
	@$(call install,.venv-test)
	@cd tests && ../.venv-test/bin/python -m roialign_ext
	@echo "== Running the tests"
	cd tests && ../.venv-test/bin/pytest $(TEST_ARGS)

lint: .venv-lint/installed .venv-test/installed
	.venv-lint/bin/ruff check .
	.venv-lint/bin/ruff format --check .
	.venv-lint/bin/clang-format --dry-run -Werror $(CPP_FILES)
	.venv-lint/bin/mypy --python-executable .venv-test/bin/python

format: .venv-lint/installed
	.venv-lint/bin/ruff check --fix .
	.venv-lint/bin/ruff format .
	.venv-lint/bin/clang-format -i $(CPP_FILES)

sanitize: .venv-test/installed
	@echo "== Building roialign_ext with the sanitizers into $(SANITIZED)"
	@rm -rf $(SANITIZED)
	@export ROIALIGN_EXT_SANITIZE=1; $(call install,.venv-test) --target $(SANITIZED)
	bash .ci/sanitize.sh .venv-test/bin/python $(SANITIZED) $(SANITIZER_TESTS)

# Compiles the CUDA kernels for every architecture of a release (minutes; needs nvcc, no GPU).
cuda-architectures: .venv-test/installed
	@$(call install,.venv-test)
	cd tests && ROIALIGN_EXT_TEST_ARCHITECTURES=release ../.venv-test/bin/pytest test_cuda_budget.py

clean:
	rm -rf .venv-* build dist outputs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis roialign_ext/_build_info.py
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find roialign_ext -name '*.so' -delete

.venv-test/installed: tests/requirements.txt
.venv-demo/installed: examples/requirements.txt
.venv-lint/installed: .ci/lint-requirements.txt
.venv-demo/installed: EXTRA = $(NINJA)

.venv-%/installed:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "roialign_ext needs Python 3.10 or newer, \
	and $(PYTHON) is " + sys.version.split()[0] + ": choose another with make PYTHON=...")'
	@echo "== Creating $(@D)"
	@rm -rf $(@D)
	@$(PYTHON) -m venv $(@D)
	@echo "== Installing what $< pins (torch is a large download)"
	$(@D)/bin/pip install $(INSTALL_ARGS) -r $< $(EXTRA)
	@touch $@
