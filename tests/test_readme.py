"""What the README shows works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.kernels
def test_the_readmes_library_example_runs_and_prints_a_place_and_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(compile(code, str(README), "exec"), {})
    place, fault, *steps = capsys.readouterr().out.splitlines()
    assert place.startswith("HPA 0x")
    assert fault.startswith("translation fault at stage 2")
    assert len(steps) == 3


@pytest.mark.parametrize("name", ["architecture", "configuration", "benchmarks"])
def test_the_pages_the_readme_points_to_exist(name: str) -> None:
    assert f"docs/{name}.md" in README.read_text()
    assert (README.parent / "docs" / f"{name}.md").is_file()
