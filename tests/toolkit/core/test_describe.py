"""Models in words: types with their bounds, docstrings of fields, and what has none."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from fptk.core.describe import field_docs, type_text


class Base(BaseModel):
    width: int = 3
    """Of the base."""
    height: int = 4


class Inner(Base):
    width: int = 5
    """Of the *inner* one, ``None`` or
    :class:`fptk.core.session.Session`."""


def test_a_field_has_the_docstring_of_the_nearest_class() -> None:
    assert field_docs(Inner) == {"width": "Of the *inner* one, `null` or `fptk.core.session.Session`."}


def test_a_class_without_source_has_no_docstrings() -> None:
    made = type("Made", (Base,), {"__module__": "nowhere"})
    assert field_docs(made) == {"width": "Of the base."}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Annotated[int, Field(ge=1, le=4096)], "whole number, 1 to 4,096"),
        (Annotated[float, Field(gt=0, le=1)], "number, above 0, at most 1"),
        (Annotated[float, Field(ge=0.5)] | None, "number, at least 0.5, or `null`"),
        (Literal["a", "b", "c"], '`"a"`, `"b"` or `"c"`'),
        (Literal["a"], '`"a"`'),
        (bool, "`true` or `false`"),
        (tuple[int, int], "2 × whole number"),
        (tuple[int, str], "[whole number, text]"),
        (tuple[str, ...], "list of text"),
        (dict[str, int], "object: whole number by name"),
        (Any, "any value"),
    ],
)
def test_types_read_like_words(kind: Any, text: str) -> None:
    assert type_text(TypeAdapter(kind).json_schema(), {}) == text


def test_a_model_in_a_type_is_named() -> None:
    schema = TypeAdapter(list[Base]).json_schema()
    assert type_text(schema, schema["$defs"]) == "list of [Base](#base)"
    assert type_text(schema, {}) == "list of section, below"
