"""`python -m shitu_server ROLE`: a child of `shitu serve`; its settings are in the environment."""

from __future__ import annotations

import argparse
import sys

from shitu_server.errors import ConfigurationError
from shitu_server.kept_process import EXIT_CONFIGURATION
from shitu_server.roles import begin_logging, run_child
from shitu_server.settings import Role, load_settings


def main() -> None:
    """Run one role until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m shitu_server", description=__doc__)
    parser.add_argument("role", type=Role, choices=[Role.GATEWAY, Role.GALLERY])
    arguments = parser.parse_args()
    try:
        settings = load_settings({})
        begin_logging(arguments.role, settings)
        run_child(arguments.role, settings)
    except ConfigurationError as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201  this is a command
        raise SystemExit(EXIT_CONFIGURATION) from error


if __name__ == "__main__":
    main()
