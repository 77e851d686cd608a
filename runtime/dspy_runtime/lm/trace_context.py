"""The trace that a request belongs to, in W3C's words: from its client to the calls that are made in its name.

It is OpenTelemetry's own context variable, so that whatever a program traces by itself belongs to the same trace.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACEPARENT = "traceparent"
_W3C = TraceContextTextMapPropagator()


def read(headers: Mapping[str, str]) -> context.Context | None:
    """The trace of a request by its headers; None for one that names none, or none that is well formed."""
    if TRACEPARENT not in headers:
        return None
    found = _W3C.extract(headers, context.Context())
    return found if trace.get_current_span(found).get_span_context().is_valid else None


def trace_id(found: context.Context) -> str:
    """Its 32 hexadecimal digits."""
    return trace.format_trace_id(trace.get_current_span(found).get_span_context().trace_id)


@contextmanager
def within(found: context.Context | None) -> Iterator[None]:
    """What is called in it belongs to that trace."""
    if found is None:
        yield
        return
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


def outgoing() -> list[tuple[str, str]]:
    """The header by which a call belongs to the trace of the request that makes it. `tracestate` stays here: what it
    says of a client's systems is not for a provider."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return [(TRACEPARENT, carrier[TRACEPARENT])] if carrier else []
