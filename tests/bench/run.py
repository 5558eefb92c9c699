"""Run the benches and put what they print into docs/benchmarks.md: `python tests/bench/run.py [NAME …]`.

Each bench has a section of its own between two markers; what people wrote around it stays.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
BENCHES: dict[str, list[str]] = {
    "convert": ["tests/bench/convert.py"],
    "blocks": ["tests/bench/blocks.py"],
    "memory": ["tests/bench/memory.py", "1", "4"],
    "convert-rss": ["tests/bench/convert.py", "--rss"],
    "convert-chunks": ["tests/bench/convert_chunks.py"],
    "convert-plan": ["tests/bench/convert_plan.py"],
    "convert-scale": ["tests/bench/convert_scale.py"],
    "fetch": ["tests/bench/fetch.py"],
    "overlap": ["tests/bench/overlap.py"],
    "catalog": ["tests/bench/catalog.py"],
}
LONG = {"convert-rss"}
"""Only where it is named: it takes ten minutes and 32 GB of disk."""


def section(text: str, name: str, body: str) -> str:
    """The page with the section `name` replaced, or added at its end."""
    block = f"<!-- {name}: written by make bench -->\n{body.strip()}\n<!-- end of {name} -->"
    pattern = re.compile(rf"<!-- {name}: written by make bench -->.*?<!-- end of {name} -->", re.DOTALL)
    return pattern.sub(lambda _: block, text) if pattern.search(text) else f"{text.rstrip()}\n\n## {name}\n\n{block}\n"


def main(arguments: list[str]) -> int:
    """Names, then options for each of them. Exit 1 where a bench failed; the sections of the others are written."""
    options = [a for n, a in enumerate(arguments) if any(b.startswith("--") for b in arguments[: n + 1])]
    names = arguments[: len(arguments) - len(options)]
    failed = 0
    for name in names or [name for name in BENCHES if name not in LONG]:
        print(f"== {name}", flush=True)
        done = subprocess.run(
            [sys.executable, *BENCHES[name], *options], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout, flush=True)
        failed = failed or done.returncode
        if done.returncode or "--help" in options:
            continue
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"
        printed = done.stdout if "\n|" in f"\n{done.stdout}" else f"```\n{done.stdout.strip()}\n```"
        body = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}, {machine}\n\n{printed}"
        PAGE.write_text(section(PAGE.read_text(), name, body))
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
