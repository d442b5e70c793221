"""`mpips train` and `mpips predict`, in one process and by a real mpirun."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpips.cli import main
from tests.mpirun import ROOT, Done, environment, launcher, mpirun

DIGITS = ROOT / "scripts" / "digits.toml"
LINEAR = """
epochs = 3
batch = 16
model = "linear"
device = "cpu"
[data]
source = "linear"
samples = 100
[checkpoint]
directory = "runs"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.toml").write_text(LINEAR)
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 5)[:, None])
    return tmp_path


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that must find wrong input; return its one line without the beginning that all have."""
    assert main(args) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert told.err.startswith("mpips: error: ")
    return told.err.removeprefix("mpips: error: ").rstrip("\n")


def test_train_and_predict(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--set", "epochs=20", "--set", "optimizer.lr=0.5", "--set", "optimizer.name=sgd"]
    assert main(["train", "some.toml", *settings]) == 0
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 21
    found = re.fullmatch(r"done: 100 steps in [\d.]+ s, loss [\d.]+, held-out mse [\d.e-]+, checkpoint (\S+)", out[-1])
    assert found, out[-1]
    assert main(["predict", found[1], "--input", "x.npy", "--output", "y.npy"]) == 0
    assert capsys.readouterr().out == "y.npy: 5 predictions of shape (1,), float32\n"
    np.testing.assert_allclose(np.load("y.npy"), 2 * np.load("x.npy") - 1, atol=0.1)
    assert not list(here.glob("*.tmp"))


def test_a_device_that_is_not_there_is_told_before_the_checkpoints_of_others_are_taken_over(
        here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "device: 'gpu' was asked for" in fails(capsys, "train", "some.toml", "--set", "device=gpu")
    assert not Path("runs").exists()


def test_resume(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no complete checkpoint" in fails(capsys, "train", "some.toml", "--resume", "latest")
    assert "step-7: no such checkpoint" in fails(capsys, "train", "some.toml", "--resume", "step-7")
    assert not Path("runs").exists()
    assert main(["train", "some.toml", "--resume", "auto"]) == 0
    assert main(["train", "some.toml", "--resume", "latest", "--set", "epochs=5"]) == 0
    assert "done: 10 steps" in capsys.readouterr().out
    assert main(["train", "some.toml", "--resume", "runs/step-00000015"]) == 0
    assert "done: 0 steps" in capsys.readouterr().out
    assert main(["train", "some.toml", "--resume", "runs/step-00000025", "--set", "epochs=1"]) == 0
    assert "done: 0 steps" in capsys.readouterr().out  # it is further than that


@pytest.mark.parametrize(("args", "line"), [
    (["none.toml"], "none.toml: No such file or directory"),
    (["some.toml", "--set", "epocs=3"], "some.toml with --set epocs=3: epocs: unknown key; did you mean 'epochs'?"),
    (["some.toml", "--set", "epochs=many"], "some.toml with --set epochs=many: epochs: expected int, got str"),
    (["some.toml", "--set", "epochs"], "--set 'epochs': expected key=value, such as optimizer.lr=0.1"),
    (["some.toml", "--set", "model=mpl"], "some.toml: model 'mpl' is not known; "),
    (["some.toml", "--set", "optimizer=sdg"], "some.toml: optimizer 'sdg' is not one of "),
    (["some.toml", "--resume", "none"], "none: no such checkpoint"),
    (["some.toml", "--set", "checkpoint.directory=/proc/none"], "checkpoint directory /proc/none: cannot be written: "),
])
def test_wrong_input_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str], args: list[str], line: str) -> None:
    told = fails(capsys, "train", *args)
    assert line in told
    assert sorted(path.name for path in here.iterdir() if path.name != "runs") == ["some.toml", "x.npy"]
    assert not list(here.glob("runs/*"))


@pytest.mark.filterwarnings("ignore:overflow")
def test_gradient_that_is_not_a_number(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("large.npz", x=np.full((8, 1), 1e30), y=np.full(8, 1e30))  # its product is none of float32
    assert main(["train", "some.toml", "--set", "data={source='npz', path='large.npz', standardize=false}"]) == 2
    assert re.search(r"^mpips: error: .*table 'linear\.w'.*\n$", capsys.readouterr().err)


def header(shape: str) -> bytes:
    """The beginning of a file as np.save writes it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


