"""`shitu serve` under failure: parts are killed, files are missing, the port is taken."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.conftest import REPOSITORY, START_TIMEOUT_S, RunningServer, start_server
from tests.drawn import product_picture

from shitu.v1 import gallery_pb2 as g
from shitu.v1 import gallery_pb2_grpc, recognition_pb2_grpc, types_pb2
from shitu.v1 import recognition_pb2 as r
from shitu_client import AsyncClient
from shitu_server.addresses import reserved_port
from shitu_server.readiness import is_serving
from shitu_server.triton_stubs import is_alive

RECOVERY_S = 10


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory):
    """A server with two gateways, whose parts the tests kill."""
    running = start_server(tmp_path_factory.mktemp("twin"), "--workers", "2")
    try:
        running.wait_until_serving()
        while sum(map(is_listening, processes(running, "shitu_server", "gateway"))) < 2:
            time.sleep(0.1)
        yield running
    finally:
        running.stop()


def is_listening(process: psutil.Process) -> bool:
    return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections("tcp"))


def processes(server: RunningServer, *words: str) -> list[psutil.Process]:
    """Descendants of the server whose command line holds all the words."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if all(word in line for word in words):
            found.append(process)
    return found


def open_channel(server: RunningServer) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(server.address, options=[("grpc.use_local_subchannel_pool", 1)])


def unit(*values: float) -> types_pb2.Vector:
    array = np.array(values, dtype="<f4")
    return types_pb2.Vector(data=array.tobytes(), dimension=array.size)


def check_unavailable(error: grpc.aio.AioRpcError) -> None:
    assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details), status
    assert 0 < retry.retry_delay.ToMilliseconds() <= 10_000


async def until_it_works(call, limit_s: float = RECOVERY_S) -> int:
    """Repeat a call until it works; every failure must be a well-made UNAVAILABLE. Returns how many there were."""
    end_s = time.monotonic() + limit_s
    failures = 0
    while True:
        try:
            await call()
        except grpc.aio.AioRpcError as error:
            check_unavailable(error)
            failures += 1
            assert time.monotonic() < end_s, f"not back after {limit_s} s: {error}"
            await asyncio.sleep(0.05)
        else:
            return failures


async def test_an_item_added_through_one_gateway_is_found_through_the_other_at_once(twin):
    channels = [open_channel(twin) for _ in range(8)]
    stubs: list[Any] = [gallery_pb2_grpc.GalleryServiceStub(channel) for channel in channels]
    await stubs[0].CreateGallery(g.CreateGalleryRequest(name="twin", encoder_fingerprint="e", dimension=4))
    rng = np.random.default_rng(5)
    for turn in range(40):
        writer, reader = rng.choice(len(stubs), size=2, replace=False)
        values = rng.normal(size=4)
        item = g.NewItem(id=f"item-{turn}", label=str(turn), vector=unit(*values))
        added = await stubs[writer].AddItems(g.AddItemsRequest(gallery="twin", items=[item], encoder_fingerprint="e"))
        query = g.SearchRequest(
            gallery="twin", queries=[g.Query(vector=unit(*values))], top_k=1, encoder_fingerprint="e"
        )
        found = await stubs[reader].Search(query)
        assert found.results[0].matches[0].item_id == f"item-{turn}"
        assert found.state.sequence >= added.state.sequence
    gateways = processes(twin, "shitu_server", "gateway")
    served = [
        sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == twin.port for c in p.net_connections("tcp"))
        for p in gateways
    ]
    assert len(served) == 2
    assert all(served), f"connections of the gateways: {served}"
    await stubs[0].DeleteGallery(g.DeleteGalleryRequest(name="twin"))
    for channel in channels:
        await channel.close()


