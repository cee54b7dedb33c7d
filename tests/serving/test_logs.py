"""A reader of the log that does not read."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from nivesh_lib.serving.logs import logger


def a_pipe() -> tuple[int, int]:
    return os.pipe()


def a_socket() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return theirs.detach(), ours.detach()


def lost() -> float:
    return REGISTRY.get_sample_value("log_lines_lost_total")


@pytest.mark.parametrize("make", [a_pipe, a_socket])
def test_lines_that_find_no_room_are_lost_and_counted(monkeypatch, make: Callable):
    read, write = make()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        log, before, sent = logger(), lost(), 0
        log("long", why="x" * 5_000)
        assert lost() == before + 1
        while lost() == before + 1:
            log("request", number=sent)
            sent += 1
        assert os.get_blocking(write)  # others may write there too
        os.set_blocking(read, False)
        lines = reader.read().splitlines()
        assert [json.loads(line)["number"] for line in lines] == list(range(sent - 1))
        log("again")
        assert json.loads(reader.read())["event"] == "again"
