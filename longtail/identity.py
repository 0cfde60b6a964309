"""Whose vectors a workspace holds: noted when they come, compared whenever they are used."""

from __future__ import annotations

from collections.abc import Iterator

from encoders import registry
from encoders.base import Identity, identity_from_json
from longtail.settings import Settings
from schemas.catalog import Catalog
from schemas.errors import EncoderError


def of_settings(settings: Settings, catalog: Catalog) -> Identity:
    """The identity of the encoder on this machine; of vectors that are brought, as they came.

    Before the first of these came, that of a name alone. Raises EncoderError.
    """
    name = settings.encoder
    if not registry.brings_vectors(name):
        return registry.describe(name, **settings.encoder_options)
    noted = (held for held in _held(catalog) if held.name == name)
    return next(noted, Identity(name, {}))


def check(identity: Identity, catalog: Catalog) -> None:
    """See that the samples of this name are of this identity.

    Two encoders may stand side by side; one that changed under its name is a mistake, and would
    start the workspace anew unasked. Raises EncoderError.
    """
    for other in _held(catalog):
        if other.name == identity.name and other.id != identity.id:
            raise EncoderError(
                f"the samples here are of {other.id}, encoder {identity.name!r} is {identity.id} "
                f"now: {identity.difference(other)}; set it back in longtail.yaml or by --set, "
                "or make a new workspace with 'longtail init'"
            )


def note(identity: Identity, catalog: Catalog) -> None:
    """Write down what the encoder is, for later runs to compare."""
    path = catalog.encoder(identity.id)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(identity.to_json() + "\n", "utf-8")
        temporary.replace(path)


def _held(catalog: Catalog) -> Iterator[Identity]:
    """Those of which there are samples."""
    for encoder_id in sorted({str(file.partition) for file in catalog.samples.files()}):
        path = catalog.encoder(encoder_id)
        if path.exists():
            yield identity_from_json(path.read_text("utf-8"))
