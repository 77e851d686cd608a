"""The real operator in a simulated cluster: its parts, queues, poller, store and watches, on virtual time.

What is simulated: the API server (`api.py`), kubelets, gateway pods (`gateway.py`), the model registry, programs and
their clients (`behaviour.py`).
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from dspy_contract.routes import CONTENT_KEY, GATEWAY_NAME, REVISION_LABEL, Backend, Routes, load_routes
from dspy_contract.stat_names import cached
from dspy_contract.state import GatewayState, Poll
from dspy_gateway.drawn import Drawn
from dspy_gateway.switches import Switches
from dspy_kube.client import ApiException, Kube, Object
from dspy_operator.agent_client import AgentError
from dspy_operator.domain.ledger import Ledger
from dspy_operator.domain.smoke import PreviewAnswer
from dspy_operator.domain.snapshot import Description, Problem, Standstill
from dspy_operator.domain.snapshot import Version as ResolvedVersion
from dspy_operator.domain.stored_ledger import read_ledger
from dspy_operator.kube.paths import path
from dspy_operator.parts import Parts, assemble
from dspy_operator.preview_client import PreviewUnheardError
from dspy_operator.registry.uri import Identity, ModelUri
from dspy_operator.resources.runtime_pod import CONTAINER
from dspy_operator.runtime_client import RuntimeUnheardError
from dspy_operator.settings import PrometheusSettings, ReceiverSettings, RegistrySettings, Settings
from tests.simulation.api import ApiServer, Call, refusal
from tests.simulation.behaviour import CACHED_SECONDS, Answer, Surroundings, Version
from tests.simulation.clock import VirtualLoop
from tests.simulation.clock import close as close_loop
from tests.simulation.gateway import ANSWERED_SECONDS, SimulatedGateway

NAMESPACE, PROGRAM = "ns", "qa"
RECEIVER = "team"
START = 1_000_000.0
TICK_SECONDS = 0.1
GATEWAY_START_SECONDS = 1.0
READY = {"type": "Ready", "status": "True"}
WRITES = ("create", "update", "patch", "delete")

Steps = Sequence[Mapping[str, Any]]
CANARY: Steps = ({"setWeight": 10}, {"pause": {"requests": 30}}, {"setWeight": 50}, {"pause": {"seconds": 10}})


class SimulatedRegistry:
    """Every version resolves while the registry is up."""

    url = "http://registry"

    def __init__(self) -> None:
        self.up = True
        self.asked: list[str] = []
        self.archives = 0
        self.champion: str | None = "1"
        """What every alias names; None: there is none."""
        self.read_only = False
        self.tries = 0
        """Of writes."""
        self.aliases: dict[str, str] = {}
        self.tags: dict[str, dict[str, str]] = {}
        self.lost: set[str] = set()
        """The versions whose files it does not give any more."""
        self.missing: set[str] = set()
        """The versions that there are not yet."""

    async def ask(self, uri: ModelUri) -> Identity | Problem:
        """What a uri means."""
        self.asked.append(str(uri))
        if not self.up:
            return Problem("RegistryUnavailable", "The registry did not answer")
        number = uri.version or self.champion
        if number in self.missing:
            return Problem("ModelNotFound", f"The model {uri.name} has no version {number}")
        if number is None:
            return Problem("AliasNotFound", f"The model {uri.name} has no alias {uri.alias}")
        return Identity(uri.name, number, f"m-{number}", "")

    async def read(self, identity: Identity) -> ResolvedVersion | Problem:
        """A version, by its files."""
        if not self.up:
            return Problem("RegistryUnavailable", "The registry did not answer")
        number = identity.number
        return ResolvedVersion(identity.uri, number, f"m-{number}", f"digest-{number}", "3.12", "3.4.1", 1_000)

    async def write(self, uri: str, alias: str, tags: Mapping[str, str]) -> Problem | None:
        """Aliases and tags."""
        self.tries += 1
        if not self.up:
            return Problem("RegistryUnavailable", "The registry did not answer")
        if self.read_only:
            return Problem("RegistryDenied", "The registry refuses the operator")
        if tags:
            self.tags[uri] = dict(tags)
        if alias:
            self.aliases[alias] = uri
        return None

    def archive(self, version: ResolvedVersion) -> bytes | None:
        """The packed files of a version."""
        self.archives += 1
        there = self.up and version.number not in self.lost
        return f"the files of {version.number}".encode() if there else None

    async def close(self) -> None:
        """Nothing is open."""


class SimulatedAgents:
    """How the operator reaches the gateway pods; implements `agent_client.Agents`."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, address: str, token: str, poll: Poll) -> GatewayState:
        """What an agent answers, after a quarter of a second, as a real one does while nothing is urgent."""
        await asyncio.sleep(min(poll.wait_seconds, ANSWERED_SECONDS))
        gateway = self._world.gateways.get(address)
        if gateway is None or not (gateway.reachable and self._world.reachable):
            raise AgentError("not reachable")
        return gateway.answer(poll, self._world.now)

    async def close(self) -> None:
        """Nothing is open."""


