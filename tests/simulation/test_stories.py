"""One readable story for each row of "what happens when": the operator's own words, compared with golden
transcripts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from dspy_contract.routes import CONTENT_KEY, Backend, dump, load_routes
from dspy_operator.notifier import Notifier
from dspy_operator.prometheus_queries import PrometheusQueries
from dspy_operator.settings import PrometheusSettings
from tests.simulation.api import refusal
from tests.simulation.transcript import transcript
from tests.simulation.world import CANARY, NAMESPACE, PROGRAM, RECEIVER, Serving, release

PROMOTING = {"analysis": {"onUndecided": "Promote"}}


def test_the_first_revision_of_a_program(serving: Serving, snapshot: SnapshotAssertion) -> None:
    assert transcript(serving()) == snapshot


def test_a_good_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    assert world.stable == 2
    assert world.deployed() == {2}
    assert transcript(world) == snapshot


def test_a_release_that_waits_for_approval(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(
        steps=({"setWeight": 20}, {"pause": {"approval": True}}, {"setWeight": 50}, {"pause": {"seconds": 5}})
    )
    release(world)
    world.settle(30, rate=20)
    assert world.condition("Stalled")[0] == "False"
    world.settle(4_000, rate=1)  # longer than any deadline
    assert world.weight(2) == 2_000
    candidate = world.revision(2)
    world.ask(f"approve {candidate}/1 a")
    world.settle(5, rate=20)
    world.ask(f"approve {candidate} b")
    world.settle(5, rate=20)
    assert world.weight(2) == 2_000
    world.ask(f"approve {candidate}/2 c")
    world.settle(3, rate=20)
    assert world.weight(2) == 5_000
    world.ask(f"approve {candidate}/2 d")
    world.settle(60, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_candidate_that_spends_more_tokens(serving: Serving) -> None:
    """Where a policy judges that: by a fifth is not found at a tolerance of a fifth, by half is."""
    tokens = {"name": "tokens", "tolerancePercent": 20}
    steps = ({"setWeight": 10}, {"pause": {"seconds": 600}})
    world = serving(steps=steps, analysis={"streams": [tokens], "onUndecided": "Promote"})
    world.versions[1].tokens = 400
    release(world, tokens=480)
    world.settle(700, rate=20)
    assert world.stable == 2
    release(world, 3, tokens=800)
    world.settle(5)
    world.settle_until(lambda: world.refused(3), 900)
    refused = world.ledger.refusal(world.revision(3))
    assert refused is not None
    assert (refused.outcome, refused.reason) == ("RolledBack", "SpendsMore")
    assert re.fullmatch(
        r"The candidate spends more tokens: [78]\d\d tokens a request .* 4[678]\d tokens of stable", refused.message
    )


def test_a_candidate_that_costs_more(serving: Serving) -> None:
    """Of answers whose price is known: where nobody knows it, that is said, and nothing is judged."""
    steps = ({"setWeight": 10}, {"pause": {"seconds": 600}})
    world = serving(steps=steps, analysis={"streams": [{"name": "cost"}], "onUndecided": "Promote"})
    world.versions[1].cost = 0.002
    release(world)
    world.settle(30, rate=20)
    (cost,) = [each for each in world.rollout_status["streams"] if each["name"] == "cost"]
    assert re.fullmatch(r"\$0 a request of .* against \$0\.00[12]\d* of stable; the price of \d+ .*", cost["message"])
    world.settle(700)
    assert world.stable == 2, "what is not known is no reason"
    world.versions[2].cost = 0.002
    release(world, 3, cost=0.004)
    world.settle(5)
    world.settle_until(lambda: world.refused(3), 900)
    refused = world.ledger.refusal(world.revision(3))
    assert refused is not None
    assert (refused.outcome, refused.reason) == ("RolledBack", "CostsMore")
    assert re.fullmatch(r"The candidate costs more: \$0\.00\d+ a request .* \$0\.00\d+ of stable", refused.message)


def test_a_metric_holds_a_release_and_refuses_nothing(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, snapshot: SnapshotAssertion
) -> None:
    """While it is not known, or above its limit; a Prometheus that is away costs no version."""
    says: dict[str, float | str] = {"spend": "the query has no data"}

    async def number(self: PrometheusQueries, server: PrometheusSettings, query: str) -> float | str:
        return says[query.partition(" ")[0]]

    monkeypatch.setattr(PrometheusQueries, "_number", number)
    spend = {"name": "spend", "prometheus": {"query": "spend of $candidate", "max": 0.5, "everySeconds": 5}}
    steps = ({"setWeight": 10}, {"pause": {"seconds": 10}}, {"setWeight": 80}, {"pause": {"seconds": 30}})
    world = serving(steps=steps, analysis={"streams": [spend], "onUndecided": "Promote"}, progressDeadlineSeconds=20)
    release(world)
    world.settle(60, rate=20)
    assert (world.weight(2), world.condition("Stalled")[1]) == (1_000, "ProgressDeadlineExceeded")
    says["spend"] = 0.25
    world.settle_until(lambda: world.weight(2) == 8_000, 30)
    says["spend"] = 0.75
    world.settle(10)
    assert world.weight(2) == 5_000
    shown = next(each for each in world.rollout_status["streams"] if each["name"] == "spend")
    assert shown == {"name": "spend", "verdict": "Worse", "message": "0.75, above 0.5"}
    says["spend"] = 0.5
    world.settle(120)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_receivers_are_told_of_what_a_release_does(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(Notifier, "_put", lambda self, name, each: told.append((name, each.reason)))
    world = serving(notifications=[{"receiver": RECEIVER}, {"receiver": "nobody"}])
    release(world, failure_rate=0.5)
    world.settle(60, rate=20)
    assert told == [(RECEIVER, reason) for reason in ("ReleaseStarted", "CandidateLowered", "RolledBack")]
    notifying = next(each for each in world.rollout_status["conditions"] if each["type"] == "Notifying")
    assert (notifying["status"], notifying["reason"]) == ("False", "ReceiverUnknown")
    assert notifying["message"].endswith("not configured in the operator: nobody")
    world.set_policy(CANARY, notifications=[{"receiver": RECEIVER, "reasons": ["Promoted", "Promotd"]}])
    world.settle(5)
    notifying = next(each for each in world.rollout_status["conditions"] if each["type"] == "Notifying")
    assert (notifying["reason"], notifying["message"][-9:]) == ("ReasonUnknown", ": Promotd")


def test_the_registry_is_told_where_a_rollout_asks_for_it(serving: Serving) -> None:
    write_back = {"promotedAlias": "production", "tags": True}
    world = serving(writeBack=write_back, **PROMOTING)
    release(world)
    world.settle(75, rate=20)
    assert world.registry.aliases == {"production": "models:/qa/2"}
    assert world.registry.tags["models:/qa/2"] == {"dspy.dev/outcome": "Promoted", "dspy.dev/reason": "Promoted"}
    release(world, 3, failure_rate=1.0)
    world.settle_until(lambda: world.weight(3) > 0, 30)
    world.registry.up = False
    world.settle(60, rate=20)
    assert world.refused(3), "no release waits for it"
    assert "models:/qa/3" not in world.registry.tags
    world.registry.up = True
    world.settle(90, rate=20)
    assert world.registry.tags["models:/qa/3"] == {
        "dspy.dev/outcome": "RolledBack",
        "dspy.dev/reason": "FailsMoreOften",
    }
    assert world.registry.aliases == {"production": "models:/qa/2"}
    world.registry.read_only = True
    release(world, 4)
    world.settle(75, rate=20)
    assert "WriteBackFailed: Not written to the registry: the alias production names models:/qa/4" in transcript(world)


def test_an_alias_that_the_program_follows_is_never_moved(serving: Serving) -> None:
    world = serving(writeBack={"promotedAlias": "champion", "tags": True}, **PROMOTING)
    world.edit("dspyprograms", lambda item: item["spec"]["model"].update(uri="models:/qa@champion"))
    world.publish(2)
    world.registry.champion = "2"
    world.settle(90, rate=20)
    assert world.stable == 2
    assert world.registry.aliases == {}
    assert world.registry.tags["models:/qa/2"]["dspy.dev/outcome"] == "Promoted"
    assert "the program follows that alias" in transcript(world)


BLOCKED = {"name": "guarded", "flag": "blocked"}


def test_a_stream_of_ones_own_lowers_a_candidate(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(analysis={"streams": [BLOCKED]})
    release(world, blocked_rate=0.5)
    world.settle(12, rate=20)
    streams = {each["name"]: each for each in world.rollout_status["streams"]}
    assert set(streams) == {"failed", "refused", "left", "slow", "guarded"}
    assert streams["guarded"]["candidate"]["bad"] > streams["failed"]["candidate"]["bad"]
    world.settle(60, rate=20)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_a_stream_that_is_tried_decides_nothing(serving: Serving) -> None:
    world = serving(analysis={"streams": [{**BLOCKED, "dryRun": True, "maxPercent": 1}], "onUndecided": "Promote"})
    release(world, blocked_rate=0.5)
    world.settle(10, rate=20)
    world.settle_until(lambda: world.rollout_status["streams"][-1]["verdict"] == "Worse", 30)
    guarded = world.rollout_status["streams"][-1]
    assert (guarded["name"], guarded["verdict"], guarded["dryRun"]) == ("guarded", "Worse", True)
    world.settle(120, rate=20)
    assert world.stable == 2


def test_a_built_in_stream_is_switched_off_for_releases_to_come(serving: Serving) -> None:
    world = serving(analysis={"streams": [{"name": "refused", "enabled": False}], **PROMOTING["analysis"]})
    release(world, refusal_rate=0.5)
    world.settle(12, rate=20)
    world.edit("dspyrollouts", lambda item: item["spec"]["analysis"].pop("streams"))
    world.settle(120, rate=20)
    assert world.stable == 2, "the streams are those of the release's beginning"
    release(world, 3, refusal_rate=1.0)
    world.settle(60, rate=20)
    assert world.refused(3)


def test_a_ceiling_of_any_stream_holds_the_steps(serving: Serving) -> None:
    world = serving(analysis={"streams": [{**BLOCKED, "maxPercent": 5}]}, steps=({"setWeight": 60}, *CANARY))
    world.versions[1].blocked_rate = 0.3
    release(world, blocked_rate=0.3)
    world.settle(60, rate=20)
    assert "The candidate is flagged blocked more often than 5%" in world.rollout_status["message"]
    assert world.weight(2) == 5_000


def blue_green(**fields: Any) -> dict[str, Any]:
    """A policy's strategy."""
    return {"type": "BlueGreen", "blueGreen": {"warmSeconds": 60, **fields}}


