"""The scripts, as a user starts them: alone and by mpirun."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mpips.checkpoint.order import complete
from mpips.checkpoint.read import Saved
from mpips.train import load, source
from tests.mpirun import ROOT, Done, environment, mpirun, start

SCRIPTS = ROOT / "scripts"


def script(name: str, ranks: int, cwd: Path, *options: str, code: int = 0) -> Done:
    """Run it; one rank is started without mpirun."""
    words = [str(SCRIPTS / name), *options]
    done = (mpirun(ranks, words, cwd=cwd, timeout=100) if ranks > 1 else
            start([sys.executable, *words], env=environment(), cwd=cwd, timeout=100))
    assert done.code == code, done
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


@pytest.mark.skipif(np.lib.NumpyVersion(np.__version__) < "2.1.0", reason="NumPy before 2.1 cannot fill others' tensors")
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_network_of_pytorch(tmp_path: Path, ranks: int) -> None:
    pytest.importorskip("torch")
    lines = script("pytorch.py", ranks, tmp_path).out.splitlines()
    assert [line.split()[1] for line in lines[:-1]] == ["100", "200", "300"]
    assert float(lines[-1].removeprefix("held-out accuracy ")) >= 0.9
    assert not list(tmp_path.iterdir())


def test_word2vec_tells_neighbours_from_others(tmp_path: Path) -> None:
    options = ("--epochs", "8", "--dim", "16", "--lr", "0.2", "--checkpoint", "there", "--staleness", "2")
    done = script("word2vec.py", 3, tmp_path, *options)
    losses = [float(line.split()[3]) for line in done.out.splitlines() if line.startswith("epoch")]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    found = re.search(r"told from others (\S+), by frequency (\S+)$", done.out, re.M)
    assert found
    right, by_frequency = map(float, found.groups())
    assert right > by_frequency + 0.08
    assert re.search(r"^exception: \w+ \w+", done.out, re.M)
    again = script("word2vec.py", 3, tmp_path, *options)
    assert "epoch" not in again.out, "it goes on from the checkpoint, at the end"
    assert again.out.splitlines()[-1] == done.out.splitlines()[-1]


@pytest.mark.parametrize(("ranks", "options", "ahead"), [
    (3, ["--epochs", "5"], 2.0), (1, ["--model", "bpr", "--epochs", "3"], 1.5)])
def test_collaborative_filtering_beats_popularity(tmp_path: Path, ranks: int, options: list[str], ahead: float) -> None:
    lines = script("collaborative.py", ranks, tmp_path, *options).out.splitlines()
    popularity, svd, model = (float(line.split()[-1]) for line in lines[-3:])
    assert svd > popularity
    assert model > ahead * popularity


def test_collaborative_filtering_of_a_ratings_file(tmp_path: Path) -> None:
    """Users like the items of their own kind."""
    draw = np.random.default_rng(0)
    kind = draw.integers(0, 3, (60, 1)) == np.arange(45) % 3
    users, items = np.nonzero(draw.random((60, 45)) < np.where(kind, 0.6, 0.05))
    (tmp_path / "ratings.dat").write_text("".join(f"{u}::{i}::4::0\n" for u, i in zip(users, items, strict=True)))
    lines = script("collaborative.py", 1, tmp_path, "--ratings", "ratings.dat", "--dim", "4", "--epochs", "20",
                   "--batch", "64").out.splitlines()
    popularity, _, model = (float(line.split()[-1]) for line in lines[-3:])
    assert model > popularity + 0.1


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize(("name", "options", "why"), [
    ("collaborative.py", ["--ratings", "nowhere.csv"], "nowhere.csv: No such file or directory"),
    ("word2vec.py", ["--dim", "0"], "word2vec.py: argument --dim: '0' is not a whole number from 1"),
    ("word2vec.py", ["--optimizer", "adagrad", "--lr", "x"], "argument --lr: 'x' is not a number from 0"),
])
def test_bad_input_of_the_scripts_is_one_line(tmp_path: Path, ranks: int, name: str, options: list[str], why: str) -> None:
    done = script(name, ranks, tmp_path, *options, code=2)
    said = [line for line in done.err.splitlines() if line.startswith("mpips: error: ")]
    assert len(said) == 1, done
    assert why in said[0]
    assert "Traceback" not in done.err


@pytest.mark.parametrize(("ranks", "staleness", "file"), [
    (1, "0", "clicks.txt"), (4, "none", "clicks.txt.gz")])
def test_clicks_are_predicted_better_than_by_the_base_rate(tmp_path: Path, ranks: int, staleness: str, file: str) -> None:
    assert script("clicks.py", 1, tmp_path, "--make", file, "--rows", "12000").out.startswith(f"{file}: 12000 lines, ")
    words = (file, "--staleness", staleness, "--servers", "2" if ranks == 4 else "1", "--batch", "128", "--lr", "0.05")
    out = script("clicks.py", ranks, tmp_path, *words).out
    found = re.search(r"^(\d+) lines trained on, (\d+) held out;", out, re.M)
    assert found
    assert sum(map(int, found.groups())) == 12000
    score = {name: (float(loss), float(auc)) for name, loss, auc in re.findall(r"^(\S.*?)  +(\d\.\d+)  (\d\.\d+)$", out, re.M)}
    assert score["this model"][0] < score["base rate"][0]
    assert 0.5 == score["base rate"][1] < 0.58 < score["this model"][1] < score["the hidden model"][1]


@pytest.mark.parametrize("ranks", [1, 3])
def test_clicks_says_what_is_wrong_in_one_line(tmp_path: Path, ranks: int) -> None:
    def said(*words: str) -> str:
        done = script("clicks.py", ranks, tmp_path, *words, code=2)
        assert done.out == ""
        line, = (line for line in done.err.splitlines() if "error" in line and not line.startswith(" "))
        return line

    script("clicks.py", 1, tmp_path, "--make", "bad.txt", "--rows", "2000")
    lines = (tmp_path / "bad.txt").read_text().splitlines(keepends=True)
    lines[700] = "1\t" + lines[700][:30] + "\n"
    (tmp_path / "bad.txt").write_text("".join(lines))
    assert "bad.txt:701: " in said("bad.txt")
    assert "nothing: No such file" in said("nothing")
    if ranks == 1:
        assert "--batch 0" in said("bad.txt", "--batch", "0")
        assert "--staleness 'x'" in said("bad.txt", "--staleness", "x")
        assert "give either a file" in said()
    else:
        assert "--make writes one file: start it without mpirun" in said("--make", "made.txt")
        assert not list(tmp_path.glob("made.txt*"))


def test_content_is_found_better_than_by_tf_idf(tmp_path: Path) -> None:
    words = ("--modules", "40", "--batch", "32", "--most", "40", "--steps", "120", "--dim", "16")
    out = script("content.py", 3, tmp_path, *words).out
    score = {name: float(auc) for name, auc in re.findall(r"^(\S.*?) +AUC (\S+)$", out, re.M)}
    assert list(score) == ["cosine of tf-idf", "linear", "towers"]
    assert 0.6 < score["cosine of tf-idf"] < score["towers"]
    assert score["linear"] > 0.7
    assert not list(tmp_path.iterdir())


def test_content_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = script("content.py", 1, tmp_path, "--modules", "100000", "--batch", "8", code=2)
    assert done.err.count("\n") == 1
    assert "--modules 100000" in done.err


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
