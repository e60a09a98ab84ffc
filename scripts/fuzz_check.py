"""Fuzz `stage2 check` and `stage2 show` with damaged VM files and host device trees.

python scripts/fuzz_check.py toml --minutes 10 --seed 1
python scripts/fuzz_check.py trees --minutes 10 --seed 1 --add ../shared/axvisor-configs virt.dtb

Inputs are those of tests/check/faults and tests/config/fixtures, and what --add names, changed by chance. A run has to
end within its CPU time with code 0, 1 or 2, one line on stderr where it is 2, and no control characters in its text.
What does not is told, a few of each kind, and kept in --keep.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from fuzz_mutations import Tree, changed_text, changed_tree, tree_bytes, tree_paths

from stage2.cli.main import INTERRUPTED, call
from stage2.images.fdt import MAGIC, is_source
from stage2.images.tree_file import read_tree

ROOT = Path(__file__).parents[1]
SEEDS = (ROOT / "tests" / "check" / "faults", ROOT / "tests" / "config" / "fixtures")
_SHOW = 4
"""How many limits `show` may take: it prints all that a file has, and makes tables, which may compile once."""
HANG_S = 10.0
"""CPU seconds after which a run is ended."""
_MOST_KEPT = 8
"""Limit: inputs of one kind that are told and kept."""
_NO_TEXT = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x80-\x9f]")


class _Hang(BaseException):
    """A run took so much CPU time that it was ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: its exit code (None where it was ended), what it printed, its CPU seconds."""

    code: int | None
    out: str
    err: str
    seconds: float
    raised: str = ""

    def complaint(self, limit: float, *, text: bool) -> str:
        """What is wrong with it; empty where nothing is."""
        if self.raised:
            return f"raised {self.raised}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {self.err[:300]}"
        lines = self.err.splitlines()
        if self.code == 2 and len(lines) != 1:
            return f"{len(lines)} lines of error: {self.err[:300]!r}"
        if _NO_TEXT.search(self.err) or (text and _NO_TEXT.search(self.out)):
            return "control characters in its output"
        if self.seconds > limit:
            return f"slow: took {self.seconds:.2f} s of CPU time"
        return ""


def run(arguments: Sequence[str]) -> Outcome:
    """Run the command line in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    code, raised = None, ""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = call(arguments)
    except _Hang:
        raised = "nothing, and was ended: it hangs"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raised = f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    seconds = time.process_time() - began
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "replace"))  # type: ignore[attr-defined]
    return Outcome(code, texts[0], texts[1], seconds, raised)


@dataclass
class Campaign:
    """Runs so far.

    Args:
        limit: CPU seconds that a run may take.
        keep: folder for inputs that fell over.
    """

    limit: float
    keep: Path
    runs: int = 0
    codes: dict[int | None, int] = field(default_factory=dict)
    slowest: float = 0.0
    seen: dict[str, int] = field(default_factory=dict)

    def look(self, folder: Path, arguments: Sequence[str]) -> None:
        """Run once and judge."""
        limit = self.limit if arguments[0] == "check" else _SHOW * self.limit
        outcome = run(arguments)
        if outcome.code == INTERRUPTED:
            raise KeyboardInterrupt
        self.runs += 1
        self.codes[outcome.code] = self.codes.get(outcome.code, 0) + 1
        json_wanted = "--json" in arguments
        complaint = outcome.complaint(limit, text=not json_wanted)
        if not complaint and json_wanted and outcome.code in (0, 1):
            try:
                json.loads(outcome.out)
            except ValueError as error:
                complaint = f"no JSON: {error}"
        if complaint.startswith("slow") and run(arguments).seconds <= limit:
            complaint = ""  # another process or the collector of garbage met the first
        if not complaint:
            self.slowest = max(self.slowest, outcome.seconds)
            return
        kind = re.sub(r"0x[0-9a-f]+|\d+|'[^']*'|/\S+", "#", complaint)[:120]
        self.seen[kind] = self.seen.get(kind, 0) + 1
        if self.seen[kind] <= _MOST_KEPT:
            saved = self.keep / f"{list(self.seen).index(kind) + 1}-{self.seen[kind]}"
            saved.mkdir(parents=True, exist_ok=True)
            for file in folder.iterdir():
                if file.is_file():
                    (saved / file.name).write_bytes(file.read_bytes())
            told = " ".join(arguments).replace(str(folder), str(saved))
            print(f"{complaint}\n    stage2 {told}", flush=True)


def files_of(places: Sequence[Path], match: Callable[[Path], bool]) -> Iterator[Path]:
    """Files below places, in order."""
    for place in places:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and file.name != "expected.toml" and match(file):
                yield file


def is_tree(file: Path) -> bool:
    """Whether a file is a device tree, compiled or source."""
    beginning = file.read_bytes()[:65536]
    return beginning[:4] == MAGIC.to_bytes(4, "big") or is_source(beginning)


