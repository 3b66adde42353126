"""State that each process has of its own: random numbers and meters."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from octvideo.distributed.collectives import gather_objects, is_main, rank, world_size
from octvideo.engine.meters import TrainMeter
from octvideo.engine.progress import Progress
from octvideo.engine.state import Load, Saved, is_sound

logger = logging.getLogger("octvideo")


@dataclass(frozen=True)
class _OfRank:
    rng: Tensor
    cuda_rng: Tensor | None
    meters: dict[str, list[float]]


class ProcessStates:
    """The random states of all processes, their meters, and how many processes there are.

    All processes save and load together. With another number of processes, random numbers are
    seeded by how far the run is, and the main process takes the sum of all meters.
    """

    def __init__(
        self,
        device: torch.device,
        meters: Mapping[str, TrainMeter],
        progress: Progress,
        seed: int,
    ) -> None:
        self.device, self.meters, self.progress, self.seed = device, meters, progress, seed

    def state_dict(self) -> dict[str, object]:
        own: dict[str, object] = {
            "rng": torch.get_rng_state(),
            "meters": {name: meter.state() for name, meter in self.meters.items()},
        }
        if self.device.type == "cuda":
            own["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        return {"world": self._world(), "rank_states": gather_objects(own) or []}

    def check_state(self, saved: Saved) -> Load:
        world = saved.fields("world", {})
        before = {str(name): world.integer(name, low=1) for name in world.names()}
        ranks = saved.items("rank_states")
        states = [self._check_rank(ranks.fields(number)) for number in ranks.names()]
        if any(state.meters.keys() != states[0].meters.keys() for state in states):
            saved.damaged("the processes have different meters")

        def load() -> None:
            self._load(states)
            if is_main():
                self._warn_of_another_world(before)

        return load

    def _check_rank(self, state: Saved) -> _OfRank:
        cuda_rng = None
        if self.device.type == "cuda" and "cuda_rng" in state.names():
            cuda_rng = _random_state(state, "cuda_rng", self.device)
        meters, sums = state.fields("meters"), {}
        for name, meter in self.meters.items():
            if name in meters.names():
                size = len(meter.sums) + 1
                values = meters.items(name, size)
                sums[name] = [values.number(index, 0) for index in range(size)]
        return _OfRank(_random_state(state, "rng", torch.device("cpu")), cuda_rng, sums)

    def _load(self, states: list[_OfRank]) -> None:
        if len(states) == world_size():
            own = states[rank()]
            torch.set_rng_state(own.rng)
            if own.cuda_rng is not None:
                torch.cuda.set_rng_state(own.cuda_rng, self.device)
            meters = own.meters
        else:
            key = [self.seed, rank(), self.progress.epoch, self.progress.samples]
            torch.manual_seed(int(np.random.default_rng(key).integers(2**63)))
            meters = _sums(states) if is_main() else {}
        for name, state in meters.items():
            self.meters[name].restore(state)

    def _world(self) -> dict[str, int]:
        """Returns what must not change for an exact resume."""
        return {
            "processes": world_size(),
            "clips a step": self.progress.sampler.samples_per_step,
            "training videos": self.progress.sampler.num_samples,
        }

    def _warn_of_another_world(self, before: dict[str, int]) -> None:
        differences = [
            f"{count} {name}, there were {before[name]}"
            for name, count in self._world().items()
            if before.get(name, count) != count
        ]
        if differences:
            logger.warning(
                "There are %s: the run resumes at video %d of its epoch, but its weights will not "
                "be bit for bit those that it would have had",
                "; ".join(differences),
                self.progress.samples,
            )


def _sums(states: list[_OfRank]) -> dict[str, list[float]]:
    """Returns the meters of all processes in one."""
    names = states[0].meters if states else ()
    return {
        name: [sum(values) for values in zip(*(s.meters[name] for s in states), strict=True)]
        for name in names
    }


def _random_state(saved: Saved, name: str, device: torch.device) -> Tensor:
    """Returns a state that a generator of the device takes; a generator of its own tries it."""
    value = saved.get(name)
    if isinstance(value, Tensor) and is_sound(value) and value.dtype == torch.uint8:
        state = value.clone(memory_format=torch.contiguous_format)
        try:
            torch.Generator(device).set_state(state)
        except (RuntimeError, TypeError):
            pass
        else:
            return state
    saved.refuse(name, f"the state of a random generator (of {device.type})")
