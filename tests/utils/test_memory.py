"""Memory of a process, looked at in a process of its own."""

import subprocess
import sys

import pytest

from octvideo.utils.memory import process_memory

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="settings of glibc")

FAULTS = """
import resource, torch
from octvideo.utils.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def use():
    torch.zeros(64 * 2**20, dtype=torch.uint8)
for _ in range(20):  # the heap takes a while to find its size
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@linux
def test_kept_memory_costs_no_page_faults() -> None:
    faults = {}
    for keep in (False, True):
        code = FAULTS.format(keep=keep)
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        faults[keep] = int(out.stdout)
    assert faults[True] < 1000 < faults[False]


@linux
def test_freed_memory_is_returned() -> None:
    code = """
import torch
from octvideo.utils.memory import keep_freed_memory, process_memory, return_freed_memory
keep_freed_memory()
del_me = torch.zeros(256 * 2**20, dtype=torch.uint8)
full = process_memory()["VmRSS"]
del del_me
kept = process_memory()["VmRSS"]
return_freed_memory()
print(full - kept, full - process_memory()["VmRSS"])
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, returned = map(float, out.stdout.split())
    assert kept < 50 < 200 < returned


@linux
def test_process_memory() -> None:
    memory = process_memory()
    assert 0 < memory["VmRSS"] <= memory["VmHWM"]
