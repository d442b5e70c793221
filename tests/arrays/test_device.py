import sys
import types

import numpy as np
import pytest

import mpips
from mpips.arrays import Staging, device_available, device_count, is_device_array, pick_device, to_host, use
from mpips.cluster.doctor import gpu
from mpips.cluster.results import decode, encode
from mpips.errors import UsageError

AVAILABLE, REASON = device_available()
without = pytest.mark.skipif(AVAILABLE, reason="this machine has a GPU")


def test_the_reason_is_one_line():
    assert REASON
    assert "\n" not in REASON
    assert (device_count() > 0) is AVAILABLE


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_ranks_are_dealt_out_over_the_devices_of_a_node(count):
    for choice in ("auto", "gpu"):
        assert [pick_device(choice, rank, count) for rank in range(2 * count)] == [*range(count), *range(count)]
    assert pick_device("cpu", 0, count) is None


def test_auto_takes_the_cpu_where_there_is_nothing_else():
    assert pick_device("auto", 3, 0) is None


def test_gpu_without_one_is_refused():
    with pytest.raises(UsageError, match="none is visible"):
        pick_device("gpu", 0, 0)


@without
def test_gpu_without_one_says_why():
    assert pick_device("auto", 0) is None
    with pytest.raises(UsageError) as error:
        pick_device("gpu", 0)
    assert REASON in str(error.value)
    with pytest.raises(UsageError) as error:
        Staging(0)
    assert REASON in str(error.value)


@pytest.mark.parametrize("choice", ["tpu", "", "GPU"])
def test_an_unknown_choice_is_named(choice):
    with pytest.raises(UsageError, match="is not one of auto, cpu, gpu"):
        pick_device(choice, 0, 1)


@pytest.fixture
def cupy(monkeypatch):
    """A CuPy that is installed, on a machine whose driver says whatever the test wants."""
    fake = types.ModuleType("cupy")
    fake.__version__ = "13.6.0"
    fake.ndarray = type("ndarray", (), {})
    fake.generic = np.generic  # as in CuPy
    fake.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace())

    def is_available():
        return fake.cuda.runtime.getDeviceCount() > 0  # CuPy 13 lets nothing but cudaErrorNoDevice pass for False

    fake.is_available = is_available
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake


def test_cupy_without_a_driver_is_no_device(cupy):
    def count():
        raise RuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient\nfor CUDA runtime version")

    cupy.cuda.runtime.getDeviceCount = count
    assert pick_device("auto", 0) is None
    ok, why = device_available()
    assert not ok
    assert why == ("CuPy 13.6.0 is installed but finds no usable GPU: cudaErrorInsufficientDriver: "
                   "CUDA driver version is insufficient for CUDA runtime version")
    with pytest.raises(UsageError, match="cudaErrorInsufficientDriver"):
        pick_device("gpu", 0)


def test_a_driver_that_shows_no_device_is_none(cupy):
    cupy.cuda.runtime.getDeviceCount = lambda: 0
    assert pick_device("auto", 0) is None
    assert "CUDA_VISIBLE_DEVICES" in device_available()[1]


def test_work_gets_numpy_unless_it_asks_for_a_device(cupy):
    """Most is written for NumPy, whose arrays CuPy's do not mix with: installing CuPy must not break it."""
    cupy.cuda.runtime.getDeviceCount = lambda: 1
    table = mpips.Dense("w", (3,), mpips.optim.SGD(lr=0.1))
    assert mpips.run(lambda ps: ps.xp is np and type(ps.pull("w")) is np.ndarray, [table]) == [True]


def test_the_doctor_tries_to_compute(cupy):
    def ones(shape, dtype):
        raise RuntimeError("CuPy failed to load libnvrtc.so.12:\nno such file")

    cupy.cuda.runtime.getDeviceCount = lambda: 1
    cupy.cuda.runtime.getDeviceProperties = lambda number: {"name": b"a GPU"}
    cupy.ones, cupy.float32 = ones, np.float32
    assert gpu() == "no: CuPy 13.6.0 finds a GPU but cannot compute there: CuPy failed to load libnvrtc.so.12: no such file"


def test_a_scalar_of_numpy_lies_on_no_device(cupy):
    assert not is_device_array(np.float32(1))
    assert is_device_array(cupy.ndarray())
    assert to_host(np.float32(1)) == 1
    assert decode(encode({"loss": np.float32(2)})) == {"loss": 2}


def test_no_device_means_numpy():
    assert use(None) is np
