"""The encoders that are served at one moment, and which of them a request means."""

from __future__ import annotations

from dataclasses import dataclass

from shitu_models.specs import ModelSpec, Precision, Profile
from shitu_server.admission import Admission
from shitu_server.errors import EncoderMismatchError, InvalidArgumentError
from shitu_server.gallery.checks import shown
from shitu_server.types import Encoder


@dataclass(frozen=True)
class ServedEncoder:
    """One version of an encoder."""

    encoder: Encoder
    spec: ModelSpec
    version: int
    precision: Precision
    profile: Profile
    crops: Admission
    """In flight at the model, whichever version; where it is full, the next ones wait."""

    @property
    def fingerprint(self) -> str:
        """What identifies its vectors."""
        return self.encoder.fingerprint

    def __str__(self) -> str:
        return f"{self.spec.name} version {self.version} ({self.fingerprint})"


@dataclass(frozen=True)
class Encoders:
    """Never changes: new versions come as another one of these."""

    entries: tuple[ServedEncoder, ...]
    """At least one; of each name first the version that new galleries are bound to."""

    @property
    def default(self) -> ServedEncoder:
        """The one for new galleries that name none."""
        return self.entries[0]

    def named(self, name: str, field: str = "encoder") -> ServedEncoder:
        """Return the version of a name that new galleries are bound to, or the default for an empty one.

        Raises:
            InvalidArgumentError: no encoder of this name is served; names `field` and lists those that are.
        """
        if not name:
            return self.default
        for entry in self.entries:
            if entry.spec.name == name:
                return entry
        known = ", ".join(dict.fromkeys(entry.spec.name for entry in self.entries))
        raise InvalidArgumentError(field, f"expected an encoder that is served here ({known}), got {shown(name)}")

    def of(self, fingerprint: str) -> ServedEncoder | None:
        """Return the encoder whose vectors have this fingerprint. Of several with the same vectors any will do."""
        return next((entry for entry in self.entries if entry.fingerprint == fingerprint), None)

    def identified(self, fingerprint: str, prefix: str = "") -> ServedEncoder:
        """Return the encoder that a request names by its fingerprint.

        Raises:
            EncoderMismatchError: it is not served here; the message begins with `prefix`.
        """
        entry = self.of(fingerprint)
        if entry is None:
            served = ", ".join(map(str, self.entries))
            raise EncoderMismatchError(
                f"{prefix}pictures are embedded by {served}, the request names encoder {shown(fingerprint)}; name one of "
                f"these or none, or bring vectors"
            )
        return entry

    def bound(self, gallery: str, fingerprint: str, prefix: str = "") -> ServedEncoder:
        """Return the encoder that a gallery is bound to.

        Raises:
            EncoderMismatchError: it is not served here; the message begins with `prefix`.
        """
        entry = self.of(fingerprint)
        if entry is None:
            raise self.mismatch(gallery, fingerprint, prefix)
        return entry

    def mismatch(self, gallery: str, fingerprint: str, prefix: str = "") -> EncoderMismatchError:
        """Return the error that none of these made the vectors of a gallery."""
        served = ", ".join(map(str, self.entries))
        return EncoderMismatchError(
            f"{prefix}gallery {shown(gallery)} is bound to encoder {shown(fingerprint)}, this server runs {served}; serve that "
            f"encoder too (`shitu serve --encoder`, and the --profile that it had), send vectors of it, or embed the gallery's "
            f"pictures with one of these (`shitu gallery reembed`)"
        )
