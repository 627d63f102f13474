"""What the documents name is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import typer.main
from typer import Typer

from shitu_bench import commands as bench_commands
from shitu_bench.reports import docs_tables
from shitu_client import commands as client_commands
from shitu_models.specs import OFFICIAL_SPECS
from shitu_server import commands as server_commands
from shitu_server.settings import Settings
from shitu_train.models import commands as model_commands

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands_of(*modules) -> dict:
    app = Typer()
    for module in modules:
        module.register(app)
    return typer.main.get_command(app).commands


def options_of(command) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def variables_of(command) -> set[str]:
    own = {str(parameter.envvar) for parameter in command.params if parameter.envvar}
    return own.union(*map(variables_of, getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_variables_are_settings(document):
    named = set(re.findall(r"SHITU_[A-Z_]+", document.read_text()))
    commands = commands_of(client_commands, server_commands, model_commands).values()
    assert named <= {f"SHITU_{name.upper()}" for name in Settings.model_fields}.union(*map(variables_of, commands))


def test_options_of_the_table_are_those_of_the_command():
    rows = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `--")]
    named = {option for row in rows for option in re.findall(r"--[a-z-]+", row.split("|")[1])}
    assert len(rows) >= 10
    assert named <= options_of(commands_of(client_commands, server_commands)["serve"])


def test_commands_and_options_of_the_models_page_are_there():
    text = (ROOT / "docs" / "models.md").read_text()
    models = commands_of(client_commands, model_commands)["models"].commands
    named = set(re.findall(r"shitu models ([a-z]+)", text))
    assert named == set(models)
    known = set().union(*map(options_of, models.values())) | {"--profile", "--encoder", "--detector"}
    assert set(re.findall(r"(--[a-z][a-z-]*)", text)) <= known


def test_commands_and_options_of_the_galleries_page_are_there():
    text = (ROOT / "docs" / "galleries.md").read_text()
    registered = commands_of(client_commands, server_commands)
    galleries = registered["gallery"].commands
    assert set(re.findall(r"shitu gallery ([a-z-]+)", text)) <= set(galleries)
    every = [*galleries.values(), registered["recognize"], registered["serve"]]
    known = set().union(*map(options_of, every))
    assert set(re.findall(r"(--[a-z][a-z-]*)", text)) <= known


def test_commands_and_options_of_the_performance_page_are_there():
    text = (ROOT / "docs" / "performance.md").read_text()
    bench = commands_of(bench_commands)["bench"].commands
    named = set(re.findall(r"shitu bench ([a-z]+)", text))
    assert {"latency", "ceiling", "search", "quality"} <= named <= set(bench)
    for name, options in re.findall(r"shitu bench ([a-z]+)(.*)", text):
        assert set(re.findall(r"(--[a-z][a-z-]*)", options)) <= options_of(bench[name])


def test_the_page_of_load_names_every_program_that_measures():
    text = (ROOT / "docs" / "load.md").read_text()
    commands = commands_of(bench_commands)
    named = set(
        re.findall(
            r"`([a-z]+)`", "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `shitu bench"))
        )
    )
    named |= set(re.findall(r"`shitu bench ([a-z]+)", text))
    assert named >= set(commands["bench"].commands)
    for options in re.findall(r"shitu tune(.*)", text):
        assert set(re.findall(r"(--[a-z][a-z-]*)", options)) <= options_of(commands["tune"])


@pytest.mark.parametrize("table", docs_tables.TABLES, ids=lambda table: table.name)
def test_the_tables_are_those_of_the_results(table):
    results = json.loads(table.results.read_text(encoding="utf-8"))
    text = table.document.read_text(encoding="utf-8")
    assert table.rendered(text, results) == text, "run `python -m shitu_bench.reports.docs_tables`"


def test_latency_was_measured_of_all_official_models():
    results = json.loads(docs_tables.TABLES[0].results.read_text(encoding="utf-8"))
    assert {spec.name for spec in OFFICIAL_SPECS} <= set(results["models"])


def test_search_was_measured_of_all_kinds_at_a_million_items():
    results = json.loads(docs_tables.TABLES[1].results.read_text(encoding="utf-8"))
    assert {(size, kind) for size, kinds in results["sizes"].items() for kind in kinds} == {
        (size, kind) for size in ("100000", "1000000") for kind in ("flat", "hnsw", "ivf")
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_linked_exist(document):
    links = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
