"""Model cards: what a model was trained on, how good it is, and which file it belongs to.

A card is a JSON file beside its ONNX file, with the same stem. Two of its fields bind it: `sha256` to the bytes of
the model, `schema_hash` to the features that it was trained on. The rest is for people.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import orjson

from engine.features.settings import FeatureSettings
from engine.features.vector import schema_hash


class ModelError(ValueError):
    """A model that cannot be served; the message names the file and what is wrong."""


def card_path(model_path: Path) -> Path:
    """Where the card of a model lies."""
    return model_path.with_suffix(".json")


def read_card(model_path: Path) -> dict[str, Any]:
    """The card of a model, as written. Raises ModelError when there is none that can be read."""
    path = card_path(model_path)
    try:
        card = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise ModelError(f"{path}: no readable model card ({type(error).__name__})") from None
    if not isinstance(card, dict):
        raise ModelError(f"{path}: a model card is one JSON object")
    return card


def load_card(model_path: Path, settings: FeatureSettings | None = None) -> dict[str, Any]:
    """The card of a model that may be served: it is of this file and of these features.

    settings: of the features that the engine computes, for None the default ones. Raises ModelError.
    """
    return load_verified(model_path, settings)[0]


def load_verified(model_path: Path, settings: FeatureSettings | None = None) -> tuple[dict[str, Any], bytes]:
    """The card, and the bytes that were verified against it: load these, not the file again. Raises ModelError."""
    card = read_card(model_path)
    expected = schema_hash(settings)
    if card.get("schema_hash") != expected:
        raise ModelError(
            f"{model_path}: trained on feature schema {str(card.get('schema_hash'))[:12]}, this engine computes "
            f"{expected[:12]}; train it again (bot4 train)"
        )
    version = card.get("version")
    if type(version) is not int or version < 1:
        raise ModelError(f"{card_path(model_path)}: version = {version!r}: a whole number from 1 is needed")
    try:
        content = model_path.read_bytes()
    except OSError as error:
        raise ModelError(f"{model_path}: cannot be read ({type(error).__name__})") from None
    actual = hashlib.sha256(content).hexdigest()
    if card.get("sha256") != actual:
        raise ModelError(
            f"{model_path}: sha256 {actual[:12]} is not the {str(card.get('sha256'))[:12]} of its card; "
            "the file was changed or the card is of another model"
        )
    return card, content


def write_model(model_path: Path, content: bytes, card: dict[str, Any]) -> None:
    """Write a model and its card, which gets the two fields that bind it."""
    card = {**card, "schema_hash": schema_hash(), "sha256": hashlib.sha256(content).hexdigest()}
    model_path.parent.mkdir(parents=True, exist_ok=True)
    model_path.write_bytes(content)
    card_path(model_path).write_bytes(orjson.dumps(card, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
