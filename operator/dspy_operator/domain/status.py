"""What people read: the status of a program and of its rollouts, projected from the ledger and the snapshot. Pure.

The ledger travels inside the program's status. Everything else there may be lost and comes back with the next pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dspy_operator.api.conditions import Condition, false, merged, true
from dspy_operator.api.convert import to_dict
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import Policy
from dspy_operator.api.times import timestamp
from dspy_operator.domain.analysis.users import NO_USERS
from dspy_operator.domain.ledger import Ledger, Refused, Release
from dspy_operator.domain.measured import errors, measured
from dspy_operator.domain.readiness import can_serve, problem_of
from dspy_operator.domain.release.messages import step_label
from dspy_operator.domain.release.rules import current_activity
from dspy_operator.domain.snapshot import DesiredRevision, Problem, Program, Revision, Snapshot
from dspy_operator.domain.writing import checkpoint_seconds, is_program_due, is_rollout_due, live_seconds

RESOLVING = Problem(Reason.RESOLVING, "The model is being looked up")

Content = dict[str, Any]


def program_status(snapshot: Snapshot, ledger: Ledger, now: float) -> tuple[Ledger, Content | None]:
    """The ledger as it will be stored, and the status to write; None when the one that is there will do.

    New evidence alone is written every few seconds; everything else at once.
    """
    content = _program(snapshot, ledger, now)
    known = dict(snapshot.program.status)
    due = not 0 <= now - ledger.checkpointed_at < checkpoint_seconds(snapshot.moving)
    # One that could not be read is written over, whatever it looks like.
    if not snapshot.program.lost and not is_program_due(content, known, due):
        return ledger, None
    ledger = replace(ledger, checkpointed_at=now)
    return ledger, {**content, "release": _stored(ledger)}


def refused_status(snapshot: Snapshot, ledger: Ledger, problem: Problem, now: float) -> Content | None:
    """The status of a program that has nothing to serve yet and cannot begin; None when it says so already."""
    available = false("Available", problem.reason, problem.message)
    current = false("Current", Reason.WAITING, problem.message)
    resolving = problem.reason in (Reason.RESOLVING, Reason.REGISTRY_UNAVAILABLE)
    stalled = false("Stalled", Reason.PROGRESSING) if resolving else true("Stalled", problem.reason, problem.message)
    conditions = [_accepted(problem), available, current, *_for_machines(available, current, stalled)]
    content = _base(snapshot, ledger, conditions, now)
    return content if is_program_due(content, dict(snapshot.program.status), checkpoint=False) else None


def held_status(program: Program, problem: Problem, now: float) -> Content | None:
    """The status of a program of which nothing can be decided: all of it is kept, the ledger among it.

    What serves goes on, so Available stays what it was. None when it says so already.
    """
    before = program.status
    words = (problem.reason, problem.message)
    changed = [
        *(false(kind, *words) for kind in ("Accepted", "Current", "Ready")),
        false("Reconciling", Reason.SETTLED),
        true("Stalled", *words),
    ]
    mine = merged(before.get("conditions", ()), changed, program.generation, now)
    kept = [each for each in before.get("conditions", ()) if each["type"] not in {one.type for one in changed}]
    content = {**before, "observedGeneration": program.generation, "conditions": [*mine, *kept]}
    known = {each["type"]: each for each in before.get("conditions", ())}
    return None if all(known.get(each["type"]) == each for each in mine) else content


def rollout_statuses(snapshot: Snapshot, ledger: Ledger, now: float) -> list[tuple[Policy, Content]]:
    """The statuses to write for every rollout that names the program: the oldest governs it, the others conflict."""
    found = []
    for policy in snapshot.policies:
        content = (
            _rollout(snapshot, ledger, policy, now)
            if policy is snapshot.policy
            else _conflict(policy, snapshot.policies[0], now)
        )
        if is_rollout_due(content, dict(policy.status), now, live_seconds(snapshot.moving)):
            found.append((policy, content))
    return found


def orphan_status(policy: Policy, now: float) -> Content | None:
    """The status of a rollout whose program is not there; None when it says so already."""
    words = (
        f"There is no DSPyProgram {policy.spec.program_ref.name} in this namespace: create it, or mend spec.programRef"
    )
    content = _rollout_base(policy, "Idle", words, [false("Accepted", Reason.PROGRAM_NOT_FOUND, words)], now)
    return content if is_rollout_due(content, dict(policy.status), now) else None


def phase_of(snapshot: Snapshot, ledger: Ledger) -> str:
    """The phase in one word."""
    candidates = ledger.release.candidates if ledger.release else ()
    others = [*(draining.revision for draining in ledger.draining), *candidates]
    if (
        ledger.stable_proven
        and not can_serve(snapshot, ledger.stable)
        and any(can_serve(snapshot, other) for other in others)
    ):
        return "Degraded"
    if ledger.release:
        return "Paused" if ledger.release.paused else "Progressing"
    desired = snapshot.desired_revision
    if desired and ledger.refusal(desired.name):
        return "RollingBack" if any(draining.revision == desired.name for draining in ledger.draining) else "Refused"
    return "Idle"


def _program(snapshot: Snapshot, ledger: Ledger, now: float) -> Content:
    stable = snapshot.revision(ledger.stable)
    conditions = [*_conditions(snapshot, ledger), *as_logged(snapshot)]
    workload = snapshot.workloads.get(str(ledger.stable))
    content = _base(snapshot, ledger, conditions, now)
    told = snapshot.description.revision if snapshot.description else described(snapshot.program.status)
    if told:
        content["described"] = {"revision": told}
    if forgotten := snapshot.forgotten or has_forgotten(snapshot.program.status):
        content["answersForgotten"] = forgotten
    content["url"] = f"http://{snapshot.program.name}.{snapshot.program.namespace}.svc"
    content["replicas"] = workload.replicas if workload else 0
    content["readyReplicas"] = workload.ready if workload else 0
    if stable:
        content["stable"] = _revision(stable)
    asked = snapshot.asked_revision
    if asked:
        content["wanted"] = _revision(asked)
    elif "wanted" in snapshot.program.status:
        content["wanted"] = snapshot.program.status["wanted"]
    return content


def _base(snapshot: Snapshot, ledger: Ledger, conditions: list[Condition], now: float) -> Content:
    before = snapshot.program.status.get("conditions", ())
    return {
        "observedGeneration": snapshot.program.generation,
        "release": _stored(ledger),
        "history": [to_dict(ended) for ended in ledger.history],
        **({"request": ledger.request_outcome} if ledger.request_outcome else {}),
        "conditions": merged(before, conditions, snapshot.program.generation, now),
    }


def _stored(ledger: Ledger) -> Content:
    """The ledger as it is stored. Its history stands beside it, for people, and is not stored twice."""
    release = ledger.release
    if release:  # users are told anew by whoever saw them, and are many
        without = release.with_each(lambda each: replace(each, evidence=replace(each.evidence, users=NO_USERS)))
        ledger = replace(ledger, release=without)
    stored = {name: value for name, value in to_dict(ledger).items() if name != "history"}
    return {**stored, "version": ledger.version}


def _conditions(snapshot: Snapshot, ledger: Ledger) -> list[Condition]:
    """Every condition of a program. Ready, Reconciling and Stalled are for machines: kstatus reads them."""
    accepted, available = _accepted(snapshot.conflict or snapshot.asked), _available(snapshot, ledger)
    current, stalled = _current(snapshot, ledger), _stalled(snapshot, ledger)
    return [accepted, available, current, *_for_machines(available, current, stalled)]


def _for_machines(available: Condition, current: Condition, stalled: Condition) -> list[Condition]:
    missing = next((each for each in (available, current) if each.status != "True"), None)
    ready = false("Ready", missing.reason, missing.message) if missing else true("Ready", Reason.SERVING)
    moving = missing is not None and stalled.status != "True"
    reconciling = true if moving else false
    words = (missing.reason, missing.message) if missing and moving else (Reason.SETTLED, "")
    return [ready, reconciling("Reconciling", *words), stalled]


def _accepted(desired: DesiredRevision | Problem | None) -> Condition:
    if isinstance(desired, Problem):
        status = "Unknown" if desired.reason in (Reason.REGISTRY_UNAVAILABLE, Reason.RESOLVING) else "False"
        return Condition("Accepted", status, desired.reason, desired.message)
    return true("Accepted", Reason.ACCEPTED)


def _available(snapshot: Snapshot, ledger: Ledger) -> Condition:
    if not can_serve(snapshot, ledger.stable):
        problem = problem_of(snapshot.workloads.get(str(ledger.stable)))
        return false("Available", problem.reason, problem.message)
    if snapshot.gateway.problem:
        return false("Available", snapshot.gateway.problem.reason, snapshot.gateway.problem.message)
    if snapshot.conflict:
        return false("Available", snapshot.conflict.reason, snapshot.conflict.message)
    if snapshot.service_port is None:
        return false("Available", Reason.GATEWAY_NOT_READY, "The namespace's gateway is starting")
    return true("Available", Reason.SERVING)


def _current(snapshot: Snapshot, ledger: Ledger) -> Condition:
    desired = snapshot.desired_revision
    if ledger.release:
        return false("Current", Reason.RELEASE_IN_PROGRESS, current_activity(ledger, snapshot))
    if ledger.pin:
        pinned, instead = snapshot.label(ledger.pin.revision), snapshot.label(ledger.pin.instead_of)
        serves = "serves" if ledger.stable == ledger.pin.revision else "is to serve"
        message = (
            f"{pinned} {serves} instead of {instead}, as undo or an A/B test chose: until the spec asks for another"
        )
        if isinstance(snapshot.asked, Problem) and _accepted(snapshot.asked).status == "False":
            message = f"{message} (now: {snapshot.asked.message})"
        return false("Current", Reason.UNDONE, f"{message}, or `retry {ledger.pin.instead_of}`")
    if desired is None:
        return _while_unresolved(snapshot)
    if desired.name == ledger.stable:
        if can_serve(snapshot, ledger.stable):
            return true("Current", Reason.CURRENT)
        return false("Current", Reason.WAITING, problem_of(snapshot.workloads.get(desired.name)).message)
    refused = ledger.refusal(desired.name)
    if refused:
        rolled_back = refused.outcome == Reason.ROLLED_BACK
        return false("Current", Reason.ROLLED_BACK if rolled_back else Reason.REFUSED, refused.message)
    if snapshot.policy is None and snapshot.program.spec.rollout_policy == "Required":
        message = "PolicyMissing: spec.rolloutPolicy is Required and no DSPyRollout names this program"
        return false("Current", Reason.WAITING, message)
    if snapshot.policy and snapshot.policy.unreadable:
        return false("Current", Reason.UNREADABLE, f"The rollout {snapshot.policy.name} cannot be read: nothing starts")
    if snapshot.conflict:
        return false("Current", Reason.WAITING, snapshot.conflict.message)
    for name, asked in snapshot.variants.items():
        if isinstance(asked, Problem):
            return false("Current", Reason.WAITING, f"The variant {name} of the rollout is not known: {asked.message}")
    return false("Current", Reason.WAITING, "Stable has not been ready yet")


def as_logged(snapshot: Snapshot) -> list[Condition]:
    """Whether the revision that the spec asks for runs as it was logged, as a pod of it says."""
    said = snapshot.description
    if said is None:
        return _as_logged_before(snapshot)
    problems = []
    if said.dropped_settings:
        names = ", ".join(said.dropped_settings)
        words = f"settings of DSPy that were saved with it are not in force: {names}"
        problems.append((Reason.SETTINGS_DROPPED, words))
    if said.underivable:
        names = ", ".join(said.underivable)
        advice = "give serving.schema.input, or log the version with its code (code_paths)"
        problems.append((Reason.TYPES_UNKNOWN, f"the types of {names} are not known, so anything is taken: {advice}"))
    if not problems:
        return [true("AsLogged", Reason.AS_LOGGED, f"Of {said.revision} nothing is left out")]
    return [false("AsLogged", problems[0][0], f"Of {said.revision}: {'; '.join(words for _, words in problems)}")]


def described(status: Mapping[str, Any]) -> str:
    """The revision of which a program's status says whether it runs as it was logged."""
    return str((status.get("described") or {}).get("revision", ""))


