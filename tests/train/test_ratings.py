"""Ratings files, good and bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mpips.errors import UsageError
from mpips.train.ratings import HEADER, ratings, read_ratings

ROWS = [(1, 31, 2.5, 1260759144), (1, 1029, 3.0, 1260759179), (7, 31, 5.0, 851868750)]


def text(kind: str) -> str:
    lines = ["::".join(map(str, row)) if kind == "dat" else ("," if kind == "csv" else "\t").join(map(str, row)) for row in ROWS]
    return "\n".join([HEADER, *lines] if kind == "csv" else lines) + "\n"


@pytest.mark.parametrize("kind", ["csv", "dat", "data"])
@pytest.mark.parametrize("change", [lambda t: t, lambda t: t.replace("\n", "\r\n"), lambda t: t.rstrip(), lambda t: "\ufeff" + t])
def test_the_three_formats(tmp_path: Path, kind: str, change: object) -> None:
    file = tmp_path / "some.txt"
    file.write_bytes(change(text(kind)).encode())  # type: ignore[operator]
    users, items, values = read_ratings(file)
    assert users.tolist() == [1, 1, 7]
    assert items.tolist() == [31, 1029, 31]
    assert values.tolist() == [2.5, 3.0, 5.0]


def test_what_counts(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(text("csv") + "7,1029,4,1\n7,1029,4,2\n8,5,5,1\n")
    data = ratings(file, least=3, per_user=1, per_item=1)
    assert data.user_names == ("1", "7", "8")
    assert data.item_names == ("5", "31", "1029")
    assert len(data.users) == 4, "a pair counts once"
    few = ratings(file, per_user=2, per_item=2)
    assert few.shape == (2, 2)
    assert few.have(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).all()


@pytest.mark.parametrize(("content", "why"), [
    ("", "line 1 '' is neither 'userId,movieId,rating,timestamp' nor four values between '::' or tabs"),
    ("movieId,userId,rating,timestamp\n1,2,3,4\n", "line 1 'movieId,userId"),
    (HEADER + "\n", "no ratings"),
    (HEADER + "\n1,2,3,4\n\n1,x,3,4\n", "line 4: could not convert string 'x' to int64, column 2"),
    (HEADER + "\n1,2,3,4\n1,2,3\n", "line 3: "),
    ("1\t2\t3\t4\n1\t2\t3\t4\t5\n", "line 2: "),
    ("1::2::3::4\n1::2.5::3::4\n", "line 2: could not convert string '2.5' to int64, column 2"),
    (HEADER + "\n1,2,nan,4\n", "line 2: rating nan"),
    (HEADER + "\n1,2,3,4\n", "no user with 5 items that 5 users have"),
])
def test_bad_files_are_named_with_the_line(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "bad.csv"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        ratings(file)
    assert str(caught.value).startswith(f"{file}: {why}"), str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere\.csv: No such file"):
        ratings(tmp_path / "nowhere.csv")
    file = tmp_path / "x.csv"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x\.csv: not text in UTF-8"):
        ratings(file)
