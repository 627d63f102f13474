"""RecognitionService and GalleryService of a running server, called with the generated stubs alone."""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from PIL import Image
from tests.drawn import product_picture, products, scene, scene_picture

from shitu.v1 import gallery_pb2 as g
from shitu.v1 import gallery_pb2_grpc, recognition_pb2_grpc, types_pb2
from shitu.v1 import recognition_pb2 as r


@pytest.fixture
def recognition(channel) -> Any:
    return recognition_pb2_grpc.RecognitionServiceStub(channel)


@pytest.fixture
def galleries(channel) -> Any:
    return gallery_pb2_grpc.GalleryServiceStub(channel)


@pytest.fixture
async def gallery(galleries):
    """A gallery of the drawn products, three pictures each."""
    name = f"t-{uuid.uuid4().hex[:8]}"
    await galleries.CreateGallery(g.CreateGalleryRequest(name=name))
    items = [
        g.NewItem(id=f"{index}/{view}", label=products()[index].label, image=product_picture(index, view))
        for index in range(len(products()))
        for view in range(3)
    ]
    reply = await galleries.AddItems(g.AddItemsRequest(gallery=name, items=items))
    assert all(result.HasField("added") for result in reply.results)
    yield name
    await galleries.DeleteGallery(g.DeleteGalleryRequest(name=name))


def details_of(error: grpc.aio.AioRpcError, *kinds: type) -> list[Any]:
    status = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")
    return details_in(status_pb2.Status.FromString(status), *kinds)


def details_in(status: status_pb2.Status, *kinds: type) -> list[Any]:
    found = []
    for kind in kinds:
        wanted = kind()
        assert any(detail.Unpack(wanted) for detail in status.details), f"no {kind.__name__} in {status}"
        found.append(wanted)
    return found


async def failure(call) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_reflection_lists_the_services(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    reply = await call.read()
    names = {service.name for service in reply.list_services_response.service}
    assert {"shitu.v1.RecognitionService", "shitu.v1.GalleryService", "grpc.health.v1.Health"} <= names


@pytest.mark.parametrize("service", ["", "shitu.v1.RecognitionService", "shitu.v1.GalleryService"])
async def test_health_says_serving(channel, service):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def test_recognize_finds_boxes_and_names(recognition, gallery):
    request = r.RecognizeRequest(
        image=scene_picture(), gallery=gallery, options=r.RecognizeOptions(detection_threshold=0.3)
    )
    reply = await recognition.Recognize(request)
    assert (reply.image_width, reply.image_height) == (640, 480)
    assert reply.objects
    assert all(found.source == r.BOX_SOURCE_DETECTED for found in reply.objects)
    scores = [found.detection_score for found in reply.objects]
    assert scores == sorted(scores, reverse=True)
    for found in reply.objects:
        assert 0 <= found.box.x1 < found.box.x2 <= 640
        assert 0 <= found.box.y1 < found.box.y2 <= 480
        assert found.decision.best_candidate.label in {product.label for product in products()}
    assert reply.gallery_state.sequence > 0
    assert reply.encoder_fingerprint
    timings = reply.timings
    stages = (timings.decode_us, timings.detect_us, timings.crop_us, timings.embed_us, timings.search_us)
    assert all(stage > 0 for stage in stages)
    assert sum(stages) <= timings.total_us


async def test_a_gallery_picture_is_recognised_as_itself(recognition, gallery):
    options = r.RecognizeOptions(skip_detection=True)
    request = r.RecognizeRequest(image=product_picture(2, 1), gallery=gallery, options=options)
    (found,) = (await recognition.Recognize(request)).objects
    assert found.source == r.BOX_SOURCE_WHOLE_IMAGE
    assert found.decision.verdict == r.VERDICT_KNOWN
    assert found.decision.label == products()[2].label
    assert found.matches[0].item_id == "2/1"
    assert found.matches[0].score == pytest.approx(1.0, abs=1e-4)
    matched = [match.score for match in found.matches]
    assert matched == sorted(matched, reverse=True)


async def test_callers_boxes_keep_their_order(recognition, gallery):
    boxes = [types_pb2.Box(x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2)) for x1, y1, x2, y2 in scene().boxes]
    options = r.RecognizeOptions(boxes=boxes, top_k=1, match_threshold=-1.0)
    reply = await recognition.Recognize(r.RecognizeRequest(image=scene_picture(), gallery=gallery, options=options))
    assert len(reply.objects) == len(boxes)
    for found, box in zip(reply.objects, boxes, strict=True):
        assert found.source == r.BOX_SOURCE_REQUESTED
        assert found.box.x1 == pytest.approx(box.x1, abs=0.01)
        assert len(found.matches) == 1


