"""JSON against a schema: strict JSON, nothing fetched, a bad schema is our fault."""

from __future__ import annotations

import json
import socket
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.verifiers import json_schema
from rlvr.verifiers.json_formats import CHECKED, unchecked
from rlvr.verifiers.json_schema import check_gold, verify

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}, "friend": {"$ref": "#"}},
    "required": ["name"],
    "additionalProperties": False,
}


def of(schema: object, answer: str) -> tuple[str, str | None]:
    found = verify(answer, json.dumps(schema))
    assert found.outcome == "right" or found.message
    return found.outcome, found.cause


@pytest.mark.parametrize(
    "answer",
    [
        '{"name": "Ada"}',
        ' {"name": "Ada", "age": 36}\n',
        '```json\n{"name": "a ``` mark"}\n```',
        '  ```json\n  {"name": "Ada"}\n  ```',
        '\ufeff{"name": "Ada"}',
        '\ufeff```json\n{"name": "Ada"}\n```',
        '```json\n\ufeff{"name": "Ada"}\n```',
        '```json\n{"name": "Ada"}\n```',
        '```\n{"name": "Ada", "friend": {"name": "Bob"}}\n```',
        '{"name": "\\ud800"}',
        '{"name": "Ada", "friend": ' * 31 + '{"name": "Ada"}' + "}" * 31,
    ],
)
def test_what_the_schema_allows_is_right(answer: str) -> None:
    assert of(PERSON, answer) == ("right", None)


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        "null",
        '{"name": 1}',
        '{"name": "Ada", "age": -1}',
        '{"name": "Ada", "age": "1"}',
        '{"name": "A", "x": 1}',
    ],
)
def test_what_it_does_not_allow_is_plainly_wrong(answer: str) -> None:
    assert of(PERSON, answer) == ("wrong", None)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Ada",
        "{'name': 'Ada'}",
        '{"name": "Ada"',
        '{"name": "Ada"} {}',
        'Here it is: {"name": "Ada"}',
        '{"name": "Ada", "age": NaN}',
        '{"name": "Ada", "age": 1e999}',
        '{"name": "Ada", "age": ' + "9" * 400 + "}",
        '{"name": "Ada", "age": ' + "9" * 5000 + "}",
        '{"name": "Ada", "name": "Bob"}',
        '{"name": "Ada"}\0',
        "\ud800",
        "[" * 100_000 + "]" * 100_000,
        '{"friend":' * 50 + "{}" + "}" * 50,
        '```json\n{"name": "Ada"}\n```\n```json\n{}\n```',
    ],
)
def test_what_is_no_strict_json_is_unparsable(answer: str) -> None:
    assert of(PERSON, answer) == ("wrong", "unparsable")


@pytest.mark.parametrize(
    "gold",
    [
        "",
        "{",
        "[]",
        '{"type": "nope"}',
        '{"pattern": "("}',
        '{"$ref": "#/nowhere"}',
        '{"$ref": "#"}',
        '{"type": "object", "type": "string"}',
        '{"$ref": "http://127.0.0.1:9/schema.json"}',
        '{"$ref": "https://example.com/schema.json"}',
        '{"$ref": "file:///etc/passwd"}',
    ],
)
def test_a_schema_that_cannot_be_applied_is_our_fault(monkeypatch: pytest.MonkeyPatch, gold: str) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    found = verify('"a"', gold)
    assert (found.outcome, found.cause) == ("fault", "gold") and found.message


DRAFT_7 = "http://json-schema.org/draft-07/schema#"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/definitions/x"},
        {"$ref": "#/title", "title": "x"},
        {"$ref": "#/allOf", "allOf": [{}]},
        {"$ref": "#/minimum", "minimum": 1},
        {"$ref": "http://x/y"},
        {"$ref": "other.json#/a"},
        {"$ref": "#anchor"},
        {"properties": {"a": {"items": {"$ref": "#/$defs/x"}}}, "$defs": {"y": {}}},
        {"anyOf": [{"type": "string"}, {"not": {"$ref": "#/$defs/x"}}]},
        {"$ref": "#/parts/a", "parts": {"a": {"items": {"$ref": "#/parts/b"}}}},
        {"$schema": DRAFT_7, "definitions": {"x": {"dependencies": {"a": {"$ref": "#/definitions/y"}}}}},
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
    ],
)
def test_a_reference_that_leads_nowhere_is_a_bad_gold(schema: dict[str, Any]) -> None:
    found = check_gold(json.dumps(schema))
    assert found.is_fault and found.cause == "gold" and ("$ref" in found.message or "recursion" in found.message)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"next": {"$ref": "#"}}},
        {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": ["array", "null"], "items": {"$ref": "#/$defs/tree"}}}},
        {"$ref": "#node", "$defs": {"node": {"$anchor": "node", "items": {"$ref": "#node"}}}},
        {"$id": "http://x/y", "items": {"$ref": "y#/$defs/a"}, "$defs": {"a": {"type": "null"}}},
        {"$ref": "http://x/part", "$defs": {"a": {"$id": "http://x/part", "items": {"$ref": "#/$defs/b"},
                                                  "$defs": {"b": {"type": "null"}}}}},
        {"$schema": DRAFT_7, "items": {"$ref": DRAFT_7}},
        {"$schema": DRAFT_7, "definitions": {"x": {"type": "null"}}, "items": {"$ref": "#/definitions/x"}},
        {"$schema": "http://json-schema.org/draft-03/schema#", "extends": {"$ref": "#/definitions/x"},
         "definitions": {"x": {"type": "any"}}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"$ref": "#"}}},
        {"properties": {"$ref": {"type": "string"}}},
        {"const": {"$ref": "#/nowhere"}},
        {"$dynamicRef": "#node", "$defs": {"node": {"$dynamicAnchor": "node", "items": {"$dynamicRef": "#node"}}}},
        {"enum": [{"$ref": "#/nowhere"}]},
        True,
    ],
)  # fmt: skip
def test_references_that_lead_somewhere_are_fine(schema: object) -> None:
    assert check_gold(json.dumps(schema)).is_right


