from __future__ import annotations

import inspect

import grpc
import pytest

from shitu_server import errors
from shitu_server.errors import InternalError, InvalidArgumentError, OverloadedError, ShituError
from shitu_server.wire.statuses import CODES, DETAILS_KEY, from_rpc_error, from_status, to_status

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ShituError)]
SAMPLES = {
    "field": "items[3].vector",
    "message": "what was expected, what came",
    "resource_type": "gallery",
    "resource_name": "drinks",
    "retry_after_s": 1.5,
}


def sample(kind: type[ShituError]) -> ShituError:
    names = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    return kind(*(SAMPLES[name] for name in names))


def test_every_error_has_a_code_and_a_reason_of_its_own():
    leaves = [kind for kind in TREE if kind is not ShituError]
    assert set(CODES) == set(leaves)
    assert len({kind.reason for kind in leaves}) == len(leaves)


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_error_survives_the_wire(kind: type[ShituError]):
    error = sample(kind)
    status = to_status(error)
    assert status.code == CODES[kind].value[0]
    back = from_status(status)
    assert type(back) is kind
    wished_s, told_s = vars(error).pop("retry_after_s", None), vars(back).pop("retry_after_s", None)
    assert vars(back) == vars(error)
    assert told_s == wished_s or 0.5 * wished_s <= told_s <= 1.5 * wished_s
    assert str(back) == str(error)


def rpc_error(
    code: grpc.StatusCode, trailing: tuple[tuple[str, bytes], ...] = (), details: str = "details"
) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), details=details)


def test_error_with_details_comes_back_as_itself():
    status = to_status(sample(InvalidArgumentError)).SerializeToString()
    back = from_rpc_error(rpc_error(grpc.StatusCode.INVALID_ARGUMENT, ((DETAILS_KEY, status),)), "the peer")
    assert isinstance(back, InvalidArgumentError)
    assert back.field == "items[3].vector"


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_of_the_transport_becomes_an_error_that_names_the_peer(code: grpc.StatusCode):
    error = from_rpc_error(rpc_error(code), "the peer")
    assert isinstance(error, ShituError)
    assert "the peer" in error.message


@pytest.mark.parametrize(
    ("details", "kind"),
    [
        ("CLIENT: Received message larger than max (5000000 vs. 4194304)", InvalidArgumentError),
        ("SERVER: Sent message larger than max (5000000 vs. 4194304)", InvalidArgumentError),
        ("Concurrent RPC limit exceeded!", OverloadedError),
        ("", OverloadedError),
    ],
)
def test_exhausted_resource_of_the_transport(details: str, kind: type[ShituError]):
    error = from_rpc_error(rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, details=details), "the peer")
    assert type(error) is kind
    assert not isinstance(error, OverloadedError) or error.retry_after_s > 0


def test_status_of_another_domain_is_internal():
    status = to_status(sample(InvalidArgumentError))
    del status.details[:]
    assert isinstance(from_status(status), InternalError)


def test_who_is_sent_away_together_does_not_come_back_together():
    told = [from_status(to_status(OverloadedError("busy", 1.0))).retry_after_s for _ in range(200)]
    assert min(told) < 0.6
    assert max(told) > 1.4
    assert len(set(told)) > 100