async def test_threshold_decides_between_known_and_unknown(recognition, gallery):
    options = r.RecognizeOptions(skip_detection=True, match_threshold=0.999)
    noise = io.BytesIO()
    Image.effect_noise((128, 128), 120).convert("RGB").save(noise, "PNG")
    request = r.RecognizeRequest(image=noise.getvalue(), gallery=gallery, options=options)
    (found,) = (await recognition.Recognize(request)).objects
    assert not found.matches
    assert found.decision.verdict == r.VERDICT_UNKNOWN
    assert found.decision.reason == r.UNKNOWN_REASON_SCORE_BELOW_THRESHOLD
    assert found.decision.best_candidate.score < 0.999


async def test_an_empty_gallery_makes_everything_unknown(recognition, galleries):
    await galleries.CreateGallery(g.CreateGalleryRequest(name="empty"))
    try:
        request = r.RecognizeRequest(
            image=product_picture(0), gallery="empty", options=r.RecognizeOptions(skip_detection=True)
        )
        (found,) = (await recognition.Recognize(request)).objects
        assert found.decision.reason == r.UNKNOWN_REASON_EMPTY_GALLERY
        assert not found.decision.HasField("best_candidate")
    finally:
        await galleries.DeleteGallery(g.DeleteGalleryRequest(name="empty"))


async def test_a_bad_picture_fails_alone_in_a_batch(recognition, gallery):
    contents = {"a": scene_picture(0), "b": b"no picture", "c": scene_picture(1)}
    entries = [
        r.RecognizeEntry(request_id=name, request=r.RecognizeRequest(image=content, gallery=gallery))
        for name, content in contents.items()
    ]
    reply = await recognition.BatchRecognize(r.BatchRecognizeRequest(entries=entries))
    assert [outcome.request_id for outcome in reply.outcomes] == ["a", "b", "c"]
    assert [outcome.WhichOneof("outcome") for outcome in reply.outcomes] == ["response", "error", "response"]
    (info,) = details_in(reply.outcomes[1].error, error_details_pb2.ErrorInfo)
    assert info.reason == "INVALID_IMAGE"


async def test_a_stream_answers_everything_and_survives_bad_pictures(recognition, gallery):
    contents = {str(n): scene_picture(n % 3) if n % 5 else b"broken" for n in range(40)}

    async def requests():
        for name, content in contents.items():
            request = r.RecognizeRequest(image=content, gallery=gallery)
            yield r.StreamRecognizeRequest(entry=r.RecognizeEntry(request_id=name, request=request))

    outcomes = {}
    async for response in recognition.StreamRecognize(requests()):
        outcomes[response.outcome.request_id] = response.outcome.WhichOneof("outcome")
    assert outcomes == {name: "error" if content == b"broken" else "response" for name, content in contents.items()}


async def test_a_stream_is_held_back_when_nobody_reads(server, gallery):
    # A fixed window, so that what the transport itself takes in does not grow with the link.
    window = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535)]
    channel = grpc.aio.insecure_channel(server.address, options=window)
    recognition: Any = recognition_pb2_grpc.RecognitionServiceStub(channel)
    sent = 0

    async def requests():
        nonlocal sent
        for n in range(5000):
            sent += 1
            request = r.RecognizeRequest(image=b"broken" * 2000, gallery=gallery)
            yield r.StreamRecognizeRequest(entry=r.RecognizeEntry(request_id=str(n), request=request))

    call = recognition.StreamRecognize(requests())
    await call.read()
    await asyncio.sleep(1.0)
    held_at = sent
    await asyncio.sleep(0.5)
    # What is in flight is bounded by the server; the rest that was sent lies in the transport's windows.
    assert sent == held_at < 5000
    call.cancel()
    await channel.close()