NO_ARRAYS = {"zip.npy": b"PK\x03\x04 and no more", "cut.npy": header("(2, 3"), "beyond.npy": header(f"({10**30}, 1)"),
             "empty.npy": b""}


def test_predictions_on_a_full_disk_are_one_line_and_leave_nothing(here: Path, capsys: pytest.CaptureFixture[str],
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["train", "some.toml", "--set", "epochs=1"]) == 0
    capsys.readouterr()

    def full(file: Any, array: Any) -> None:
        file.write(b"some")
        raise OSError("1000000 requested and 262112 written")  # as NumPy has it

    monkeypatch.setattr(np, "save", full)
    before = sorted(here.iterdir())
    told = fails(capsys, "predict", "runs/step-00000005", "--input", "x.npy", "--output", "y.npy")
    assert told == "--output y.npy: cannot be written: the disk takes no more"
    assert sorted(here.iterdir()) == before


def test_ctrl_c_in_one_process_is_one_line(here: Path) -> None:
    command = [sys.executable, "-u", "-m", "mpips", "train", "some.toml", "--set", "epochs=100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as training:
        assert training.stdout is not None
        assert training.stdout.readline().startswith("step ")
        training.send_signal(signal.SIGINT)
        _, said = training.communicate(timeout=60)
    assert (training.returncode, said) == (130, "mpips: interrupted (Ctrl-C)\n")


def test_predict_errors(here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "text.npy").write_text("text")
    assert main(["train", "some.toml", "--set", "epochs=1"]) == 0
    capsys.readouterr()
    saved = "runs/step-00000005"

    def told(checkpoint: str, x: str, y: str) -> str:
        return fails(capsys, "predict", checkpoint, "--input", x, "--output", y)

    assert told("none", "x.npy", "y.npy") == "none: no such checkpoint"
    assert told("runs", "x.npy", "y.npy").startswith("runs: holds 1 checkpoint, name it: runs/")
    assert told(saved, "none.npy", "y.npy") == "--input none.npy: No such file or directory"
    assert told(saved, "text.npy", "y.npy") == "--input text.npy: not an array of numbers as np.save writes it"
    assert told(saved, "x.npy", "none/y.npy") == "--output none/y.npy: none is no directory that can be written to"
    assert told(saved, "x.npy", "runs") == "--output runs: is a directory"
    long = "x" * 255  # that is a name, but none to which anything can be added
    assert told(saved, "x.npy", long) == f"--output {long}: File name too long"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", os.path.exists)  # as in Python 3.14: there it raises nothing
        assert told(saved, "x.npy", long) == f"--output {long}: File name too long"
    for name, raw in NO_ARRAYS.items():
        (here / name).write_bytes(raw)
        assert told(saved, name, "y.npy") == f"--input {name}: not an array of numbers as np.save writes it"
    (here / "vast.npy").write_bytes(header(f"({1 << 40}, 1024)"))
    assert "Unable to allocate" in told(saved, "vast.npy", "y.npy")
    os.mkfifo("pipe")
    assert told(saved, "x.npy", "pipe") == "--output pipe: is no file"
    np.save("wide.npy", np.zeros((2, 3)))
    assert told(saved, "wide.npy", "y.npy") == "--input wide.npy: shape (2, 3), expected a batch of shape (1,)"
    assert not (here / "y.npy").exists()


needs_mpirun = pytest.mark.skipif(not launcher(), reason="there is no mpirun")


@needs_mpirun
def test_digits_by_mpirun(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    settings = ["--set", "readers=1", "--set", "device=cpu", "--set", "combine_on=node", "--trace", "trace.json"]
    done = mpirun(4, ["-m", "mpips", "train", str(DIGITS), *settings], cwd=tmp_path)
    assert done.code == 0, done
    found = re.search(r"held-out accuracy (\d\.\d+), cross-entropy \d\.\d+, checkpoint (\S+)", done.out)
    assert found, done
    assert float(found[1]) >= 0.95
    log = tmp_path / "runs" / "digits" / "log"
    names = {path.name for path in log.iterdir()}
    assert {"metrics.jsonl", "evaluation-0.jsonl"} <= names
    assert {"rank-0001-worker-0.log", "rank-0002-worker-1.log", "rank-0003-reader-0.log"} <= names
    records = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 21))
    assert '"give"' in (tmp_path / "trace.json").read_text(), "the workers add up on their node"
    last = json.loads((log / "evaluation-0.jsonl").read_text().splitlines()[-1])
    assert f"{last['accuracy']:.4f}" == found[1]  # the reader's last look was at the final parameters


