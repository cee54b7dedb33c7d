from __future__ import annotations

import os

import pytest

from nivesh_lib.paths import flags_file
from nivesh_lib.serving.flags import Flags, share_of, should_use_feature
from tests.conftest import REPOSITORY

USERS = [f"user_{i}" for i in range(4_000)]
TEXT = '[new]\nenabled = true\nrollout_percentage = {}\nwhitelist_users = ["user_123"]\n'


@pytest.fixture
def file(tmp_path):
    return tmp_path / "flags.toml"


def on(flags: Flags) -> set[str]:
    return {user for user in USERS if flags.is_on("new", user)}


def test_a_share_of_users_keeps_the_feature_and_a_larger_share_adds_to_it(file):
    flags, before = Flags(file), {"user_123"}
    for percentage in (0, 10, 50, 100):
        file.write_text(TEXT.format(percentage))
        now = on(flags)
        assert before <= now == on(Flags(file))  # also in another process
        assert abs(len(now) - 40 * percentage) <= 130  # four standard deviations
        before = now


def test_features_choose_their_users_apart():
    first, second = ({u for u in USERS if share_of(name, u) < 50} for name in ("a", "b"))
    assert 850 < len(first & second) < 1_150


def test_a_flag_that_is_off_or_unknown_is_on_for_nobody(file):
    file.write_text(TEXT.format(100).replace("true", "false"))
    assert not on(Flags(file)) and not Flags(file).is_on("other", "user_123")


def test_who_is_not_known_gets_a_feature_only_when_all_do(file):
    for percentage, expected in ((99.9, False), (100, True)):
        file.write_text(TEXT.format(percentage))
        assert Flags(file).is_on("new", None) is expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[new", "Expected"),
        ("[new]\nenabled = 1", "new.enabled"),
        ("[new]\nrollout_percentage = 101", "rollout_percentage"),
        ("[new]\nrolout_percentage = 10", "rolout_percentage"),
        ("new = 1", "new"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_bad_file_keeps_the_old_flags_and_says_so_once(file, text, said):
    file.write_text(TEXT.format(0))
    told: list[str] = []
    flags = Flags(file, told.append)
    assert flags.is_on("new", "user_123")
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.utime(file, (1, 1))
    assert flags.is_on("new", "user_123") and flags.is_on("new", "user_123")
    assert told == [flags.trouble] and said in flags.trouble and "flags.toml" in flags.trouble
    file.write_text(TEXT.format(100))
    assert flags.is_on("new", "user_1") and flags.trouble == ""
    file.unlink()
    assert not flags.is_on("new", "user_123")


def test_the_seed_s_function_reads_the_project_s_file(home):
    assert not should_use_feature("new", "user_123")
    flags_file().parent.mkdir()
    flags_file().write_text(TEXT.format(0))
    assert should_use_feature("new", "user_123") and not should_use_feature("new", "user_124")


def test_the_shipped_file_is_sound():
    flags = Flags(REPOSITORY / "deploy" / "feature_flags.toml")
    assert not flags.is_on("use_new_intent_classifier", "user_123") and not flags.trouble


def test_a_server_is_degraded_by_a_file_that_it_cannot_read(home, make_client):
    path = home / "deploy" / "feature_flags.toml"
    path.parent.mkdir(exist_ok=True)
    with make_client() as client:
        path.write_text("[use_new")
        (reason,) = client.get("/health").json()["reasons"]
        assert "feature_flags.toml" in reason and "The flags stay as they were" in reason
        path.write_text("")
        assert client.get("/health").json()["reasons"] == []
