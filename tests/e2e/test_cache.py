"""A program that gives answers again and has a budget, on a real cluster with a real Redis beside it."""

from __future__ import annotations

from typing import Any

from dev.images import builder
from dev.world import World, program, rollout

NAME = "triage"
STEPS: list[dict[str, Any]] = [{"setWeight": 20}, {"pause": {"requests": 30}}]
DOCKERFILE = """
ARG BASE=python:3.13-slim
FROM ${BASE}
RUN apt-get update -qq && apt-get install -qq --no-install-recommends redis-server && rm -rf /var/lib/apt/lists/*
USER 65532:65532
CMD ["redis-server", "--save", "", "--bind", "0.0.0.0", "--protected-mode", "no", "--dir", "/tmp"]
"""
CONTAINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def redis(image: str) -> list[dict[str, Any]]:
    """A Redis and its Service."""
    labels = {"app": "redis"}
    container = {"name": "redis", "image": image, "securityContext": CONTAINED}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "redis"},
            "spec": {"selector": labels, "ports": [{"port": 6379}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "redis"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"securityContext": POD, "containers": [container], "automountServiceAccountToken": False},
                },
            },
        },
    ]


def calls(world: World) -> int:
    """How often the stand-in provider was asked."""
    return int(world.set_lm()["calls"])


def test_pods_share_answers_and_releases_are_judged_past_them(world: World, versions: dict[str, str]) -> None:
    image = builder.build_alone("redis", DOCKERFILE)
    world.cluster.load([image])
    serves = program(
        NAME,
        versions["good"],
        replicas=2,
        redis={"url": f"redis://redis.{world.namespace}.svc:6379/0"},
        cache={"ttlSeconds": 600},
        budget={"usdPerDay": 1000},
    )
    serves["spec"]["lm"]["price"] = {"input": 1, "output": 2}
    world.apply(*redis(image), rollout(NAME, STEPS), serves)
    world.kubectl("rollout", "status", "deployment/redis", "--timeout=60s")
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, rate=40, questions=10) as traffic:
        world.wait(lambda: len(traffic.answers) >= 100, "a hundred answers")
        before = calls(world)
        world.wait(lambda: len(traffic.answers) >= 300, "two hundred more")
        assert calls(world) == before, "the same question is answered again"
        world.set_model(NAME, versions["better"])
        world.wait(lambda: len(traffic.by_revision()) == 2, "the candidate has traffic")
        world.wait(lambda: calls(world) > before + 20, "what is judged goes past the cache")
        world.wait_condition(NAME, "Current", "True")
        world.wait(lambda: world.rollout(NAME).get("phase") == "Idle", "it is over")
        before = calls(world)
        seen = len(traffic.answers)
        world.wait(lambda: len(traffic.answers) > seen + 100, "traffic goes on")
        assert calls(world) == before, "the new one's cache is warm already"
        world.kubectl("annotate", "dspyprogram", NAME, "dspy.dev/forget-answers=now")
        told = "jsonpath={.items[?(@.reason=='AnswersForgotten')].message}"
        world.wait(lambda: "Every pod" in world.kubectl("get", "events", "-o", told), "they are forgotten")
        world.wait(lambda: calls(world) > before, "it is asked anew")
        assert world.get("dspyprogram", NAME)["status"]["answersForgotten"] == "now"
        world.kubectl("scale", "deployment/redis", "--replicas=0")
        seen = len(traffic.answers)
        world.wait(lambda: len(traffic.answers) > seen + 200, "nobody misses Redis")
    assert not traffic.failed()