async def test_a_killed_gallery_process_comes_back_with_everything(twin):
    async with open_channel(twin) as channel:
        stub: Any = gallery_pb2_grpc.GalleryServiceStub(channel)
        await stub.CreateGallery(g.CreateGalleryRequest(name="lasting", encoder_fingerprint="e", dimension=2))
        item = g.NewItem(id="kept", label="a", vector=unit(1, 2))
        await stub.AddItems(g.AddItemsRequest(gallery="lasting", items=[item], encoder_fingerprint="e"))
        (gallery,) = processes(twin, "shitu_server", "gallery")
        gallery.kill()
        psutil.wait_procs([gallery], timeout=5)
        failures = await until_it_works(lambda: stub.GetItem(g.GetItemRequest(gallery="lasting", id="kept"), timeout=5))
        assert failures > 0
        await stub.DeleteGallery(g.DeleteGalleryRequest(name="lasting"))


async def test_a_killed_model_process_is_brought_back(twin):
    async with open_channel(twin) as channel:
        stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
        (model,) = processes(twin, "triton_python_backend_stub", "demo_rec")
        model.kill()
        while is_alive(model):
            await asyncio.sleep(0.001)
        failures = await until_it_works(lambda: stub.Embed(r.EmbedRequest(image=product_picture(0)), timeout=5))
        assert failures > 0


async def test_a_killed_triton_is_brought_back(twin):
    async with open_channel(twin) as channel:
        stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
        (triton,) = processes(twin, "tritonserver")
        triton.kill()
        psutil.wait_procs([triton], timeout=5)
        call = lambda: stub.Detect(r.DetectRequest(image=product_picture(0)), timeout=5)  # noqa: E731
        assert await until_it_works(call) > 0


async def test_a_killed_gateway_is_brought_back(twin):
    for gateway in processes(twin, "shitu_server", "gateway"):
        gateway.kill()
        psutil.wait_procs([gateway], timeout=5)
    end_s = time.monotonic() + RECOVERY_S
    async with open_channel(twin) as channel:
        stub: Any = gallery_pb2_grpc.GalleryServiceStub(channel)
        await stub.ListGalleries(g.ListGalleriesRequest(), wait_for_ready=True, timeout=RECOVERY_S)
    while len(processes(twin, "shitu_server", "gateway")) < 2 and time.monotonic() < end_s:
        await asyncio.sleep(0.1)
    assert len(processes(twin, "shitu_server", "gateway")) == 2


def leftovers(server: RunningServer) -> list[str]:
    """Command lines of processes that have the server's data directory in their environment, as all that it starts do."""
    found = []
    for process in psutil.process_iter(["environ", "cmdline", "status"]):
        environment = process.info["environ"] or {}
        alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if alive and environment.get("SHITU_DATA_DIR") == str(server.data_dir):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


async def kill_everything(server: RunningServer) -> None:
    victims = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims[1:], timeout=10)
    server.process.wait(10)


async def killed_rounds(folder: Path, rounds: int) -> None:
    """SIGKILL of the whole server in the middle of writes, again and again: acknowledged items stay, none is invented."""
    acknowledged: set[str] = set()
    sent: set[str] = set()
    server = start_server(folder)
    rng = np.random.default_rng(11)
    for turn in range(rounds + 1):
        server.wait_until_serving()
        async with open_channel(server) as channel:
            stub: Any = gallery_pb2_grpc.GalleryServiceStub(channel)
            if turn == 0:
                await stub.CreateGallery(g.CreateGalleryRequest(name="durable", encoder_fingerprint="e", dimension=8))
            listed = await stub.ListItems(g.ListItemsRequest(gallery="durable", page_size=1000))
            ids = [item.id for item in listed.items]
            assert len(ids) == len(set(ids))
            assert acknowledged <= set(ids) <= sent
            if turn == rounds:
                break
            killing = asyncio.create_task(_kill_later(server, float(rng.uniform(0.05, 0.5))))
            try:
                while True:
                    name = f"{turn}-{len(sent)}"
                    sent.add(name)
                    item = g.NewItem(id=name, label="a", vector=unit(*rng.normal(size=8)))
                    await stub.AddItems(g.AddItemsRequest(gallery="durable", items=[item], encoder_fingerprint="e"))
                    acknowledged.add(name)
            except grpc.aio.AioRpcError as error:
                assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}, error
            await killing
        server = start_server(folder, port=server.port)
    assert len(acknowledged) >= rounds
    assert server.stop() == 0


