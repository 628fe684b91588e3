"""Sends statistics and pictures to Weights & Biases. A failure of it is told once, and training goes on without it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from stylert.core.errors import DataError, missing_extra, shown_line
from stylert.core.files.atomic import atomic_file
from stylert.core.files.inputs import read_file
from stylert.core.files.json_documents import read_document
from stylert.core.files.outputs import document_text
from stylert.train.configuration.train_config import TrainConfig

#: Holds the identity of the run, so that a resumed run goes on in the same one.
RUN_FILE = "wandb.json"
#: Bytes of this file, at most.
MAX_RUN_BYTES = 2**16
#: Seconds to wait for the server at the start. It is then told that it does not answer.
INIT_SECONDS = 60
#: Seconds to wait at the end until all is sent. torchrun kills a process 30 seconds after SIGTERM.
FINISH_SECONDS = 20

#: Receives one line for the user.
Note = Callable[[str], None]


class WandbRun(msgspec.Struct):
    """The content of `RUN_FILE`."""

    project: str
    id: str


class WandbWriter:
    """A `RunWriter`. The values have the axis `kimg`, because a resumed run may repeat steps that wandb already has.

    The environment variables of wandb hold: `WANDB_MODE=offline` writes into the folder of the run only.
    """

    def __init__(self, project: str, note: Note) -> None:
        """Import wandb.

        Args:
            project: Name of the project.
            note: Called with the reason if wandb fails.

        Raises:
            BackendError: wandb is not installed.
        """
        try:
            import wandb
        except ImportError:
            raise missing_extra("wandb", "wandb") from None
        self._wandb: Any = wandb
        self._project, self._note = document_text(project), note
        self._run: Any = None

    def open(self, out: Path, cfg: TrainConfig, resumed: bool) -> None:
        """See `RunWriter`. A resumed run goes on in its run of the same project."""

        def start() -> None:
            earlier = read_run(out / RUN_FILE) if resumed else None
            run_id = earlier.id if earlier is not None and earlier.project == self._project else None
            self._run = self._wandb.init(
                project=self._project,
                dir=str(out),
                id=run_id,
                resume=None if run_id is None else "allow",
                name=None if run_id is not None else document_text(os.path.basename(os.path.realpath(out))),
                config=cfg.to_dict(),
                allow_val_change=True,
                # Its capture of the terminal would fight with the progress bar.
                settings=self._wandb.Settings(console="off", init_timeout=INIT_SECONDS),
            )
            self._run.define_metric("kimg")
            self._run.define_metric("*", step_metric="kimg")
            with atomic_file(out / RUN_FILE, within=out) as temporary:
                temporary.write_bytes(msgspec.json.encode(WandbRun(self._project, str(self._run.id))))

        self._run_safely(start)

    def scalars(self, kimg: float, values: Mapping[str, float]) -> None:
        """See `RunWriter`."""
        if self._run is not None:
            self._run_safely(lambda: self._run.log({**values, "kimg": kimg}))

    def picture(self, kimg: float, name: str, image: np.ndarray) -> None:
        """See `RunWriter`."""
        if self._run is not None:
            pixels = image[..., 0] if image.shape[2] == 1 else image
            self._run_safely(lambda: self._run.log({name: self._wandb.Image(pixels), "kimg": kimg}))

    def close(self) -> None:
        """Wait until all is sent, or `FINISH_SECONDS`."""
        if self._run is None:
            return
        run, self._run = self._run, None
        # A server that does not answer must not hold the end of the run, so a thread waits for it.
        thread = threading.Thread(target=self._run_safely, args=(run.finish,), daemon=True)
        thread.start()
        thread.join(FINISH_SECONDS)
        if thread.is_alive():
            self._note(f"wandb did not finish in {FINISH_SECONDS} s: `wandb sync` sends the rest")

    def _run_safely(self, call: Callable[[], object]) -> None:
        """Call wandb. If it fails, say so, and call it no more."""
        try:
            call()
        except Exception as e:  # any failure of another library or of its server
            self._run = None
            self._note(f"training continues without wandb: {shown_line(str(e) or type(e).__name__)}")


def read_run(path: Path) -> WandbRun | None:
    """The run that a file names. None where it is missing or damaged."""
    try:
        return read_document(read_file(path, DataError, MAX_RUN_BYTES), WandbRun, RUN_FILE, DataError)
    except DataError:
        return None
