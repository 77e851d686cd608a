"""What a release measured, as its rollout's status shows it: requests, streams, metrics, the comparison. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dspy_contract.outcomes import FALLBACK_FLAG
from dspy_contract.stat_names import CACHED
from dspy_operator.api.rollout import Analysis
from dspy_operator.domain.analysis.comparison import compare
from dspy_operator.domain.analysis.evidence import Evidence
from dspy_operator.domain.analysis.judge import judge, judge_stream, spent_in_words
from dspy_operator.domain.analysis.means import Mean
from dspy_operator.domain.analysis.readings import Reading, told
from dspy_operator.domain.analysis.request_counts import RequestCounts
from dspy_operator.domain.analysis.streams import Stream, streams_of
from dspy_operator.domain.analysis.verdict import Side, Verdict
from dspy_operator.domain.ledger import Release
from dspy_operator.domain.release.in_force import analysis_of
from dspy_operator.domain.snapshot import Snapshot
from dspy_operator.domain.steps import Compare

Content = dict[str, Any]


def measured(snapshot: Snapshot, release: Release) -> Content:
    """What is known of a release that moves."""
    evidence, analysis = release.evidence, analysis_of(release, snapshot)
    judged = judge(evidence, analysis)
    return {
        "errors": errors(evidence.candidate, evidence.stable),
        "effectiveWeights": _effective_weights(snapshot),
        "requests": {"stable": _counts(evidence.stable), "candidate": _counts(evidence.candidate)},
        "judgement": {
            "verdict": str(judged.verdict),
            "evidence": _log10(judged.log_e),
            "message": judged.message,
        },
        "streams": [
            *_streams(evidence, analysis),
            *_metrics(analysis, snapshot.readings),
        ],
        **_comparison(release, analysis),
        **_candidates(snapshot, release, analysis),
    }


def _candidates(snapshot: Snapshot, release: Release, analysis: Analysis) -> Content:
    """Of a release of several candidates, each of them; what else is told is of the first."""
    if not release.others:
        return {}
    found = []
    for each in release.each:
        judged = judge(each.evidence, analysis)
        found.append(
            {
                "revision": each.candidate,
                "version": snapshot.version(each.candidate),
                **({"variant": each.variant} if each.variant else {}),
                "weight": f"{each.backend.weight / 100:g}",
                "requests": _counts(each.evidence.candidate),
                "judgement": {"verdict": str(judged.verdict), "message": judged.message},
                **_comparison(each, analysis),
            }
        )
    return {"candidates": found}


def _streams(evidence: Evidence, analysis: Analysis) -> list[Content]:
    """What each stream says; of models that stand in for others only where some did."""
    found = [_stream(evidence, analysis, stream) for stream in streams_of(analysis.streams)]
    return [told for told in found if told["name"] != FALLBACK_FLAG or "dryRun" not in told or _has_bad(told)]


def _has_bad(told: Content) -> bool:
    users = told.get("users", {})
    sides = [each.get(side, {}) for each in (told, users) for side in ("stable", "candidate")]
    return any(side.get("bad") for side in sides)


def _stream(evidence: Evidence, analysis: Analysis, stream: Stream) -> Content:
    judged = judge_stream(evidence, analysis, stream)
    return {
        "name": stream.name,
        "stable": {"requests": judged.stable.requests, "bad": judged.stable.bad},
        "candidate": {"requests": judged.candidate.requests, "bad": judged.candidate.bad},
        "evidence": _log10(judged.log_e),
        "verdict": str(judged.verdict),
        **_users(judged.stable_users, judged.candidate_users),
        **({"message": spent_in_words(evidence, stream)} if stream.spends else {}),
        **({"dryRun": True} if stream.dry_run else {}),
    }


def _metrics(analysis: Analysis, readings: Mapping[str, Reading]) -> list[Content]:
    """What Prometheus says: it decides nothing, and so has no evidence."""
    verdicts = {True: Verdict.WORSE, False: Verdict.NO_WORSE, None: Verdict.UNDECIDED}
    found = []
    for stream in analysis.streams:
        if stream.prometheus and stream.enabled:
            reads = told(stream.prometheus, readings.get(stream.name, Reading()))
            dry = {"dryRun": True} if stream.dry_run else {}
            found.append({"name": stream.name, "verdict": str(verdicts[reads.above]), "message": reads.message, **dry})
    return found


def _users(stable: Side, candidate: Side) -> Content:
    if not stable.requests and not candidate.requests:
        return {}
    return {"users": {"stable": _of_users(stable), "candidate": _of_users(candidate)}}


def _of_users(side: Side) -> Content:
    return {"users": side.requests, "bad": side.bad}


def _comparison(release: Release, analysis: Analysis) -> Content:
    """How the comparison of the release stands."""
    step = next((each for each in release.steps if isinstance(each, Compare)), None)
    if step is None:
        return {}
    compared = compare(release.evidence, analysis, step.stream, step.alpha)
    concluded = release.conclusion if release.concluded else None
    interval, users = compared.interval, release.evidence.users
    ends = {"low": interval.low, "high": interval.high}
    return {
        "comparison": {
            "stream": step.stream,
            "result": concluded.result if concluded else str(compared.result),
            "stable": _of_side(compared.stable),
            "candidate": _of_side(compared.candidate),
            "difference": compared.number(interval.seen),
            **{name: compared.number(end) for name, end in ends.items() if math.isfinite(end)},
            "seen": users.number,
            **({"sampled": f"{100 / 2**users.halvings:g}%"} if users.halvings else {}),
            "moved": users.moved,
            "message": concluded.message if concluded else compared.message,
        }
    }


def _of_side(side: Side | Mean) -> Content:
    return {"users": side.users, "mean": f"{side.mean:.3g}"} if isinstance(side, Mean) else _of_users(side)


def _log10(log_e: float) -> str:
    return f"{log_e / math.log(10):.1f}"


def _effective_weights(snapshot: Snapshot) -> dict[str, int]:
    """What the gateways apply, as the average over the pods that answered."""
    uid = snapshot.program.uid
    told = [state.programs[uid].effective for state in snapshot.gateway.states.values() if uid in state.programs]
    sums: Counter[str] = Counter()
    for weights in told:
        for name, weight in weights.items():
            sums[name.removesuffix(f"/{CACHED}")] += weight
    return {name: round(sums[name] / len(told)) for name in sorted(sums)}


def _counts(counts: RequestCounts) -> Content:
    return {
        "requests": counts.requests,
        "failures": counts.failures,
        **({"failuresBy": dict(counts.failures_by)} if counts.failures else {}),
        "clientErrors": counts.client_errors,
        "left": counts.left,
        "overloaded": counts.overloaded,
        "open": counts.open,
    }


def errors(candidate: RequestCounts, stable: RequestCounts) -> str:
    """Both failure rates in a few characters."""
    return f"{_percent(candidate)} vs {_percent(stable)}"


def _percent(counts: RequestCounts) -> str:
    return f"{counts.error_percent:.3g}%" if counts.requests else "-"