async def test_bytes_that_are_no_message_end_a_stream_with_an_error(channel):
    call = channel.stream_stream("/shitu.v1.RecognitionService/StreamRecognize")(iter([b"\xff\xff no message"]))
    error = await failure(call.read())
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_an_items_bad_box_is_named(galleries, gallery):
    item = g.NewItem(id="x", label="a", image=product_picture(0), box=types_pb2.Box(x1=9, y1=9, x2=9, y2=12))
    reply = await galleries.AddItems(g.AddItemsRequest(gallery=gallery, items=[item]))
    (bad,) = details_in(reply.results[0].error, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "items[0].box"


async def test_as_many_boxes_as_the_limit_allows(recognition, gallery):
    boxes = [types_pb2.Box(x1=n, y1=n, x2=n + 60, y2=n + 60) for n in range(100)]
    options = r.RecognizeOptions(boxes=boxes)
    reply = await recognition.Recognize(r.RecognizeRequest(image=scene_picture(), gallery=gallery, options=options))
    assert len(reply.objects) == 100
    too_many = r.RecognizeOptions(boxes=[*boxes, boxes[0]])
    error = await failure(
        recognition.Recognize(r.RecognizeRequest(image=scene_picture(), gallery=gallery, options=too_many))
    )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "at most 100 boxes, got 101" in error.details()


async def test_detect_and_embed_alone(recognition):
    detected = await recognition.Detect(r.DetectRequest(image=scene_picture(), detection_threshold=0.3, max_objects=2))
    assert 1 <= len(detected.objects) <= 2
    boxes = [found.box for found in detected.objects]
    embedded = await recognition.Embed(r.EmbedRequest(image=scene_picture(), boxes=boxes))
    vectors = [np.frombuffer(vector.data, dtype="<f4") for vector in embedded.vectors]
    assert len(vectors) == len(boxes)
    for vector, message in zip(vectors, embedded.vectors, strict=True):
        assert vector.shape == (message.dimension,)
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


async def test_items_come_back_as_they_were_stored(galleries, gallery):
    await galleries.AddItems(
        g.AddItemsRequest(
            gallery=gallery,
            items=[
                g.NewItem(
                    id="x", label="Ünïcode läbel", image=product_picture(1), metadata={"price": 1.5, "tags": ["a"]}
                )
            ],
        )
    )
    item = (await galleries.GetItem(g.GetItemRequest(gallery=gallery, id="x"))).item
    assert item.label == "Ünïcode läbel"
    assert item.metadata["price"] == 1.5
    with Image.open(io.BytesIO(item.thumbnail)) as shown:
        assert shown.format == "JPEG"
    listed = await galleries.ListItems(g.ListItemsRequest(gallery=gallery, label="Ünïcode läbel"))
    assert [entry.id for entry in listed.items] == ["x"]
    removed = await galleries.RemoveItems(g.RemoveItemsRequest(gallery=gallery, ids=["x", "never there"]))
    assert list(removed.removed_ids) == ["x"]
    error = await failure(galleries.GetItem(g.GetItemRequest(gallery=gallery, id="x")))
    assert error.code() == grpc.StatusCode.NOT_FOUND


async def test_pages_cover_the_list_once(galleries, gallery):
    seen, token = [], ""
    while True:
        page = await galleries.ListItems(g.ListItemsRequest(gallery=gallery, page_size=5, page_token=token))
        seen.extend(item.id for item in page.items)
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"{index}/{view}" for index in range(len(products())) for view in range(3)]


async def test_search_by_picture_and_by_vector_agree(galleries, recognition, gallery):
    by_picture = await galleries.Search(
        g.SearchRequest(gallery=gallery, queries=[g.Query(image=product_picture(3))], top_k=3)
    )
    embedded = await recognition.Embed(r.EmbedRequest(image=product_picture(3)))
    by_vector = await galleries.Search(
        g.SearchRequest(
            gallery=gallery,
            queries=[g.Query(vector=embedded.vectors[0])],
            top_k=3,
            encoder_fingerprint=embedded.encoder_fingerprint,
        )
    )
    assert [m.item_id for m in by_picture.results[0].matches] == [m.item_id for m in by_vector.results[0].matches]
    assert by_picture.results[0].matches[0].item_id == "3/0"


def vector(values: np.ndarray) -> types_pb2.Vector:
    return types_pb2.Vector(data=values.astype("<f4").tobytes(), dimension=values.size)


async def test_bad_vectors_fail_alone_and_name_their_field(galleries, gallery):
    info = (await galleries.GetGallery(g.GetGalleryRequest(name=gallery))).gallery
    good = np.ones(info.dimension)
    bad = good.copy()
    bad[3] = np.nan
    reply = await galleries.AddItems(
        g.AddItemsRequest(
            gallery=gallery,
            encoder_fingerprint=info.encoder_fingerprint,
            items=[
                g.NewItem(id="good", label="a", vector=vector(good)),
                g.NewItem(id="nan", label="a", vector=vector(bad)),
                g.NewItem(id="short", label="a", vector=vector(good[:-1])),
                g.NewItem(id="zero", label="a", vector=vector(good * 0)),
                g.NewItem(id="broken", label="a", image=b"no picture"),
                g.NewItem(id="nothing", label="a"),
            ],
        )
    )
    outcomes = {result.id: result for result in reply.results}
    assert outcomes["good"].HasField("added")
    codes = {name: result.error.code for name, result in outcomes.items() if name != "good"}
    invalid, precondition = grpc.StatusCode.INVALID_ARGUMENT.value[0], grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert codes == {"nan": invalid, "short": precondition, "zero": invalid, "broken": invalid, "nothing": invalid}
    (request,) = details_in(outcomes["nan"].error, error_details_pb2.BadRequest)
    assert request.field_violations[0].field.startswith("items[1].vector")
    (request,) = details_in(outcomes["broken"].error, error_details_pb2.BadRequest)
    assert request.field_violations[0].field == "items[4].image"


