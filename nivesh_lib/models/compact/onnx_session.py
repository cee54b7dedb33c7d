"""Inference of ONNX graphs on ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
from joblib import cpu_count

from nivesh_lib.reproducibility import machine, threads


class OnnxSession:
    """A graph and the ONNX Runtime session that runs it; copies and pickles share no session.

    Parameters
    ----------
    content : bytes
        An ``.onnx`` file without external data.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._session = _session(content, min(threads(), cpu_count()))
        self._types = {put.name: _NUMPY[put.type] for put in self._session.get_inputs()}

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxSession, (self.content,)

    def run_batches(self, batches: Sequence[dict[str, np.ndarray]]) -> list[np.ndarray]:
        """Return the graph's first output for each batch of named inputs.

        As many batches as there are threads run in parallel, one thread each: threads that share a
        batch would wait for each other at every operation.
        """
        parallel = min(self.max_parallel, len(batches))
        if parallel < 2:
            return [self._run(self._session, None, batch)[0] for batch in batches]
        session = self._single_threaded
        with ThreadPoolExecutor(parallel) as pool:
            return list(pool.map(lambda batch: self._run(session, None, batch)[0], batches))

    @property
    def max_parallel(self) -> int:
        """The number of batches that `run_batches` runs in parallel."""
        return min(threads() or cpu_count(), cpu_count())

    @cached_property
    def _single_threaded(self) -> Any:
        return _session(self.content, 1)

    def outputs(self, names: Sequence[str], **inputs: np.ndarray) -> list[np.ndarray]:
        """Return the graph's outputs ``names``, in this order."""
        return self._run(self._session, names, inputs)

    def _run(
        self, session: Any, names: Sequence[str] | None, inputs: dict[str, np.ndarray]
    ) -> list[np.ndarray]:
        cast = {name: value.astype(self._types[name], copy=False) for name, value in inputs.items()}
        return [np.asarray(value) for value in session.run(names, cast)]


_NUMPY = {"tensor(int32)": np.int32, "tensor(int64)": np.int64, "tensor(float)": np.float32}


def _session(content: bytes, n_threads: int) -> Any:
    # Read at import; without it the runtime sends telemetry and writes to the home directory.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1  # the graph is a chain
    options.enable_mem_pattern = False  # it plans by shape, and every length is another shape
    options.log_severity_level = 3
    if not _int8_sums_are_exact():
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        content,
        options,
        providers=["CPUExecutionProvider"],
        # The fused kernel takes twice as long as an addition and a layer norm.
        disabled_optimizers=["SkipLayerNormFusion"],
    )


def _int8_sums_are_exact() -> bool:
    """Return whether int8 products are summed without overflow: on x86 this needs VNNI.

    Elsewhere the runtime has a slower exact mode, at half the speed.
    """
    flags = set(machine()["flags"])
    return "avx2" not in flags or bool(flags & {"avx512_vnni", "avx_vnni"})