def has_forgotten(status: Mapping[str, Any]) -> str:
    """The last wish that answers be forgotten of which a program's status says that it was carried out."""
    return str(status.get("answersForgotten", ""))


def _as_logged_before(snapshot: Snapshot) -> list[Condition]:
    """What is said of the same revision stays; of another nothing is known yet."""
    status, desired = snapshot.program.status, snapshot.desired_revision
    before = next((each for each in status.get("conditions", ()) if each["type"] == "AsLogged"), None)
    if before is None:
        return []
    if desired is not None and desired.name != described(status):
        return [Condition("AsLogged", "Unknown", Reason.WAITING, f"No pod of {desired.name} has said so yet")]
    return [Condition("AsLogged", before["status"], before["reason"], before.get("message", ""))]


def _while_unresolved(snapshot: Snapshot) -> Condition:
    """While a registry is away, or the operator has just started, Current keeps what it said of the same spec."""
    problem = snapshot.desired if isinstance(snapshot.desired, Problem) else RESOLVING
    passing = problem.reason in (Reason.REGISTRY_UNAVAILABLE, Reason.RESOLVING)
    for each in snapshot.program.status.get("conditions", ()):
        same = each.get("observedGeneration") == snapshot.program.generation
        if passing and same and each["type"] == "Current" and each["reason"] != Reason.RELEASE_IN_PROGRESS:
            return Condition("Current", each["status"], each["reason"], each.get("message", ""))
    return false("Current", Reason.WAITING, problem.message)