async def _kill_later(server: RunningServer, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await kill_everything(server)


async def test_everything_killed_loses_nothing(tmp_path):
    await killed_rounds(tmp_path, rounds=1)


@pytest.mark.slow
async def test_everything_killed_five_times_loses_nothing(tmp_path):
    await killed_rounds(tmp_path, rounds=5)


async def test_sigterm_finishes_what_is_in_flight_and_leaves_nothing(tmp_path):
    server = start_server(tmp_path)
    server.wait_until_serving()
    async with open_channel(server) as channel:
        stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
        assert sum("triton" in line for line in leftovers(server)) == 3, "what is looked for at the end can be seen"
        (gateway,) = processes(server, "shitu_server", "gateway")
        segment = gateway.environ()["SHITU_TRITON_SHARED_MEMORY"]
        assert shared_memory({segment})
        calls = [stub.Embed(r.EmbedRequest(image=product_picture(0)), timeout=30) for _ in range(16)]
        await asyncio.sleep(0.05)
        stopping = asyncio.create_task(asyncio.to_thread(server.stop))
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert await stopping == 0
    refused = [o for o in outcomes if isinstance(o, grpc.aio.AioRpcError)]
    assert all(error.code() == grpc.StatusCode.UNAVAILABLE for error in refused), refused
    assert len(refused) < len(outcomes)
    assert leftovers(server) == []
    assert not shared_memory({segment})


@pytest.fixture
def slow_to_drain(tmp_path):
    """Two gateways that wait 4 s for calls in flight."""
    server = start_server(tmp_path, "--workers", "2", env={"SHITU_DRAIN_TIMEOUT_S": "4"})
    try:
        server.wait_until_serving()
        while sum(map(is_listening, processes(server, "shitu_server", "gateway"))) < 2:
            time.sleep(0.1)
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


async def test_gateways_drain_together_however_often_they_are_told(slow_to_drain):
    channels = [open_channel(slow_to_drain) for _ in range(12)]
    held = []
    for channel in channels:  # streams that do not end, at both gateways
        stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
        held.append(stub.StreamRecognize(timeout=60))
        await held[-1].write(r.StreamRecognizeRequest(entry=r.RecognizeEntry(request_id="first")))
        await held[-1].read()
    begin_s = time.monotonic()
    while slow_to_drain.process.poll() is None and time.monotonic() < begin_s + 30:
        slow_to_drain.process.send_signal(signal.SIGTERM)
        slow_to_drain.process.send_signal(signal.SIGINT)
        await asyncio.sleep(0.02)
    took_s = time.monotonic() - begin_s
    for channel in channels:
        await channel.close()
    assert slow_to_drain.process.poll() == 0, slow_to_drain.log.read_text()
    assert 4 <= took_s < 9.5, "one after another they take twice 5 s, and the rest after that"
    assert leftovers(slow_to_drain) == []


async def test_verbose_makes_all_processes_say_more(tmp_path):
    server = start_server(tmp_path, "-v")
    end_s = time.monotonic() + START_TIMEOUT_S
    while not ("gallery INFO" in (said := server.log.read_text()) and "gateway INFO" in said):
        assert server.process.poll() is None, said
        assert time.monotonic() < end_s, said
        await asyncio.sleep(0.1)
    assert server.stop() == 0


def shared_memory_of(run_ids: list[str]) -> list[Path]:
    return [path for path in Path("/dev/shm").iterdir() if any(run_id in path.name for run_id in run_ids)]


async def test_a_crashed_server_leaves_nothing_behind_for_long(tmp_path):
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    server = start_server(tmp_path, env=cache)
    server.wait_until_serving()
    records = tmp_path / "cache" / "shitu" / "runs"
    runs = [record.stem for record in records.glob("*.run")]
    assert len(runs) == 2, "of the server and of its Triton"
    assert len(list(records.glob("*.served.json"))) == 1, "what is served, which gateways read whenever they start"
    assert shared_memory_of(runs)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    end_s = time.monotonic() + 5
    while leftovers(server) and time.monotonic() < end_s:
        await asyncio.sleep(0.1)
    # A model's process can outlive Triton; the next start sweeps it.
    assert all("triton_python_backend_stub" in line for line in leftovers(server))
    again = start_server(tmp_path, port=server.port, env=cache)
    again.wait_until_serving()
    assert shared_memory_of(runs) == []
    assert again.stop() == 0
    assert leftovers(again) == []
    assert list(records.iterdir()) == []


def failed_start(folder: Path, *options: str, port: int = 0) -> str:
    server = start_server(folder, *options, port=port)
    assert server.process.wait(60) == 1
    assert leftovers(server) == []
    text = server.log.read_text()
    assert "Traceback" not in text
    return text


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_an_ipv6_address_serves(tmp_path):
    with reserved_port("::1", 0) as port:
        pass
    server = start_server(tmp_path, "--host", "::1", port=port)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while f"serving on [::1]:{port}" not in server.log.read_text():
            assert server.process.poll() is None, server.log.read_text()
            assert time.monotonic() < end_s, server.log.read_text()
            time.sleep(0.1)
        assert is_serving("::1", port)
    finally:
        code = server.stop()
    assert code == 0


def test_a_port_in_use_is_said(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in failed_start(tmp_path, port=port)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "model_repository", tmp_path / "models"))


