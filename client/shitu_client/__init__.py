"""Client of shitu: recognise products from a few example pictures, over gRPC."""

from shitu_client.client import AsyncClient
from shitu_client.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    ServerError,
    ShituClientError,
    UnavailableError,
)
from shitu_client.items import ItemFailure, NewItem
from shitu_client.results import (
    Box,
    Detection,
    Embedding,
    EncoderInfo,
    GalleryInfo,
    Item,
    ItemPage,
    Match,
    Recognition,
    RecognizedObject,
)
from shitu_client.sync import Client

__all__ = [
    "AlreadyExistsError",
    "AsyncClient",
    "Box",
    "Client",
    "DeadlineExceededError",
    "Detection",
    "Embedding",
    "EncoderInfo",
    "FailedPreconditionError",
    "GalleryInfo",
    "InvalidArgumentError",
    "Item",
    "ItemFailure",
    "ItemPage",
    "Match",
    "NewItem",
    "NotFoundError",
    "Recognition",
    "RecognizedObject",
    "ResourceExhaustedError",
    "ServerError",
    "ShituClientError",
    "UnavailableError",
]
