"""A DataLoader that outlives its workers: a video that makes one hang or crash is skipped."""

import logging
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Sampler,
    default_convert,
    get_worker_info,
)

from octvideo.data.read.packet_index import VideoError
from octvideo.distributed.signals import leave_signals_to_parent
from octvideo.utils.errors import UserError
from octvideo.utils.memory import (
    MORE_SHARED_MEMORY,
    is_shared_memory_full,
    keep_freed_memory,
    shared_memory,
)
from octvideo.utils.workers import how_it_ended

if TYPE_CHECKING:
    from octvideo.data.clips import Item, _Files

logger = logging.getLogger("octvideo")

Kind = TypeVar("Kind")
Loaded = TypeVar("Loaded")  # a batch, or an item where there are no batches

_MAX_UNEXPLAINED = 3  # restarts in a row after workers that read no video


class Watch:
    """Knows which video each worker of a loader is reading, in memory that all processes share.

    timeout: seconds that a worker may take for one video. The system kills a process that takes
    longer, because nothing less stops a decoder in an endless loop. 0: no limit.

    lost: path and reason of the videos that killed workers; they are not opened again. A worker
    knows those that were lost before it started.
    """

    def __init__(self, num_workers: int = 0, timeout: float = 0.0) -> None:
        self.timeout = timeout
        self.lost: dict[str, str] = {}
        self._at = torch.full((max(1, num_workers),), -1, dtype=torch.int64).share_memory_()

    @contextmanager
    def reading(self, index: int, path: str) -> Iterator[None]:
        """Surrounds the reading of a video; raises VideoError if it is known to be lost.

        In the main process, which cannot be given up, there is no limit.
        """
        if path in self.lost:
            raise VideoError(path, self.lost[path])
        worker = get_worker_info()
        if worker is None:
            yield
            return
        self._at[worker.id] = index
        _set_alarm(self.timeout)
        try:
            yield
        finally:
            _set_alarm(0)
            self._at[worker.id] = -1

    def video_of(self, worker_id: int) -> int | None:
        """Returns the index of the video that a worker is reading, or read when it ended."""
        index = int(self._at[worker_id])
        return index if index >= 0 else None

    def restart(self) -> None:
        self._at.fill_(-1)


def _set_alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _init_worker(worker_id: int) -> None:
    torch.set_num_threads(1)
    if hasattr(signal, "SIGALRM"):  # an alarm of `Watch` ends also a process that is deaf to Python
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    keep_freed_memory()  # each clip takes the memory of the last one
    leave_signals_to_parent()


class _Sender:
    """Collates in a worker, and moves the tensors to where the main process can read them.

    That is shared memory. Where it is full, as /dev/shm of a container with 64 MB soon is, they go
    through the pipe as arrays: torch would fail, or lose the batch and wait for it for ever.
    """

    def __init__(self, collate: Callable[[list["Item"]], object]) -> None:
        self.collate = collate

    def __call__(self, items: list["Item"]) -> object:
        batch = self.collate(items)
        return batch if get_worker_info() is None else _map(_shared, batch, Tensor)


class _Piped:
    """A tensor that did not fit into shared memory."""

    def __init__(self, tensor: Tensor) -> None:
        self.array = tensor.numpy()

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.array)


def _shared(tensor: Tensor) -> Tensor | _Piped:
    try:
        return tensor.share_memory_()
    except RuntimeError as error:
        if not is_shared_memory_full(error):
            raise
        return _Piped(tensor)


