"""Memory of a process, looked at in a process of its own."""

import subprocess
import sys

import pytest
import torch

from octvideo.utils.errors import UserError
from octvideo.utils.memory import advice_when_out_of_memory, process_memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")

FAULTS = """
import resource, torch
from octvideo.utils.memory import keep_freed_memory
def use():
    torch.zeros(40 * 2**20, dtype=torch.uint8)  # 10,240 pages
def faults(warm):
    for _ in range(warm):
        use()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        use()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults(2)
assert keep_freed_memory()
print(usual, faults(10))  # the heap takes a while to find its size
"""


@pytest.mark.slow
@linux
def test_kept_memory_costs_no_page_faults() -> None:
    out = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    usual, kept = map(int, out.stdout.split())
    assert kept < 1000 < usual


@linux
def test_process_memory() -> None:
    memory = process_memory()
    assert 0 < memory["VmRSS"] <= memory["VmHWM"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it", "CUDA out of memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "ALLOC_FAILED"),
    ],
)
def test_too_little_memory_of_a_gpu_is_told_with_advice(text: str, what: str) -> None:
    with pytest.raises(UserError, match=f"training: lower A .*{what}") as caught:
        _raise(RuntimeError(text))
    assert "\n" not in str(caught.value)


def test_too_little_memory_of_the_machine_is_told_with_advice() -> None:
    told = pytest.raises(UserError, match=r"training: lower A .*you tried to allocate")
    with told, advice_when_out_of_memory("training", "lower A"):
        torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(2, "No such file")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        _raise(error)
    assert caught.value is error


def _raise(error: Exception) -> None:
    with advice_when_out_of_memory("training", "lower A"):
        raise error
