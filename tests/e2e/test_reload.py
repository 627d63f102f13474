"""New versions of models while a server runs: taken up at SIGHUP without a failed call, or refused with all as it was."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import pytest
from tests.conftest import RunningServer, start_server
from tests.drawn import product_picture, products, scene_picture
from tests.e2e.test_serve import RECOVERY_S, failed_start, processes
from tests.gallery_process import GalleryProcess
from tests.placed_models import DEMO_WEIGHTS, demo_repository, other_weights, place

from shitu_client import AsyncClient, FailedPreconditionError, NewItem, UnavailableError
from shitu_models.specs import DEMO_DET, DEMO_REC, Profile
from shitu_models.triton_config import TritonConfigOptions
from shitu_server.served import find_served
from shitu_server.supervisor import EmbeddedTriton, TritonOptions
from shitu_server.triton_models import triton_models

LIMIT_S = 20
HAS_OPENVINO = "OpenVINOExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def repository(tmp_path):
    return demo_repository(tmp_path / "models")


async def until(condition, limit_s: float = LIMIT_S) -> None:
    end_s = time.monotonic() + limit_s
    while not await condition():
        assert time.monotonic() < end_s, "it does not come to be"
        await asyncio.sleep(0.05)


async def log_says(server: RunningServer, text: str) -> None:
    async def said() -> bool:
        return text in server.log.read_text()

    await until(said)


@asynccontextmanager
async def connections(server: RunningServer, count: int = 6) -> AsyncIterator[list[AsyncClient]]:
    """As many as make sure that each of two gateways has one."""
    clients = [AsyncClient(server.address, timeout_s=10) for _ in range(count)]
    try:
        yield clients
    finally:
        for client in clients:
            await client.close()


async def versions(client: AsyncClient) -> list[int]:
    return [encoder.version for encoder in await client.list_encoders() if encoder.name == "demo_rec"]


async def until_versions(clients: list[AsyncClient], expected: list[int]) -> None:
    async def there() -> bool:
        return all([await versions(client) == expected for client in clients])

    await until(there)


async def make_gallery(client: AsyncClient, name: str) -> str:
    """Returns the fingerprint that it is bound to."""
    info = await client.create_gallery(name)
    items = [NewItem(str(index), products()[index].label, product_picture(index)) for index in range(4)]
    assert (await client.add_items(name, items)).failures == ()
    return info.encoder_fingerprint


async def check_gallery(client: AsyncClient, name: str, fingerprint: str) -> None:
    """Whether pictures are named by the encoder that made the gallery: by another they would not score 1."""
    result = await client.recognize(product_picture(1), name, skip_detection=True)
    assert result.encoder_fingerprint == fingerprint
    assert result.objects[0].matches[0].item_id == "1"
    assert result.objects[0].matches[0].score == pytest.approx(1.0, abs=1e-4)
    vector = (await client.embed(product_picture(1), encoder_fingerprint=fingerprint)).vectors[0]
    assert np.allclose(vector, (await client.get_item(name, "1")).vector, atol=1e-4)
    assert (await client.search(name, product_picture(2), top_k=1))[0].score == pytest.approx(1.0, abs=1e-4)


@dataclass
class Traffic:
    """Calls without a pause, of a gallery and of the detector, until it is stopped."""

    clients: list[AsyncClient]
    gallery: str
    fingerprint: str
    calls: int = 0
    failures: list[Exception] = field(default_factory=list)
    _stopping: bool = False

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[Traffic]:
        tasks = [asyncio.create_task(self._call(client)) for client in self.clients]
        tasks.append(asyncio.create_task(self._make_galleries()))
        yield self
        self._stopping = True
        await asyncio.gather(*tasks)

    async def _call(self, client: AsyncClient) -> None:
        while not self._stopping:
            try:
                await check_gallery(client, self.gallery, self.fingerprint)
                await client.recognize(scene_picture(), self.gallery)
            except Exception as error:  # noqa: BLE001  counted
                self.failures.append(error)
            self.calls += 1
            await asyncio.sleep(0)

    async def _make_galleries(self) -> None:
        """What one gateway made, all others know, whichever version it is bound to."""
        number = 0
        while not self._stopping:
            maker = self.clients[number % len(self.clients)]
            await maker.create_gallery(f"made-{number}")
            for client in self.clients:
                item = NewItem(str(id(client)), "a", product_picture(0))
                self.failures += [
                    failure.error for failure in (await client.add_items(f"made-{number}", [item])).failures
                ]
            await maker.delete_gallery(f"made-{number}")
            number += 1


@pytest.fixture
def twin(tmp_path, repository):
    """Two gateways over a repository of their own."""
    running = start_server(tmp_path / "run", "--workers", "2", "--model-repository", str(repository))
    try:
        running.wait_until_serving()
        yield running
    finally:
        running.stop()


async def test_a_new_version_is_taken_up_under_traffic(twin, repository):
    async with connections(twin) as clients:
        client = clients[0]
        old = await make_gallery(client, "old")
        (stub,) = processes(twin, "triton_python_backend_stub", "demo_rec/1/")
        async with Traffic(clients[1:4], "old", old).flowing() as traffic:
            await asyncio.sleep(0.3)
            place(repository, DEMO_REC, other_weights(2), version=2)
            twin.process.send_signal(signal.SIGHUP)
            await until_versions(clients, [2, 1])
            new = await make_gallery(client, "new")
            await asyncio.sleep(0.5)
        assert traffic.failures == []
        assert traffic.calls > 10
        assert new != old
        assert stub.is_running(), "the version that stays was not touched"
        for name, fingerprint in (("old", old), ("new", new)):
            for other in clients:
                await check_gallery(other, name, fingerprint)
        await check_after_restarts(twin, client, {"old": old, "new": new})
        place(repository, DEMO_REC, other_weights(3), version=3)
        await check_third_version(twin, clients, {"new": new})


async def check_after_restarts(twin: RunningServer, client: AsyncClient, galleries: dict[str, str]) -> None:
    """What was taken up is still served after each part was killed."""
    for words in (("shitu_server", "gateway"), ("tritonserver",), ("triton_python_backend_stub", "demo_rec/2/")):
        for process in processes(twin, *words):
            process.kill()
            psutil.wait_procs([process], timeout=5)

        async def served() -> bool:
            try:
                for name, fingerprint in galleries.items():
                    await check_gallery(client, name, fingerprint)
            except UnavailableError:
                return False
            return True

        await until(served, RECOVERY_S)
    assert await versions(client) == [2, 1]


async def check_third_version(twin: RunningServer, clients: list[AsyncClient], kept: dict[str, str]) -> None:
    """It ends the first, whose galleries get an error that says what to do."""
    twin.process.send_signal(signal.SIGHUP)
    await until_versions(clients, [3, 2])
    both = r"demo_rec version 3 \(.*demo_rec version 2 \(.*shitu gallery reembed"
    with pytest.raises(FailedPreconditionError, match=both):
        await clients[0].recognize(product_picture(0), "old")

    async def gone() -> bool:
        return not processes(twin, "triton_python_backend_stub", "demo_rec/1/")

    await until(gone)
    for name, fingerprint in kept.items():
        await check_gallery(clients[0], name, fingerprint)


async def test_what_cannot_be_served_leaves_everything_as_it_was(twin, repository):
    async with connections(twin) as clients:
        old = await make_gallery(clients[0], "old")
        good = other_weights(3)
        bad = {
            "no usable ONNX model": lambda: place(repository, DEMO_REC, good[:-1000], 2),
            "is not the file that its card describes": lambda: place(repository, DEMO_REC, good, 2, sha256="0" * 64),
            "differ in their tensors": lambda: place(repository, replace(DEMO_REC, embedding_dimension=64), good, 2),
            "Triton cannot load model demo_rec": lambda: place(repository, DEMO_REC, broken(good), 2),
        }
        async with Traffic(clients[1:3], "old", old).flowing() as traffic:
            for said, damage in bad.items():
                path = damage()
                twin.process.send_signal(signal.SIGHUP)
                await log_says(twin, said)
                path.unlink()
                path.with_name("model.json").unlink()
                path.parent.rmdir()
        assert traffic.failures == []
        assert (
            twin.log.read_text().count("the models were not reloaded, demo_det version 1, demo_rec version 1 are") == 4
        )
        await until_versions(clients, [1])
        place(repository, DEMO_REC, good, 2)
        twin.process.send_signal(signal.SIGHUP)
        await until_versions(clients, [2, 1])
        (repository / "other").write_bytes(other_weights(5))
        (repository / "other").replace(repository / "demo_rec" / "1" / "model.onnx")
        twin.process.send_signal(signal.SIGHUP)
        await log_says(twin, "demo_rec version 1 is not what it was when it began to be served")
        await check_gallery(clients[0], "old", old)


def broken(weights: bytes) -> bytes:
    """A whole protobuf message that is no model which can run: its operators are of no known kind."""
    return weights.replace(b"MatMul", b"NatNul")


async def test_a_lone_gateway_takes_up_what_its_triton_has(tmp_path, repository):
    def found():
        served = find_served(repository, DEMO_DET.name, (DEMO_REC.name,), Profile.TRAINED)
        return triton_models(served, TritonConfigOptions(intra_op_threads=1))

    triton = EmbeddedTriton(TritonOptions(repository, found(), tmp_path / "cache", tmp_path / "triton.log"))
    await triton.start()
    gallery = GalleryProcess(tmp_path / "gallery")
    parts = ("--gallery-address", gallery.address, "--triton-address", triton.grpc_address)
    gateway = start_server(tmp_path, "--role", "gateway", *parts, "--model-repository", str(repository))
    try:
        await asyncio.to_thread(gateway.wait_until_serving)
        async with connections(gateway, 1) as (client,):
            old = await make_gallery(client, "old")
            place(repository, DEMO_REC, other_weights(2), version=2)
            gateway.process.send_signal(signal.SIGHUP)
            await log_says(gateway, f"Triton at {triton.grpc_address} has not demo_rec version 2")
            assert await versions(client) == [1]
            await triton.change(found())
            gateway.process.send_signal(signal.SIGHUP)
            await until_versions([client], [2, 1])
            new = await make_gallery(client, "new")
            await check_gallery(client, "old", old)
            await check_gallery(client, "new", new)
            one, two = [(await client.get_item(name, "0")).vector for name in ("old", "new")]
            assert not np.allclose(one, two, atol=1e-2), "the test tells the versions apart"
    finally:
        gateway.stop()
        gallery.stop()
        await triton.stop()


def test_weights_that_are_not_those_of_their_card_are_refused_at_the_start(tmp_path, repository):
    path = place(repository, DEMO_REC, DEMO_WEIGHTS.read_bytes(), version=2, sha256="0" * 64)
    text = failed_start(tmp_path / "run", "--model-repository", str(repository))
    assert f"{path} is not the file that its card describes: expected sha256 000" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--accelerator", "cuda"), "accelerator cuda needs an NVIDIA GPU"),
        pytest.param(
            ("--accelerator", "openvino"),
            "needs ONNX Runtime's OpenVINOExecutionProvider",
            marks=pytest.mark.skipif(HAS_OPENVINO, reason="onnxruntime-openvino is installed"),
        ),
        (("--triton-address", "127.0.0.1:9", "--threads", "3"), "threads: it is the embedded Triton's"),
        (("--encoder", "demo_rec", "--encoder", "demo_rec"), "expected one or more different names"),
    ],
)
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="there is a GPU")
def test_options_that_cannot_be_had_are_refused(tmp_path, options, said):
    assert said in failed_start(tmp_path, *options)
