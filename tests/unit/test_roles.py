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
