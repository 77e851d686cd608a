"""The schemas, judged by a real API server: what is valid passes, and each refusal names the field and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from dev.cluster.deploy import kubectl
from dev.cluster.interface import REPOSITORY, Cluster, ClusterError
from dev.world import program, rollout

PAUSE: dict[str, Any] = {"pause": {"requests": 1}}
STEPS: list[dict[str, Any]] = [{"setWeight": 5}, PAUSE]
PAUSED: dict[str, Any] = {"pause": {"approval": True}}
MIRROR_STEPS: list[dict[str, Any]] = [{"mirror": {"percent": 20, "seconds": 60}}]
QUERY: dict[str, Any] = {"query": "sum(x)", "max": 3}
VARIANT = {"name": "a", "uri": "models:/qa/3"}
PRICE = {"input": 2, "output": 8.5, "cachedInput": 0.2}
SPEND: dict[str, Any] = {"name": "spend", "prometheus": QUERY}


def with_spec(**spec: Any) -> dict[str, Any]:
    return program("qa", "models:/qa/1", **spec)


def with_lm(**lm: Any) -> dict[str, Any]:
    return with_spec(lm={"model": "openai/gpt-4o-mini", **lm})


def guarded(**guardrail: Any) -> dict[str, Any]:
    return with_spec(guardrails=[{"name": "cards", "target": "Input", **guardrail}])


def named(name: str) -> dict[str, Any]:
    return program(name, "models:/qa/1")


def with_strategy(**strategy: Any) -> dict[str, Any]:
    return rollout("qa", STEPS, strategy=strategy)


def with_smoke_test(*requests: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return with_strategy(type="BlueGreen", blueGreen={"smokeTest": {"requests": list(requests), **fields}})


def with_ab_test(analysis: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    strategy = {"type": "ABTest", "abTest": {"users": {"header": "x-user-id"}, **fields}}
    return rollout("qa", STEPS, strategy=strategy, analysis=analysis or {})


def with_streams(*streams: dict[str, Any]) -> dict[str, Any]:
    return rollout("qa", STEPS, analysis={"streams": list(streams)})


def talking(conversations: dict[str, Any]) -> dict[str, Any]:
    return with_spec(routing={"conversations": conversations})


def mirroring(percent: float) -> dict[str, Any]:
    return rollout("qa", [{"mirror": {"percent": percent, "seconds": 60}}, *STEPS])


VALID: list[dict[str, Any]] = [
    program("qa", "models:/qa/3"),
    program("qa", "models:/qa@champion"),
    named("a" * 40),
    with_lm(),
    with_lm(price={"input": 0.15, "output": 0}, byPredictor={"draft": {"model": "vllm/own", "price": PRICE}}),
    with_lm(
        credentials={"envFrom": {"name": "keys"}},
        parameters={"temperature": 0.2, "stop": ["x"]},
        apiBase="https://gateway.example/v1",
    ),
    with_lm(
        model="vertex_ai/claude-sonnet-4-5",
        project="shop",
        location="europe-west1",
        headers={"x-team": "support"},
        byPredictor={"answer.predict": {"model": "bedrock/amazon.nova-pro-v1:0", "region": "eu-central-1"}},
    ),
    with_lm(
        fallbacks=[{"model": "anthropic/claude-haiku-4-5", "timeoutSeconds": 5}, {"model": "vllm/own", "price": PRICE}],
        circuitBreaker={"failurePercent": 20, "minimumCalls": 5},
        hedge={},
        lastResort={"answer": "Later.", "sources": []},
        byPredictor={"draft": {"model": "openai/a", "fallbacks": [{"model": "openai/b"}], "hedge": {"percentile": 99}}},
    ),
    guarded(pattern="[0-9]{16}", action="Flag", fields=["question"], timeoutSeconds=0.5),
    guarded(match={"properties": {"question": {"maxLength": 2000}}}),
    guarded(function="checks:cards", action="Mask"),
    with_spec(serving={"concurrency": 1, "queue": 0, "timeoutSeconds": 3600}, replicas=1),
    with_spec(
        resources={"requests": {"cpu": "1"}},
        env=[{"name": "A", "value": "b"}],
        image="mine:1",
        rolloutPolicy="Required",
        routing={"forceHeader": "Allow", "conversations": {"header": "x-chat", "cookie": {"maxAgeSeconds": 60}}},
    ),
    with_spec(
        pod={
            "labels": {"team": "a"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        }
    ),
    rollout("qa", [{"setWeight": 0.01}, {"pause": {"seconds": 60}}, {"setWeight": 99}]),
    *[rollout("qa", [{"setWeight": weight}]) for weight in (0.29, 8.2, 33.33, 98.99)],
    rollout("qa", [{"setWeight": 0}, {"pause": {"seconds": 9}}, {"setWeight": 5}]),
    rollout("qa", [{"setWeight": 20}, {"pause": {"approval": True}}, {"setWeight": 50}]),
    rollout("qa", [{"setWeight": 20}, {"watch": {"seconds": 60}}]),
    rollout("qa", [{"mirror": {"percent": 0.01, "seconds": 60}}, {"setWeight": 20}]),
    rollout("qa", [PAUSED, {"mirror": {"percent": 100, "requests": 9, "seconds": 9}}, PAUSED, *STEPS]),
    rollout("qa", [{"mirror": {"percent": 33.33, "seconds": 60}}, {"watch": {"seconds": 60}}]),
    rollout("qa", [{"watch": {"seconds": 60, "holdbackPercent": 1.5}}]),
    with_strategy(type="Canary", canary={"steps": STEPS, "replicas": "WithWeight"}),
    with_strategy(type="BlueGreen"),
    rollout("qa", [{"pause": {"approval": True}}, {"setWeight": 5}, PAUSE]),
    with_streams(SPEND, {"name": "tokens", "tolerancePercent": 25}, {"name": "cost", "sharePercent": 1}),
    with_streams(
        {
            "name": "spend",
            "prometheus": {"server": "own", "query": "x{r='$revision'}", "tolerancePercent": 20, "everySeconds": 60},
            "dryRun": True,
        }
    ),
    with_ab_test(),
    with_ab_test(users={"cookie": {}}),
    *[with_ab_test(compare={"stream": each}) for each in ("tokens", "cost", "score")],
    with_ab_test(variants=[{"name": "mini", "lm": {"model": "openai/gpt-4o-mini"}}]),
    with_ab_test(
        variants=[{"name": name, "uri": "models:/qa/2", "lm": {"model": "vllm/own", "price": PRICE}} for name in "abc"],
        candidatePercent=20,
        compare={"stream": "cost"},
        until={"users": 2_500},
    ),
    with_ab_test(compare={"stream": "score"}, candidatePercent=10, until={"users": 5_000}),
    with_ab_test(
        users={"header": "X-User-Id", "cookie": {"name": "visitor", "maxAgeSeconds": 86_400}},
        candidatePercent=12.5,
        compare={"stream": "blocked", "confidencePercent": 99.5},
        until={"users": 2_000, "requests": 100_000, "maxSeconds": 86_400},
        onWin="Hold",
        onLoss="Hold",
        onTie="Promote",
        warmSeconds=60,
        holdbackPercent=1,
        unseenSeconds=600,
        analysis={"streams": [{"name": "blocked", "flag": "blocked"}]},
    ),
    with_strategy(type="BlueGreen", blueGreen={"approval": "Required", "warmSeconds": 60, "holdbackPercent": 1}),
    with_streams(
        {"name": "left", "enabled": False}, {"name": "g", "flag": "too-long", "dryRun": True, "sharePercent": 9}
    ),
    with_smoke_test({"input": {"a": {"b": [1]}}, "expect": {"x": {"equals": [1, "a"]}, "y": {}}}, maxFailures=0),
    with_smoke_test({"input": {}, "expect": {"x": {"equals": 1, "pattern": "a", "schema": {"type": "string"}}}}),
    rollout(
        "qa",
        STEPS,
        paused=True,
        analysis={
            "falseRollbackPercent": 1,
            "marginPercent": 0.5,
            "streams": [{"name": "failed", "maxPercent": 5}],
            "onUndecided": "Promote",
        },
        progressDeadlineSeconds=60,
        stepDeadlineSeconds=60,
    ),
]

INVALID: list[tuple[dict[str, Any], str, str]] = [
    (program("qa", "runs:/abc/model"), "spec.model.uri", "register the model first"),
    (program("qa", "models:/qa"), "spec.model.uri", "models:/name/3"),
    (program("qa", "models:/qa/latest"), "spec.model.uri", "models:/name@alias"),
    (program("qa", "s3://bucket/model"), "spec.model.uri", "models:/name/3"),
    (named("qa.v2"), "metadata.name", "at most 40 characters"),
    (named("2qa"), "metadata.name", "begin with a letter"),
    (named("a" * 41), "metadata.name", "at most 40 characters"),
    (named("qa-preview"), "metadata.name", "another program's preview"),
    (with_spec(model={"uri": "models:/qa/1", "registry": "Not A Name"}), "spec.model.registry", "should match"),
    (with_lm(price={"input": 3}), "spec.lm.price.output", "Required"),
    (with_lm(price={**PRICE, "output": -1}), "spec.lm.price.output", "greater than or equal to 0"),
    (guarded(), "spec.guardrails[0]", "set one of pattern, match and function"),
    (guarded(pattern="x", action="Mask"), "spec.guardrails[0]", "Mask needs a function"),
    (guarded(function="a:b", fields=["x"]), "spec.guardrails[0]", "fields are those of a pattern"),
    (with_spec(redis={"url": "redis.default.svc:6379"}), "spec.redis.url", "rediss?"),
    (with_spec(redis={"url": "redis://user:word@redis"}), "spec.redis.url", "rediss?"),
    (with_spec(redis={"credentials": {}}), "spec.redis.url", "Required"),
    (with_spec(cache={"ttlSeconds": 0}), "spec.cache.ttlSeconds", "greater than or equal to 1"),
    (with_spec(cache={"maxBytes": 10}), "spec.cache.maxBytes", "greater than or equal to 65536"),
    (with_spec(cache={"size": 10}), "spec.cache.size", "unknown field"),
    (with_spec(budget={}), "spec.budget.usdPerDay", "Required"),
    (with_spec(budget={"usdPerDay": 5, "onExceeded": "Fallback"}), "spec", "needs lm.fallbacks or lm.lastResort"),
    (with_lm(fallbacks=[{"model": "haiku"}]), "spec.lm.fallbacks[0].model", "provider/model"),
    (with_lm(fallbacks=[{"model": f"openai/{each}"} for each in "abcde"]), "spec.lm.fallbacks", "at most 4 items"),
    (with_lm(fallbacks=[{"model": "openai/a", "parameters": {}}]), "spec.lm.fallbacks[0].parameters", "unknown field"),
    (with_lm(hedge={"percentile": 100}), "spec.lm.hedge.percentile", "less than or equal to 99"),
    (with_lm(circuitBreaker={"failurePercent": 0}), "spec.lm.circuitBreaker.failurePercent", "greater than or equal"),
    (with_lm(model="gpt-4o-mini"), "spec.lm.model", "provider/model"),
    (with_lm(model="mistrall/x"), "spec.lm.model", "docs/providers.md"),
    (with_lm(apiBase="gateway.example"), "spec.lm.apiBase", "http:// or https://"),
    (with_lm(api="completions"), "spec.lm.api", "Unsupported value"),
    (with_lm(region="eu central"), "spec.lm.region", "should match"),
    (with_lm(headers={"Authorization": "Bearer x"}), "spec.lm.headers", "spec.lm.credentials"),
    (with_lm(byPredictor={"draft": {"apiBase": "http://lm/v1"}}), "spec.lm.byPredictor.draft.model", "Required"),
    (with_lm(byPredictor={"draft": {"model": "nobody/x"}}), "spec.lm.byPredictor[draft].model", "docs/providers.md"),
    (
        with_lm(credentials={"apiKey": {"name": "a", "key": "b"}, "envFrom": {"name": "c"}}),
        "spec.lm.credentials",
        "not both",
    ),
    (with_lm(credentials={"apiKey": {"name": "a"}}), "spec.lm.credentials.apiKey.key", "Required"),
    (with_lm(timeoutSeconds=0), "spec.lm.timeoutSeconds", "greater than or equal to 1"),
    (with_lm(maxRetries=11), "spec.lm.maxRetries", "less than or equal to 10"),
    (with_spec(serving={"concurrency": 0}), "spec.serving.concurrency", "greater than or equal to 1"),
    (with_spec(serving={"queue": -1}), "spec.serving.queue", "greater than or equal to 0"),
    (with_spec(serving={"timeoutSeconds": 3601}), "spec.serving.timeoutSeconds", "less than or equal to 3600"),
    (with_spec(replicas=0), "spec.replicas", "greater than or equal to 1"),
    (with_spec(rolloutPolicy="Sometimes"), "spec.rolloutPolicy", '"Optional", "Required"'),
    (with_spec(env=[{"value": "b"}]), "spec.env[0].name", "Required"),
    (with_spec(replica=2), "spec.replica", "unknown field"),
    (talking({}), "spec.routing.conversations", "set header, cookie or both"),
    (talking({"header": "Cookie"}), "spec.routing.conversations", "for a cookie see cookie"),
    (talking({"header": "x chat"}), "spec.routing.conversations.header", "should match"),
    (talking({"cookie": {"maxAgeSeconds": 5}}), "spec.routing.conversations.cookie.maxAgeSeconds", "equal to 60"),
    (rollout("qa", []), "spec.strategy.canary.steps", "at least 1"),
    (rollout("qa", [{}]), "spec.strategy.canary.steps[0]", "exactly one of them"),
    (
        rollout("qa", [{"setWeight": 5, "pause": {"seconds": 1}}]),
        "spec.strategy.canary.steps[0]",
        "exactly one of them",
    ),
    (
        rollout("qa", [{"pause": {"approval": False}}]),
        "spec.strategy.canary.steps[0].pause.approval",
        "Unsupported value",
    ),
    (
        rollout("qa", [{"pause": {"approval": True, "seconds": 1}}]),
        "spec.strategy.canary.steps[0].pause",
        "exactly one of them",
    ),
    (rollout("qa", [{"pause": {}}]), "spec.strategy.canary.steps[0].pause", "exactly one of them"),
    (
        rollout("qa", [{"pause": {"seconds": 1, "requests": 1}}]),
        "spec.strategy.canary.steps[0].pause",
        "exactly one of them",
    ),
    (rollout("qa", [{"setWeight": 100}]), "spec.strategy.canary.steps[0].setWeight", "at most 99: without any traffic"),
    (rollout("qa", [{"setWeight": 0}]), "spec.strategy.canary.steps", "a weight above 0"),
    (rollout("qa", [{"pause": {"seconds": 1}}]), "spec.strategy.canary.steps", "a weight above 0"),
    (rollout("qa", [PAUSE, {"setWeight": 5}]), "spec.strategy.canary.steps", "must come after a setWeight"),
    (rollout("qa", [{"setWeight": 5}, {"setWeight": 0}, PAUSE]), "spec.strategy.canary.steps", "no setWeight may be 0"),
    (with_spec(pod={"labels": {"dspy.dev/gateway": "true"}}), "spec.pod.labels", "the operator's own"),
    (with_spec(pod={"labels": {"app.kubernetes.io/name": "x"}}), "spec.pod.labels", "the operator's own"),
    (with_spec(env=[{"name": "MLFLOW_TRACKING_URI", "value": "x"}]), "spec.env[0].name", "the operator's own"),
    (with_spec(env=[{"name": "DSPY_RUNTIME_MODEL", "value": "x"}]), "spec.env[0].name", "the operator's own"),
    (with_spec(pod={"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}), "spec.pod.volumes[0]", "hostPath"),
    (with_lm(parameters={"api_key": "sk-x"}), "spec.lm.parameters", "spec.lm.credentials"),
    (rollout("qa", [{"setWeight": -1}]), "spec.strategy.canary.steps[0].setWeight", "greater than or equal to 0"),
    (rollout("qa", [{"setWeight": 0.001}]), "spec.strategy.canary.steps[0].setWeight", "two decimals"),
    (rollout("qa", STEPS, programRef={"name": ""}), "spec.programRef.name", "at least 1"),
    (rollout("qa", STEPS, strategy={"type": "Canary"}), "spec.strategy", "needs canary.steps"),
    (rollout("qa", STEPS, strategy={"type": "Wild"}), "spec.strategy.type", '"Canary", "BlueGreen", "ABTest"'),
    (with_strategy(type="ABTest"), "spec.strategy", "needs abTest.users"),
    (with_strategy(type="ABTest", abTest={}), "spec.strategy.abTest.users", "Required"),
    (
        with_strategy(type="Canary", canary={"steps": STEPS}, abTest={"users": {"cookie": {}}}),
        "spec.strategy",
        "ABTest only",
    ),
    (with_ab_test(users={}), "spec.strategy.abTest.users", "set header, cookie or both"),
    (with_ab_test(users={"header": "Authorization"}), "spec.strategy.abTest.users", "carries the user's id"),
    (with_ab_test(users={"header": "x user"}), "spec.strategy.abTest.users.header", "should match"),
    (with_ab_test(candidatePercent=0), "spec.strategy.abTest.candidatePercent", "at least 1"),
    (with_ab_test(candidatePercent=51), "spec.strategy.abTest.candidatePercent", "less than or equal to 50"),
    (with_ab_test(compare={"stream": "blocked"}), "spec", "an enabled stream of analysis.streams"),
    (with_ab_test(compare={"confidencePercent": 10}), "compare.confidencePercent", "at least 50"),
    (with_ab_test(variants=[{"name": "a"}]), "spec.strategy.abTest.variants[0]", "needs uri, lm or both"),
    (with_ab_test(variants=[{"name": "a", "uri": "models:/qa@best"}]), "variants[0].uri", "should match"),
    (with_ab_test(variants=[{"name": "a", "lm": {"model": "gpt"}}]), "variants[0].lm.model", "provider/model"),
    (with_ab_test(variants=[VARIANT], candidatePercent=34), "spec.strategy.abTest", "at most 100"),
    (with_ab_test(variants=[{**VARIANT, "name": n} for n in "abcd"]), "spec.strategy.abTest.variants", "at most 3"),
    (with_ab_test(compare={"stream": "cost"}, until={"users": 999}), "spec.strategy.abTest", "until.users is too few"),
    (with_ab_test(until={"users": 10}), "spec.strategy.abTest.until.users", "greater than or equal to 50"),
    (with_ab_test(until={"maxSeconds": 1}), "spec.strategy.abTest.until.maxSeconds", "greater than or equal to 60"),
    (with_ab_test(onTie="Perhaps"), "spec.strategy.abTest.onTie", '"Promote", "Rollback", "Hold"'),
    (with_ab_test(unseenSeconds=601), "spec.strategy.abTest.unseenSeconds", "less than or equal to 600"),
    (with_strategy(type="Canary", canary={"steps": STEPS}, blueGreen={}), "spec.strategy", "of type BlueGreen only"),
    (with_strategy(type="BlueGreen", canary={"steps": STEPS}), "spec.strategy", "of type Canary only"),
    (with_strategy(type="BlueGreen", blueGreen={"warmSeconds": 0}), "warmSeconds", "greater than or equal to 1"),
    (with_strategy(type="BlueGreen", blueGreen={"holdbackPercent": 0}), "holdbackPercent", "at least 1"),
    (with_smoke_test(), "smokeTest.requests", "at least 1"),
    (with_smoke_test({"expect": {}}), "smokeTest.requests[0].input", "Required"),
    (with_smoke_test({"input": {}}, maxFailures=1), "smokeTest", "less than the number of requests"),
    (with_smoke_test({"input": {}, "expect": {"x": {"pattern": 3}}}), "expect.x.pattern", "must be of type string"),
    (with_strategy(type="BlueGreen", blueGreen={"approval": "Maybe"}), "approval", '"Automatic", "Required"'),
    (with_strategy(type="Canary", canary={"steps": STEPS, "replicas": "Few"}), "replicas", '"Full", "WithWeight"'),
    (rollout("qa", [{"watch": {"seconds": 9}}, {"setWeight": 5}]), "spec.strategy.canary.steps", "must be the last"),
    (rollout("qa", [{"watch": {"seconds": 9}}, {"watch": {"seconds": 9}}]), "spec.strategy.canary.steps", "the last"),
    (rollout("qa", [{"watch": {}}]), "spec.strategy.canary.steps[0].watch.seconds", "Required"),
    (rollout("qa", [{"mirror": {"seconds": 9}}]), "spec.strategy.canary.steps[0].mirror.percent", "Required"),
    (rollout("qa", [{"mirror": {"percent": 9}}]), "spec.strategy.canary.steps[0].mirror", "set seconds, requests or"),
    (mirroring(percent=0), "spec.strategy.canary.steps[0].mirror.percent", "at least 0.01"),
    (mirroring(percent=0.015), "spec.strategy.canary.steps[0].mirror.percent", "two decimals"),
    (mirroring(percent=101), "spec.strategy.canary.steps[0].mirror.percent", "less than or equal to 100"),
    (rollout("qa", [*STEPS, *MIRROR_STEPS]), "spec.strategy.canary.steps", "mirror must come before"),
    (rollout("qa", MIRROR_STEPS), "spec.strategy.canary.steps", "a weight above 0"),
    (rollout("qa", [{**MIRROR_STEPS[0], "setWeight": 5}]), "spec.strategy.canary.steps[0]", "exactly one of them"),
    (rollout("qa", [{"setWeight": 5, "watch": {"seconds": 9}}]), "spec.strategy.canary.steps[0]", "exactly one of"),
    (
        rollout("qa", [{"watch": {"seconds": 9, "holdbackPercent": 0}}]),
        "spec.strategy.canary.steps[0].watch.holdbackPercent",
        "at least 1",
    ),
    (
        rollout("qa", STEPS, analysis={"falseRollbackPercent": 0}),
        "spec.analysis.falseRollbackPercent",
        "at least 0.0001",
    ),
    # The API server compares a whole number with the whole part of a minimum only: these need rules.
    (rollout("qa", STEPS, analysis={"marginPercent": 0}), "spec.analysis.marginPercent", "at least 0.1"),
    (
        rollout("qa", STEPS, analysis={"streams": [{"name": "failed", "maxPercent": 0}]}),
        "spec.analysis.streams[0].maxPercent",
        "at least 0.01",
    ),
    (rollout("qa", STEPS, analysis={"marginPercent": 51}), "spec.analysis.marginPercent", "less than or equal to 50"),
    (
        rollout("qa", STEPS, analysis={"streams": [{"name": "failed", "maxPercent": 100}]}),
        "spec.analysis.streams[0].maxPercent",
        "less than or equal to 99",
    ),
    (with_streams({"name": "guarded"}), "spec.analysis.streams[0]", "a stream of your own needs a flag"),
    (with_streams({"name": "tokens", "maxPercent": 3}), "spec.analysis.streams[0]", "tokens and cost are no share"),
    (with_streams({"name": "cost", "prometheus": QUERY}), "spec.analysis.streams[0]", "has neither"),
    (with_streams({"name": "score", "flag": "low"}), "spec.analysis.streams[0]", "score is what users are compared by"),
    (with_streams({"name": "failed", "prometheus": QUERY}), "spec.analysis.streams[0]", "has neither"),
    (with_streams({"name": "spend", "prometheus": {"query": "x"}}), "streams[0].prometheus", "exactly one of them"),
    (with_streams({"name": "spend", "prometheus": QUERY, "maxPercent": 3}), "spec.analysis.streams[0]", "no share"),
    (
        with_streams({"name": "spend", "prometheus": {"query": "x", "tolerancePercent": 3}}),
        "spec.analysis.streams[0].prometheus",
        "must have $revision",
    ),
    (with_ab_test(compare={"stream": "spend"}, analysis={"streams": [SPEND]}), "spec", "with a flag"),
    (with_streams({"name": "slow", "flag": "late"}), "spec.analysis.streams[0]", "a built-in one"),
    (with_streams({"name": "g", "flag": "No Flag"}), "spec.analysis.streams[0].flag", "should match"),
    (with_streams({"name": "left", "sharePercent": 0}), "spec.analysis.streams[0].sharePercent", "at least 0.1"),
    (with_streams({"name": "left"}, {"name": "left"}), "spec.analysis.streams[1]", "Duplicate value"),
    (rollout("qa", STEPS, analysis={"onUndecided": "Guess"}), "spec.analysis.onUndecided", '"Pause", "Promote"'),
    (rollout("qa", STEPS, progressDeadlineSeconds=0), "spec.progressDeadlineSeconds", "greater than or equal to 1"),
    (rollout("qa", STEPS, stepDeadlineSeconds=0), "spec.stepDeadlineSeconds", "greater than or equal to 1"),
]


def dry_run(cluster: Cluster, manifest: dict[str, Any]) -> None:
    kubectl(cluster, "create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=yaml.safe_dump(manifest))


EXAMPLES = [
    item
    for file in sorted((REPOSITORY / "manifests" / "examples").glob("*.yaml"))
    for item in yaml.safe_load_all(file.read_text())
    if item["kind"].startswith("DSPy")
]


@pytest.mark.parametrize("manifest", [*VALID, *EXAMPLES], ids=lambda manifest: str(manifest["spec"])[:60])
def test_valid(cluster: Cluster, manifest: dict[str, Any]) -> None:
    dry_run(cluster, manifest)


@pytest.mark.parametrize(
    ("manifest", "field", "words"), INVALID, ids=[f"{field} {words}" for _, field, words in INVALID]
)
def test_a_refusal_names_the_field_and_what_to_do(
    cluster: Cluster, manifest: dict[str, Any], field: str, words: str
) -> None:
    with pytest.raises(ClusterError) as refusal:
        dry_run(cluster, manifest)
    assert field in str(refusal.value)
    assert words in str(refusal.value)


def test_every_field_has_a_description_and_no_status_field_an_enum(cluster: Cluster) -> None:
    for name in ("dspyprograms.dspy.dev", "dspyrollouts.dspy.dev"):
        schema = json.loads(kubectl(cluster, "get", "crd", name, "-o", "json"))["spec"]["versions"][0]["schema"][
            "openAPIV3Schema"
        ]
        for path, field in walk(schema, ""):
            assert field.get("description") or path in (".metadata",) or path.endswith("[]"), path
            assert not (path.startswith(".status") and "enum" in field), path


def walk(schema: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, schema)]
    for name, field in schema.get("properties", {}).items():
        found += walk(field, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        found += walk(schema["items"], f"{path}[]")
    return found


def test_the_operator_of_one_namespace_has_no_right_elsewhere(cluster: Cluster) -> None:
    rendered = kubectl(cluster, "kustomize", str(REPOSITORY / "manifests" / "overlays" / "namespaced"))
    objects = [each for each in yaml.safe_load_all(rendered) if each["apiVersion"].startswith("rbac")]
    assert [each["metadata"]["name"] for each in objects if each["kind"].startswith("Cluster")] == ["dspy-gateway"]
    mine = {each["metadata"]["namespace"]: each["rules"] for each in objects if each["kind"] == "Role"}
    base = kubectl(cluster, "kustomize", str(REPOSITORY / "manifests" / "base"))
    (everywhere,) = [
        each["rules"]
        for each in yaml.safe_load_all(base)
        if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "dspy-operator"
    ]
    assert mine["programs"] == everywhere
