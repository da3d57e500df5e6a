"""What the README promises is there: its links, its commands, and a file behind every figure that it quotes."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.world.artists import UNSEEN_STYLES, BASE_STYLES, credit

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```\n(.*?)```", README, re.S)
COMMANDS = sorted({shlex.split(line, comments=True)[1] for block in BLOCKS for line in block.splitlines() if line.startswith("harness ")})


def test_every_link_points_to_what_exists() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    targets = re.findall(r"^([a-z ]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"run", "test", "prove"} <= {name for line in targets for name in line.split()}
    assert "make run" in README and "make test" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run([sys.executable, "-m", "harness", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout


def test_every_artist_is_credited_with_source_and_licence() -> None:
    for style in (*BASE_STYLES, *UNSEEN_STYLES):
        by = credit(style)
        assert by.creator in README and by.licence in README and by.source in README, style


def test_figures_stand_in_published_results() -> None:
    """Each row of a results table names a published file, and its figure stands there in the same digits."""
    rows = re.findall(r"^\| .* \| ([0-9.]+)[^|]* \| .*\(results/published/([a-z_.]+)\) \|$", README, re.M)
    assert len(rows) >= 5
    for figure, name in rows:
        assert figure in (ROOT / "results" / "published" / name).read_text(encoding="utf-8"), (figure, name)
