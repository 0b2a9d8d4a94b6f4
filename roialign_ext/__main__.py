"""`python -m roialign_ext` prints the environment report. Its exit status is 1 if the report names a next step."""

from __future__ import annotations

import sys

from ._environment import Environment


def main() -> int:
    environment = Environment.collect()
    print(environment.report())
    return 1 if environment.next_steps() else 0


if __name__ == "__main__":
    sys.exit(main())
