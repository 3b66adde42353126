"""How far a training run has come."""

from octvideo.data.loader import EpochSampler
from octvideo.engine.state import LARGEST, Load, Saved


class Progress:
    """Counts the finished epochs, and the steps and videos of the epoch under way.

    ``step`` counts the steps that were made, ``samples`` the videos that all processes have used.
    Between two steps they say exactly where a later run has to resume: they are the position of
    the loader, too.

    Args:
        sampler: of the training videos.
    """

    def __init__(self, sampler: EpochSampler, max_epoch: int) -> None:
        self.sampler, self.max_epoch = sampler, max_epoch
        self.epoch = self.step = self.samples = 0
        self.min_errors = {"min_top1_err": 100.0, "min_top5_err": 100.0}
        self.best_epoch: int | None = None  # the number of epochs after which the error was lowest

    @property
    def steps_per_epoch(self) -> int:
        return self.sampler.num_batches

    @property
    def step_of_epoch(self) -> int:
        """Returns the steps of the current epoch, as if all had had today's batch size."""
        return self.samples // self.sampler.samples_per_step

    @property
    def steps_done(self) -> int:
        return self.epoch * self.steps_per_epoch + self.step_of_epoch

    @property
    def steps_left(self) -> int:
        return self.max_epoch * self.steps_per_epoch - self.steps_done

    @property
    def is_finished(self) -> bool:
        return self.epoch >= self.max_epoch

    @property
    def position(self) -> float:
        """Returns the finished epochs plus the fraction of the current one."""
        return self.epoch + self.samples / (self.steps_per_epoch * self.sampler.samples_per_step)

    def step_done(self) -> None:
        self.step += 1
        self.samples += self.sampler.samples_per_step

    def epoch_done(self) -> None:
        self.epoch, self.step, self.samples = self.epoch + 1, 0, 0

    def record_errors(self, top1: float, top5: float) -> bool:
        """Takes the errors of a validation (percent); returns whether top-1 is the lowest.

        Of equal errors the last counts: few videos give the same error in many epochs, and the
        first of these epochs has often learned nothing yet.
        """
        is_best = self.best_epoch is None or top1 <= self.min_errors["min_top1_err"]
        if is_best:
            self.best_epoch = self.epoch + 1
        for key, error in (("min_top1_err", top1), ("min_top5_err", top5)):
            self.min_errors[key] = min(self.min_errors[key], error)
        return is_best

    # ---------------------------------------------------------------- state

    def state_dict(self) -> dict[str, object]:
        return {
            "epoch": self.epoch if self.step else self.epoch - 1,  # PySlowFast counts from 0
            "step": self.step,
            "samples": self.samples,
            "min_errors": self.min_errors,
            "best_epoch": self.best_epoch,
        }

    def check_state(self, saved: Saved) -> Load:
        epoch, step = saved.integer("epoch"), saved.integer("step", 0)
        samples = step * self.sampler.samples_per_step  # files of older versions do not say
        if "samples" in saved:
            samples = saved.integer("samples", low=step, high=LARGEST if step else 0)
        best = saved.integer("best_epoch", low=1) if "best_epoch" in saved else None
        errors = saved.fields("min_errors", {})
        lowest = {
            key: errors.number(key, 0, 100) for key in self.min_errors if key in errors.names()
        }

        def load() -> None:
            self.epoch, self.step, self.samples = epoch + (0 if step else 1), step, samples
            self.min_errors.update(lowest)
            self.best_epoch = best

        return load
