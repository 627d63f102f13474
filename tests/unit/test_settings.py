from __future__ import annotations

import contextlib

import pytest

from shitu_models.specs import Profile
from shitu_models.triton_config import Accelerator
from shitu_server.errors import ConfigurationError
from shitu_server.settings import load_settings


def test_encoders_are_named_with_commas(monkeypatch):
    monkeypatch.setenv("SHITU_ENCODER", "demo_rec, second")
    assert load_settings({}).encoders == ("demo_rec", "second")
    assert load_settings({"encoder": "third"}).encoders == ("third",)


@pytest.mark.parametrize("wrong", ["", "a,", "a,a"])
def test_encoders_differ_and_have_names(wrong):
    with pytest.raises(ConfigurationError, match=r"SHITU_ENCODER: .*one or more different names with commas between"):
        load_settings({"encoder": wrong})


@pytest.mark.parametrize(
    ("name", "value"), [("profile", "other"), ("accelerator", "abacus"), ("instances", 0), ("encoder_versions", 3)]
)
def test_wrong_options_are_named(name, value):
    with pytest.raises(ConfigurationError, match=f"SHITU_{name.upper()}: .*got {value!r}"):
        load_settings({name: value})


def test_a_child_reads_the_same(monkeypatch):
    settings = load_settings({"encoder": "a,b", "profile": "paddlex", "accelerator": "openvino", "instances": 2})
    for name, value in settings.as_environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings({}) == settings
    assert (settings.profile, settings.accelerator) == (Profile.PADDLEX, Accelerator.OPENVINO)


@pytest.mark.parametrize("wrong", ["127.0.0.1:19530", "http://host", "https://host:1/x", "ftp://host:1"])
def test_milvus_has_a_web_address(wrong):
    with pytest.raises(ConfigurationError, match=r"SHITU_MILVUS_ADDRESS: .*expected http://host:port"):
        load_settings({"milvus_address": wrong})


def test_a_file_of_settings_gives_way_to_the_environment_and_that_to_options(tmp_path, monkeypatch):
    file = tmp_path / "tuned.env"
    file.write_text("SHITU_WORKERS=2\nSHITU_INSTANCES=3\nSHITU_THREADS=4\n")
    monkeypatch.setenv("SHITU_INSTANCES", "5")
    settings = load_settings({"threads": 6}, file)
    assert (settings.workers, settings.instances, settings.threads) == (2, 5, 6)


@pytest.mark.parametrize(
    ("line", "fault"), [("SHITU_NONSENSE=1", "SHITU_NONSENSE: Extra"), ("SHITU_WORKERS=0", "SHITU_WORKERS: .*got '0'")]
)
def test_what_is_wrong_in_a_file_of_settings_is_named(tmp_path, line, fault):
    file = tmp_path / "tuned.env"
    file.write_text(line)
    with pytest.raises(ConfigurationError, match=f"settings are wrong: {fault}"):
        load_settings({}, file)


def test_a_file_of_settings_is_taken_as_it_is_written(tmp_path):
    file = tmp_path / "tuned.env"
    file.write_text("# made by hand\n\nSHITU_MILVUS_TOKEN=root:a${HOME}b\n")
    assert load_settings({}, file).milvus_token == "root:a${HOME}b"
    file.write_text("SHITU_WORKERS=2\nOMP_NUM_THREADS=1\n")
    with pytest.raises(
        ConfigurationError, match=r"tuned.env, line 2: expected SHITU_NAME=value, got 'OMP_NUM_THREADS=1'"
    ):
        load_settings({}, file)
    with pytest.raises(ConfigurationError, match=r"other.env cannot be read"):
        load_settings({}, tmp_path / "other.env")


@pytest.mark.parametrize(("age_s", "is_allowed"), [(0, True), (0.1, True), (0.05, False)])
def test_connections_live_a_moment_at_least(age_s, is_allowed):
    with (
        contextlib.nullcontext()
        if is_allowed
        else pytest.raises(ConfigurationError, match=r"expected 0 or at least 0\.1")
    ):
        load_settings({"max_connection_age_s": age_s})
