"""One forward and one backward pass of each named case, for a profiler: `python -m benchmarks.gpu.once CASE...`.

A case is CONTESTANT:WORKLOAD:DTYPE:LAYOUT, as in `roialign_ext:A:float32:NCHW`."""

from __future__ import annotations

import argparse
import sys

from ..cases import Case, prepare
from ..workloads import WORKLOADS, make_data
from .device import NoDeviceError, open_device
from .driver import NO_DEVICE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", metavar="CASE")
    parser.add_argument("--quick", action="store_true", help="small problems")
    options = parser.parse_args()
    try:
        device = open_device()
    except NoDeviceError as error:
        print(f"nothing is run: {error}")
        return NO_DEVICE
    for name in options.cases:
        contestant, key, dtype, layout = name.split(":")
        workload = WORKLOADS[key].shrunk() if options.quick else WORKLOADS[key]
        data = make_data(workload, dtype, layout, device.name)
        case = Case(key, "backward", "avg", dtype, layout, "kernel")
        prepare(contestant, case, workload, data)()  # runs forward, too
        device.synchronize()
        print(f"{name}: done", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
