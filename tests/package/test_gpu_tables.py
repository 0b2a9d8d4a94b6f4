"""Do the tables of the GPU benchmarks say what the results say, here invented ones, and no more?"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import roialign_ext  # noqa: F401  (the installed one, before its sources come onto the path)
from support.gpu_phases import RATES, Document, cell

pytestmark = pytest.mark.usefixtures("path_to_benchmarks")
DEVICE = {"device": "a GPU", "driver": "1", "cuda": "13.0"}
EMPTY = "<!-- gpu:begin -->\n<!-- gpu:end -->\n"


def invented() -> Document:
    least = {"memory": 4e8, "cache": 1e9, "multiply_adds": 3e9}  # 100, 200 and 100 us
    kernels = {"fill_tables<float>": 7.0, "average_pool_nchw<float, int>": 493.0}
    broken = {**cell("float64", 1.0), "error": "a | b"}
    del broken["us"]
    both = {"device": DEVICE, "quick": False}
    layer = [
        {**cell("float32", us), "contestant": contestant, "call": "layer"}
        for contestant, us in (("torchvision", 6.0), ("roialign_ext", 2.0))
    ]
    return {
        "run": {"cells": [{"phase": phase, "state": "passed"} for phase in ("smoke", "tests")]},
        "limits": {"device": DEVICE, "cells": [{"name": n, "rate": rate, "unit": "GB/s"} for n, rate in RATES.items()]},
        "baseline": {**both, "unfinished": {}, "cells": [cell("float16", 3000.0), cell("float16", 4.0, "backward")]},
        "ours": {**both, "unfinished": {}, "cells": [cell("bfloat16", 500.0, least=least, kernels=kernels), broken]},
        "layers": {**both, "cells": layer},
        "variants": {"cells": [cell("float32", us, variant=v) for v, us in (("as it is", 10.0), ("other", 9.0))]},
    }


Publish = Callable[[Document], str]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Publishes results into the folder; returns the README."""
    module = importlib.import_module("benchmarks.gpu.publish")

    def call(results: Document) -> str:
        (tmp_path / "results.json").write_text(json.dumps(results))
        (tmp_path / "README.md").write_text(EMPTY)
        arguments = [tmp_path, "--into", tmp_path, "--readme", tmp_path / "README.md"]
        monkeypatch.setattr(sys, "argv", ["publish", *map(str, arguments)])
        module.main()
        return (tmp_path / "README.md").read_text()

    return call


def test_tables_are_made_of_results(tmp_path: Path, publish: Publish) -> None:
    readme = publish(invented())
    row = "| D | forward | bfloat16 | NCHW | kernel | 500.0 | 3000.0 | 6.0x | 200 cache | 40% | fill 7 + main 493 |"
    assert row in readme
    assert "| D | forward | float32 | NCHW | layer | 2.0 | 6.0 | 3.0x |" in readme
    assert "On this device: first calls passed, tests passed, sanitizers not run." in readme
    assert "wrong results" not in readme
    report = (tmp_path / "gpu.md").read_text()
    assert "| D | forward | float64 | NCHW | kernel | a \\| b |" in report
    assert "| other | 9.0 (-10%) |" in report
    assert json.loads((tmp_path / "gpu.json").read_text()) == invented()


def test_numbers_of_kernels_that_fail_tests_are_marked(publish: Publish) -> None:
    results = invented()
    results["run"]["cells"][1]["state"] = "failed"
    assert "the numbers may be those of wrong results" in publish(results)


@pytest.mark.parametrize(
    ("phase", "change", "words"),
    [
        ("limits", None, "no results of limits"),
        ("baseline", None, "no results of baseline"),
        ("ours", {"cells": []}, "no results of ours"),
        ("ours", {"unfinished": {"B": "ended after 25 s"}}, "not finished: ours: B ended after 25 s"),
        ("ours", {"device": {**DEVICE, "device": "another"}}, "device a GPU and another"),
        ("ours", {"quick": True}, "ours measured small problems"),
        ("limits", {"cells": [{"name": "copy", "rate": 4000.0}]}, "not measured: cached_read, multiply_adds"),
    ],
)
def test_nothing_is_published_of_partial_results(
    tmp_path: Path, publish: Publish, phase: str, change: Document | None, words: str
) -> None:
    results = invented()
    if change is None:
        del results[phase]
    else:
        results[phase].update(change)
    with pytest.raises(SystemExit, match=words):
        publish(results)
    assert not (tmp_path / "gpu.json").exists()
    assert (tmp_path / "README.md").read_text() == EMPTY


def test_summary_shows_what_there_is() -> None:
    """Whatever phases are missing or broken; what is there is shown."""
    text = importlib.import_module("benchmarks.gpu.summary").text
    assert text({}) == "There are no results."
    whole = invented()
    for phase in whole:
        shown = text({name: fields for name, fields in whole.items() if name != phase})
        assert ("| 500.0 |" in shown) == (phase != "ours")
    whole["variants"] = {"cells": [{"no variant": 1}]}
    whole["ours"]["cells"].append(cell("float32", 1.0, error="roialign_ext differs from torchvision by 1"))
    shown = text(whole)
    assert "cannot be shown: KeyError: 'variant'" in shown
    assert "| 500.0 | 3000.0 |" in shown
    assert "1 cells differ from torchvision" in shown
