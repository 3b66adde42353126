"""Processes that hang or die cost one item, and no more."""

import os
import signal
import time

import pytest

from octvideo.utils.workers import Failure, run_guarded


def treat(item):
    if item == "hang":
        time.sleep(600)
    if item == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "exit":
        os._exit(3)
    return item * 2


@pytest.mark.parametrize("num_workers", [1, 3])
def test_every_item_has_a_result(num_workers):
    items = [1, "hang", 2, "crash", 3, "exit", 4]
    start = time.monotonic()
    results = dict(run_guarded(treat, items, num_workers, timeout=2))
    assert time.monotonic() - start < 60
    assert sorted(results) == list(range(len(items)))
    assert [results[i] for i in (0, 2, 4, 6)] == [2, 4, 6, 8]
    assert results[1].reason == "gave up after 2 seconds"
    assert "SIGSEGV" in results[3].reason
    assert "status 3" in results[5].reason
    assert all(isinstance(results[i], Failure) for i in (1, 3, 5))


def test_an_exception_is_named_and_costs_one_item(capfd):
    results = dict(run_guarded(treat, [1, None, 2], 1, timeout=30))
    assert (results[0], results[2]) == (2, 4)
    assert "status 1" in results[1].reason


def test_no_items():
    assert list(run_guarded(treat, [], 2, timeout=1)) == []


def test_workers_end_when_the_caller_leaves():
    results = run_guarded(_pid, range(4), 2, timeout=30)
    _, pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def _pid(_):
    return os.getpid()
