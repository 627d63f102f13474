"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from typer import Typer

from shitu_client import commands as client_commands
from shitu_server import commands as server_commands
from shitu_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def serve_options() -> set[str]:
    app = Typer()
    client_commands.register(app)
    server_commands.register(app)
    command = typer.main.get_command(app).commands["serve"]
    return {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_variables_are_settings(document):
    named = set(re.findall(r"SHITU_([A-Z_]+)", document.read_text()))
    assert named <= {name.upper() for name in Settings.model_fields}


def test_options_of_the_table_are_those_of_the_command():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `--")]
    named = {option for row in rows for option in re.findall(r"--[a-z-]+", row.split("|")[1])}
    assert len(rows) >= 10
    assert named <= serve_options()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_linked_exist(document):
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
