"""What of a request makes the name of its answer, and the form in which an answer is kept."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from dspy_runtime.cache.entry import Entry, key_of, load

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
inputs = st.dictionaries(st.text(), values, max_size=4)
entries = st.builds(
    Entry,
    answer=st.binary(),
    flags=st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True), max_size=3).map(tuple),
    score=st.none() | st.floats(0, 1),
    begun_at=st.floats(0, 1e10),
)


@given(inputs)
def test_neither_the_order_of_fields_nor_white_space_makes_another_request(content: dict[str, object]) -> None:
    turned = dict(reversed(content.items()))
    plain = key_of(json.dumps(content).encode(), "")
    assert plain == key_of(json.dumps(turned, indent=2, ensure_ascii=False).encode(errors="surrogatepass"), "")
    assert plain != key_of(json.dumps(content).encode(), "2"), "another version of the cache knows nothing of it"


@given(inputs, inputs)
def test_different_requests_have_different_names(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of(json.dumps(one).encode(), "") == key_of(json.dumps(other).encode(), "")) == same


def test_what_can_be_no_request_has_no_name() -> None:
    for body in (b"", b"{", b"\xff", b"," * 300_000, b"[" * 100_000):
        assert key_of(body, "") is None


@given(entries)
def test_an_entry_is_read_as_it_was_written(entry: Entry) -> None:
    assert load(entry.dump()) == entry


@given(st.binary())
def test_anything_else_is_no_entry_or_one_that_can_be_answered(content: bytes) -> None:
    entry = load(content)
    assert entry is None or all(flag.isascii() and "\n" not in flag for flag in entry.flags)
