"""`python -m shitu_server.gallery`: the gallery process alone, for tests; `shitu serve --role gallery` is the way for people."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from shitu_server.errors import ConfigurationError
from shitu_server.gallery.process import serve_gallery


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m shitu_server.gallery", description=__doc__)
    parser.add_argument("--address", required=True, help="unix:/path or host:port")
    parser.add_argument("--data-dir", required=True, type=Path)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(serve_gallery(arguments.address, arguments.data_dir))
    except ConfigurationError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()