async def test_vectors_of_another_encoder_are_refused(galleries, gallery):
    info = (await galleries.GetGallery(g.GetGalleryRequest(name=gallery))).gallery
    item = g.NewItem(id="x", label="a", vector=vector(np.ones(info.dimension)))
    error = await failure(
        galleries.AddItems(g.AddItemsRequest(gallery=gallery, items=[item], encoder_fingerprint="another"))
    )
    assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    (reason,) = details_of(error, error_details_pb2.ErrorInfo)
    assert (reason.domain, reason.reason) == ("shitu.v1", "ENCODER_MISMATCH")


async def test_a_gallery_of_another_encoder_takes_its_vectors_and_no_pictures(galleries, recognition):
    await galleries.CreateGallery(g.CreateGalleryRequest(name="foreign", encoder_fingerprint="mine", dimension=4))
    try:
        reply = await galleries.AddItems(
            g.AddItemsRequest(
                gallery="foreign",
                encoder_fingerprint="mine",
                items=[
                    g.NewItem(id="v", label="a", vector=vector(np.arange(1, 5))),
                    g.NewItem(id="p", label="a", image=product_picture(0)),
                ],
            )
        )
        assert reply.results[0].HasField("added")
        assert reply.results[1].error.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
        error = await failure(recognition.Recognize(r.RecognizeRequest(image=product_picture(0), gallery="foreign")))
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION
    finally:
        await galleries.DeleteGallery(g.DeleteGalleryRequest(name="foreign"))


async def test_unknown_and_existing_galleries(galleries, recognition, gallery):
    error = await failure(recognition.Recognize(r.RecognizeRequest(image=product_picture(0), gallery="nowhere")))
    assert error.code() == grpc.StatusCode.NOT_FOUND
    (resource,) = details_of(error, error_details_pb2.ResourceInfo)
    assert resource.resource_name == "nowhere"
    error = await failure(galleries.CreateGallery(g.CreateGalleryRequest(name=gallery)))
    assert error.code() == grpc.StatusCode.ALREADY_EXISTS
    details_of(error, error_details_pb2.ErrorInfo, error_details_pb2.ResourceInfo)


BAD_REQUESTS = {
    "no gallery": (r.RecognizeRequest(image=b"x"), "gallery"),
    "no picture": (r.RecognizeRequest(gallery="g"), "image"),
    "threshold": (
        r.RecognizeRequest(image=b"x", gallery="g", options=r.RecognizeOptions(detection_threshold=1.5)),
        "options.detection_threshold",
    ),
    "threshold NaN": (
        r.RecognizeRequest(image=b"x", gallery="g", options=r.RecognizeOptions(match_threshold=float("nan"))),
        "options.match_threshold",
    ),
    "top_k": (r.RecognizeRequest(image=b"x", gallery="g", options=r.RecognizeOptions(top_k=0)), "options.top_k"),
    "both ways": (
        r.RecognizeRequest(
            image=b"x",
            gallery="g",
            options=r.RecognizeOptions(skip_detection=True, boxes=[types_pb2.Box(x2=5, y2=5)]),
        ),
        "options.skip_detection",
    ),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_bad_requests_name_their_field(recognition, name):
    request, field = BAD_REQUESTS[name]
    error = await failure(recognition.Recognize(request))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    info, bad = details_of(error, error_details_pb2.ErrorInfo, error_details_pb2.BadRequest)
    assert info.domain == "shitu.v1"
    assert bad.field_violations[0].field == field


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (700, 10, 800, 20), (float("nan"), 0, 5, 5)])
async def test_bad_boxes_are_named(recognition, gallery, box):
    x1, y1, x2, y2 = box
    boxes = [types_pb2.Box(x2=9, y2=9), types_pb2.Box(x1=x1, y1=y1, x2=x2, y2=y2)]
    options = r.RecognizeOptions(boxes=boxes)
    error = await failure(
        recognition.Recognize(r.RecognizeRequest(image=scene_picture(), gallery=gallery, options=options))
    )
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (bad,) = details_of(error, error_details_pb2.BadRequest)
    assert bad.field_violations[0].field == "options.boxes[1]"


async def test_a_message_over_the_limit_is_refused_and_the_server_lives_on(server, recognition):
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(server.address, options=options) as wide:
        stub: Any = recognition_pb2_grpc.RecognitionServiceStub(wide)
        error = await failure(stub.Recognize(r.RecognizeRequest(image=bytes(65 * 1024 * 1024), gallery="g")))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await recognition.Detect(r.DetectRequest(image=scene_picture()))).image_width == 640
