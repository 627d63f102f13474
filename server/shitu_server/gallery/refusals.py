"""Errors that every backend words alike."""

from __future__ import annotations

from typing import Final

from shitu_server.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError, UnavailableError
from shitu_server.gallery.checks import MOST_SHOWN, shown

RETRY_AFTER_S: Final = 0.1


def no_gallery(name: str) -> NotFoundError:
    """Return the error for a gallery that is not there."""
    return NotFoundError("gallery", name[:MOST_SHOWN], f"there is no gallery {shown(name)}")


def made_anew(name: str) -> UnavailableError:
    """Return the error for a gallery that is another one than the call began with."""
    return UnavailableError(f'gallery "{name}" was made anew during the call; try again', RETRY_AFTER_S)


def no_alias(alias: str) -> NotFoundError:
    """Return the error for an alias that is not there."""
    return NotFoundError("alias", alias[:MOST_SHOWN], f"there is no alias {shown(alias)}")


def no_item(gallery: str, item_id: str) -> NotFoundError:
    """Return the error for an item that is not there."""
    return NotFoundError("item", item_id, f'gallery "{gallery}" has no item {shown(item_id)}')


def name_taken(name: str, *, by_alias: bool) -> AlreadyExistsError:
    """Return the error for a new gallery whose name is in use."""
    if by_alias:
        return AlreadyExistsError("alias", name, f'"{name}" is an alias; delete it, or choose another name')
    return AlreadyExistsError("gallery", name, f'gallery "{name}" exists already')


def alias_taken(alias: str) -> AlreadyExistsError:
    """Return the error for an alias that is the name of a gallery."""
    return AlreadyExistsError("gallery", alias, f'"{alias}" is a gallery; choose another alias')


def is_alias(alias: str, gallery: str) -> InvalidArgumentError:
    """Return the error for an alias where the gallery itself must be named."""
    return InvalidArgumentError("name", f'"{alias}" is an alias of "{gallery}"; name the gallery itself')


def bad_page_token() -> InvalidArgumentError:
    """Return the error for a token that no list gave out."""
    return InvalidArgumentError("page_token", "expected the next_page_token of the page before, or none")
