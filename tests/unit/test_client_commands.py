"""What commands say, against a small gallery."""

# ruff: noqa: ARG002, N802  names and signatures are gRPC's

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import grpc
import typer
from google.rpc import error_details_pb2, status_pb2
from rich.console import Console
from tests.small_gallery import SmallGallery, serving
from typer.testing import CliRunner

from shitu.v1 import gallery_pb2 as g
from shitu_client import commands, tables
from shitu_client.errors import FailedPreconditionError, InvalidArgumentError
from shitu_client.results import EncoderInfo


async def said_by(gallery: SmallGallery, *arguments: str | Path, status: int = 1) -> str:
    """Run a command against a gallery; returns all that it prints."""
    app = typer.Typer()
    commands.register(app)
    async with serving(gallery) as client:
        environment = {"SHITU_SERVER": client._server, "COLUMNS": "200"}
        texts = list(map(str, arguments))
        result = await asyncio.to_thread(lambda: CliRunner().invoke(app, texts, env=environment))
    assert result.exit_code == status, result.output
    return result.output


async def test_files_that_are_not_there_are_named(tmp_path):
    gallery = SmallGallery()
    gallery.exists = True
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    nowhere = tmp_path / "nowhere" / "file"
    for command in (
        ("snapshot", "a", nowhere),
        ("export", "a", nowhere),
        ("build", "a", tmp_path, "--errors", nowhere),
        ("build", "a", tmp_path, "--metadata", nowhere),
        ("search", "a", nowhere),
    ):
        assert await said_by(gallery, "gallery", *command) == f"error: {nowhere}: there is no such folder\n"
    missing = tmp_path / "2.jpg"
    assert await said_by(gallery, "gallery", "search", "a", missing) == f"error: {missing}: there is no such file\n"


async def test_a_restore_names_the_file(tmp_path):
    class Choosy(SmallGallery):
        async def Restore(self, request_iterator, context):
            error = InvalidArgumentError("data: expected a snapshot, got text", field="data")
            await refuse_as(context, grpc.StatusCode.INVALID_ARGUMENT, error)

    file = tmp_path / "a.snap"
    file.write_text("text")
    said = await said_by(Choosy(), "gallery", "restore", "a", file)
    assert said.splitlines()[-1] == f"error: {file}: expected a snapshot, got text"


async def test_a_refused_rollback_names_the_option_once():
    class Written(SmallGallery):
        async def GetGallery(self, request, context):
            return g.GetGalleryResponse(gallery=g.Gallery(name="a", previous_generation=1))

        async def Rollback(self, request, context):
            text = "2 writes came since; roll back with discard_writes, or do not"
            await refuse_as(context, grpc.StatusCode.FAILED_PRECONDITION, FailedPreconditionError(text))

    said = await said_by(Written(), "gallery", "rollback", "a", "--yes")
    assert said == "error: 2 writes came since; --discard-writes leaves them behind\n"


async def test_a_server_that_is_not_there_is_said_at_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.jpg").write_bytes(b"x")
    for command in (("list",), ("build", "a", tmp_path)):
        said = await said_by(SmallGallery(), "gallery", *command, "--server", "127.0.0.1:1")
        expected = "no server answers at 127.0.0.1:1; is shitu serve running there? --server names another"
        assert said == f"error: {expected}\n"


def test_encoders_can_be_read_at_80_columns():
    encoders = [
        EncoderInfo(name, 12, "a1b2c3d4e5f60718", 1024, "fp32", "paddlex", 0.5, is_default)
        for name, is_default in (("demo_rec", True), ("PP-ShiTuV2_rec_CLIP_vit_base", False))
    ]
    told = io.StringIO()
    tables.print_encoders(Console(file=told, width=80), encoders)
    lines = told.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 4 + 2 * 2
    for part in ("demo_rec (default)", "PP-ShiTuV2_rec_CLIP_vit_base", "version 12", "a1b2c3d4e5f60718", "1024, fp32"):
        assert part in told.getvalue()


async def refuse_as(context, code: grpc.StatusCode, error) -> None:
    """End a call as the server does, with the field that it refuses."""
    status = status_pb2.Status(code=code.value[0], message=error.message)
    if error.field:
        bad = error_details_pb2.BadRequest()
        bad.field_violations.add(field=error.field)
        status.details.add().Pack(bad)
    trailing = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, error.message, trailing_metadata=trailing)