async def test_weights_replaced_while_serving_change_no_fingerprint(tmp_path, models):
    server = start_server(tmp_path / "run", "--model-repository", str(models))
    try:
        server.wait_until_serving()
        async with open_channel(server) as channel:
            stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
            before = await stub.Embed(r.EmbedRequest(image=product_picture(0)))
            path = models / "demo_rec" / "1" / "model.onnx"
            (tmp_path / "other.onnx").write_bytes((models / "demo_det" / "1" / "model.onnx").read_bytes())
            (tmp_path / "other.onnx").replace(path)
            (gateway,) = processes(server, "shitu_server", "gateway")
            gateway.kill()
            psutil.wait_procs([gateway], timeout=5)
            await asyncio.sleep(0.2)  # until the channel, too, knows of it
            after = await stub.Embed(r.EmbedRequest(image=product_picture(0)), wait_for_ready=True, timeout=RECOVERY_S)
            assert after.encoder_fingerprint == before.encoder_fingerprint != ""
            assert after.vectors == before.vectors
            (model,) = processes(server, "triton_python_backend_stub", "demo_rec")
            model.kill()
            end_s = time.monotonic() + RECOVERY_S
            while f"{path} was replaced or changed" not in server.log.read_text():
                assert time.monotonic() < end_s
                await asyncio.sleep(0.1)
            await stub.Detect(r.DetectRequest(image=product_picture(0)))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.Embed(r.EmbedRequest(image=product_picture(0)))
            check_unavailable(caught.value)
    finally:
        code = server.stop()
    assert code == 0


def test_a_missing_model_file_is_said(tmp_path, models):
    (models / "demo_rec" / "1" / "model.onnx").unlink()
    text = failed_start(tmp_path / "run", "--model-repository", str(models))
    assert "demo_rec/1/model.onnx is missing" in text