def test_a_blue_green_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(strategy=blue_green())
    release(world)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    assert world.weight(2) == 9_500
    assert world.stable == 1
    world.settle(30, rate=20)
    assert (world.stable, world.deployed()) == (1, {1, 2})
    world.settle(400, rate=20)
    assert (world.stable, world.deployed()) == (2, {2})
    assert transcript(world) == snapshot


def test_a_blue_green_release_goes_back_by_one_change_of_routes(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(strategy=blue_green(), replicas=2)
    release(world, failure_rate=0.5)
    world.settle(1, rate=20)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    pods = set(world.pods(1))
    world.settle_until(lambda: world.traffic(2) == 0, 30)
    assert set(world.pods(1)) == pods, "the old revision was warm"
    world.settle(60, rate=20)
    assert world.refused(2)
    assert world.stable == 1
    assert transcript(world) == snapshot


def test_a_blue_green_switch_that_waits_for_approval(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(strategy=blue_green(approval="Required"))
    release(world)
    world.settle(60, rate=20)
    assert (world.weight(2), world.deployed()) == (0, {1, 2})
    world.ask(f"approve {world.revision(2)}/1 a")
    world.settle(3, rate=20)
    assert world.weight(2) == 9_500
    world.settle(400, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_blue_green_candidate_has_a_preview(serving: Serving) -> None:
    world = serving(strategy=blue_green(approval="Required"))
    world.settle(5)
    assert world.preview == []
    release(world)
    world.settle(30, rate=20)
    assert world.preview == [Backend(world.revision(2), 10_000)]
    assert world.rollout_status.get("previewUrl") == f"http://{PROGRAM}-preview.{NAMESPACE}.svc"
    world.ask(f"abort {world.revision(2)} a")
    world.settle(10, rate=20)
    assert world.preview == []
    world.edit("dspyrollouts", lambda item: item["spec"].update(strategy={"type": "Canary", "canary": {"steps": []}}))
    world.settle(10, rate=20)
    assert world.preview is None
    assert world.api.get("services", NAMESPACE, f"{PROGRAM}-preview") is None
    assert "previewUrl" not in world.rollout_status


def smoke_test(**fields: Any) -> dict[str, Any]:
    """Two requests whose answers are known."""
    expect = {"answer": {"equals": "Paris"}, "score": {"schema": {"type": "number", "minimum": 0.5}}}
    requests = [
        {"name": "capital", "input": {"question": "The capital of France?"}, "expect": expect},
        {"input": {"question": "?"}, "expect": {"answer": {"pattern": "^P"}}},
    ]
    return {"smokeTest": {"requests": requests, **fields}}


def test_a_smoke_test_comes_before_any_traffic(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(strategy=blue_green(**smoke_test()))
    world.previews.busy = 3
    release(world)
    world.settle(9, rate=20)
    assert (world.weight(2), world.traffic(2)) == (0, 0)
    world.settle(400, rate=20)
    assert world.stable == 2
    assert [json.loads(body)["question"] for body in world.previews.asked[3:]] == ["The capital of France?", "?"]
    assert transcript(world) == snapshot


def test_a_smoke_test_that_fails_refuses_the_candidate(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(strategy=blue_green(**smoke_test(maxFailures=1)))
    release(world, says={"answer": "Lyon", "score": "high"})
    world.settle(40, rate=20)
    assert world.refused(2)
    assert world.traffic(2) == 0
    assert transcript(world) == snapshot


def test_a_smoke_test_may_fail_a_little(serving: Serving) -> None:
    world = serving(strategy=blue_green(**smoke_test(maxFailures=1)))
    release(world, says={"answer": "Paris"})
    world.settle(20, rate=20)
    assert world.weight(2) == 9_500
    assert "SmokeTestPassed: The smoke test passed: 1 of 2 requests were answered as expected; capital: " in transcript(
        world
    )


def test_a_smoke_test_waits_for_what_is_no_answer(serving: Serving) -> None:
    """A candidate that hangs has failed; one whose gateway is away, or whose operator ends, is asked again."""
    world = serving(strategy=blue_green(**smoke_test(timeoutSeconds=30)))
    for gateway in world.gateways.values():
        gateway.reachable = False
    release(world, says=None)
    world.settle(60, rate=20)
    assert not world.refused(2)
    for gateway in world.gateways.values():
        gateway.reachable = True
    world.settle(20, rate=20)
    world.restart_operator()
    world.settle(25, rate=20)
    assert not world.refused(2)
    world.settle(30, rate=20)
    assert world.refused(2)
    assert "no answer within 30 s" in world.condition("Current")[2]


def test_a_release_keeps_its_preview_whatever_becomes_of_the_policy(serving: Serving) -> None:
    world = serving(strategy=blue_green(**smoke_test()))
    world.previews.busy = 4
    release(world)
    world.settle_until(lambda: len(world.previews.asked) == 2, 60)
    world.edit("dspyrollouts", lambda item: item["spec"].update(strategy={"type": "Canary", "canary": {"steps": []}}))
    world.settle(30, rate=20)
    assert world.weight(2) == 9_500
    world.settle(400, rate=20)
    assert world.stable == 2
    world.edit("dspyrollouts", lambda item: item["spec"].update(paused=False))
    world.settle(5)
    assert world.preview is None


def test_a_smoke_test_goes_on_where_it_was_held_up(serving: Serving) -> None:
    world = serving(strategy=blue_green(**smoke_test()))
    world.previews.busy = 3
    release(world)
    world.settle_until(lambda: len(world.previews.asked) == 2, 60)
    world.edit("dspyrollouts", lambda item: item["spec"].update(paused=True))
    world.settle(60, rate=20)
    assert (len(world.previews.asked), world.weight(2)) == (2, 0)
    world.edit("dspyrollouts", lambda item: item["spec"].update(paused=False))
    world.settle(20, rate=20)
    assert (len(world.previews.asked), world.weight(2)) == (5, 9_500), "nothing was sent twice"


def test_preview_routes_that_somebody_wrote_over_are_outdone(serving: Serving) -> None:
    world = serving(strategy=blue_green(approval="Required"))
    release(world)
    world.settle(20, rate=20)
    item = world.api.get("configmaps", NAMESPACE, f"{PROGRAM}-preview-routes")
    assert item is not None
    routes = load_routes(item["data"][CONTENT_KEY])
    other = replace(routes, serial=9_999, backends=(Backend(world.revision(1), 10_000),), forced=True)
    world.edit("configmaps", lambda item: item["data"].update({CONTENT_KEY: dump(other)}), f"{PROGRAM}-preview-routes")
    world.settle(10, rate=20)
    item = world.api.get("configmaps", NAMESPACE, f"{PROGRAM}-preview-routes")
    assert item is not None
    assert replace(load_routes(item["data"][CONTENT_KEY]), serial=routes.serial) == routes
    assert load_routes(item["data"][CONTENT_KEY]).serial == 10_000


def test_somebody_elses_preview_service_takes_no_name_of_the_programs(serving: Serving) -> None:
    world = serving(strategy=blue_green())
    world.api.remove("services", NAMESPACE, f"{PROGRAM}-preview")
    world.api.put(
        "services", {"metadata": {"name": f"{PROGRAM}-preview", "namespace": NAMESPACE}, "spec": {"ports": []}}
    )
    world.settle(10)
    release(world)
    world.settle(400, rate=20)
    assert world.stable == 2
    assert world.condition("Ready")[0] == "True"
    assert "previewUrl" not in world.rollout_status


def test_a_smoke_test_that_cannot_be_carried_out_holds_the_policy(serving: Serving) -> None:
    broken = {"smokeTest": {"requests": [{"input": {}, "expect": {"answer": {"pattern": "("}}}]}}
    world = serving(strategy=blue_green(**broken))
    release(world)
    world.settle(30, rate=20)
    assert world.deployed() == {1}
    accepted = next(each for each in world.rollout_status["conditions"] if each["type"] == "Accepted")
    assert accepted["status"] == "False"
    assert "strategy.blueGreen.smokeTest.requests[0].expect.answer" in accepted["message"]


def test_a_switch_waits_until_every_pod_is_ready(serving: Serving) -> None:
    world = serving(strategy=blue_green(approval="Required"), replicas=3)
    release(world, start_seconds=20)
    world.settle(40, rate=20)
    world.api.remove("pods", NAMESPACE, world.pods(2)[0])
    world.ask(f"approve {world.revision(2)}/1 a")
    world.settle(10, rate=20)
    assert world.weight(2) == 0
    world.settle(15, rate=20)
    assert world.weight(2) == 9_500


def test_a_canary_that_is_watched_before_it_takes_over(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(
        steps=({"setWeight": 20}, {"pause": {"seconds": 10}}, {"watch": {"seconds": 60, "holdbackPercent": 2}})
    )
    release(world)
    world.settle(40, rate=20)
    assert (world.weight(2), world.stable) == (9_800, 1)
    world.settle(200, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_candidate_that_is_sized_with_its_weight(serving: Serving, snapshot: SnapshotAssertion) -> None:
    steps = [{"setWeight": 10}, {"pause": {"seconds": 20}}, {"setWeight": 50}, {"pause": {"seconds": 20}}]
    world = serving(replicas=10, strategy={"type": "Canary", "canary": {"replicas": "WithWeight", "steps": steps}})
    release(world)
    world.settle(15, rate=20)
    assert (world.weight(2), len(world.pods(2)), len(world.pods(1))) == (1_000, 2, 10)
    world.settle(20, rate=20)
    assert (world.weight(2), len(world.pods(2)), len(world.pods(1))) == (5_000, 6, 10)
    world.ask(f"promote {world.revision(2)} a")
    world.settle(1, rate=20)
    assert world.stable == 1, "six pods are not ten"
    world.settle(60, rate=20)
    assert (world.stable, len(world.pods(2))) == (2, 10)
    assert transcript(world) == snapshot


def test_a_person_goes_back_until_the_spec_asks_for_another(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    assert world.stable == 2
    old, new = world.revision(1), world.revision(2)
    for refused in (f"undo {new} a", "undo nobody b"):
        world.ask(refused)
        world.settle(5)
        assert world.status["request"].startswith("undo")
    world.ask(f"undo {old} c")
    world.settle(15)
    assert world.stable == 1
    assert world.status["wanted"]["version"] == "v2"
    assert world.condition("Ready")[1] == world.condition("Current")[1] == "Undone"
    assert (world.condition("Stalled")[0], world.condition("Reconciling")[0]) == ("False", "True")
    world.restart_operator()
    world.registry.up = False
    world.settle(120)
    assert world.stable == 1
    assert world.ledger.release is None
    world.registry.up = True
    world.ask(f"undo {old} d")
    release(world, 3)
    world.settle(75, rate=20)
    assert world.stable == 3
    assert transcript(world) == snapshot


def test_an_undo_in_mid_release_takes_the_candidates_traffic_at_once(serving: Serving) -> None:
    world = serving()
    release(world)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    old, new = world.revision(1), world.revision(2)
    world.ask(f"undo {old} a")
    world.settle(2)
    assert (world.traffic(2), world.ledger.release) == (0, None)
    world.settle(60, rate=20)
    assert (world.stable, world.ledger.release) == (1, None)
    world.ask(f"retry {new} b")
    world.settle(75, rate=20)
    assert world.stable == 2


def test_an_undo_outlives_a_status_that_is_lost(serving: Serving) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    world.ask(f"undo {world.revision(1)} a")
    world.settle(15)
    world.ask("retry nobody b")
    world.settle(5)
    world.edit("dspyprograms", lambda program: program.pop("status"))
    world.restart_operator()
    world.settle(60, rate=20)
    assert world.stable == 1
    assert world.ledger.release is None


def test_a_request_that_was_handled_does_not_come_back_with_a_lost_status(serving: Serving) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    world.ask(f"undo {world.revision(1)} a")
    world.settle(15)
    release(world, 3)
    world.settle(75, rate=20)
    assert world.stable == 3
    world.edit("dspyprograms", lambda program: program.pop("status"))
    world.restart_operator()
    world.settle(60, rate=20)
    assert world.stable == 3
    assert "ask again" in world.status["request"]


@pytest.mark.parametrize("policy", ["gone", "paused", "cannot be listed"])
def test_an_undo_waits_for_no_registry_and_no_policy(serving: Serving, policy: str) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    world.registry.up = False
    if policy == "gone":
        world.delete_policy()
    if policy == "paused":
        world.set_policy(CANARY, paused=True)
    if policy == "cannot be listed":
        world.fail(lambda call: refusal(500, "no") if call.resource == "dspyrollouts" and call.verb == "list" else None)
    world.ask(f"undo {world.revision(1)} a")
    world.settle(15)
    assert world.stable == 1
    world.heal()


def test_nobody_goes_back_to_what_never_served(serving: Serving) -> None:
    world = serving()
    release(world)
    world.settle_until(lambda: world.traffic(2) > 0, 30)
    cancelled = world.revision(2)
    release(world, 3)
    world.settle(75, rate=20)
    assert world.stable == 3
    world.ask(f"undo {cancelled} a")
    world.settle(15)
    assert world.stable == 3
    assert "never been stable" in world.status["request"]


def test_an_undo_that_is_aborted_or_cannot_run_is_over(serving: Serving) -> None:
    world = serving()
    release(world)
    world.settle(75, rate=20)
    old = world.revision(1)
    world.versions[1].start_seconds = 30
    world.ask(f"undo {old} a")
    world.settle(5)
    world.ask(f"abort {old} b")
    world.settle(5)
    assert world.condition("Ready")[0] == "True"
    assert not world.refused(1)
    world.versions[1].loads = False
    world.ask(f"undo {old} c")
    world.settle(60)
    assert world.stable == 2
    assert world.condition("Ready")[0] == "True"


def test_a_sized_candidate_keeps_its_pods_while_it_is_lowered(serving: Serving) -> None:
    steps = [{"setWeight": 50}, {"pause": {"seconds": 600}}]
    world = serving(replicas=10, strategy={"type": "Canary", "canary": {"replicas": "WithWeight", "steps": steps}})
    release(world)
    world.settle(20, rate=20)
    assert (world.weight(2), len(world.pods(2))) == (5_000, 6)
    world.reachable = False
    world.settle(20, rate=20)
    assert (world.weight(2), len(world.pods(2))) == (0, 6)
    world.reachable = True
    world.settle(60, rate=20)
    assert (world.weight(2), len(world.pods(2))) == (5_000, 6)


def test_a_watch_begins_with_the_switch_however_long_its_pods_take(serving: Serving) -> None:
    steps = [{"setWeight": 5}, {"watch": {"seconds": 60}}]
    sized = {"type": "Canary", "canary": {"replicas": "WithWeight", "steps": steps}}
    world = serving(replicas=4, strategy=sized, **PROMOTING)
    release(world, start_seconds=90)
    world.settle_until(lambda: world.weight(2) == 9_500, 400)
    world.settle(50, rate=20)
    assert world.stable == 1, "it is watched for a minute"
    world.settle(60, rate=20)
    assert world.stable == 2


def test_a_doubted_candidate_rises_again_when_it_was_calm(serving: Serving) -> None:
    world = serving(strategy=blue_green(warmSeconds=600), analysis={"streams": [{"name": "failed", "maxPercent": 5}]})
    release(world)
    world.settle(30, rate=20)
    assert world.weight(2) == 9_500
    world.surroundings.provider_failure_rate = 0.12
    world.settle_until(lambda: world.weight(2) == 5_000, 60)
    assert world.weight(2) == 5_000
    world.surroundings.provider_failure_rate = 0.0
    world.settle_until(lambda: world.weight(2) == 9_500, 600)
    assert world.weight(2) == 9_500
    assert not world.refused(2)


def test_a_person_skips_a_step(serving: Serving, snapshot: SnapshotAssertion) -> None:
    steps = ({"setWeight": 20}, {"pause": {"seconds": 3600}}, {"setWeight": 50}, {"pause": {"seconds": 5}})
    world = serving(steps=steps)
    release(world)
    world.settle(15, rate=20)
    candidate = world.revision(2)
    world.ask(f"promote {candidate}/1 a")
    world.settle(5, rate=20)
    assert world.weight(2) == 2_000
    world.ask(f"promote {candidate}/2 b")
    world.settle(3, rate=20)
    assert world.weight(2) == 5_000
    world.settle(90, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_candidate_that_turns_bad_while_it_waits_for_approval_goes_back(
    serving: Serving, snapshot: SnapshotAssertion
) -> None:
    world = serving(steps=({"setWeight": 20}, {"pause": {"approval": True}}))
    release(world)
    world.settle(30, rate=20)
    world.versions[2].failure_rate = 1.0
    world.settle(30, rate=20)
    assert world.refused(2)
    world.ask(f"approve {world.revision(2)}/2 a")
    world.settle(5, rate=20)
    assert world.stable == 1
    assert transcript(world) == snapshot


def test_a_bad_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, failure_rate=1.0)
    world.settle(30, rate=20)
    assert world.stable == 1
    assert world.deployed() == {1}
    assert transcript(world) == snapshot


def test_a_candidate_that_refuses_valid_requests(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, refusal_rate=0.5)
    world.settle(60, rate=20)
    assert world.refused(2)
    assert "refuses" in world.ledger.refused[0].message
    assert transcript(world) == snapshot


def test_a_candidate_above_the_ceiling(serving: Serving, snapshot: SnapshotAssertion) -> None:
    steps = ({"setWeight": 80}, {"pause": {"seconds": 600}})
    world = serving(steps=steps, analysis={"streams": [{"name": "failed", "maxPercent": 2}]})
    world.versions[1].failure_rate = 0.06
    release(world, failure_rate=0.08)
    world.settle(200, rate=20)
    assert world.ledger.release is not None
    assert world.weight(2) == 5_000
    assert world.ledger.release.paused is not None
    assert world.ledger.release.paused.reason == "AboveCeiling"
    assert transcript(world) == snapshot


def test_a_candidate_without_room_for_its_requests_waits(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, overloaded_rate=1.0)
    world.settle(60, rate=20)
    assert world.stable == 1
    assert not world.refused(2)
    assert world.condition("Stalled")[0] == "False"
    world.versions[2].overloaded_rate = 0.0
    world.settle(400)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_no_policy(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.delete_policy()
    release(world)
    world.settle(20, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_new_revision_in_mid_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(8, rate=5)
    release(world, 3)
    world.settle(75, rate=20)
    assert world.stable == 3
    assert transcript(world) == snapshot


def test_going_back_in_mid_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(8, rate=5)
    world.want(1)
    world.settle(10)
    assert world.stable == 1
    assert world.ledger.release is None
    assert transcript(world) == snapshot


def test_a_model_that_does_not_load(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, loads=False)
    world.settle(10, rate=5)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_a_candidate_that_takes_too_long_and_heals(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(progressDeadlineSeconds=10)
    release(world, start_seconds=30)
    world.settle(100, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_candidate_whose_pod_is_evicted_goes_on_at_the_same_step(
    serving: Serving, snapshot: SnapshotAssertion
) -> None:
    world = serving()
    release(world)
    world.settle(6, rate=5)
    world.take_down(2, seconds=15)
    world.settle(10, rate=20)
    assert world.ledger.release is not None
    assert world.ledger.release.step == 1
    world.settle(75)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_candidate_whose_pods_crash_three_times(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(replicas=3)
    release(world)
    world.settle(6, rate=5)
    world.crash(2)
    world.settle(5)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_a_candidate_that_hangs(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, hang_share=1.0)
    world.settle(30, rate=20)
    assert world.weight(2) == 0
    world.settle(140)
    assert world.refused(2)
    assert world.deployed() == {1}
    assert transcript(world) == snapshot


def test_a_candidate_that_sometimes_hangs(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, hang_share=0.25)
    world.settle(200, rate=20)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_clients_leave_a_candidate_that_hangs(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.surroundings.patience_seconds = 3.0
    release(world, hang_share=1.0)
    world.settle(40, rate=20)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_a_candidate_that_is_five_seconds_slower(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, latency_seconds=5.2)
    world.settle(60, rate=20)
    assert world.refused(2)
    assert transcript(world) == snapshot


def test_a_candidate_with_a_slow_tail(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world, slow_share=0.03, slow_seconds=4.0)
    world.settle(120, rate=20)
    assert world.refused(2)
    assert "slower" in world.ledger.refused[0].message
    assert transcript(world) == snapshot


def test_impatient_clients_are_no_fault_of_a_candidate(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.versions[1].latency_seconds = 3.0
    world.surroundings.patience_seconds = 4.48
    release(world, latency_seconds=3.0)
    world.settle(240, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_no_traffic(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(stepDeadlineSeconds=60)
    release(world)
    world.settle(100)
    assert world.ledger.release is not None
    assert world.ledger.release.paused is not None
    assert transcript(world) == snapshot


def test_the_provider_fails_for_both(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving(analysis={"streams": [{"name": "failed", "maxPercent": 5}]})
    release(world)
    world.settle(6, rate=20)
    world.surroundings.provider_failure_rate = 1.0
    world.settle(60)
    assert world.stable == 1
    assert world.ledger.release is not None
    world.surroundings.provider_failure_rate = 0.0
    world.settle(240)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_stable_cannot_answer_and_the_candidate_can(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(6, rate=5)
    world.take_down(1, seconds=20)
    world.settle(10, rate=20)
    assert all(gateway.effective[world.revision(2)] == 10_000 for gateway in world.gateways.values())
    world.settle(75)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_a_gateway_pod_is_replaced_and_another_envoy_restarts(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(8, rate=20)
    first, second = world.gateways
    world.api.remove("pods", NAMESPACE, first)
    world.gateways[second].restart_envoy(world.now)
    world.settle(90)
    assert first not in world.gateways
    assert world.stable == 2
    assert transcript(world) == snapshot


@pytest.mark.parametrize("history", [0, 1_000])
@pytest.mark.parametrize("silence", [False, True])
def test_a_candidate_that_drags_stable_down_waits_for_a_person(serving: Serving, history: int, silence: bool) -> None:
    world = serving(**PROMOTING)
    world.settle(history, rate=20)
    release(world)
    for _ in range(600):
        dragging = world.traffic(2) > 0
        world.surroundings.provider_failure_rate = 0.45 if dragging else 0.0
        quiet = silence and "StableSuffers" in str(world.status["release"]) and not dragging
        world.settle(1, rate=0.5 if quiet else 20)
    assert world.stable == 1
    assert world.weight(2) == 0
    assert world.events().count("CandidateLowered") == 2
    assert "drag it down" in world.condition("Current")[2]


def test_what_speaks_against_a_candidate_is_not_undecided(serving: Serving) -> None:
    """A dozen failures out of a dozen are no proof at 0.1 %, and no reason to promote."""
    world = serving(steps=({"setWeight": 50}, {"pause": {"seconds": 5}}), **PROMOTING)
    release(world, failure_rate=1.0)
    world.settle_until(lambda: world.weight(2) > 0, 30)
    world.settle(1.5, rate=10)
    world.settle(120, rate=0)
    assert world.ledger.release is not None
    assert world.ledger.release.evidence.candidate.failures < 12
    assert (world.stable, world.weight(2)) == (1, 5_000)


@pytest.mark.parametrize("how", ["envoy", "agent"])
def test_a_restart_of_every_gateway_promotes_nothing_that_hangs(serving: Serving, how: str) -> None:
    steps = ({"setWeight": 10}, {"pause": {"seconds": 5}})
    world = serving(steps=steps, **PROMOTING)
    release(world, hang_share=1.0)
    world.settle_until(lambda: world.weight(2) > 0, 30)
    for _ in range(60):
        world.settle(3, rate=2)
        for gateway in world.gateways.values():
            gateway.restart_envoy(world.now) if how == "envoy" else gateway.restart_agent(world.now)
    assert world.stable == 1


def test_the_registry_is_down(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    world.registry.up = False
    release(world)
    world.settle(10, rate=5)
    assert world.ledger.release is None
    world.registry.up = True
    world.settle(90, rate=20)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_the_policy_is_deleted_in_mid_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(6, rate=5)
    world.delete_policy()
    world.settle(30, rate=20)
    assert world.stable == 1
    world.set_policy(CANARY)
    world.settle(75)
    assert world.stable == 2
    assert transcript(world) == snapshot


def test_two_policies_are_swapped_in_mid_release(serving: Serving) -> None:
    """The older one governs, whatever comes beside it; when it goes, the steps of the release stay."""
    world = serving(steps=({"setWeight": 10}, {"pause": {"approval": True}}), **PROMOTING)
    world.settle(5)
    world.add_policy("other", ({"setWeight": 99},), **PROMOTING)
    release(world)
    world.settle(20, rate=20)
    assert world.weight(2) == 1_000
    other = world.api.get("dspyrollouts", NAMESPACE, "other")
    assert other is not None
    assert other["status"]["conditions"][0]["reason"] == "Conflict"
    world.delete_policy()
    world.settle(20, rate=20)
    assert world.weight(2) == 1_000
    assert world.stable == 1, "neither its going nor the other's steps promote"
    world.set_policy(({"setWeight": 50},), **PROMOTING)
    world.settle(20, rate=20)
    assert world.weight(2) == 1_000, "the one that is older now governs, with the release's own steps"
    world.ask(f"approve {world.revision(2)}/2 a")
    world.settle(60, rate=20)
    assert world.stable == 2


def test_an_alias_vanishes_in_mid_release(serving: Serving) -> None:
    """What it named has no traffic while nobody asks for it; the alias comes back, and all goes on."""
    world = serving(steps=({"setWeight": 20}, {"pause": {"seconds": 30}}), **PROMOTING)
    world.edit("dspyprograms", lambda item: item["spec"]["model"].update(uri="models:/qa@champion"))
    world.publish(2)
    world.registry.champion = "2"
    world.settle_until(lambda: world.weight(2) > 0, 60)
    world.registry.champion = None
    world.settle(120, rate=20)
    assert (world.stable, world.weight(2)) == (1, 0)
    assert world.rollout_status["phase"] == "Paused"
    assert "no alias champion" in world.rollout_status["message"]
    world.registry.champion = "2"
    world.settle(120, rate=20)
    assert world.stable == 2


def test_the_policys_steps_change_in_mid_release(serving: Serving, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(6, rate=5)
    world.set_policy([{"setWeight": 99}], **PROMOTING)
    world.settle(3)
    assert world.ledger.release is not None
    assert len(world.ledger.release.steps) == len(CANARY)
    world.settle(75, rate=20)
    assert transcript(world) == snapshot


@pytest.mark.parametrize("verb", ["abort", "promote"])
def test_a_request(serving: Serving, verb: str, snapshot: SnapshotAssertion) -> None:
    world = serving()
    release(world)
    world.settle(6, rate=5)
    world.ask(f"{verb} {world.revision(2)} once")
    world.settle(60, rate=20)
    assert (world.stable, world.refused(2)) == ((1, True) if verb == "abort" else (2, False))
    assert transcript(world) == snapshot


def test_a_status_that_is_lost_is_found_again(serving: Serving) -> None:
    world = serving()
    world.edit("dspyprograms", lambda item: item.pop("status"))
    world.restart_operator()
    world.settle(5)
    assert world.stable == 1
    world.edit("dspyprograms", lambda item: item.pop("status"))
    world.api.remove("configmaps", NAMESPACE, f"{PROGRAM}-routes")
    world.restart_operator()
    world.settle(15)
    assert world.stable == 1


@pytest.mark.parametrize("refused_by", ["worse", "abort"])
def test_a_refused_revision_stays_refused_with_and_without_a_policy(serving: Serving, refused_by: str) -> None:
    world = serving()
    release(world, failure_rate=1.0 if refused_by == "worse" else 0.0)
    world.settle(6, rate=0 if refused_by == "abort" else 20)
    if refused_by == "abort":
        world.ask(f"abort {world.revision(2)} now")
    world.settle(20, rate=20)
    assert world.refused(2)
    world.delete_policy()
    world.settle(20)
    assert world.stable == 1
    assert 2 not in world.deployed()


def test_a_broken_stable_without_a_policy_can_be_replaced(serving: Serving) -> None:
    world = serving()
    world.delete_policy()
    world.versions[1].failure_rate = 1.0
    world.settle(10, rate=20)
    release(world)
    world.settle(20)
    assert world.stable == 2


def test_a_broken_stable_does_not_block_its_own_cure(serving: Serving) -> None:
    world = serving()
    world.versions[1].failure_rate = 1.0
    world.settle(30, rate=20)
    release(world)
    world.settle(120)
    assert world.stable == 2


def test_a_status_lost_in_mid_release_leaves_stable_stable(serving: Serving) -> None:
    world = serving(steps=({"setWeight": 80}, {"pause": {"seconds": 30}}))
    release(world)
    world.settle(6, rate=5)
    assert world.weight(2) == 8_000
    world.edit("dspyprograms", lambda item: item.pop("status"))
    world.restart_operator()
    world.settle(1)
    assert world.stable == 1
    assert 1 in world.deployed()
    world.settle(120, rate=20)
    assert world.stable == 2


def test_crashes_of_long_ago_are_forgotten(serving: Serving) -> None:
    world = serving(replicas=2)
    release(world)
    world.settle(6, rate=5)
    world.crash(2)
    world.settle(3)
    world.replace_pods(2)
    world.settle(1_801, rate=0)
    world.crash(2)
    world.settle(3)
    assert not world.refused(2)
    assert world.ledger.release is not None


def test_going_back_to_a_revision_that_crashed_long_ago_is_no_crash(serving: Serving) -> None:
    world = serving(replicas=3)
    world.crash(1)
    world.delete_policy()
    world.reachable = False
    release(world)
    world.settle(8)
    assert world.stable == 2
    assert 1 in world.deployed()
    world.want(1)
    world.settle(10)
    assert not world.refused(1)
    assert world.stable == 1


def test_nothing_is_promoted_while_stable_cannot_answer(serving: Serving) -> None:
    world = serving(**PROMOTING)
    release(world)
    world.settle(4, rate=5)
    world.take_down(1, seconds=60)
    world.settle(50, rate=20)
    assert world.stable == 1


def test_a_gateway_that_never_confirms_pauses_the_release(serving: Serving) -> None:
    world = serving(stepDeadlineSeconds=30)
    for gateway in world.gateways.values():
        gateway.lag_seconds = 1e9
    release(world)
    world.settle(60)
    assert world.ledger.release is not None
    assert world.ledger.release.paused is not None
    assert world.ledger.release.paused.reason == "StepDeadlineExceeded"


def test_a_share_that_falls_amid_late_time_outs_lowers_nobody(serving: Serving) -> None:
    steps = ({"setWeight": 50}, {"pause": {"seconds": 120}}, {"setWeight": 5}, {"pause": {"seconds": 120}})
    world = serving(steps=steps, **PROMOTING)
    world.versions[1].hang_share = 0.05
    release(world, hang_share=0.05)
    world.settle(60, rate=20)
    world.take_down(2, seconds=30)
    world.settle(300)
    assert not world.refused(2)
    assert "CandidateLowered" not in world.events()
