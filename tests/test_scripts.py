"""The scripts, as a user starts them: alone and by mpirun."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from mpips.checkpoint.read import Saved
from mpips.checkpoint.schema import complete
from mpips.train import load, source
from tests.mpirun import ROOT, Done, environment, mpirun, start

SCRIPTS = ROOT / "scripts"


def script(name: str, ranks: int, cwd: Path) -> Done:
    """Run it; one rank is started without mpirun."""
    done = (mpirun(ranks, SCRIPTS / name, cwd=cwd, timeout=100) if ranks > 1 else
            start([sys.executable, str(SCRIPTS / name)], env=environment(), cwd=cwd, timeout=100))
    assert done.code == 0, done
    return done


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_linear_regression_finds_the_line(tmp_path: Path, ranks: int) -> None:
    found = re.search(r"^w = (\S+)  b = (\S+)  y\(0\.5\) = (\S+)$", script("linear_regression.py", ranks, tmp_path).out, re.M)
    assert found
    w, b, y = map(float, found.groups())
    assert abs(w - 3) < 0.05
    assert abs(b + 1) < 0.05
    assert abs(y - (0.5 * w + b)) < 2e-3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ranks", [1, 3])
def test_digits(tmp_path: Path, ranks: int) -> None:
    pytest.importorskip("sklearn")
    lines = script("digits.py", ranks, tmp_path).out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == [str(k) for k in range(1, 21)]
    assert float(lines[-1].removeprefix("held-out accuracy ")) >= 0.95
    steps = 20 * -(-len(load(source("digits")).x) // (32 * max(1, ranks - 1)))
    there = complete(tmp_path / "runs" / "digits-py")
    assert len(there) == 3, "keep_last"
    with Saved(there[-1]) as saved:
        assert saved.clocks == (steps,) * max(1, ranks - 1)


def test_digits_toml_is_the_same_training_as_digits_py() -> None:
    """Same data, model, rule and batches; the seeds are the defaults of both."""
    from mpips.train.config import load as config

    given = config(SCRIPTS / "digits.toml")
    text = (SCRIPTS / "digits.py").read_text()
    assert given.model.name == "mlp"
    assert f'"mlp", inputs=64, outputs=10, hidden={given.model.options["hidden"]}' in text
    assert f"optim.{given.optimizer.name.capitalize()}(lr={given.optimizer.options['lr']})" in text
    assert f"batch={given.batch}" in text
    assert f"range(ps.now, {given.epochs} * order.steps)" in text
    assert f'staleness={given.staleness}, combine="{given.combine}"' in text


@pytest.mark.parametrize("name", ["quickstart", "test", "gpu-check"])
def test_commands_are_executable(name: str) -> None:
    assert (SCRIPTS / name).stat().st_mode & 0o111 == 0o111
    assert (SCRIPTS / name).read_text().startswith("#!/usr/bin/env ")


def test_quickstart_refuses_an_old_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = start([str(SCRIPTS / "quickstart"), str(old)], env=environment(), timeout=30)
    assert done.code == 2, done
    assert done.err.count("\n") == 1
    assert "3.10" in done.err


def test_the_test_command_refuses_what_it_does_not_know() -> None:
    done = start([str(SCRIPTS / "test"), "--nope"], env=environment(), timeout=30)
    assert done.code == 2, done
    assert done.err.startswith("usage: scripts/test")
