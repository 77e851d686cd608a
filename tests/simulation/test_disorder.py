"""Everything at once, in an order that hypothesis chooses: the invariants hold at every moment, and every state can be
left. Their numbers are those of docs/architecture.md.

`make sim` explores a fixed set of orders; `make disorder` goes on with fresh ones for as long as it is told
(DSPY_DISORDER_MINUTES).
"""

from __future__ import annotations

import os
import time
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.simulation.api import refusal
from tests.simulation.invariants import check, check_at_rest
from tests.simulation.world import CANARY, NAMESPACE, World

UNDISTURBED_SECONDS = 5
RELEASE_SECONDS = 900
PROMOTING = {"onUndecided": "Promote"}
BLOCKED = {"name": "guarded", "flag": "blocked"}
EXAMPLES, STEPS = 60, 25
SMOKE_TEST = {"requests": [{"input": {"question": "?"}, "expect": {"answer": {"pattern": "^P"}}}]}
AB_TEST = {
    "users": {"header": "x-user-id"},
    "until": {"users": 60, "maxSeconds": 60},
    "warmSeconds": 10,
    "unseenSeconds": 10,
}
VARIANTS = [{"name": "first", "uri": "models:/qa/1"}, {"name": "second", "uri": "models:/qa/2"}]
STRATEGIES: dict[str, Any] = {
    "canary": {"type": "Canary", "canary": {"steps": list(CANARY)}},
    "sized": {"type": "Canary", "canary": {"steps": list(CANARY), "replicas": "WithWeight"}},
    "watched": {"type": "Canary", "canary": {"steps": [*CANARY, {"watch": {"seconds": 10}}]}},
    "approved": {"type": "Canary", "canary": {"steps": [{"setWeight": 20}, {"pause": {"approval": True}}]}},
    "blue-green": {"type": "BlueGreen", "blueGreen": {"warmSeconds": 10}},
    "tried": {"type": "BlueGreen", "blueGreen": {"smokeTest": SMOKE_TEST, "warmSeconds": 10}},
    "compared": {"type": "ABTest", "abTest": AB_TEST},
    "several": {"type": "ABTest", "abTest": {**AB_TEST, "variants": VARIANTS}},
}
KINDS = ("configmaps", "controllerrevisions", "deployments", "dspyprograms", "dspyrollouts", "pods", "services")


