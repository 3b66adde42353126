"""Calls that may hang: answers, errors, and what is given up."""

import threading
import time

import pytest

from octvideo.distributed.time_limit import TimedCalls


def test_answers_and_errors_of_one_thread():
    with TimedCalls() as calls:
        threads = {calls.ask(threading.get_ident, 5) for _ in range(20)}
        assert len(threads) == 1
        assert threads != {threading.get_ident()}
        with pytest.raises(ZeroDivisionError):
            calls.ask(lambda: 1 / 0, 5)
        assert calls.ask(lambda: "still there", 5) == "still there"


def test_a_call_that_hangs_is_given_up():
    released, begin = threading.Event(), time.monotonic()
    with TimedCalls() as calls, pytest.raises(TimeoutError):
        calls.ask(released.wait, 0.1)
    assert time.monotonic() - begin < 5
    released.set()
