"""Profiles, known warnings and fixtures of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same examples on every run, so that what passes here passes everywhere; `--hypothesis-profile=search` looks for
# new ones.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("search", deadline=None, max_examples=1000, suppress_health_check=list(HealthCheck))
settings.load_profile("repeatable")

# TorchScript is deprecated in torch and still deployed: the tests that use it do so on purpose. AOTInductor of torch
# 2.11 and 2.13 copies graphs in a way that torch itself deprecates.
KNOWN_WARNINGS = (
    *(
        f"ignore:`torch.jit.*` is {state}:{category}"
        for state in ("deprecated", "not supported in Python 3.14")
        for category in ("DeprecationWarning", "FutureWarning")
    ),
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:Warning. Profiler clears events at the end of each cycle:UserWarning",  # torch 2.11
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of `pytest -n auto`: one more than processors, because some tests wait for other programs."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_configure() -> None:
    """Processes of pytest-xdist share the processors out, or they would wait for each other's threads."""
    gc.disable()  # until the tests are collected, none of which becomes garbage
    if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets `pytest -W error`, as CI runs it, fail on unknown warnings alone: a mark goes before the command line."""
    for item in items:
        for known in KNOWN_WARNINGS:
            item.add_marker(pytest.mark.filterwarnings(known))


def pytest_collection_finish() -> None:
    """Keeps the modules and the list of tests, which stay, out of every garbage collection."""
    gc.freeze()
    gc.enable()


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Puts the number of threads back after the test."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def one_thread(restore_threads: None) -> None:
    """For thousands of tiny calls: waking threads would take longer than the work."""
    torch.set_num_threads(1)


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    """No function is compiled before the test, and none that it compiles is kept."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision with its detectors."""
    pytest.importorskip("torchvision.models.detection", reason="torchvision is not installed")
    found: ModuleType = pytest.importorskip("torchvision", reason="torchvision is not installed")
    return found
