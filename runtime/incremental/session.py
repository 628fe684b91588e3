"""`IncrementalSession`: the stages of a network as one session, of which a call runs those whose inputs are new."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stylert.runtime.batching import ANY_BATCH
from stylert.runtime.forking import tell_after_fork
from stylert.runtime.incremental.kept_features import Features, KeptFeatures
from stylert.runtime.session import HostInputs, StageSession, TensorSpec


@dataclass(frozen=True)
class LoadedStage:
    """A stage, as `stages.Stage`, and the session of its network."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    session: StageSession


class IncrementalSession:
    """A `Session` on the CPU.

    A call runs the stage of the styles, compares them with those of kept calls of the same batch, and runs the other stages
    from the first on that differs. One call runs at a time.
    """

    device = "cpu"
    ranges = ANY_BATCH
    concurrency = 1

    def __init__(self, stages: Sequence[LoadedStage], tensors: Sequence[TensorSpec], kept: KeptFeatures | None = None) -> None:
        """`stages` come in their order, the styles first. `tensors` are the inputs and the output of the whole network."""
        self._styles, *self._blocks = stages
        self.tensors = tensors
        self._image = next(tensor.name for tensor in tensors if not tensor.is_input)
        self._kept = KeptFeatures() if kept is None else kept
        self._running = threading.Lock()
        self.notes: list[str] = []
        tell_after_fork(self)

    def run(self, inputs: HostInputs) -> np.ndarray:
        with self._running:
            known = {**inputs, **self._styles.session.run_stage(inputs)}
            blocks, old = self._best_start(known)
            for stage in self._blocks[:blocks]:
                known |= {name: old[name] for name in stage.outputs}
            for stage in self._blocks[blocks:]:
                known |= stage.session.run_stage({name: known[name] for name in stage.inputs})
            image = known.pop(self._image)
            # The caller may change its arrays.
            features = known | {name: value.copy() for name, value in inputs.items()}
            if not self._kept.keep(features, replaced=old if blocks else None):
                self._note_batch(len(image), sum(value.nbytes for value in features.values()))
            return image

    def after_fork(self) -> None:
        """Have a lock of this process: a thread that does not exist here may hold that of the parent."""
        self._running = threading.Lock()

    def close(self) -> None:
        self._kept.clear()
        for stage in (self._styles, *self._blocks):
            stage.session.close()

    def _best_start(self, known: Features) -> tuple[int, Features]:
        """The number of blocks that a kept call gives, and its features. The last block always runs: it makes the image."""
        starts = [(self._equal_blocks(known, kept), kept) for kept in self._kept]
        return max(starts, key=lambda start: start[0], default=(0, known))

    def _equal_blocks(self, known: Features, kept: Features) -> int:
        """The number of blocks, from the first on, that have the same inputs in both calls."""
        for number, stage in enumerate(self._blocks[:-1]):
            if not all(np.array_equal(known[name], kept[name]) for name in stage.inputs if name in known):
                return number
        return len(self._blocks) - 1

    def _note_batch(self, batch: int, nbytes: int) -> None:
        line = f"a batch of {batch} has features of {nbytes / 2**20:,.0f} MiB, which are too many to be kept"
        if line not in self.notes:
            self.notes.append(line)
