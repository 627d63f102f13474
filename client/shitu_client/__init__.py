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
    UnsupportedError,
)
from shitu_client.filters import Condition, field
from shitu_client.gallery_results import Capabilities, GalleryInfo, IndexStatus, Item, ItemPage, ReembedProgress
from shitu_client.items import AddOutcome, Duplicate, ItemFailure, ItemUpdate, NewItem
from shitu_client.recognition_calls import RecognizeOptions
from shitu_client.results import Box, Detection, Embedding, EncoderInfo, Match, Recognition, RecognizedObject
from shitu_client.sync import Client

__all__ = [
    "AddOutcome",
    "AlreadyExistsError",
    "AsyncClient",
    "Box",
    "Capabilities",
    "Client",
    "Condition",
    "DeadlineExceededError",
    "Detection",
    "Duplicate",
    "Embedding",
    "EncoderInfo",
    "FailedPreconditionError",
    "GalleryInfo",
    "IndexStatus",
    "InvalidArgumentError",
    "Item",
    "ItemFailure",
    "ItemPage",
    "ItemUpdate",
    "Match",
    "NewItem",
    "NotFoundError",
    "Recognition",
    "RecognizeOptions",
    "RecognizedObject",
    "ReembedProgress",
    "ResourceExhaustedError",
    "ServerError",
    "ShituClientError",
    "UnavailableError",
    "UnsupportedError",
    "field",
]
