"""Everything at once, in an order that hypothesis chooses: the invariants hold after every pass, and every state can be
left. The numbers are those of the design: see docs/architecture.md."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dspy_contract.routes import TOTAL_WEIGHT
from dspy_operator.api.rollout import Analysis, ErrorRate, OnUndecided
from dspy_operator.domain.plan import plan
from tests.simulation.cluster import CANARY, World

PASSES_TO_REST = 8
RELEASE_PASSES = 150


class Disorder(RuleBasedStateMachine):
    """Users, pods, gateways, the registry, the API and the operator itself misbehave at random."""

    @initialize(seed=st.integers(0, 2**16), ceiling=st.booleans())
    def begin(self, seed: int, ceiling: bool) -> None:
        self.world = World(seed)
        limit = ErrorRate(max_percent=20) if ceiling else ErrorRate()
        self.analysis = Analysis(on_undecided=OnUndecided.PROMOTE, error_rate=limit)
        self.world.set_policy(*CANARY, analysis=self.analysis)
        self.world.publish(1)
        self.world.want(1)
        self.newest = 1
        self.serial = 0
        self.ever_refused: set[str] = set()

    @rule(
        failure_rate=st.sampled_from([0.0, 0.0, 0.3, 1.0]),
        loads=st.sampled_from([True, True, True, False]),
        start=st.integers(1, 20),
    )
    def a_user_asks_for_a_new_version(self, failure_rate: float, loads: bool, start: int) -> None:
        self.newest += 1
        self.world.publish(self.newest, failure_rate=failure_rate, loads=loads, start_seconds=start)
        self.world.want(self.newest)

    @rule(number=st.integers(1, 30))
    def a_user_goes_back(self, number: int) -> None:
        self.world.want(1 + number % self.newest)

    @rule(nonce=st.integers(0, 9))
    def a_user_aborts(self, nonce: int) -> None:
        release = self.world.ledger.release
        self.world.request = f"abort {release.candidate if release else 'nobody'} {nonce}"

    @rule(paused=st.booleans(), there=st.booleans())
    def a_user_changes_the_policy(self, paused: bool, there: bool) -> None:
        self.world.set_policy(*CANARY, analysis=self.analysis, paused=paused)
        if not there:
            self.world.policy = None

    @rule(seconds=st.sampled_from([0.005, 0.5, 1.0, 5.0, 60.0]), requests=st.integers(0, 30))
    def time_passes(self, seconds: float, requests: int) -> None:
        self.world.tick(seconds, requests)
        self.operate()

    @rule(passes=st.integers(2, 12), requests=st.integers(0, 30))
    def a_while_passes(self, passes: int, requests: int) -> None:
        for _ in range(passes):
            self.world.tick(1.0, requests)
            self.operate()

    @precondition(lambda self: self.world.workloads)
    @rule(which=st.integers(0, 5), seconds=st.integers(1, 30), crashes=st.integers(0, 2))
    def a_pod_goes(self, which: int, seconds: int, crashes: int) -> None:
        workload = list(self.world.workloads.values())[which % len(self.world.workloads)]
        workload.down_until = self.world.now + seconds
        workload.crashed |= {f"pod-{number}" for number in range(crashes)}

    @rule(name=st.sampled_from(["gateway-a", "gateway-b"]), reachable=st.booleans(), restarted=st.booleans())
    def a_gateway_misbehaves(self, name: str, reachable: bool, restarted: bool) -> None:
        self.world.gateways[name].reachable = reachable
        if restarted:
            self.world.gateways[name].restart()

    @rule(lag=st.sampled_from([0.02, 0.5, 3.0]))
    def gateways_lag(self, lag: float) -> None:
        self.world.lag_seconds = lag

    @rule(rate=st.sampled_from([0.0, 0.0, 0.5, 1.0]))
    def the_provider_changes(self, rate: float) -> None:
        self.world.provider_failure_rate = rate

    @rule(up=st.booleans())
    def the_registry_changes(self, up: bool) -> None:
        self.world.registry_up = up

    @rule()
    def the_next_write_fails(self) -> None:
        self.world.fail_next_write = True

    @rule(writes=st.integers(0, 4))
    def the_operator_restarts_between_two_writes(self, writes: int) -> None:
        self.world.restart_after_writes = writes

    @rule()
    def the_operator_restarts(self) -> None:
        self.world.memory = None

    def operate(self) -> None:
        """One pass, and, when nothing kept it from its writes, what must hold right after it."""
        disturbed = self.world.fail_next_write or self.world.restart_after_writes is not None
        self.world.operate()
        if not disturbed:
            self.check_pass()

    def check_pass(self) -> None:
        world, ledger = self.world, self.world.ledger
        assert world.routes is not None
        for refused in ledger.refused:
            self.ever_refused.add(refused.revision)
            if refused.revision != ledger.stable:
                assert world.routes.weight(refused.revision) == 0, "2: a refused candidate has no weight"
        candidates = {ledger.release.candidate} if ledger.release else set()
        for backend in world.routes.backends:
            if backend.revision not in {ledger.stable, *candidates}:
                assert backend.weight == 0, "6: who goes back loses its weight in the same pass"
        if ledger.release and ledger.stable in world.workloads:
            assert world.workloads[ledger.stable].replicas == world.replicas, "5: stable keeps its capacity"
        if ledger.release:
            assert ledger.release.candidate not in {refused.revision for refused in ledger.refused}, (
                "8: refused stays refused"
            )

    @invariant()
    def no_request_goes_where_nobody_answers(self) -> None:
        if hasattr(self, "world"):
            assert not self.world.lost, f"1 and 4: {self.world.lost}"

    @invariant()
    def weights_sum_to_all_and_serials_grow(self) -> None:
        routes = self.world.routes if hasattr(self, "world") else None
        if routes is not None:
            assert sum(backend.weight for backend in routes.backends) == TOTAL_WEIGHT, (
                "3: desired weights sum to 10,000"
            )
            assert routes.serial >= self.serial
            self.serial = routes.serial

    @invariant()
    def a_plan_after_its_own_plan_does_nothing(self) -> None:
        if not hasattr(self, "world") or self.world.fail_next_write or self.world.restart_after_writes is not None:
            return
        for _ in range(PASSES_TO_REST):
            if self.world.operate().empty:
                break
        assert plan(self.world.snapshot(), self.world.now).empty, "9: at rest, a plan is empty"

    def teardown(self) -> None:
        """10: once everything heals, a new good version becomes stable, from wherever this was."""
        if not hasattr(self, "world"):
            return
        world = self.world
        world.fail_next_write, world.restart_after_writes, world.registry_up = False, None, True
        world.provider_failure_rate, world.lag_seconds = 0.0, 0.02
        for pod in world.gateways.values():
            pod.reachable = True
        world.set_policy(*CANARY, analysis=self.analysis)
        self.newest += 1
        world.publish(self.newest)
        world.want(self.newest)
        world.settle(RELEASE_PASSES, requests=60)
        assert world.ledger.stable == f"qa-{self.newest}", f"10: {world.said[-5:]} {world.status.get('conditions')}"
        assert set(world.workloads) == {world.ledger.stable}
        assert not world.lost


TestDisorder = Disorder.TestCase
TestDisorder.settings = settings(
    max_examples=150, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
