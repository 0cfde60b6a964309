"""Which GPUs a name stands for, and which worker gets which: the machine needs none of them."""

from __future__ import annotations

import pytest

from encoders.hardware import assign, choose_gpus, cores, find_devices, quota, threads
from schemas.errors import EncoderError


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_cuda_stands_for_every_gpu(name: str) -> None:
    devices = choose_gpus(name, (9, 9, 9))
    assert [device.name for device in devices] == ["cuda:0", "cuda:1", "cuda:2"]
    assert all(device.is_cuda and device.precisions[0] == "bf16" for device in devices)


def test_a_number_stands_for_that_gpu_alone() -> None:
    (device,) = choose_gpus("cuda:1", (7, 9))
    assert (device.name, device.precisions[0]) == ("cuda:1", "bf16")


def test_gpus_of_two_kinds_compute_in_what_both_do() -> None:
    assert {device.precisions for device in choose_gpus("cuda", (9, 7))} == {("fp16", "fp32")}


@pytest.mark.parametrize(("name", "gpus"), [("cuda", ()), ("cuda:2", (9, 9))])
def test_a_gpu_that_is_not_here_is_named(name: str, gpus: tuple[int, ...]) -> None:
    with pytest.raises(EncoderError, match=rf"device '{name}' is not here.* {len(gpus)} GPUs"):
        choose_gpus(name, gpus)


def test_workers_are_spread_evenly() -> None:
    devices = choose_gpus("cuda", (9, 9, 9))
    given = [assign(devices, worker).name for worker in range(8)]
    assert sorted(map(given.count, ("cuda:0", "cuda:1", "cuda:2"))) == [2, 3, 3]
    assert given[:3] == ["cuda:0", "cuda:1", "cuda:2"]
    assert {assign(choose_gpus("cuda:1", (9, 9)), worker).name for worker in range(4)} == {"cuda:1"}


def test_a_cpu_is_one_device() -> None:
    assert [device.name for device in find_devices("cpu")] == ["cpu"]
    with pytest.raises(EncoderError, match="'tpu' is unknown; use auto, cpu, cuda or cuda:N"):
        find_devices("tpu")


@pytest.mark.parametrize(
    ("cpu_max", "allowed"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000", 2), ("5000 100000", 1)],
)
def test_a_container_uses_its_share_of_the_cores(cpu_max: str, allowed: int | None) -> None:
    assert quota(cpu_max) == allowed


def test_workers_times_threads_are_the_cores() -> None:
    assert threads(1) == cores()
    assert threads(cores()) == threads(1000) == 1
