"""What a step may look at while it is carried out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the step at hand is."""

    elapsed_seconds: float
    """How long the step's clock has run; it stands still while something blocks the release."""
    candidate_requests: int
    """Requests that the candidate has started since the step began."""
    weight_bp: int
    """The candidate's desired weight now, in basis points."""
    routes_acked: bool
    """Whether every gateway that carries traffic obeys the routes with that weight."""
    approval: str = ""
    """The request by which a person approves the step."""
    approved: bool = False
    """Whether a person has."""
    preview: str = ""
    """Where people may look at the candidate before it has traffic; empty without a preview."""
    smoke_test: str = ""
    """What the smoke test waits for, in words."""
    smoke_test_passed: bool = False
    comparison: str = ""
    """How a comparison stands, in words."""
    concluded: str = ""
    """What a comparison that has ended means for the candidate."""
    refusal: str = ""
    """Which gateway does not take the routes, and why; empty where none refuses them."""