def _stalled(snapshot: Snapshot, ledger: Ledger) -> Condition:
    """True only where a person must change something after a failure."""
    paused = ledger.release.paused if ledger.release else None
    if paused and paused.reason in (Reason.PROGRESS_DEADLINE_EXCEEDED, Reason.STEP_DEADLINE_EXCEEDED):
        return true("Stalled", paused.reason, paused.message)
    workload = snapshot.workloads.get(str(ledger.stable))
    if workload and workload.fatal and not can_serve(snapshot, ledger.stable):
        return true("Stalled", workload.fatal.reason, workload.fatal.message)
    problem = snapshot.conflict or snapshot.asked
    if isinstance(problem, Problem) and _accepted(problem).status == "False":
        return true("Stalled", problem.reason, problem.message)
    desired = snapshot.desired_revision
    refused = ledger.refusal(desired.name) if desired and desired.name != ledger.stable else None
    if refused and ledger.release is None:
        return true("Stalled", refused.reason, refused.message)
    return false("Stalled", Reason.PROGRESSING if ledger.release else Reason.SETTLED)


def _rollout(snapshot: Snapshot, ledger: Ledger, policy: Policy, now: float) -> Content:
    release, phase = ledger.release, phase_of(snapshot, ledger)
    desired = snapshot.desired_revision
    refused = ledger.refusal(desired.name) if desired else None
    message = (
        current_activity(ledger, snapshot)
        if release
        else (refused.message if refused else _current(snapshot, ledger).message)
    )
    accepted = true("Accepted", Reason.ACCEPTED)
    if policy.unreadable:
        accepted = false("Accepted", Reason.UNREADABLE, policy.unreadable)
    conditions = [accepted]
    conditions += _notifying(snapshot, policy)
    content = _rollout_base(policy, phase, message, conditions, now)
    stable = snapshot.revisions.get(str(ledger.stable))
    content["stable"] = f"v{stable.version}" if stable else ""
    content["candidate"] = ", ".join(filter(None, _candidates(snapshot, release, refused)))
    content["weight"] = f"{release.backend.weight / 100:g}" if release else "0"
    if snapshot.preview_url:
        content["previewUrl"] = snapshot.preview_url
    if release:
        content["step"] = step_label(release)
        content |= measured(snapshot, release)
    elif refused:
        content |= {"step": refused.step, "errors": errors(refused.candidate, refused.stable)}
    return content