class Disorder(RuleBasedStateMachine):
    """Users, programs, clients, pods, gateways, the registry, the API and the operator itself misbehave at random."""

    @initialize(seed=st.integers(0, 2**16), ceiling=st.booleans(), replicas=st.sampled_from([1, 1, 3]))
    def begin(self, seed: int, ceiling: bool, replicas: int) -> None:
        self.analysis = (
            {**PROMOTING, "streams": [{"name": "failed", "maxPercent": 20}, BLOCKED]} if ceiling else PROMOTING
        )
        self.world = World(seed, CANARY, replicas, analysis=self.analysis)
        self.has_policy = True
        self.world.publish(1)
        self.world.publish(2)
        self.world.want(1)
        self.newest = 1

    # Users.

    @rule(
        failure_rate=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        refusal_rate=st.sampled_from([0.0, 0.0, 0.0, 0.5]),
        hang_share=st.sampled_from([0.0, 0.0, 0.25, 1.0]),
        blocked_rate=st.sampled_from([0.0, 0.0, 0.5]),
        says=st.sampled_from(["Paris", "Paris", "Lyon"]),
        latency=st.sampled_from([0.2, 0.2, 3.0]),
        loads=st.sampled_from([True, True, True, False]),
        start=st.integers(1, 20),
    )
    def a_user_asks_for_a_new_version(
        self,
        failure_rate: float,
        refusal_rate: float,
        hang_share: float,
        blocked_rate: float,
        says: str,
        latency: float,
        loads: bool,
        start: int,
    ) -> None:
        self.newest += 1
        self.world.publish(
            self.newest,
            failure_rate=failure_rate,
            refusal_rate=refusal_rate,
            hang_share=hang_share,
            blocked_rate=blocked_rate,
            says={"answer": says},
            latency_seconds=latency,
            loads=loads,
            start_seconds=start,
        )
        self.world.want(self.newest)

    @rule(number=st.integers(1, 30))
    def a_user_goes_back(self, number: int) -> None:
        self.world.want(1 + number % self.newest)

    @rule(verb=st.sampled_from(["abort", "promote", "retry"]), nonce=st.integers(0, 9))
    def a_user_makes_a_request(self, verb: str, nonce: int) -> None:
        release = self.world.ledger.release
        named = release.candidates[nonce % len(release.candidates)] if release else "nobody"
        self.world.ask(f"{verb} {named} {nonce}")

    @rule(number=st.integers(1, 30), nonce=st.integers(0, 9))
    def a_user_undoes(self, number: int, nonce: int) -> None:
        self.world.ask(f"undo {self.world.revision(1 + number % self.newest) or 'nobody'} {nonce}")

    @precondition(lambda self: self.world.ledger.release)
    @rule(step=st.integers(1, 5), nonce=st.integers(0, 9))
    def a_user_approves(self, step: int, nonce: int) -> None:
        release = self.world.ledger.release
        self.world.ask(f"approve {release.candidate if release else ''}/{step} {nonce}")

    @rule(paused=st.booleans(), there=st.booleans(), strategy=st.sampled_from(sorted(STRATEGIES)))
    def a_user_changes_the_policy(self, paused: bool, there: bool, strategy: str) -> None:
        if there:
            self.world.set_policy(CANARY, analysis=self.analysis, paused=paused, strategy=STRATEGIES[strategy])
        elif self.has_policy:
            self.world.delete_policy()
        self.has_policy = there

    @rule(requests=st.integers(0, 20))
    def the_provider_is_busy_at_the_preview(self, requests: int) -> None:
        self.world.previews.busy = requests

    # Time.

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 15.0]), rate=st.sampled_from([0.0, 1.0, 10.0, 30.0]))
    def time_passes(self, seconds: float, rate: float) -> None:
        for _ in range(max(1, int(seconds))):
            self.world.settle(min(seconds, 1.0), rate)
            check(self.world)

    @rule(rate=st.sampled_from([0.0, 10.0]))
    def nothing_happens_for_a_while(self, rate: float) -> None:
        self.world.heal()
        self.world.settle(UNDISTURBED_SECONDS, rate)
        check_at_rest(self.world)

    # What goes wrong.

    @precondition(lambda self: self.world.deployed())
    @rule(which=st.integers(0, 5), seconds=st.integers(1, 30), how=st.sampled_from(["down", "crash", "replaced"]))
    def pods_go(self, which: int, seconds: int, how: str) -> None:
        deployed = sorted(self.world.deployed())
        number = deployed[which % len(deployed)]
        match how:
            case "down":
                self.world.take_down(number, seconds)
            case "crash":
                self.world.crash(number)
            case "replaced":
                self.world.replace_pods(number)

    @precondition(lambda self: self.world.gateways)
    @rule(
        which=st.integers(0, 1),
        how=st.sampled_from(["gone", "unreachable", "envoy", "agent", "lags"]),
        lag=st.sampled_from([0.0, 0.5, 3.0]),
    )
    def a_gateway_misbehaves(self, which: int, how: str, lag: float) -> None:
        name = sorted(self.world.gateways)[which % len(self.world.gateways)]
        gateway = self.world.gateways[name]
        match how:
            case "gone":
                if self.world.api.get("pods", NAMESPACE, name):
                    self.world.api.remove("pods", NAMESPACE, name)
            case "unreachable":
                gateway.reachable = not gateway.reachable
            case "envoy":
                gateway.restart_envoy(self.world.now)
            case "agent":
                gateway.restart_agent(self.world.now)
            case "lags":
                gateway.lag_seconds = lag

    @rule(rate=st.sampled_from([0.0, 0.0, 0.5, 1.0]), patience=st.sampled_from([None, None, 2.0]))
    def provider_and_clients_change(self, rate: float, patience: float | None) -> None:
        self.world.surroundings.provider_failure_rate = rate
        self.world.surroundings.patience_seconds = patience

    @rule(users=st.sampled_from([0, 30, 1_000]))
    def clients_tell_who_they_are(self, users: int) -> None:
        self.world.users = users

    @rule(up=st.booleans())
    def the_registry_changes(self, up: bool) -> None:
        self.world.registry.up = up

    @rule(resource=st.sampled_from(KINDS), status=st.sampled_from([409, 422, 500]), reads=st.booleans())
    def the_api_refuses(self, resource: str, status: int, reads: bool) -> None:
        verbs = ("get", "list") if reads else ("create", "patch", "update", "delete")
        self.world.fail(
            lambda call: refusal(status, "no") if call.resource == resource and call.verb in verbs else None
        )

    @rule()
    def the_api_heals(self) -> None:
        self.world.heal()

    @rule(writes=st.integers(0, 6))
    def the_operator_restarts_between_two_writes(self, writes: int) -> None:
        self.world.restart_operator(writes)

    def teardown(self) -> None:
        """12: once everything heals, a new good version becomes stable, from wherever this was."""
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            world.heal()
            world.registry.up = True
            world.surroundings.provider_failure_rate, world.surroundings.patience_seconds = 0.0, None
            for gateway in world.gateways.values():
                gateway.reachable, gateway.lag_seconds = True, 0.0
            world.set_policy(CANARY, analysis=self.analysis)
            self.newest += 1
            world.publish(self.newest)
            world.want(self.newest)
            world.settle(1, rate=30)
            world.settle_until(lambda: world.deployed() == {self.newest}, RELEASE_SECONDS)
            assert world.deployed() == {self.newest}, f"12: {world.events()[-5:]} {world.status.get('conditions')}"
            check_at_rest(world)
        finally:
            world.close()


FIXED = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


def test_disorder() -> None:
    minutes = float(os.environ.get("DSPY_DISORDER_MINUTES", "0"))
    if not minutes:
        run_state_machine_as_test(Disorder, settings=FIXED)
        return
    ends_at = time.monotonic() + 60 * minutes
    fresh = settings(FIXED, derandomize=False, print_blob=True, phases=(Phase.generate, Phase.shrink))
    while time.monotonic() < ends_at:
        run_state_machine_as_test(Disorder, settings=fresh)