def test_a_truncated_model_file_is_said(tmp_path, models):
    file = models / "demo_det" / "1" / "model.onnx"
    file.write_bytes(file.read_bytes()[:100_000])
    text = failed_start(tmp_path / "run", "--model-repository", str(models))
    assert "demo_det/1/model.onnx is no usable ONNX model: cut off" in text


def test_a_model_file_with_flipped_bits_is_said(tmp_path, models):
    file = models / "demo_det" / "1" / "model.onnx"
    content = bytearray(file.read_bytes())
    content[200:400] = bytes(200)
    file.write_bytes(content)
    text = failed_start(tmp_path / "run", "--model-repository", str(models))
    assert "demo_det" in text


def test_a_data_directory_that_cannot_be_made_is_said(tmp_path):
    assert "cannot make the data directory /proc/x" in failed_start(tmp_path, "--data-dir", "/proc/x")


def test_an_unknown_model_is_said(tmp_path):
    said = failed_start(tmp_path, "--encoder", "demo_rec", "--encoder", "nothing")
    assert "unknown encoder 'nothing'; known: PP-ShiTuV2_rec, " in said
    assert said.rstrip().endswith("demo_rec")


def test_a_data_directory_in_use_is_said(twin, tmp_path):
    text = failed_start(tmp_path, "--data-dir", str(twin.data_dir))
    assert str(twin.data_dir) in text


def test_a_stop_while_the_models_load_is_obeyed(tmp_path):
    server = start_server(tmp_path)
    while not processes(server, "tritonserver"):
        assert server.process.poll() is None, server.log.read_text()
        time.sleep(0.01)
    assert server.stop() == 0
    assert leftovers(server) == []


async def test_connections_that_grow_old_are_made_anew_without_losing_a_call(tmp_path):
    server = start_server(tmp_path, env={"SHITU_MAX_CONNECTION_AGE_S": "0.3"})
    # Without a policy gRPC sends again only what no server has seen, such as a call on its way while the connection is said to end.
    options = [("grpc.use_local_subchannel_pool", 1)]
    try:
        server.wait_until_serving()
        (gateway,) = processes(server, "shitu_server", "gateway")
        channels = [grpc.aio.insecure_channel(server.address, options=options) for _ in range(4)]
        ports: set[int] = set()
        answers = []

        async def ask(channel: grpc.aio.Channel) -> None:
            stub: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
            while time.monotonic() < end_s:
                answers.append(await stub.Embed(r.EmbedRequest(image=product_picture(0)), timeout=10))
                ports.update(client_ports(gateway, server))

        end_s = time.monotonic() + 3
        await asyncio.gather(*(ask(channel) for channel in channels * 2))
        for channel in channels:
            await channel.close()
        assert len(answers) > 50
        assert len(ports) >= 12, "four connections, each made anew several times"
    finally:
        server.stop()


def client_ports(gateway: psutil.Process, server: RunningServer) -> set[int]:
    port = int(server.address.rpartition(":")[2])
    return {
        one.raddr.port
        for one in gateway.net_connections("tcp")
        if one.status == psutil.CONN_ESTABLISHED and one.laddr.port == port
    }


async def test_a_client_of_many_connections_keeps_both_gateways_busy(twin):
    gateways = processes(twin, "shitu_server", "gateway")
    async with AsyncClient(twin.address, connections=16) as client:
        await asyncio.gather(*(client.embed(product_picture(0)) for _ in range(32)))
        assert [bool(client_ports(gateway, twin)) for gateway in gateways] == [True, True]
        assert sum(len(client_ports(gateway, twin)) for gateway in gateways) == 16
    segments = {gateway.environ()["SHITU_TRITON_SHARED_MEMORY"] for gateway in gateways}
    assert len(segments) == 2
    assert segments == shared_memory(segments)


def shared_memory(names: set[str]) -> set[str]:
    """Which of the names something in /dev/shm begins with."""
    return {name for name in names for path in Path("/dev/shm").iterdir() if path.name.startswith(f"{name}-")}
