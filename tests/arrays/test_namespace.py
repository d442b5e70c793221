import subprocess
import sys

import array_api_strict
import numpy as np
import pytest

from mpips.arrays import is_device_array, namespace, to_host
from mpips.errors import UsageError


def test_an_array_brings_its_own_functions():
    assert namespace(np.ones(2)).asarray([1.0]).__class__ is np.ndarray
    assert namespace(array_api_strict.ones(2)) is array_api_strict
    assert namespace(np.float32(1), None, 2.0) is namespace(np.ones(2))


def test_arrays_of_two_libraries_are_named():
    with pytest.raises(UsageError, match="arrays of array_api_strict and numpy in one call"):
        namespace(np.ones(2), array_api_strict.ones(2))


@pytest.mark.parametrize("value", [[1.0], "w", None])
def test_what_is_not_an_array_is_named(value):
    with pytest.raises(UsageError, match="is not an array"):
        namespace(value)


def test_to_host_copies_no_numpy_array():
    x = np.arange(3)
    assert to_host(x) is x
    assert to_host([1, 2]).tolist() == [1, 2]
    assert to_host(2.5).shape == ()
    assert not is_device_array(x)
    assert not is_device_array(array_api_strict.ones(2))


def test_nothing_on_the_host_imports_cupy():
    code = ("import sys, numpy; from mpips import arrays, nn, models; arrays.is_device_array(numpy.ones(1)); "
            "arrays.namespace(numpy.ones(1)); arrays.pick_device('cpu', 0); "
            "print([m for m in ('cupy', 'numba', 'mpi4py.MPI') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