def _candidates(snapshot: Snapshot, release: Release | None, refused: Refused | None) -> list[str]:
    """By version, or by the name that the policy gives a variant."""
    if release:
        return [each.variant or snapshot.version(each.candidate) for each in release.each]
    return [snapshot.version(refused.revision)] if refused else []


def _notifying(snapshot: Snapshot, policy: Policy) -> list[Condition]:
    """Names in spec.notifications that nothing has."""
    if snapshot.unknown_receivers:
        unknown = ", ".join(snapshot.unknown_receivers)
        words = f"spec.notifications names receivers that are not configured in the operator: {unknown}"
        return [false("Notifying", Reason.RECEIVER_UNKNOWN, words)]
    unknown = ", ".join(sorted({each for one in policy.spec.notifications for each in one.reasons} - set(Reason)))
    words = f"spec.notifications names reasons that no event has: {unknown}"
    return [false("Notifying", Reason.REASON_UNKNOWN, words)] if unknown else []


def _conflict(policy: Policy, governing: Policy, now: float) -> Content:
    words = f"The older rollout {governing.name} governs this program: delete one of the two"
    return _rollout_base(policy, "Idle", words, [false("Accepted", Reason.CONFLICT, words)], now)


def _rollout_base(policy: Policy, phase: str, message: str, conditions: list[Condition], now: float) -> Content:
    before = policy.status.get("conditions", ())
    return {
        "observedGeneration": policy.generation,
        "phase": phase,
        "message": message,
        "conditions": merged(before, conditions, policy.generation, now),  # type: ignore[arg-type]
        "measuredAt": timestamp(now),
    }


def _revision(revision: Revision) -> Content:
    return {
        "revision": revision.name,
        "modelUri": revision.model_uri,
        "version": f"v{revision.version}",
        "lm": revision.lm,
    }
