"""Model directories of somebody who means harm; each is refused, or loaded without harm.

A builder takes the path of a directory to make. Every card has checksums that fit: whoever writes
such a directory knows the format. `tests.models.test_hostile` and the torture run use them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

FROZEN = Path(__file__).resolve().parents[1] / "frozen" / "models"
Builder = Callable[[Path], None]
BUILDERS: dict[str, Builder] = {}
# Loaded like any other, although somebody prepared them.
HARMLESS = {
    "a_directory_that_is_a_link",
    "a_deep_folder",
    "a_slow_pattern_of_embedding",
    "a_slow_pattern_of_static",
}
SLOW = {"a_gigabyte_of_tensors"}


def hostile(builder: Builder) -> Builder:
    BUILDERS[builder.__name__] = builder
    return builder


# --- tools -------------------------------------------------------------------------


def copied(kind: str, directory: Path) -> Path:
    """Copy a frozen model, all of it writable."""
    shutil.copytree(FROZEN / kind, directory)
    for path in directory.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return directory


def sealed(directory: Path, **changes: Any) -> None:
    """Write the card again, with hashes of the files that can be read and with a checksum."""
    path = directory / "model.json"
    card = json.loads(path.read_text("utf-8"))
    card["files"] = {
        file.relative_to(directory).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not file.is_symlink() and file != path and file.stat().st_size < 2**30
    } | changes.pop("files", {})
    for key, value in changes.items():
        card[key] = {**card[key], **value} if isinstance(value, dict) else value
    card.pop("sha256", None)
    card["sha256"] = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(card), "utf-8")


def edited(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def with_params(name: str, kind: str, **params: Any) -> None:
    def build(directory: Path) -> None:
        sealed(copied(kind, directory), params=params)

    BUILDERS[name] = build


def with_json(name: str, kind: str, file: str, **changes: Any) -> None:
    def build(directory: Path) -> None:
        edited(copied(kind, directory) / file, **changes)
        sealed(directory)

    BUILDERS[name] = build


def nested(directory: Path, depth: int, broken: bool = False) -> None:
    """Write a rules model inside ``depth`` wrappers."""
    inner = copied("rules", directory.joinpath(*["model"] * depth))
    if broken:
        (inner / "rules.json").write_text("[3]")
    sealed(inner)
    card = json.loads((FROZEN / "calibrated" / "model.json").read_text("utf-8"))
    classes = json.loads((inner / "model.json").read_text("utf-8"))["classes"]
    for level in reversed(range(depth)):
        folder = directory.joinpath(*["model"] * level)
        (folder / "model.json").write_text(json.dumps(card), "utf-8")
        sealed(folder, classes=classes)


def replaced(directory: Path, name: str, make: Callable[[Path], object]) -> None:
    """Put something else in the place of a file that the card lists with a made-up hash."""
    path = directory / name
    path.unlink()
    sealed(directory, files={name: "0" * 64})
    make(path)


# --- the directory and its card ------------------------------------------------------


@hostile
def a_pipe_as_directory(directory: Path) -> None:
    os.mkfifo(directory)


@hostile
def a_device_as_directory(directory: Path) -> None:
    directory.symlink_to("/dev/zero")


@hostile
def a_directory_that_is_a_link(directory: Path) -> None:
    copied("rules", directory.with_name(f"{directory.name}-real"))
    directory.symlink_to(f"{directory.name}-real")


def as_card(make: Callable[[Path], object]) -> Builder:
    def build(directory: Path) -> None:
        copied("rules", directory)
        (directory / "model.json").unlink()
        make(directory / "model.json")

    return build


BUILDERS["a_pipe_as_card"] = as_card(os.mkfifo)
BUILDERS["a_device_as_card"] = as_card(lambda path: path.symlink_to("/dev/zero"))
BUILDERS["a_link_as_card"] = as_card(lambda path: path.symlink_to("/etc/hostname"))
BUILDERS["a_link_to_itself_as_card"] = as_card(lambda path: path.symlink_to("model.json"))
BUILDERS["a_folder_as_card"] = as_card(lambda path: path.mkdir())
BUILDERS["a_card_of_a_terabyte"] = as_card(lambda path: sparse(path, 2**40))
LISTS = "[" + "[]," * (5 * 10**6) + "0]"
BUILDERS["a_card_of_many_lists"] = as_card(lambda path: path.write_text(LISTS))
BUILDERS["a_deep_card"] = as_card(lambda path: path.write_text("[" * 10**6))
BUILDERS["a_deep_card_that_ends"] = as_card(
    lambda path: path.write_text(
        '{"kind":"rules","files":{},"sha256":' + "[" * 900 + "]" * 900 + "}"
    )
)
BUILDERS["a_card_with_a_long_number"] = as_card(
    lambda path: path.write_text('{"kind":"rules","files":{},"sha256":' + "9" * 10**6 + "}")
)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


# --- files that are none ---------------------------------------------------------------


def with_file(make: Callable[[Path], object]) -> Builder:
    return lambda directory: replaced(copied("rules", directory), "rules.json", make)


def bound(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


BUILDERS["a_pipe_as_file"] = with_file(os.mkfifo)
BUILDERS["a_socket_as_file"] = with_file(bound)
BUILDERS["a_link_to_a_device"] = with_file(lambda path: path.symlink_to("/dev/zero"))
BUILDERS["a_link_to_the_terminal"] = with_file(lambda path: path.symlink_to("/dev/tty"))
BUILDERS["a_link_out"] = with_file(lambda path: path.symlink_to(FROZEN / "rules" / "rules.json"))
BUILDERS["a_file_of_a_terabyte"] = with_file(lambda path: sparse(path, 2**40))
BUILDERS["a_folder_as_file"] = with_file(lambda path: path.mkdir())


@hostile
def a_link_inside(directory: Path) -> None:
    copied("rules", directory)
    (directory / "rules.json").rename(directory / "other.json")
    sealed(directory, files={"rules.json": "0" * 64})
    (directory / "rules.json").symlink_to("other.json")


@hostile
def a_linked_folder(directory: Path) -> None:
    copied("ensemble", directory)
    shutil.rmtree(directory / "tfidf")
    (directory / "tfidf").symlink_to(FROZEN / "tfidf")


@hostile
def a_pipe_that_is_not_listed(directory: Path) -> None:
    os.mkfifo(copied("rules", directory) / "other.json")


@hostile
def a_thousand_folders(directory: Path) -> None:
    copied("rules", directory)
    for number in range(1_001):
        (directory / str(number)).mkdir()


@hostile
def a_deep_folder(directory: Path) -> None:
    copied("rules", directory).joinpath(*["d" * 200] * 18).mkdir(parents=True)


def listed(name: str, file: str) -> None:
    BUILDERS[name] = lambda directory: sealed(copied("rules", directory), files={file: "0" * 64})


listed("a_file_above", "../outside.json")
listed("an_absolute_file", "/etc/outside.json")
listed("a_file_around", "sub/../../outside.json")
listed("a_file_with_a_nul", "a\0b.json")
listed("a_file_with_a_surrogate", "\ud800.json")
listed("a_file_with_a_long_name", "a" * 10_000 + ".json")


# --- models inside models -----------------------------------------------------------------


def with_members(name: str, *members: Any) -> None:
    def build(directory: Path) -> None:
        sealed(copied("ensemble", directory), state={"members": list(members)})

    BUILDERS[name] = build


with_members("itself_as_member", ".")
with_members("itself_as_member_by_another_way", "tfidf/..")
with_members("a_member_above", "../elsewhere")
with_members("an_absolute_member", str(FROZEN / "tfidf"))
with_members("a_member_that_is_empty", "")
with_members("a_member_that_is_a_number", 3)
with_members("a_member_that_is_a_file", "model.json")
with_members("no_member")


@hostile
def a_member_a_million_times(directory: Path) -> None:
    sealed(copied("ensemble", directory), state={"members": ["tfidf"] * 10**6 + ["../tfidf"]})


BUILDERS["a_dozen_wrappers"] = functools.partial(nested, depth=12)
BUILDERS["a_dozen_wrappers_around_a_broken_model"] = functools.partial(
    nested, depth=12, broken=True
)
BUILDERS["eight_wrappers_around_a_broken_model"] = functools.partial(nested, depth=8, broken=True)


@hostile
def forty_members(directory: Path) -> None:
    copied("ensemble", directory)
    for number in range(40):
        shutil.copytree(directory / "tfidf", directory / f"m{number}")
    sealed(directory, state={"members": [f"m{number}" for number in range(40)]})


@hostile
def a_wrapper_of_another_place(directory: Path) -> None:
    shutil.rmtree(copied("calibrated", directory) / "model")
    sealed(directory)
    (directory / "model").symlink_to(FROZEN / "tfidf")


@hostile
def a_fallback_outside(directory: Path) -> None:
    card = json.loads((copied("onnx", directory) / "model.json").read_text("utf-8"))
    probes = np.array(card["state"]["probes"])[:, ::-1].tolist()
    sealed(directory, params={"fallback": str(FROZEN / "onnx_fp32")}, state={"probes": probes})


# --- arguments ------------------------------------------------------------------------------

with_params("an_endless_lstm", "lstm", hidden=10**9)
with_params("a_wide_lstm", "lstm", width=10**9, pretrained=False)
with_params("an_lstm_of_another_size", "lstm", hidden=4_096)
with_params("a_negative_lstm", "lstm", hidden=-1)
with_params("an_lstm_that_drops_more_than_all", "lstm", dropout=1e9)
with_params("an_endless_text", "transformer", max_length=10**9)
with_params("a_text_of_nothing", "embedding", max_length=-5)
with_params("a_length_that_is_no_number", "lstm", max_length=[10**9])
with_params("an_endless_text_of_an_encoder", "abstaining", max_length=10**12)
with_params("no_temperature", "calibrated", temperature=float("nan"))
with_params("a_threshold_without_end", "cascade", threshold=float("inf"))


# --- checkpoints ------------------------------------------------------------------------------

AUTO_MAP = {
    "AutoConfig": "code.Config",
    "AutoModel": "code.Model",
    "AutoModelForSequenceClassification": "code.Model",
    "AutoTokenizer": ["code.Tokenizer", None],
}
with_json("code_in_a_config", "transformer", "config.json", auto_map=AUTO_MAP)
with_json("code_of_a_new_type", "transformer", "config.json", auto_map=AUTO_MAP, model_type="evil")
with_json("code_in_an_encoder", "embedding", "config.json", auto_map=AUTO_MAP, model_type="evil")
with_json("code_in_a_tokenizer", "transformer", "tokenizer_config.json", auto_map=AUTO_MAP)
with_json("an_unknown_type", "transformer", "config.json", model_type="evil")
with_json("a_type_that_is_no_text", "transformer", "config.json", model_type=["bert"])
with_json("weights_elsewhere", "embedding", "config.json", transformers_weights="../x.safetensors")
with_json("a_thousand_layers", "embedding", "config.json", num_hidden_layers=10**6)
with_json("a_hundred_layers", "embedding", "config.json", num_hidden_layers=100, hidden_size=8192)
with_json("a_wide_encoder", "transformer", "config.json", hidden_size=10**9)
with_json("a_wide_encoder_in_range", "transformer", "config.json", intermediate_size=2**20)
with_json("many_positions", "embedding", "config.json", max_position_embeddings=10**12)
with_json("many_tokens", "embedding", "config.json", vocab_size=2**20, hidden_size=2**14)
with_json("a_size_of_nothing", "embedding", "config.json", num_attention_heads=0)


@hostile
def code_outside(directory: Path) -> None:
    """The file writes a mark, should it ever run."""
    code = directory.with_name(f"{directory.name}-code")
    code.mkdir()
    (code / "code.py").write_text(f"open({str(code / 'ran')!r}, 'w').close()\n")
    auto_map = dict.fromkeys(AUTO_MAP, f"{code}--code.Config")
    edited(copied("transformer", directory) / "config.json", model_type="evil", auto_map=auto_map)
    sealed(directory)


@hostile
def an_index_of_weights_elsewhere(directory: Path) -> None:
    copied("transformer", directory)
    names = load_file(directory / "model.safetensors")
    outside = str(FROZEN / "transformer" / "model.safetensors")
    weights = dict.fromkeys(names, os.path.relpath(outside, directory))
    index = {"metadata": {}, "weight_map": weights}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").unlink()
    sealed(directory)


@hostile
def an_adapter_of_another_model(directory: Path) -> None:
    adapter = {"base_model_name_or_path": str(FROZEN / "transformer"), "peft_type": "LORA"}
    (copied("transformer", directory) / "adapter_config.json").write_text(json.dumps(adapter))
    sealed(directory)


def with_step(name: str, part: str, step: Any) -> None:
    for kind in ("embedding", "static"):
        with_json(f"{name}_of_{kind}", kind, "tokenizer.json", **{part: step})


GROWING = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
with_step("a_growing_text", "normalizer", {"type": "Sequence", "normalizers": [GROWING] * 40})
EACH = {"type": "Replace", "pattern": {"Regex": ""}, "content": "a"}
with_step("a_text_that_doubles", "normalizer", {"type": "Sequence", "normalizers": [EACH] * 64})
TEMPLATE = {"type": "TemplateProcessing", "pair": [], "special_tokens": {}}
ALL = {"Sequence": {"id": "A", "type_id": 0}}
with_step("a_long_template", "post_processor", TEMPLATE | {"single": [ALL] * 10**5})
BACKTRACKING = {
    "type": "Split",
    "pattern": {"Regex": "((a|.)+)+$x"},
    "behavior": "Isolated",
    "invert": False,
}
with_step("a_slow_pattern", "pre_tokenizer", BACKTRACKING)


@hostile
def a_vocabulary_of_a_million_terms(directory: Path) -> None:
    words = [f"w{number}" for number in range(10**6)]
    edited(copied("tfidf", directory) / "vocabulary.json", word=words)
    sealed(directory)


@hostile
def rules_of_many_lists(directory: Path) -> None:
    (copied("rules", directory) / "rules.json").write_text(LISTS)
    sealed(directory)


# --- tensors -----------------------------------------------------------------------------------


def with_header(header: bytes, length: int | None = None) -> Builder:
    def build(directory: Path) -> None:
        copied("tfidf", directory)
        size = struct.pack("<Q", len(header) if length is None else length)
        (directory / "weights.safetensors").write_bytes(size + header + bytes(64))
        sealed(directory)

    return build


HUGE = {"coef": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 64]}}
BUILDERS["tensors_with_a_huge_header"] = with_header(b"{}", 2**62)
BUILDERS["tensors_with_a_long_header"] = with_header(b" " * 8 * 2**20)
BUILDERS["tensors_with_a_deep_header"] = with_header(b"[" * 10**6)
BUILDERS["tensors_of_a_huge_shape"] = with_header(json.dumps(HUGE).encode())


@hostile
def slots_without_end(directory: Path) -> None:
    tensors = load_file(copied("lstm", directory) / "network.safetensors")
    tensors["slots"] = np.full_like(tensors["slots"], 10**12)
    save_file(tensors, directory / "network.safetensors")
    sealed(directory)


@hostile
def vectors_without_rows(directory: Path) -> None:
    tensors = load_file(copied("lstm", directory) / "network.safetensors")
    tensors["vectors"] = np.empty((0, 10**9), np.float16)
    save_file(tensors, directory / "network.safetensors")
    sealed(directory)


@hostile
def a_gigabyte_of_tensors(directory: Path) -> None:
    header = {"coef": {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}
    text = json.dumps(header).encode()
    copied("tfidf", directory)
    with (directory / "weights.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**30)
    sealed(directory, files={"weights.safetensors": _sparse_sha256(8 + len(text), text)})


def _sparse_sha256(start: int, text: bytes) -> str:
    found = hashlib.sha256(struct.pack("<Q", len(text)) + text)
    for _ in range(1024):
        found.update(bytes(2**20))
    return found.hexdigest()