@needs_mpirun
@pytest.mark.parametrize("args", [["--set", "epocs=3"], ["--sett"], ["--set", "servers=3"], ["--set", "optimizer=sdg"]])
def test_wrong_input_is_told_once(here: Path, args: list[str]) -> None:
    done = mpirun(3, ["-m", "mpips", "train", str(here / "some.toml"), *args], cwd=here)
    assert done.code == 2, done
    assert done.err.count("mpips: error: ") == 1, done
    assert "Traceback" not in done.err
    assert not list(here.glob("runs/*"))


@needs_mpirun
def test_a_resume_on_another_number_of_workers_makes_the_epochs_that_were_asked_for(here: Path) -> None:
    def done(ranks: int, *settings: str) -> Done:
        return mpirun(ranks, ["-m", "mpips", "train", "some.toml", "--resume", "auto", *settings], cwd=here)

    assert "done: 15 steps" in done(2).out  # 80 samples, 16 a step
    out = done(4, "--set", "epochs=5").out
    assert "step 19/19" in out, out
    assert "done: 4 steps" in out, out  # 48 a step
    told = done(3, "--set", "epochs=6", "--set", "data.seed=1")
    assert told.code == 2, told
    assert told.err.count("mpips: error: ") == 1, told
    assert "runs/step-00000019 is of another training: data: targets " in told.err, told


@needs_mpirun
def test_wrong_input_of_one_rank_ends_all(here: Path) -> None:
    program = """
import mpips
from mpi4py import MPI
mpips.fit("some.toml", epochs=0 if MPI.COMM_WORLD.rank == 1 else 1)
"""
    done = mpirun(3, program, cwd=here)
    assert done.code == 2, done
    assert done.err.count("mpips: error: some.toml: epochs: expected int >= 1 (on rank 1)") == 1, done


@needs_mpirun
def test_a_bug_of_one_rank_before_the_start_ends_all(here: Path) -> None:
    program = """
import mpips
from mpi4py import MPI
class Wrong:
    name, task = "wrong", "regression"
    loss_and_grads = predict = describe = None
    def tables(self, *args, **options):
        raise ZeroDivisionError("on purpose")
mpips.fit("some.toml", model=Wrong() if MPI.COMM_WORLD.rank == 2 else "linear")
"""
    done = mpirun(3, program, cwd=here)
    assert done.code == 1, done
    assert done.err.count("ZeroDivisionError: on purpose") == 2, done


@needs_mpirun
def test_scripts_by_mpirun(tmp_path: Path) -> None:
    done = mpirun(4, ROOT / "scripts" / "linear_regression.py", cwd=tmp_path)
    assert done.code == 0, done
    found = re.fullmatch(r"w = ([-\d.]+)  b = ([-\d.]+)  y\(0\.5\) = ([-\d.]+)\n", done.out)
    assert found, done
    np.testing.assert_allclose([float(value) for value in found.groups()], [3, -1, 0.5], atol=0.02)
    pytest.importorskip("sklearn")
    done = mpirun(3, ROOT / "scripts" / "digits.py", cwd=tmp_path)
    assert done.code == 0, done
    assert float(done.out.rpartition(" ")[2]) >= 0.95


@needs_mpirun
def test_a_reader_writes_down_what_is_no_number_any_more(here: Path) -> None:
    settings = [word for setting in ("readers=1", "log='log'", "optimizer.name=sgd", "optimizer.lr=1e30", "nonfinite=allow")
                for word in ("--set", setting)]
    done = mpirun(3, ["-m", "mpips", "train", "some.toml", *settings], cwd=here)
    assert done.code == 0, done
    last = json.loads((here / "log" / "evaluation-0.jsonl").read_text().splitlines()[-1])
    assert last["mse"] is None
