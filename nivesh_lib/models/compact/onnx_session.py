"""An ONNX graph that answers, on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from joblib import cpu_count

from nivesh_lib.reproducibility import machine, threads


class Graph:
    """A graph, as the bytes of its file, and the session that runs it.

    Parameters
    ----------
    content : bytes
        Of an ``.onnx`` file without external data.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._session = _session(content, min(threads(), cpu_count()))
        self._types = {put.name: _NUMPY[put.type] for put in self._session.get_inputs()}

    def __call__(self, **inputs: np.ndarray) -> np.ndarray:
        """Return the graph's output for arrays named as its inputs, cast to their types."""
        return self._run(None, inputs)[0]

    def each(self, batches: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
        """Return the output for each of many inputs, as many at once as there are threads.

        Threads that share an input wait for each other at every operation; these never do.
        """
        at_once = min(self.at_once, len(batches))
        if at_once < 2:
            return [self(**batch) for batch in batches]
        session = self._alone
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda batch: self._run(None, batch, session)[0], batches))

    @property
    def at_once(self) -> int:
        """How many inputs `each` runs at once."""
        return min(threads() or cpu_count(), cpu_count())

    @cached_property
    def _alone(self) -> Any:
        """The session whose every run takes one thread; made when first needed."""
        return _session(self.content, 1)

    def named(self, names: Sequence[str], **inputs: np.ndarray) -> list[np.ndarray]:
        """Return outputs by their names, in the order asked for."""
        return self._run(names, inputs)

    def _run(
        self, names: Sequence[str] | None, inputs: dict[str, np.ndarray], session: Any = None
    ) -> list[np.ndarray]:
        fed = {name: value.astype(self._types[name], copy=False) for name, value in inputs.items()}
        return [np.asarray(value) for value in (session or self._session).run(names, fed)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles take the bytes along and make a session of their own."""
        return Graph, (self.content,)


_NUMPY = {"tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(float)": np.float32}


def _session(content: bytes, n_threads: int) -> Any:
    # Read when it is loaded; it would send what it runs on, and keep that in the home directory.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1  # the graph is a chain
    options.enable_mem_pattern = False  # plans memory by shape, and every length is another shape
    options.log_severity_level = 3
    if not _adds_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        content,
        options,
        providers=["CPUExecutionProvider"],
        # Its kernel takes twice as long as the addition and the layer norm that it stands for.
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def _adds_exactly() -> bool:
    """Return whether products of 8-bit numbers are added without overflow, which is VNNI on x86.

    Elsewhere the runtime can take a way around, which costs half of the speed on any processor.
    """
    flags = set(machine()["flags"])
    return "avx2" not in flags or bool(flags & {"avx512_vnni", "avx_vnni"})