def _map(function: Callable[[Kind], object], batch: object, kind: type[Kind]) -> object:
    """Applies ``function`` to what is of a kind in a batch of dicts, lists and tuples."""
    if isinstance(batch, kind):
        return function(batch)
    if isinstance(batch, dict):
        return {key: _map(function, value, kind) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(_map(function, value, kind) for value in batch)
    return batch


class Keys(Protocol):
    """What to load, in this order: a sampler or a sequence."""

    def __iter__(self) -> Iterator[object]: ...

    def __len__(self) -> int: ...


class _Rest(Sampler[object]):
    """The keys of a sampler without the first ``skip``."""

    def __init__(self, keys: Keys) -> None:
        self.keys, self.skip = keys, 0

    def __iter__(self) -> Iterator[object]:
        return islice(iter(self.keys), self.skip, None)

    def __len__(self) -> int:
        return len(self.keys)


class VideoLoader(Generic[Loaded]):
    """Yields what a DataLoader with these arguments yields, even if workers hang or die.

    Workers live through all epochs. They start in the platform's default way: on Linux they are
    forked, at once and sharing the list of videos with the main process (they never touch CUDA,
    which a fork would break).

    If one dies, all are restarted and continue at the batch that was due, so that nothing is lost
    or comes twice: a sample depends on its key alone. The video that the worker was reading gets a
    second chance, because the system may have killed the process for reasons of its own (memory,
    for example). The second time in an epoch, the video counts as unreadable.

    Without workers there is no such protection: a decoder that crashes ends the run.

    Args:
        dataset: has ``videos``, a `FileList`, and ``watch``, a `Watch` that it reads under.
        keys: what to load, in this order, in each iteration.
        collate_fn: makes a batch of items, a list; None: without batches, as they are.
        batch_size, prefetch_factor, pin_memory, generator: of `DataLoader`.

    Raises:
        UserError: workers die one after another without reading a video.
    """

    def __init__(
        self,
        dataset: "_Files",
        keys: Keys,
        num_workers: int,
        *,
        batch_size: int | None,
        collate_fn: Callable[[list["Item"]], Loaded] | None = None,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        self.dataset = dataset
        self.sampler, self.num_workers = keys, num_workers
        self.persistent_workers = num_workers > 0
        self._videos, self._watch = dataset.videos, dataset.watch
        self._keys = _Rest(keys)
        self._batch_size, self._prefetch_factor = batch_size, prefetch_factor
        self._pin_memory, self._generator = pin_memory, generator
        self._send = _Sender(collate_fn or default_convert)
        self._has_warned = False  # of too little shared memory
        self._losses: Counter[str] = Counter()
        self._loader = self._new_loader()

    def _new_loader(self) -> DataLoader:
        return DataLoader(
            self.dataset,
            batch_size=self._batch_size,
            sampler=self._keys,
            num_workers=self.num_workers,
            collate_fn=self._send,
            pin_memory=self._pin_memory,
            worker_init_fn=_init_worker,
            generator=self._generator,
            prefetch_factor=self._prefetch_factor,
            persistent_workers=self.persistent_workers,
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Loaded]:
        done, batches = 0, None
        self._losses.clear()
        while True:
            try:
                if batches is None:
                    batches = self._begin(done)
                batch = next(batches)
            except StopIteration:
                return
            # From torch, or from a connection to a worker that is no more.
            except (RuntimeError, OSError, EOFError) as error:
                if not self._find_lost(error):
                    raise
                self._restart()
                batches = None
                continue
            done += 1
            self._losses[""] = 0  # whatever killed workers before has stopped
            yield cast(Loaded, _map(self._from_pipe, batch, _Piped))

    def _from_pipe(self, piped: _Piped) -> Tensor:
        if not self._has_warned:
            logger.warning(
                "%s has no room for %.0f MB of a batch: batches are sent through a pipe, which is "
                "slower; %s",
                *(shared_memory(), piped.array.nbytes / 2**20, MORE_SHARED_MEMORY),
            )
            self._has_warned = True
        return piped.tensor()

    def _begin(self, done: int) -> Iterator[object]:
        """Batches without the first ``done``."""
        self._keys.skip = done * (self._batch_size or 1)
        if threading.current_thread() is not threading.main_thread():
            return iter(self._loader)
        # torch has the signal of a dead worker raise an error wherever the main thread is, in the
        # middle of a step. It is early enough when the next batch is asked for.
        before = {s: signal.getsignal(s) for s in (getattr(signal, "SIGCHLD", None),) if s}
        try:
            return iter(self._loader)
        finally:
            for signum, handler in before.items():
                of_torch = str(getattr(handler, "__module__", "")).startswith("torch.utils.data")
                signal.signal(signum, signal.SIG_DFL if of_torch else handler)

    def _workers(self) -> list[BaseProcess]:
        """Returns the loader's processes; [] if this torch has other names for them."""
        return getattr(getattr(self._loader, "_iterator", None), "_workers", [])

    def _find_lost(self, error: Exception) -> bool:
        """Notes what the workers were at that have ended; False where none has."""
        workers = self._workers()
        # Its end may be under way; for longer where it has left a connection already.
        patience = 1 if isinstance(error, RuntimeError) else 30
        closed = wait([worker.sentinel for worker in workers], timeout=patience)
        for worker in workers:
            if worker.sentinel in closed:  # its files are, which is before it counts as ended
                worker.join(patience)
        ended = [(n, worker.exitcode) for n, worker in enumerate(workers) if not worker.is_alive()]
        lost = [(self._watch.video_of(worker_id), code) for worker_id, code in ended]
        paths = ["" if index is None else self._videos.path(index) for index, _ in lost]
        self._losses.update(set(paths))
        for path, (_, code) in zip(paths, lost, strict=True):
            self._note(path, self._reason(code), error)
        return bool(ended)

    def _note(self, path: str, reason: str, error: Exception) -> None:
        if not path:
            logger.warning("A loader worker is restarted: %s", reason)
            if self._losses[path] > _MAX_UNEXPLAINED:
                raise UserError(
                    f"loader workers end one after another: {reason}. If memory runs out, use "
                    "fewer of them: DATA_LOADER.NUM_WORKERS, or --workers of a tool"
                ) from error
        elif self._losses[path] == 1:
            logger.info("%s: %s; it is read once more by another process", path, reason)
        else:
            self._watch.lost[path] = reason

    def _reason(self, code: int | None) -> str:
        if code is not None and -code == getattr(signal, "SIGALRM", None):
            return f"gave up after {self._watch.timeout:g} seconds"
        if code is not None and -code == getattr(signal, "SIGBUS", None):
            return f"{how_it_ended(code)}; if {shared_memory()} is full, {MORE_SHARED_MEMORY}"
        return how_it_ended(code)

    def _restart(self) -> None:
        # The others are not killed but asked to leave: they might hold a lock of the queues.
        iterator = getattr(self._loader, "_iterator", None)
        getattr(iterator, "_shutdown_workers", lambda: None)()
        self._watch.restart()
        self._loader = self._new_loader()