def fuzz_toml(campaign: Campaign, texts: Sequence[str], rng: random.Random, folder: Path) -> None:
    """One damaged VM file, alone, beside another, or as the platform file."""
    one, other = folder / "vm.toml", folder / "vm2.toml"
    one.write_bytes(changed_text(rng, texts))
    other.write_text(rng.choice(texts), encoding="utf-8")
    arguments = ["check", str(one)]
    match rng.randrange(8):
        case 0:
            arguments += [str(other)]
        case 1:
            arguments = ["check", "--platform", str(one), str(other)]
        case 2:
            (folder / "vm.stage2.toml").write_bytes(changed_text(rng, texts))
        case 3:
            arguments += ["--generation", rng.choice(("seed", "head", "tg", "present"))]
        case 4:
            arguments += ["--fix"]
        case 5:
            arguments = ["show", str(one)]
    if rng.randrange(4) == 0 and arguments[0] == "check":
        arguments += ["--json"]
    campaign.look(folder, arguments)
    (folder / "vm.stage2.toml").unlink(missing_ok=True)


def fuzz_trees(campaign: Campaign, trees: Sequence[Tree], rng: random.Random, folder: Path) -> None:
    """A damaged tree, and VM files that are given some of its nodes."""
    tree = folder / "host.dtb"
    found = rng.choice(trees)
    data = changed_tree(rng, trees)
    tree.write_bytes(data)
    paths = tree_paths(rng, data) or tree_paths(rng, tree_bytes(found))
    names = []
    for number in range(rng.choice((1, 1, 1, 3))):
        names.append(str(folder / f"vm{number}.toml"))
        Path(names[-1]).write_text(_given(rng, number + 1, paths), encoding="utf-8")
    command = ["show", names[0]] if rng.randrange(4) == 0 else ["check", *names]
    campaign.look(folder, [*command, "--host-dtb", str(tree), *(["--json"] if rng.randrange(4) == 0 else [])])


def _given(rng: random.Random, number: int, paths: Sequence[str]) -> str:
    """A VM file of the generation "head" or "present" that passes nodes through."""
    chosen = [json.dumps(rng.choice(paths)) for _ in range(rng.choice((0, 1, 2, 8)))] if paths else []
    base = rng.choice((0x8000_0000, 0x4000_0000, 0x8020_0000))
    regions = f"memory_regions = [[{base:#x}, 0x20_0000, 0x7, {rng.randrange(3)}]]\n"
    kernel = f'[kernel]\nentry_point = {base:#x}\nkernel_load_addr = {base:#x}\nkernel_path = "x"\n{regions}'
    if rng.randrange(2):
        nodes = ", ".join(f"[{path}]" for path in chosen)
        head = f'[base]\nid = {number}\nname = "g{number}"\nvm_type = 1\ncpu_num = 1\n'
        return f"{head}\n{kernel}\n[devices]\npassthrough_devices = [{nodes}]\n"
    nodes = ", ".join(f"{{path = {path}}}" for path in chosen)
    kind = rng.choice(("virtualized", "passthrough"))
    head = f'[base]\nid = {number}\nname = "g{number}"\nguest_type = "{kind}"\n'
    return f"{head}\n{kernel}\n[devices]\npassthrough = [{nodes}]\n"


@contextmanager
def ended_when_hanging() -> Iterator[None]:
    """Let runs be ended that take too long."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Hang

    before = signal.signal(signal.SIGVTALRM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("toml", "trees"))
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same inputs (default 0)")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long, by the clock (default 1)")
    parser.add_argument("--limit", type=float, default=0.7, help="CPU seconds of one run without Python's start")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="more files, or folders of them, to start from")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / "build" / "fuzz", help="where inputs that fell over are kept"
    )
    options = parser.parse_args()
    rng = random.Random(options.seed)
    campaign = Campaign(options.limit, options.keep / options.kind)
    places = (*SEEDS, *options.add)
    texts = [file.read_text(encoding="utf-8") for file in files_of(places, lambda file: file.suffix == ".toml")]
    trees = []
    if options.kind == "trees":
        for file in files_of(places, is_tree):
            found = read_tree(file)
            trees.append(Tree(found.root, [(span.start, span.size) for span in found.reserved]))
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name, ended_when_hanging():
        while time.monotonic() < end:
            if options.kind == "toml":
                fuzz_toml(campaign, texts, rng, Path(name))
            else:
                fuzz_trees(campaign, trees, rng, Path(name))
    print(
        f"{options.kind}, seed {options.seed}: {campaign.runs} runs, exit codes {campaign.codes}, "
        f"slowest {campaign.slowest:.2f} s, {len(campaign.seen)} kinds fell over"
    )
    return 1 if campaign.seen else 0


if __name__ == "__main__":
    sys.exit(main())
