"""Every kind of wrong input is one line that names the file and the key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mpips.errors import UsageError
from mpips.train.config import Checkpoint, Config, Named, bound, load, nearest, override, parse, plain

FILE = """
servers = [2, "first"]
staleness = "asp"
model = "mlp"
checkpoint = "runs/x"

[data]
source = "npz"
path = "some.npz"

[optimizer]
name = "adam"
lr = {name = "cosine", start = 0.1, steps = 10}

[tables."layer.w"]
staleness = 3
optimizer = "sgd"
"""

WRONG = [
    ("epocs = 3", "epocs: unknown key; did you mean 'epochs'?"),
    ("zzz = 3", "zzz: unknown key; known: batch, "),
    ("[checkpoint]\ndirectory = 'x'\neveri = 3", "checkpoint.everi: unknown key; did you mean 'every'?"),
    ("[checkpoint]\nevery = 3", "checkpoint.directory: is required"),
    ("lr = 0.1", "lr: unknown key; did you mean 'optimizer.lr'?"),
    ("every = 10", "every: unknown key; did you mean 'checkpoint.every'?"),
    ("hidden = [3]", "hidden: unknown key; did you mean 'model.hidden'?"),
    ("[tables.w]\nlr = 3", "tables.w.lr: unknown key; known: "),
    ("[tables.w]\nstale = 3", "tables.w.stale: unknown key; did you mean 'staleness'?"),
    ("[tables.w]\nstaleness = true", "tables.w.staleness: expected int | str | null, got bool"),
    ("[tables.w]\noptimizer = 3", "tables.w.optimizer: expected a section with 'name', got int"),
    ("[tables]\nw = 3", "tables.w: expected a section, got int"),
    ("tables = 3", "tables: expected object, got int"),
    ("checkpoint = 3", "checkpoint: expected object | null, got int"),
    ("epochs = '3'", "epochs: expected int, got str"),
    ("epochs = 0", "epochs: expected int >= 1"),
    ("seed = true", "seed: expected int, got bool"),
    ("batch = 1.5", "batch: expected int, got float"),
    ("timeout = 0", "timeout: expected float > 0"),
    ("staleness = -1", "staleness: expected int >= 0"),
    ("staleness = 'sometimes'", "staleness: 'sometimes' is not one of 'none', 'asp', nor a number"),
    ("combine = 'max'", "combine: 'max' is not one of 'sum', 'mean'"),
    ("dtype = 'int8'", "dtype: 'int8' is not one of 'float32', 'float64', 'float16', 'bfloat16'"),
    ("evaluate = 'server'", "evaluate: 'server' is not one of 'worker', 'reader'"),
    ("nonfinite = 'ignore'", "nonfinite: 'ignore' is not one of 'raise', 'skip', 'allow'"),
    ("device = 'tpu'", "device: 'tpu' is not one of 'auto', 'cpu', 'gpu'"),
    ("servers = 0", "servers: expected a number from 1, "),
    ("servers = true", "servers: expected "),
    ("servers = 'all'", "servers: expected a number from 1, "),
    ("servers = [2, 'last']", "servers: expected a number from 1, "),
    ("servers = ['first', 2]", "servers: expected a number from 1, "),
    ("servers = [1, 'first', 3]", "servers: expected a number from 1, "),
    ("[model]\nhidden = [3]", "model.name: is required"),
    ("[model]\nname = 3", "model.name: expected str, got int"),
    ("model = 3", "model: expected a section with 'name', got int"),
    ("[data]\npath = 'x'", "data.source: is required"),
    ("epochs = ", "not TOML: "),
    ("epochs = 1\nepochs = 2", "not TOML: "),
]


def write(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_wrong_lines(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


def test_whole_file(tmp_path: Path) -> None:
    config = load(write(tmp_path, FILE))
    assert config.servers == [2, "first"]
    assert bound(config.staleness) is None
    assert config.model == Named("mlp")
    assert config.data == Named("npz", {"path": "some.npz"})
    assert config.optimizer == Named("adam", {"lr": {"name": "cosine", "start": 0.1, "steps": 10}})
    assert config.tables["layer.w"].staleness == 3
    assert config.tables["layer.w"].optimizer == Named("sgd")
    assert config.tables["layer.w"].combine is msgspec.UNSET
    assert config.checkpoint == Checkpoint(directory="runs/x")
    assert config.log_directory == Path("runs/x/log")


def test_defaults() -> None:
    assert parse({}) == Config()
    assert Config().log_directory is None
    assert parse({"log": "here", "checkpoint": "there"}).log_directory == Path("here")
    assert plain(Config())["optimizer"] == {"name": "sgd", "options": {"lr": 0.1}}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        load(tmp_path / "none.toml")


def test_not_text(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not TOML"):
        load(tmp_path / "some.toml")


def test_a_byte_order_mark_before_a_file_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_bytes(b"\xef\xbb\xbfepochs = 3\r\n")
    assert load(tmp_path / "some.toml").epochs == 3


@pytest.mark.parametrize(("setting", "path", "value"), [
    ("epochs=3", ["epochs"], 3),
    ("optimizer.lr=0.5", ["optimizer", "lr"], 0.5),
    ("optimizer.lr.name=cosine", ["optimizer", "lr", "name"], "cosine"),
    ("model.hidden=[8, 8]", ["model", "hidden"], [8, 8]),
    ("evaluate=reader", ["evaluate"], "reader"),
    ("evaluate='reader'", ["evaluate"], "reader"),
    ("log=runs/a=b", ["log"], "runs/a=b"),
    ("log=a\nb=3", ["log"], "a\nb=3"),
    ("log=", ["log"], ""),
    ('tables."layer.w".staleness=4', ["tables", "layer.w", "staleness"], 4),
    ("data.standardize=false", ["data", "standardize"], False),
])
def test_override(setting: str, path: list[str], value: object) -> None:
    raw = msgspec.toml.decode(FILE)
    raw["optimizer"]["lr"] = {"start": 1}
    override(raw, setting)
    at = raw
    for key in path:
        at = at[key]
    assert at == value


def test_override_of_a_short_section() -> None:
    raw = {"model": "mlp"}
    override(raw, "model.hidden=[3]")
    assert parse(raw).model == Named("mlp", {"hidden": [3]})


@pytest.mark.parametrize("setting", ["epochs", "=3", "a..b=3", "", "a b=3", "epochs.x=3"])
def test_wrong_settings(setting: str) -> None:
    with pytest.raises(UsageError, match=r"^--set "):
        override({"epochs": 3}, setting)


def test_errors_of_settings_name_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"with --set epochs=x seed=1: epochs: expected int, got str"):
        load(write(tmp_path, FILE), ["epochs=x", "seed=1"])


def test_nearest() -> None:
    assert nearest("epoch", ["epochs", "batch"]) == "did you mean 'epochs'?"
    assert nearest("?", ["epochs", "batch"]) == "known: batch, epochs"
