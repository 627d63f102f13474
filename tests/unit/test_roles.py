"""Settings that a role refuses before it starts anything."""

from __future__ import annotations

import pytest

from shitu_server.errors import ConfigurationError
from shitu_server.roles import run_role
from shitu_server.settings import Role, load_settings


@pytest.mark.parametrize("role", [Role.ALL, Role.GATEWAY])
def test_what_is_served_is_not_for_users_to_say(role, tmp_path):
    settings = load_settings({"served_file": tmp_path / "served.json", "triton_address": "127.0.0.1:1"})
    with pytest.raises(ConfigurationError, match=r"served_file: .*served\.json; unset SHITU_SERVED_FILE"):
        run_role(role, settings)


@pytest.mark.parametrize("role", [Role.ALL, Role.GATEWAY])
def test_galleries_are_in_one_place(role):
    settings = load_settings({"gallery_address": "127.0.0.1:1", "milvus_address": "http://127.0.0.1:2"})
    with pytest.raises(ConfigurationError, match=r"127\.0\.0\.1:1 is one; leave out either"):
        run_role(role, settings)


def test_a_gallery_process_is_none_of_milvus():
    settings = load_settings({"gallery_address": "127.0.0.1:1", "milvus_address": "http://127.0.0.1:2"})
    with pytest.raises(ConfigurationError, match=r"milvus_address: .*leave it out"):
        run_role(Role.GALLERY, settings)