def test_the_draft_is_the_one_that_the_schema_names() -> None:
    tuples = {"items": [{"type": "integer"}], "additionalItems": False}
    seven = {"$schema": "http://json-schema.org/draft-07/schema#"} | tuples
    assert of(seven, "[1]") == ("right", None) and of(seven, "[1, 2]") == ("wrong", None)


def test_values_in_the_answer_are_never_read_as_references() -> None:
    assert of({"type": "object"}, '{"$ref": "http://example.com"}') == ("right", None)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_a_constant_allows_itself_only(value: Any) -> None:
    assert of({"const": value}, json.dumps(value)) == ("right", None)
    assert of({"const": value}, json.dumps([value, value])) == ("wrong", None)


@pytest.mark.parametrize(
    "value, step, is_right",
    [
        (19.99, 0.01, True),
        (0.3, 0.1, True),
        (19.995, 0.01, False),
        (7, 2, False),
        (1e300, 1e-5, True),
        (4.02, 0.2, False),
    ],
)
def test_multiples_of_decimals_are_exact(value: float, step: float, is_right: bool) -> None:
    for keyword, draft in (("multipleOf", "2020-12/schema"), ("divisibleBy", "draft-03/schema#")):
        host = "https://json-schema.org/draft/" if keyword == "multipleOf" else "http://json-schema.org/"
        schema = {"$schema": host + draft, keyword: step}
        assert verify(json.dumps(value), json.dumps(schema)).is_right == is_right


FORMATS = {
    "email": ("ann@example.org", "nobody"),
    "date": ("2024-02-29", "2023-02-29"),
    "date-time": ("2024-02-29T10:00:00Z", "2024-02-30T10:00:00Z"),
    "time": ("10:00:00Z", "10:00:00"),
    "ipv4": ("10.0.0.1", "10.0.0.300"),
    "uri": ("https://example.org/a?b=c", "example"),
    "hostname": ("example.org", "-example"),
    "uuid": ("123e4567-e89b-12d3-a456-426614174000", "123"),
}


def test_the_formats_that_are_checked_are_named() -> None:
    assert set(json_schema.FORMATS.checkers) == set(CHECKED) >= FORMATS.keys()


@pytest.mark.parametrize(
    ("schema", "formats"),
    [
        ({"type": "string", "format": "iri"}, {"iri"}),
        ({"properties": {"a": {"format": "duration"}, "b": {"items": [{"format": "iri"}, {"format": "date"}]}}},
         {"duration", "iri"}),
        ({"$defs": {"x": {"format": "int32"}}, "$ref": "#/$defs/x"}, {"int32"}),
        ({"properties": {"format": {"type": "string"}, "enum": {"format": "iri"}}, "required": ["format"]}, {"iri"}),
        ({"enum": [{"format": "iri"}], "examples": [{"format": "iri"}], "default": {"format": "iri"}}, set()),
        ({"format": "email"}, set()),
        (True, set()),
    ],
)  # fmt: skip
def test_formats_that_are_not_checked_are_found(schema: object, formats: set[str]) -> None:
    assert unchecked(json.dumps(schema)) == formats


@pytest.mark.parametrize("text", ["", "{", "7", "[" * 100_000])
def test_what_is_no_schema_has_no_formats(text: str) -> None:
    assert unchecked(text) == set()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_checked(name: str) -> None:
    good, bad = FORMATS[name]
    gold = json.dumps({"type": "string", "format": name})
    assert verify(json.dumps(good), gold).is_right
    assert verify(json.dumps(bad), gold).outcome == "wrong"
    assert verify("4", json.dumps({"format": name})).is_right, "a format is about text"


@pytest.mark.parametrize(("text", "is_right"), [("23:59:59.5+02:00", True), ("25:00:00Z", False), ("10:00Z", False)])
def test_a_time_has_an_offset_and_exists(text: str, is_right: bool) -> None:
    assert verify(json.dumps(text), '{"format": "time"}').is_right == is_right
