"""Saves a training run, and resumes it.

On a CPU a resumed run is, bit for bit, the one that was never stopped: clips and mixtures are drawn
from seed, epoch and place alone, and all other random numbers are torch's, whose state is in the
checkpoint for each process.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from octvideo.distributed.collectives import is_main, on_all, on_main, rank
from octvideo.engine.checkpoint import (
    CheckpointError,
    best_path,
    checkpoint_path,
    link_checkpoint,
    load_checkpoint,
    newest_first,
    prepare_folder,
    remove_superseded,
    save_checkpoint,
)
from octvideo.engine.progress import Progress
from octvideo.engine.state import Saved, Stateful, load_state

logger = logging.getLogger("octvideo")

Content = dict[str, object]


class Checkpointer:
    """The checkpoints of a run in a folder.

    All processes of a run call the same methods; the main one alone writes.

    Args:
        owners: of the state, in the order in which they load it.
        facts: what else a checkpoint says, about the run as a whole.
        check_run: of a file and its content, raises a CheckpointError if it does not belong to
            this run; returns what has changed since it was written, or "".
        seconds: between two checkpoints within an epoch; 0 for none.
        keep: epoch checkpoints that stay; 0 for all.
    """

    def __init__(
        self,
        folder: Path,
        progress: Progress,
        owners: Sequence[Stateful],
        facts: Mapping[str, object],
        check_run: Callable[[Path, Content], str],
        seconds: float = 0.0,
        keep: int = 0,
    ) -> None:
        self.folder, self.progress, self.owners, self.facts = folder, progress, owners, facts
        self.check_run, self.seconds, self.keep = check_run, seconds, keep
        self.newest: Path | None = None
        self.saved_at = time.monotonic()

    # ---------------------------------------------------------------- resume

    def prepare(self) -> None:
        """Makes the folder, and tries to write there.

        Raises:
            CheckpointError: on all processes.
        """
        on_main(lambda: prepare_folder(self.folder))

    def resume_newest(self) -> bool:
        """Resumes the newest checkpoint of the folder; returns whether there is one.

        The main process finds the file, and all others read the same one.
        """
        path, *where = on_main(lambda: (newest_first(self.folder, self.resume), *self._where()))
        if path is None:
            return False

        def follow() -> None:
            self.resume(path, load_checkpoint(path))
            if [*self._where()] != where:
                raise CheckpointError(
                    f"{path}: process {rank()} reads another file there than process 0; "
                    "OUTPUT_DIR must be one folder that all nodes share"
                )

        on_all(lambda: None if is_main() else follow())
        self.newest = path
        return True

    def resume(self, path: Path, content: Content) -> None:
        """Takes the state that a checkpoint holds; if anything in it is wrong, nothing.

        Raises:
            CheckpointError: the file is damaged, or belongs to another run.
        """
        changes = self.check_run(path, content)
        load_state(self.owners, Saved(path, content))
        if changes and is_main():
            logger.warning("Changed since %s was written: %s", path.name, changes)

    def _where(self) -> tuple[int, int, int]:
        return self.progress.epoch, self.progress.step, self.progress.samples

    # ---------------------------------------------------------------- save

    def save_is_due(self) -> bool:
        """Returns whether a checkpoint within the epoch is due, by the main process's clock."""
        return bool(self.seconds) and is_main() and time.monotonic() - self.saved_at >= self.seconds

    def save(self, best: bool = False, due: bool = True, is_final: bool = True) -> Path:
        """Writes the checkpoint of this moment, atomically, and removes those it supersedes.

        Args:
            best: write it as `checkpoint_best.pyth`.
            due: write it under the name of its progress, which is returned.
            is_final: False for one that the next will soon replace; it is not in the log.

        Raises:
            CheckpointError: on all processes; the files from before are whole.
        """
        path = checkpoint_path(self.folder, self.progress.epoch, self.progress.step)
        content = {key: v for owner in self.owners for key, v in owner.state_dict().items()}
        on_main(lambda: self._write(path, {**content, **self.facts}, best, due))
        if due:
            self.newest, self.saved_at = path, time.monotonic()
            note = "; checkpoint_best.pyth is the same: the lowest error so far" if best else ""
            logger.log(logging.INFO if is_final else logging.DEBUG, "Saved %s%s", path, note)
        elif best:
            logger.info("Saved %s, with the lowest error so far", best_path(self.folder))
        return path

    def _write(self, path: Path, content: Content, best: bool, due: bool) -> None:
        # The best first: a run that ends between the two finds it again, and writes it once more.
        if best:
            save_checkpoint(best_path(self.folder), content)
        if best and due:
            link_checkpoint(best_path(self.folder), path, content)
        elif due:
            save_checkpoint(path, content)
        if due:
            remove_superseded(self.folder, path, self.keep, self.progress.is_finished)
