"""Programs in processes of their own that share one import of torch, which takes most of the time of a new Python."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

# Forks a child for each program, behind the import of torch. Nothing else of the parent's is in the children.
PARENT = """
import json, os, sys, traceback
import torch
from torch.utils import cpp_extension

def run(program, folder):
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.chdir(program["folder"] or folder)
    os.environ.update(program["variables"])
    sys.path[:0] = program["path"]
    sys.argv = ["-c", *program["arguments"]]
    status = 0
    try:
        exec(compile(program["code"], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

statuses = []
for number, program in enumerate(json.load(sys.stdin)):
    folder = f"{sys.argv[1]}/{number}"
    os.mkdir(folder)
    child = os.fork()
    if child == 0:
        run(program, folder)
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""


@dataclass(frozen=True)
class Program:
    """A call of ``python -c code arguments...`` in a folder, with these first on the path and these variables set."""

    code: str
    arguments: list[str] = field(default_factory=list)
    folder: str = ""  # by default an empty one
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    returncode: int
    stdout: str
    stderr: str


def run_all(programs: list[Program]) -> list[Ended]:
    """Runs them one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", PARENT, folder], input=json.dumps([asdict(program) for program in programs]),
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        texts = [[(Path(folder) / str(i) / name).read_text() for name in ("out", "err")] for i in range(len(programs))]
    return [Ended(status, *text) for status, text in zip(json.loads(done.stdout), texts, strict=True)]