class SimulatedPreviews:
    """How the operator reaches previews; implements `preview_client.Previews`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.asked: list[bytes] = []
        self.busy = 0
        """So many requests the provider turns down from now on."""

    async def predict(self, address: str, port: int, body: bytes, timeout_seconds: float) -> PreviewAnswer:
        """What the candidate behind the preview answers."""
        await asyncio.sleep(1)
        gateway = self._world.gateways.get(address)
        if gateway is None or not gateway.reachable:
            raise PreviewUnheardError("not reachable")
        self.asked.append(body)
        if not self._world.preview:
            return PreviewAnswer(503, "", "", b"")
        revision = self._world.preview[0].revision
        if self.busy:
            self.busy -= 1
            return PreviewAnswer(429, "upstream_error", revision, b'{"error":{"code":"rate_limit","message":"later"}}')
        says = self._world.says(revision)
        if says is None:
            await asyncio.sleep(timeout_seconds)
            raise TimeoutError
        return PreviewAnswer(200, "ok", revision, json.dumps(says).encode())

    async def close(self) -> None:
        """Nothing is open."""


class SimulatedRuntimes:
    """How the operator reaches the runtime pods; implements `runtime_client.Runtimes`."""

    def __init__(self) -> None:
        self.left_out: tuple[str, ...] = ()
        """Saved settings that are not in force, of whoever is asked from now on."""
        self.asked: list[str] = []
        self.reachable = True
        self.forgotten: list[str] = []
        """The addresses that were asked to forget, in turn."""
        self.stood_still: dict[str, Standstill] = {}
        """By revision, what its pods say whenever they are asked."""

    async def describe(self, address: str, revision: str) -> Description:
        """What a revision says of itself."""
        self.asked.append(revision)
        if not self.reachable:
            raise RuntimeUnheardError("not reachable")
        return Description(revision, self.left_out)

    async def standstill(self, address: str, revision: str) -> Standstill | None:
        """The last time that a revision stood still."""
        if not self.reachable:
            raise RuntimeUnheardError("not reachable")
        return self.stood_still.get(revision)

    async def forget_answers(self, address: str) -> None:
        """A pod forgets what it keeps."""
        if not self.reachable:
            raise RuntimeUnheardError("not reachable")
        self.forgotten.append(address)

    async def close(self) -> None:
        """Nothing is open."""


class World:
    """A cluster with one program, its users, and the real operator. Time passes only in `settle`."""

    def __init__(
        self,
        seed: int = 0,
        steps: Steps | None = None,
        replicas: int = 1,
        spec: Mapping[str, Any] | None = None,
        **policy: Any,
    ) -> None:
        """`spec` is what the program's has besides, `policy` the rollout's."""
        self.loop = VirtualLoop(START)
        asyncio.set_event_loop(self.loop)
        self.chance = random.Random(seed)
        random.seed(seed)  # of backoffs: the same story each time
        self.api = ApiServer(lambda: self.now)
        self.registry = SimulatedRegistry()
        self.runtimes = SimulatedRuntimes()
        self.previews = SimulatedPreviews(self)
        self.versions: dict[int, Version] = {}
        self.surroundings = Surroundings()
        self.gateways: dict[str, SimulatedGateway] = {}
        self.rate = 0.0
        self.users = 0
        """How many users the requests are of; 0: nobody tells."""
        self.turns = 0
        """How many requests a user sends before another one takes its place; 0: without end."""
        self.conversations: dict[str, Drawn] = {}
        self._asked = 0
        self.met: defaultdict[str, set[int]] = defaultdict(set)
        """By user, the versions that answered it."""
        self.replicas = replicas
        self.spec = spec or {}
        self.gateway_image = "gateway:1"
        self.reachable = True
        self.leads = True
        self.behind_seconds = 0.0
        """Of the clock of the operator's node."""
        self.lost: list[str] = []
        """What must never happen to a client's request, and did."""
        self._born: dict[str, float] = {}
        self._down: dict[str, float] = {}
        self._mounts: dict[str, str] = {}
        """The Secret with its files that a pod mounts."""
        self._numbers = itertools.count(1)
        self._tasks: list[asyncio.Task[Any]] = []
        if steps is not None:
            self.set_policy(steps, **policy)
        self.loop.run_until_complete(self._begin())

    # What users do.

    def publish(self, number: int, **behaviour: Any) -> None:
        """Puts a version into the registry."""
        self.versions[number] = Version(number, **behaviour)

    def want(self, number: int) -> None:
        """Asks for a version in the program's spec."""
        if self.api.get("dspyprograms", NAMESPACE, PROGRAM) is None:
            spec = {
                "model": {"uri": f"models:/qa/{number}"},
                "lm": {"model": "openai/x"},
                "replicas": self.replicas,
                **self.spec,
            }
            self.api.put("dspyprograms", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": spec})
            return
        self.edit("dspyprograms", lambda item: item["spec"]["model"].update(uri=f"models:/qa/{number}"))

    def set_policy(self, steps: Steps, **policy: Any) -> None:
        """Applies a rollout."""
        canary = {"type": "Canary", "canary": {"steps": [dict(step) for step in steps]}}
        spec = {"programRef": {"name": PROGRAM}, "strategy": canary, **policy}
        if self.api.get("dspyrollouts", NAMESPACE, PROGRAM) is None:
            self.api.put("dspyrollouts", {"metadata": {"name": PROGRAM, "namespace": NAMESPACE}, "spec": spec})
        else:
            self.edit("dspyrollouts", lambda item: item.update(spec=spec))

    def add_policy(self, name: str, steps: Steps, **policy: Any) -> None:
        """Applies another rollout of the program."""
        canary = {"type": "Canary", "canary": {"steps": [dict(step) for step in steps]}}
        spec = {"programRef": {"name": PROGRAM}, "strategy": canary, **policy}
        self.api.put("dspyrollouts", {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})

    def delete_policy(self) -> None:
        """Deletes the rollout."""
        self.api.remove("dspyrollouts", NAMESPACE, PROGRAM)

    def edit(self, resource: str, change: Callable[[Object], None], name: str = PROGRAM) -> None:
        """Edits an object."""
        self.api.change(resource, NAMESPACE, name, change)

    def ask(self, request: str) -> None:
        """Annotates the program with a request."""
        self.edit("dspyprograms", lambda item: item["metadata"].update(annotations={"dspy.dev/request": request}))

    # What goes wrong.

    def fail(self, fault: Callable[[Call], ApiException | None]) -> None:
        """Has the API answer some calls with an error, until `heal`."""
        self.api.faults.append(lambda call, query: fault(call))

    def heal(self) -> None:
        """The API answers again."""
        self.api.faults.clear()

    def take_down(self, number: int, seconds: float) -> None:
        """The pods of a version cannot answer for a while."""
        for pod in self.pods(number):
            self._down[pod] = self.now + seconds

    def crash(self, number: int) -> None:
        """Every pod of a version ends by itself and is restarted at once."""
        for pod in self.pods(number):
            ended = {"name": CONTAINER, "restartCount": 1, "lastState": {"terminated": {"exitCode": 1}}}
            self.edit("pods", lambda item, ended=ended: item["status"].update(containerStatuses=[ended]), pod)  # type: ignore[misc]

    def replace_pods(self, number: int) -> None:
        """The pods of a version are deleted; their Deployment makes others."""
        for pod in self.pods(number):
            self.api.remove("pods", NAMESPACE, pod)

    def restart_operator(self, after_writes: int = 0) -> None:
        """Ends the operator, at once or between two of its writes, and starts another, which remembers nothing."""
        if after_writes:
            self.fail(_silent_after(after_writes))
            self.settle(2)
            self.api.faults.pop()
        self.loop.run_until_complete(self._end_operator())
        self.loop.run_until_complete(self._start_operator())

    def settle(self, seconds: float, rate: float | None = None) -> None:
        """Lets time pass, with so many requests a second."""
        self.rate = self.rate if rate is None else rate
        self.loop.pass_time(seconds)

    def settle_until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Lets time pass until something holds, for at most so long."""
        for _ in range(int(seconds)):
            if holds():
                return
            self.settle(1)

    def close(self) -> None:
        """Ends everything."""
        self.loop.run_until_complete(self._end_operator())
        close_loop(self.loop, [self._ticking])

    # What can be seen.

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.loop.time()

    @property
    def status(self) -> dict[str, Any]:
        """The program's status."""
        return dict((self.api.get("dspyprograms", NAMESPACE, PROGRAM) or {}).get("status", {}))

    @property
    def ledger(self) -> Ledger:
        """The stored ledger."""
        return read_ledger(self.status).ledger or Ledger()

    @property
    def rollout_status(self) -> Mapping[str, Any]:
        """What the rollout says."""
        item = self.api.get("dspyrollouts", NAMESPACE, PROGRAM)
        return item.get("status", {}) if item else {}

    @property
    def preview(self) -> list[Backend] | None:
        """Where the program's preview leads; None without one."""
        item = self.api.get("configmaps", NAMESPACE, f"{PROGRAM}-preview-routes")
        return list(load_routes(item["data"][CONTENT_KEY]).backends) if item else None

    @property
    def routes(self) -> Routes | None:
        """The routes as they are written."""
        item = self.api.get("configmaps", NAMESPACE, f"{PROGRAM}-routes")
        return load_routes(item["data"][CONTENT_KEY]) if item else None

    @property
    def stable(self) -> int | None:
        """The version that is stable."""
        return self._version_of(str(self.ledger.stable))

    def revision(self, number: int) -> str:
        """The name of a version's revision; empty while there is none."""
        revisions = self.api.named("controllerrevisions", NAMESPACE)
        found = [name for name, item in revisions.items() if item["data"]["model"]["version"] == str(number)]
        return found[-1] if found else ""

    def deployed(self) -> set[int]:
        """The versions that have a Deployment."""
        names = self.api.named("deployments", NAMESPACE).keys() - {GATEWAY_NAME}
        return {number for name in names if (number := self._version_of(name)) is not None}

    def pods(self, number: int) -> list[str]:
        """The names of a version's pods."""
        revision = self.revision(number)
        pods = self.api.named("pods", NAMESPACE).items()
        return [name for name, item in pods if item["metadata"]["labels"].get(REVISION_LABEL) == revision]

    def weight(self, number: int) -> int:
        """The desired weight of a version in the routes, in basis points."""
        return self.routes.backend(self.revision(number)).weight if self.routes else 0

    def traffic(self, number: int) -> int:
        """The effective weight of a version, in the gateway pod where it is greatest."""
        names = (self.revision(number), cached(self.revision(number)))
        return max((sum(each.effective.get(name, 0) for name in names) for each in self.gateways.values()), default=0)

    def refused(self, number: int) -> bool:
        """True when the version's revision, which there must be, is refused."""
        assert self.revision(number), f"version {number} never had a revision"
        return self.ledger.refusal(self.revision(number)) is not None

    def condition(self, kind: str) -> tuple[str, str, str]:
        """A condition of the program: status, reason, message."""
        for each in self.status.get("conditions", ()):
            if each["type"] == kind:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def events(self) -> list[str]:
        """The reasons of all events, in their order."""
        return [item["reason"] for item in self.api.named("events", NAMESPACE).values()]

    def ready_pods(self) -> Mapping[str, int]:
        """The number of ready pods, by revision."""
        pods = self.api.named("pods", NAMESPACE).values()
        return Counter(
            pod["metadata"]["labels"].get(REVISION_LABEL, "") for pod in pods if READY in pod["status"]["conditions"]
        )

    # Its inside.

    def says(self, revision: str) -> Mapping[str, Any] | None:
        """What a revision's version answers at its preview."""
        return self.versions[self._version_of(revision) or 0].says

    def _version_of(self, revision: str) -> int | None:
        item = self.api.get("controllerrevisions", NAMESPACE, revision)
        return int(item["data"]["model"]["version"]) if item else None

    async def _begin(self) -> None:
        self._ticking = asyncio.ensure_future(self._tick_for_ever())
        await self._start_operator()

    async def _start_operator(self) -> None:
        settings = Settings(
            registries={"default": RegistrySettings(url="http://registry", write_back_namespaces=[NAMESPACE])},
            prometheus={"default": PrometheusSettings(url="http://prometheus", namespaces=[NAMESPACE])},
            notifications={RECEIVER: ReceiverSettings(url="http://receiver")},
            gateway_image=self.gateway_image,
        )
        self.parts: Parts = assemble(
            cast("Kube", self.api),
            {"default": self.registry},
            SimulatedAgents(self),
            self.runtimes,
            self.previews,
            settings,
            lambda namespace: "token",
            lambda: self.leads,
            lambda: self.now - self.behind_seconds,
        )
        self._tasks = [
            *(asyncio.ensure_future(watch.run()) for watch in self.parts.children.values()),
            *(asyncio.ensure_future(self._kopf(self.parts, kind)) for kind in self.parts.resources),
            asyncio.ensure_future(self.parts.looks.run(2)),
            asyncio.ensure_future(self._pass()),
        ]

    async def _end_operator(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.parts.poller.close()
        await self.parts.follower.close()
        await self.parts.beside.close()
        await self.parts.notifier.close()
        self.parts.write_backs.close()

    async def _pass(self) -> None:
        """Passes begin once everything is listed."""
        for watch in (*self.parts.children.values(), *self.parts.resources.values()):
            await watch.listed.wait()
        await self.parts.passes.run(2)

    async def _kopf(self, parts: Parts, kind: str) -> None:
        """What kopf does for the operator: it hears of each change of a custom resource, once they are listed."""
        version = None
        while version is None:
            try:
                version = await parts.resources[kind].list()
            except ApiException:
                await asyncio.sleep(1)
        async for event, item in self.api.changes(path(kind, None), {}, version):
            parts.take(kind, event, item)

    async def _tick_for_ever(self) -> None:
        owed = 0.0
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self._kubelet()
            routes = self.routes
            for gateway in self.gateways.values():
                gateway.tick(self.now, routes)
            self._note_what_is_cut()
            owed += self.rate * TICK_SECONDS
            while owed >= 1 and self.gateways:
                owed -= 1
                self._request(self.chance.choice(list(self.gateways.values())))

    def _request(self, gateway: SimulatedGateway) -> None:
        self._asked += 1
        first = self._asked // self.turns if self.turns else 0
        user = f"user-{first + self.chance.randrange(self.users)}" if self.users else ""
        revision = gateway.request(self.now, self.chance, user)
        if revision is None:
            return
        if user:
            self.met[user].add(self._version_of(revision) or 0)
        ready = self.ready_pods()
        if revision not in ready and any(name in ready for name in gateway.effective):
            self.lost.append(f"{revision} got a request and cannot answer")

    def _answer_of(self, revision: str) -> Answer:
        number = self._version_of(revision.partition("/")[0])
        if number is None or revision.partition("/")[0] not in self.ready_pods():
            return 0.0, "connection_failure"
        if "/" in revision and self.chance.random() < self.versions[number].cached_share:
            return CACHED_SECONDS, "ok"
        return self.surroundings.answer(self.versions[number], self.chance)

    def _note_what_is_cut(self) -> None:
        deployments = self.api.named("deployments", NAMESPACE)
        for gateway in self.gateways.values():
            cut = {request.revision.partition("/")[0] for request in gateway.envoy.open} - deployments.keys()
            self.lost += [f"{revision} was deleted with requests in flight" for revision in cut]

    def _kubelet(self) -> None:
        deployments = self.api.named("deployments", NAMESPACE)
        pods = self.api.named("pods", NAMESPACE)
        owned: dict[str, list[str]] = {name: [] for name in deployments}
        for name, item in pods.items():
            owner = item["metadata"]["ownerReferences"][0]["name"].removesuffix("-abc")
            if owner not in deployments or len(owned[owner]) >= deployments[owner]["spec"]["replicas"]:
                self.api.remove("pods", NAMESPACE, name)
            else:
                owned[owner].append(name)
                self._probe(name, item)
        for owner, names in owned.items():
            for _ in range(deployments[owner]["spec"]["replicas"] - len(names)):
                self._start_pod(owner, deployments[owner])
        for name in self.gateways.keys() - self.api.named("pods", NAMESPACE).keys():
            del self.gateways[name]

    def _start_pod(self, owner: str, deployment: Object) -> None:
        name = f"{owner}-abc-{next(self._numbers)}"
        self._born[name] = self.now
        volumes = deployment["spec"]["template"].get("spec", {}).get("volumes", ())
        for volume in volumes:
            if volume["name"] == "artifact":
                self._mounts[name] = volume["secret"]["secretName"]
        self.api.put("pods", _pod(name, owner, deployment))
        if owner == GATEWAY_NAME:
            self.gateways[name] = SimulatedGateway(
                name,
                self.ready_pods,
                self._answer_of,
                switches=Switches(began_at=self.now),
                conversations=self.conversations,
                measures_of=lambda revision: self.versions[self._version_of(revision) or 1].measures(self.chance),
            )

    def _mounted(self, name: str, item: Object) -> bool:
        """True once the Secret that a pod mounts is there; the kubelet says so while it is not."""
        secret = self._mounts.get(name)
        if secret is None or self.api.get("secrets", NAMESPACE, secret) is not None:
            self._mounts.pop(name, None)
            return True
        if not item["status"]["containerStatuses"]:
            waiting = {"name": CONTAINER, "state": {"waiting": {"reason": "ContainerCreating"}}}
            self.edit("pods", lambda item: item["status"].update(containerStatuses=[waiting]), name)
            self.api.put("events", _failed_mount(item, secret))
        return False

    def _probe(self, name: str, item: Object) -> None:
        revision = item["metadata"]["labels"].get(REVISION_LABEL)
        version = self.versions[self._version_of(revision) or 0] if revision else None
        started = self.now - self._born[name] >= (version.start_seconds if version else GATEWAY_START_SECONDS)
        if not self._mounted(name, item):
            self._born[name] = self.now
            return
        up = started and self.now >= self._down.get(name, 0.0) and (version is None or version.loads)
        if up != (READY in item["status"]["conditions"]):
            conditions = [READY] if up else []
            self.edit("pods", lambda item: item["status"].update(conditions=conditions), name)
        if started and version is not None and not version.loads and not item["status"]["containerStatuses"]:
            words = json.dumps({"reason": "ModelLoadFailed", "message": "the model does not load: ModuleNotFoundError"})
            ended = {"name": CONTAINER, "state": {"terminated": {"exitCode": 1, "message": words}}}
            self.edit("pods", lambda item: item["status"].update(containerStatuses=[ended]), name)


def _failed_mount(pod: Object, secret: str) -> Object:
    metadata = pod["metadata"]
    return {
        "metadata": {"name": f"{metadata['name']}.mount", "namespace": NAMESPACE},
        "involvedObject": {"kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]},
        "reason": "FailedMount",
        "message": f'MountVolume.SetUp failed for volume "artifact": secret "{secret}" not found',
    }


def _pod(name: str, owner: str, deployment: Object) -> Object:
    return {
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": copy.deepcopy(deployment["spec"]["template"]["metadata"]["labels"]),
            "ownerReferences": [{"kind": "ReplicaSet", "name": f"{owner}-abc", "uid": f"rs-{name}"}],
        },
        "status": {"podIP": name, "conditions": [], "containerStatuses": []},
    }


def _silent_after(writes: int) -> Callable[[Call], ApiException | None]:
    """A fault after which nothing of this process reaches the API, from some write on."""
    made = 0

    def fault(call: Call) -> ApiException | None:
        nonlocal made
        made += call.verb in WRITES
        return refusal(503, "this process has ended") if made > writes else None

    return fault


Serving = Callable[..., World]


def release(world: World, number: int = 2, **behaviour: Any) -> None:
    """A user publishes a version and asks for it."""
    world.publish(number, **behaviour)
    world.want(number)


def serving(seed: int = 0, steps: Steps | None = CANARY, **policy: Any) -> World:
    """A world in which version 1 serves."""
    world = World(seed, steps, **policy)
    world.publish(1)
    world.want(1)
    world.settle(10)
    assert world.condition("Ready")[0] == "True"
    return world
