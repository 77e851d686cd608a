"""Releases on a real cluster: what a user does, and what the tables, events and clients then show."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import pytest

from dev.cluster.deploy import SYSTEM, kubectl
from dev.cluster.interface import ClusterError
from dev.images import builder
from dev.world import Traffic, World, program, rollout

STEPS: list[dict[str, Any]] = [
    {"setWeight": 10},
    {"pause": {"requests": 20}},
    {"setWeight": 50},
    {"pause": {"requests": 60}},
]
LONG: list[dict[str, Any]] = [{"setWeight": 20}, {"pause": {"seconds": 600}}]
NAME = "triage"


@pytest.fixture
def serving(world: World, versions: dict[str, str]) -> World:
    """The good version serves under a canary policy."""
    world.apply(rollout(NAME, STEPS), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Current", "True")
    world.wait_condition(NAME, "Available", "True", "Serving")
    return world


def is_stable(world: World, version: str) -> bool:
    return version_of(world, "stable") == version


def version_of(world: World, which: str) -> str:
    return str(world.get("dspyprogram", NAME)["status"].get(which, {}).get("version", ""))


def revision_of(world: World, which: str) -> str:
    return str(world.get("dspyprogram", NAME)["status"].get(which, {}).get("revision", ""))


def has_answered(traffic: Traffic, number: int) -> bool:
    return len(traffic.answers) >= number


def events(world: World) -> list[str]:
    return world.kubectl("get", "events", "-o", "jsonpath={.items[*].reason}").split()


def test_a_first_program_is_deployed_and_answers(serving: World, versions: dict[str, str]) -> None:
    with serving.traffic(NAME) as traffic:
        serving.wait(lambda: len(traffic.answers) >= 20, "twenty answers")
    assert not traffic.failed()
    status = serving.get("dspyprogram", NAME)["status"]
    assert status["url"] == f"http://{NAME}.{serving.namespace}.svc"
    assert status["observedGeneration"] == 1
    assert serving.wait_condition(NAME, "AsLogged", "True").endswith("nothing is left out")
    assert "v" + versions["good"].rpartition("/")[2] in serving.kubectl("get", "dspy")
    assert "Idle" in serving.kubectl("get", "rollouts")


def test_a_good_version_is_released_step_by_step_without_a_lost_request(
    serving: World, versions: dict[str, str]
) -> None:
    with serving.traffic(NAME, rate=60) as traffic:
        serving.set_model(NAME, versions["better"])
        serving.wait_condition(NAME, "Current", "False", "ReleaseInProgress")
        serving.wait_condition(NAME, "Current", "True")
        serving.wait(
            lambda: len(serving.names("deployments", f"dspy.dev/program={NAME}")) == 1, "the old revision is gone"
        )
    assert not traffic.failed()
    assert version_of(serving, "stable") == "v" + versions["better"].rpartition("/")[2]
    assert {"ReleaseStarted", "CandidateReady", "WeightSet", "Promoted"} <= set(events(serving))


def test_a_bad_version_loses_its_traffic_by_itself(serving: World, versions: dict[str, str]) -> None:
    with serving.traffic(NAME, rate=40) as traffic:
        serving.set_model(NAME, versions["bad"])
        serving.wait_condition(NAME, "Current", "False", "RolledBack")
        candidate = revision_of(serving, "wanted")
        serving.wait(lambda: candidate not in serving.names("deployments"), "the bad revision is gone")
    assert not traffic.lost()
    assert {answer.revision for answer in traffic.failed()} == {candidate}
    assert len(traffic.failed()) <= 12
    status = serving.rollout(NAME)
    assert (status["phase"], status["weight"]) == ("Refused", "0")
    candidate, _, stable = status["errors"].partition(" vs ")
    assert float(candidate.rstrip("%")) >= 50  # a request that was in flight at the verdict is no failure yet
    assert stable == "0%"
    assert "RolledBack" in events(serving)


def test_a_bad_version_is_found_by_copies_before_any_client_gets_it(serving: World, versions: dict[str, str]) -> None:
    serving.apply(rollout(NAME, [{"mirror": {"percent": 50, "seconds": 600}}, *STEPS]))
    with serving.traffic(NAME, rate=40) as traffic:
        serving.set_model(NAME, versions["bad"])
        serving.wait_condition(NAME, "Current", "False", "RolledBack")
        candidate = revision_of(serving, "wanted")
        serving.wait(lambda: candidate not in serving.names("deployments"), "the bad revision is gone")
    assert not traffic.failed()
    assert candidate not in traffic.by_revision()
    refused = serving.get("dspyprogram", NAME)["status"]["release"]["refused"][0]
    assert refused["candidate"]["failures"] > 0


def test_a_refused_version_stays_refused_and_going_back_is_current_again(
    serving: World, versions: dict[str, str]
) -> None:
    with serving.traffic(NAME, rate=40):
        serving.set_model(NAME, versions["bad"])
        serving.wait_condition(NAME, "Current", "False", "RolledBack")
    serving.kubectl("delete", "dspyrollout", NAME)
    time_to_be_tempted(serving)
    assert serving.condition(NAME, "Current")[:2] == ("False", "RolledBack")
    serving.set_model(NAME, versions["good"])
    serving.wait_condition(NAME, "Current", "True")


def time_to_be_tempted(world: World) -> None:
    """Waits until the operator has looked again: a change of the spec that makes no revision is observed."""
    world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": {"replicas": 2}}))
    generation = world.get("dspyprogram", NAME)["metadata"]["generation"]
    world.wait(
        lambda: world.get("dspyprogram", NAME)["status"]["observedGeneration"] == generation, "the change is observed"
    )


def test_without_a_policy_a_version_takes_over_when_it_is_ready(world: World, versions: dict[str, str]) -> None:
    world.apply(program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, rate=40) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(
            lambda: version_of(world, "stable") == version_of(world, "wanted") != "", "the new version is stable"
        )
        world.wait(lambda: len(world.names("deployments", f"dspy.dev/program={NAME}")) == 1, "the old revision is gone")
    assert not traffic.failed()


def test_a_required_policy_is_waited_for(world: World, versions: dict[str, str]) -> None:
    world.apply(program(NAME, versions["good"], rolloutPolicy="Required"))
    world.wait_condition(NAME, "Current", "True")
    world.set_model(NAME, versions["better"])
    world.wait(lambda: "PolicyMissing" in world.condition(NAME, "Current")[2], "it waits for a policy")
    world.apply(rollout(NAME, [{"setWeight": 50}], analysis={"onUndecided": "Promote"}))
    world.wait_condition(NAME, "Current", "True")


def test_an_image_that_cannot_be_pulled_is_named_and_never_refused(serving: World, versions: dict[str, str]) -> None:
    serving.kubectl(
        "patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": {"image": "localhost/no-such-image:1"}})
    )
    serving.wait(
        lambda: "localhost/no-such-image:1 cannot be pulled" in serving.condition(NAME, "Current")[2],
        "the reason is shown",
    )
    assert "cannot be pulled" in serving.kubectl("get", "rollouts", "-o", "wide")
    serving.kubectl(
        "patch", "dspyprogram", NAME, "--type=json", "-p", json.dumps([{"op": "remove", "path": "/spec/image"}])
    )
    serving.wait_condition(NAME, "Current", "True")


def test_a_model_that_does_not_load_is_refused_with_the_pods_words(serving: World, versions: dict[str, str]) -> None:
    serving.set_model(NAME, versions["broken"])
    message = serving.wait_condition(NAME, "Current", "False", "Refused")
    assert "a_module_that_the_image_does_not_have" in message
    assert "Refused" in serving.kubectl("get", "rollouts")


def test_a_version_of_another_python_is_not_accepted(serving: World) -> None:
    serving.log({"name": "old-python", "kind": "good", "python": "3.8.18"})
    serving.set_model(NAME, "models:/old-python/1")
    message = serving.wait_condition(NAME, "Accepted", "False", "PythonMismatch")
    assert "3.8" in message
    assert serving.condition(NAME, "Available")[0] == "True"


def test_a_version_that_needs_a_package_is_told_and_an_image_with_it_serves(world: World) -> None:
    (number,) = world.log({"name": "talking", "kind": "talking", "requires": "cowsay==6.1"})
    uri = f"models:/talking/{number}"
    world.apply(program(NAME, uri))
    message = world.wait_condition(NAME, "Accepted", "False", "DependencyMissing")
    assert message.startswith("cowsay==6.1: ")
    assert f"`dspy-operator image {uri}`" in message
    command = ("python", "-m", "dspy_operator", "image", uri, "--registry", "http://mlflow.dspy-system:5000")
    dockerfile = kubectl(world.cluster, "exec", "-n", SYSTEM, "deploy/dspy-operator", "--", *command)
    reference = builder.build_alone("talking", dockerfile)
    world.cluster.load([reference])
    patch = json.dumps({"spec": {"image": reference}})
    world.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", patch)
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.wait(lambda: len(traffic.answers) >= 5, "five answers")
    assert not traffic.failed()


def test_a_missing_secret_is_named_and_its_coming_heals(world: World, versions: dict[str, str]) -> None:
    world.kubectl("delete", "secret", "lm")
    world.apply(program(NAME, versions["good"]))
    assert "lm" in world.wait_condition(NAME, "Available", "False", "SecretNotFound")
    world.make_secret()
    world.wait_condition(NAME, "Available", "True", seconds=150)


def test_without_traffic_a_release_holds_and_says_so(serving: World, versions: dict[str, str]) -> None:
    serving.set_model(NAME, versions["better"])
    serving.wait(
        lambda: serving.rollout(NAME).get("message") == "Waiting for 20 candidate requests, 0 so far", "it holds"
    )
    assert serving.rollout(NAME)["weight"] == "10"
    assert serving.rollout(NAME)["phase"] == "Progressing"


def test_a_step_that_waits_too_long_is_shown_as_paused_and_goes_on_with_traffic(
    world: World, versions: dict[str, str]
) -> None:
    world.apply(rollout(NAME, STEPS, stepDeadlineSeconds=3), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    world.set_model(NAME, versions["better"])
    world.wait_condition(NAME, "Stalled", "True", "StepDeadlineExceeded")
    assert world.rollout(NAME)["phase"] == "Paused"
    with world.traffic(NAME, rate=60):
        world.wait_condition(NAME, "Current", "True")


def test_a_moved_alias_starts_a_release(world: World) -> None:
    first, second = world.log(
        {"name": "moving", "kind": "good", "alias": "champion"}, {"name": "moving", "kind": "better"}
    )
    world.apply(program(NAME, "models:/moving@champion"))
    world.wait_condition(NAME, "Available", "True")
    assert version_of(world, "stable") == f"v{first}"
    world.log({"name": "moving", "kind": "move", "alias": "champion", "version": second})
    world.wait(lambda: version_of(world, "stable") == f"v{second}", "the new version is stable")


def test_what_the_registry_does_not_have_is_told_apart(world: World, versions: dict[str, str]) -> None:
    world.apply(
        program("no-alias", "models:/triage@nobody"),
        program("no-model", "models:/nothing/1"),
        program("no-version", "models:/triage/999"),
    )
    assert "nobody" in world.wait_condition("no-alias", "Accepted", "False", "AliasNotFound")
    assert "nothing" in world.wait_condition("no-model", "Accepted", "False", "ModelNotFound")
    assert "999" in world.wait_condition("no-version", "Accepted", "False", "ModelNotFound")


def test_abort_takes_the_traffic_away_and_is_handled_once(world: World, versions: dict[str, str]) -> None:
    world.apply(rollout(NAME, LONG), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: len(traffic.by_revision()) == 2, "the candidate has traffic")
        candidate = revision_of(world, "wanted")
        world.kubectl("annotate", "dspyprogram", NAME, f"dspy.dev/request=abort {candidate} 1")
        world.wait_condition(NAME, "Current", "False", "Refused")
        world.wait(lambda: candidate not in world.names("deployments"), "the candidate is gone")
    assert not traffic.failed()
    world.kubectl("annotate", "--overwrite", "dspyprogram", NAME, "dspy.dev/request=abort somebody-else 2")
    world.wait(lambda: "RequestIgnored" in events(world), "the request that names another is told so")


def test_a_step_waits_for_approval_and_goes_on_with_it(world: World, versions: dict[str, str]) -> None:
    steps: list[dict[str, Any]] = [
        {"setWeight": 20},
        {"pause": {"approval": True}},
        {"setWeight": 50},
        {"pause": {"requests": 30}},
    ]
    world.apply(rollout(NAME, steps), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: "approve" in str(world.rollout(NAME).get("message")), "the approval is asked for")
        status = world.rollout(NAME)
        assert status["phase"] == "Paused"
        request = status["message"].partition("`")[2].partition("`")[0]
        world.kubectl("annotate", "--overwrite", "dspyprogram", NAME, f"dspy.dev/request={request} 1")
        world.wait(lambda: is_stable(world, "v" + versions["better"].rpartition("/")[2]), "the version is promoted")
    assert not traffic.failed()


def test_a_blue_green_switch_waits_for_approval_loses_no_request_and_is_undone(
    world: World, versions: dict[str, str]
) -> None:
    smoke = {"requests": [{"input": {"message": "My bill is wrong"}, "expect": {"category": {"equals": "billing"}}}]}
    blue_green = {"type": "BlueGreen", "blueGreen": {"smokeTest": smoke, "approval": "Required", "warmSeconds": 10}}
    policy = rollout(NAME, [], strategy=blue_green, analysis={"onUndecided": "Promote"})
    world.apply(policy, program(NAME, versions["good"], routing={"forceHeader": "Allow"}))
    world.wait_condition(NAME, "Available", "True")
    old = revision_of(world, "stable")
    with world.traffic(NAME, rate=60) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: "approve" in str(world.rollout(NAME).get("message")), "the approval is asked for")
        assert world.rollout(NAME)["weight"] == "0"
        assert "The smoke test passed: 1 of 1 requests" in world.kubectl("get", "events")
        url = world.rollout(NAME)["previewUrl"]
        ask = f"""
import urllib.request
body, headers = b'{{"message": "My bill is wrong"}}', {{'content-type': 'application/json'}}
for url, more in (('{url}', {{}}), ('http://{NAME}.{world.namespace}.svc', {{'x-dspy-revision': 'candidate'}})):
    request = urllib.request.Request(url + '/predict', body, headers | more)
    print(urllib.request.urlopen(request, timeout=10).headers['x-dspy-revision'])
"""
        told = kubectl(world.cluster, "exec", "-n", SYSTEM, "deploy/client", "--", "python", "-c", ask)
        assert told.split() == [revision_of(world, "wanted")] * 2, "by its preview, and by its role"
        request = world.rollout(NAME)["message"].partition("`")[2].partition("`")[0]
        world.kubectl("annotate", "--overwrite", "dspyprogram", NAME, f"dspy.dev/request={request} 1")
        world.wait(lambda: world.rollout(NAME).get("weight") == "95", "the switch")
        assert old in world.names("deployments"), "the old revision is warm"
        world.wait(lambda: is_stable(world, "v" + versions["better"].rpartition("/")[2]), "the version is promoted")
        world.kubectl("annotate", "--overwrite", "dspyprogram", NAME, f"dspy.dev/request=undo {old} 2")
        world.wait_condition(NAME, "Current", "False", "Undone")
        world.wait(lambda: revision_of(world, "stable") == old, "the old version serves again")
    assert not traffic.failed()
    assert {answer.revision for answer in traffic.answers} == {old, revision_of(world, "wanted")}


def test_a_conversation_stays_where_it_began(world: World, versions: dict[str, str]) -> None:
    """300 of them, by cookies, while weights rise and a gateway pod ends."""
    steps: list[dict[str, Any]] = [
        {"setWeight": 30},
        {"pause": {"seconds": 15}},
        {"setWeight": 80},
        {"pause": {"approval": True}},
    ]
    talked = program(NAME, versions["good"], routing={"conversations": {"cookie": {}}})
    world.apply(rollout(NAME, steps), talked)
    world.wait_condition(NAME, "Available", "True")
    world.set_model(NAME, versions["better"])
    world.wait(lambda: "Waiting 15 s" in str(world.rollout(NAME).get("message")), "the first pause")
    with world.traffic(NAME, rate=60, users=300) as traffic:
        world.wait(lambda: len(traffic.answers) >= 300, "every conversation has begun")
        world.wait(lambda: "approval" in str(world.rollout(NAME).get("message")), "the last pause")
        candidate = revision_of(world, "wanted")
        pods = kubectl(world.cluster, "get", "pods", "-n", world.namespace, "-l", "dspy.dev/gateway=true", "-o", "name")
        kubectl(world.cluster, "delete", "-n", world.namespace, pods.split()[0], "--wait=true")
        enough = functools.partial(has_answered, traffic, len(traffic.answers) + 600)
        world.wait(enough, "every conversation goes on")
        sides = traffic.sides(0.0)
        assert [user for user, revisions in sides.items() if len(revisions) > 1] == []
        assert 50 < sum(revisions == {candidate} for revisions in sides.values()) < 130
        drawn = world.rollout(NAME)["streams"][0]["users"]
        assert drawn["stable"]["users"] + drawn["candidate"]["users"] == 300
        world.kubectl("annotate", "dspyprogram", NAME, f"dspy.dev/request=abort {candidate} 1")
        world.wait(lambda: world.rollout(NAME).get("phase") == "Refused", "a person goes back")
        since = time.time()
        world.wait(functools.partial(has_answered, traffic, len(traffic.answers) + 300), "they go on with stable")
        assert all(candidate not in revisions for revisions in traffic.sides(since).values())
    assert not traffic.failed()


def test_an_ab_test_keeps_every_user_where_it_is(world: World, versions: dict[str, str]) -> None:
    """2,000 users, while a pod of each kind ends: the gateway, the operator, one of the candidate's."""
    test = {"users": {"header": "x-user-id"}, "candidatePercent": 30, "until": {"maxSeconds": 3600}, "warmSeconds": 5}
    policy = rollout(NAME, [], strategy={"type": "ABTest", "abTest": test})
    world.apply(policy, program(NAME, versions["good"], replicas=2))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, rate=60, users=2_000) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: "Comparing failed by users" in str(world.rollout(NAME).get("message")), "the comparison")
        candidate, began = revision_of(world, "wanted"), time.time()
        world.wait(lambda: len(traffic.sides(began)) == 2_000, "every user has been answered")
        for namespace, selector in (
            (world.namespace, "dspy.dev/gateway=true"),
            (SYSTEM, "app.kubernetes.io/name=dspy-operator"),
            (world.namespace, f"dspy.dev/revision={candidate}"),
        ):
            pods = kubectl(world.cluster, "get", "pods", "-n", namespace, "-l", selector, "-o", "name").split()
            kubectl(world.cluster, "delete", "-n", namespace, pods[0], "--wait=true")
            enough = functools.partial(has_answered, traffic, len(traffic.answers) + 2_300)
            world.wait(enough, "every user has been answered again")
        sides = traffic.sides(began)
        assert len(sides) == 2_000
        assert [user for user, revisions in sides.items() if len(revisions) > 1] == []
        assert 500 < sum(revisions == {candidate} for revisions in sides.values()) < 700
        world.wait(lambda: world.rollout(NAME)["comparison"]["seen"] == 2_000, "all of them are known")
        assert world.rollout(NAME)["comparison"]["moved"] == 0
        world.kubectl("annotate", "dspyprogram", NAME, f"dspy.dev/request=promote {candidate} 1")
        world.wait(lambda: revision_of(world, "stable") == candidate, "a person promotes it")
    assert not traffic.failed()


def test_the_cheapest_of_several_candidates_takes_over(world: World, versions: dict[str, str]) -> None:
    """One that fails goes alone and at once; another that costs half, by another model, wins; nobody changes sides."""
    dear, cheap = ({"input": price, "output": price} for price in (10, 5))
    wanted = program(NAME, versions["good"], serving={"timeoutSeconds": 30})
    lm = wanted["spec"]["lm"]
    wanted["spec"]["lm"] = {**lm, "price": dear}
    test = {
        "users": {"header": "x-user-id"},
        "variants": [{"name": "bad", "uri": versions["bad"]}, {"name": "cheap", "lm": {**lm, "price": cheap}}],
        "compare": {"stream": "cost"},
        "until": {"maxSeconds": 200},
        "warmSeconds": 5,
    }
    world.apply(wanted)
    world.wait_condition(NAME, "Available", "True")
    world.apply(rollout(NAME, [], strategy={"type": "ABTest", "abTest": test}))
    world.set_model(NAME, versions["better"])
    with world.traffic(NAME, rate=40, users=2_400) as traffic:
        world.wait(lambda: len(world.rollout(NAME).get("candidates", ())) == 3, "three candidates")
        names = {each.get("variant", ""): each["revision"] for each in world.rollout(NAME)["candidates"]}
        world.wait(lambda: len(world.rollout(NAME).get("candidates", ())) == 2, "the bad one has gone", 180)
        began = time.time()
        assert "Progressing" in world.kubectl("get", "rollouts")
        world.wait(lambda: "Watching" in str(world.rollout(NAME).get("message")), "a verdict", 300)
        sides = traffic.sides(began, time.time() - 5)
        assert [user for user, revisions in sides.items() if len(revisions) > 1] == []
        world.wait(lambda: revision_of(world, "stable") == names["cheap"], "it takes over")
    assert not traffic.lost()
    assert world.wait_condition(NAME, "Current", "False", "Undone").startswith("v")
    history = {each["revision"]: each for each in world.get("dspyprogram", NAME)["status"]["history"]}
    assert history[names["bad"]]["outcome"] == history[names[""]]["outcome"] == "RolledBack"
    assert history[names["cheap"]]["message"].startswith("Win on cost: $")


def test_a_bad_version_goes_back_in_seconds_after_a_blue_green_switch(world: World, versions: dict[str, str]) -> None:
    policy = rollout(NAME, [], strategy={"type": "BlueGreen", "blueGreen": {"warmSeconds": 600}})
    world.apply(policy, program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    pods = world.names("pods", "dspy.dev/revision")
    with world.traffic(NAME, rate=40) as traffic:
        world.set_model(NAME, versions["bad"])
        world.wait_condition(NAME, "Current", "False", "RolledBack")
        assert set(pods) <= set(world.names("pods", "dspy.dev/revision")), "no pod was started for the way back"
    assert not traffic.lost()
    assert traffic.by_revision()[revision_of(world, "stable")]


def test_a_smoke_test_refuses_a_version_before_anybody_gets_it(world: World, versions: dict[str, str]) -> None:
    smoke = {"requests": [{"name": "bill", "input": {"message": "My bill is wrong"}}]}
    policy = rollout(NAME, [], strategy={"type": "BlueGreen", "blueGreen": {"smokeTest": smoke}})
    world.apply(policy, program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["bad"])
        world.wait_condition(NAME, "Current", "False", "Refused")
    assert "The smoke test failed: 0 of 1 requests" in world.condition(NAME, "Current")[2]
    assert "bill: program_error (502 parse" in world.condition(NAME, "Current")[2]
    assert not traffic.failed()
    assert {answer.revision for answer in traffic.answers} == {revision_of(world, "stable")}


def test_a_candidate_has_the_pods_that_its_weight_needs(world: World, versions: dict[str, str]) -> None:
    steps: list[dict[str, Any]] = [{"setWeight": 20}, {"pause": {"approval": True}}, {"watch": {"seconds": 5}}]
    sized = {"type": "Canary", "canary": {"replicas": "WithWeight", "steps": steps}}
    policy = rollout(NAME, [], strategy=sized, analysis={"onUndecided": "Promote"})
    world.apply(policy, program(NAME, versions["good"], replicas=3))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: "approve" in str(world.rollout(NAME).get("message")), "the approval is asked for")
        candidate = revision_of(world, "wanted")
        assert len(world.names("pods", f"dspy.dev/revision={candidate}")) == 1
        request = world.rollout(NAME)["message"].partition("`")[2].partition("`")[0]
        world.kubectl("annotate", "--overwrite", "dspyprogram", NAME, f"dspy.dev/request={request} 1")
        world.wait(lambda: is_stable(world, "v" + versions["better"].rpartition("/")[2]), "the version is promoted")
        assert len(world.names("pods", f"dspy.dev/revision={candidate}")) == 3
    assert not traffic.failed()


def test_an_answer_is_read_as_it_comes_through_the_gateway(world: World, versions: dict[str, str]) -> None:
    world.apply(program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    ask = f"""
import urllib.request
request = urllib.request.Request('http://{NAME}.{world.namespace}.svc/predict', b'{{"message": "My bill is wrong"}}',
                                 {{'accept': 'text/event-stream', 'content-type': 'application/json'}})
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""
    told = kubectl(world.cluster, "exec", "-n", SYSTEM, "deploy/client", "--", "python", "-c", ask)
    events = [line.removeprefix("event: ") for line in told.splitlines() if line.startswith("event: ")]
    assert events.count("part") >= 3
    assert events[-1] == "prediction"
    assert '"field":"category"' in told


def test_a_program_that_blocks_its_loop_is_named_by_an_event(world: World, versions: dict[str, str]) -> None:
    (number,) = world.log({"name": "triage", "kind": "blocking"})
    world.apply(rollout(NAME, LONG), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, rate=1):
        world.set_model(NAME, f"models:/triage/{number}")
        world.wait(lambda: "EventLoopBlocked" in events(world), "the event", 120)
    told = world.kubectl("get", "events", "-o", "jsonpath={.items[?(@.reason=='EventLoopBlocked')].message}")
    assert f"v{number} (" in told
    assert told.endswith(" aforward")


def test_a_new_revision_in_mid_release_starts_over_from_stable(world: World, versions: dict[str, str]) -> None:
    world.apply(rollout(NAME, LONG), program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: len(traffic.by_revision()) == 2, "the candidate has traffic")
        first = revision_of(world, "wanted")
        world.kubectl(
            "patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps({"spec": {"serving": {"concurrency": 100}}})
        )
        world.wait(lambda: len(traffic.by_revision()) == 3, "the newer candidate has traffic")
        world.wait(lambda: first not in world.names("deployments"), "the older candidate is gone")
    assert not traffic.failed()
    outcomes = [(ended["revision"], ended["outcome"]) for ended in world.get("dspyprogram", NAME)["status"]["history"]]
    assert outcomes == [(first, "Cancelled")]


def test_an_operator_that_dies_in_mid_release_goes_on_where_it_was(serving: World, versions: dict[str, str]) -> None:
    with serving.traffic(NAME, rate=40) as traffic:
        serving.set_model(NAME, versions["better"])
        serving.wait(lambda: len(traffic.by_revision()) == 2, "the candidate has traffic")
        kubectl(
            serving.cluster,
            "delete",
            "pod",
            "-n",
            SYSTEM,
            "-l",
            "app.kubernetes.io/name=dspy-operator",
            "--grace-period=0",
            "--force",
        )
        serving.wait_condition(NAME, "Current", "True")
    assert not traffic.failed()
    assert events(serving).count("Promoted") == 1


def test_a_gateway_pod_that_is_deleted_loses_no_request(serving: World) -> None:
    with serving.traffic(NAME, rate=40) as traffic:
        before = serving.names("pods", "app.kubernetes.io/name=dspy-gateway")
        serving.kubectl("delete", "pod", before[0], "--wait=false")
        serving.wait(
            lambda: before[0] not in serving.names("pods", "app.kubernetes.io/name=dspy-gateway"), "the pod is gone"
        )
        seen = len(traffic.answers)
        serving.wait(lambda: len(traffic.answers) > seen + 40, "traffic goes on")
    assert not traffic.failed()


def test_a_candidate_behind_a_failing_provider_is_lowered_and_not_blamed(
    serving: World, versions: dict[str, str]
) -> None:
    with serving.traffic(NAME, rate=40) as traffic:
        serving.set_model(NAME, versions["better"])
        serving.wait(lambda: len(traffic.by_revision()) == 2, "the candidate has traffic")
        serving.set_lm(error_share=1.0)
        serving.wait(lambda: serving.rollout(NAME).get("message", "").startswith("Stable"), "it is held")
        serving.set_lm(error_share=0.0)
        serving.wait_condition(NAME, "Current", "True", seconds=180)
    assert "RolledBack" not in events(serving)


def test_pods_start_while_the_registry_is_away(world: World, versions: dict[str, str]) -> None:
    """Small versions are kept in the cluster; a pod of a large one waits for the registry, and says so."""
    (number,) = world.log({"name": "large", "kind": "good", "padding": str(1 << 20)})
    world.apply(program(NAME, versions["good"]), program("large", f"models:/large/{number}"))
    for name in (NAME, "large"):
        world.wait_condition(name, "Available", "True")
    with world.without_registry():
        world.kubectl("delete", "pod", "-l", "dspy.dev/program", "--wait=true")
        world.wait_condition(NAME, "Available", "True")
        assert "fetch" in world.wait_condition("large", "Available", "False", "RegistryUnavailable")
    world.wait_condition("large", "Available", "True")
    (pod,) = world.names("pods", "dspy.dev/program=large")
    statuses = world.get("pod", pod)["status"]
    restarts = [each["restartCount"] for each in statuses["initContainerStatuses"] + statuses["containerStatuses"]]
    assert restarts == [0, 0], "waiting is no crash"


def test_what_somebody_changed_is_repaired_and_its_writer_named(world: World, versions: dict[str, str]) -> None:
    world.apply(program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    (revision,) = (name for name in world.names("deployments", f"dspy.dev/program={NAME}"))
    before = world.get("deployment", revision)["spec"]["template"]
    world.kubectl("set", "image", f"deployment/{revision}", "runtime=localhost/somebody:1")
    world.wait(lambda: world.get("deployment", revision)["spec"]["template"] == before, "the image is as it was")
    world.kubectl("patch", "service", revision, "--type=merge", "-p", '{"spec":{"selector":{"app":"somebody"}}}')
    selector = {"dspy.dev/revision": revision}
    world.wait(lambda: world.get("service", revision)["spec"]["selector"] == selector, "the selector is as it was")
    told = world.kubectl(
        "get", "events", "-o", "jsonpath={range .items[?(@.reason=='Repaired')]}{.message}{'\\n'}{end}"
    )
    by_image, by_selector = sorted(told.strip().splitlines())
    assert "somebody changed .spec.template.spec.containers[0].image" in by_image
    assert 'conflict with "kubectl-set"' in by_image
    assert "somebody changed .spec.selector" in by_selector


def test_under_default_deny_predictions_come_through_the_gateway_only(world: World, versions: dict[str, str]) -> None:
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    deny = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"}, "spec": spec}
    world.apply(deny, program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME) as traffic:
        world.wait(lambda: len(traffic.answers) >= 20, "twenty answers")
    assert not traffic.failed()
    (pod,) = world.names("pods", f"dspy.dev/program={NAME}")
    address = world.get("pod", pod)["status"]["podIP"]
    ask = f"""
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen('http://{address}:8080/schema', timeout=3).status)
except (TimeoutError, urllib.error.URLError) as error:
    print(error)
"""
    told = kubectl(world.cluster, "exec", "-n", SYSTEM, "deploy/client", "--", "python", "-c", ask)
    if told.strip() == "200":
        pytest.skip("this cluster's network enforces no policies: that nobody else reaches the pods was not seen")
    # A network drops the packets of those who may not, or refuses them; the pod itself just answered the gateway.
    assert "timed out" in told or "refused" in told


def test_a_strangers_service_is_not_taken_over(world: World, versions: dict[str, str]) -> None:
    world.kubectl("create", "service", "clusterip", NAME, "--tcp=80:80")
    world.apply(program(NAME, versions["good"]))
    assert f"Service {NAME}" in world.wait_condition(NAME, "Accepted", "False", "NameTaken")
    assert "dspy-operator" not in json.dumps(world.get("service", NAME)["metadata"].get("labels", {}))


def test_deleting_programs_leaves_nothing_behind(world: World, versions: dict[str, str]) -> None:
    world.apply(rollout(NAME, STEPS), program(NAME, versions["good"]), program("other", versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    world.wait_condition("other", "Available", "True")
    world.kubectl("delete", "dspyprogram", NAME)

    def left(label: str) -> list[str]:
        return world.names("deployments,services,configmaps,controllerrevisions,pods,endpointslices", label)

    world.wait(lambda: not left(f"dspy.dev/program={NAME}"), "nothing of the first is left")
    assert world.names("deployments", "dspy.dev/gateway=true") == ["dspy-gateway"]
    world.wait(lambda: bool(world.rollout(NAME)["conditions"][0]["reason"] == "ProgramNotFound"), "its rollout says so")
    world.kubectl("delete", "dspyprogram", "other")
    kinds = "deployments,configmaps,serviceaccounts,rolebindings,poddisruptionbudgets,pods"
    world.wait(lambda: not world.names(kinds, "dspy.dev/gateway=true"), "no gateway is left", 120)


def test_an_idle_namespace_is_deleted_in_seconds(world: World, versions: dict[str, str]) -> None:
    world.apply(program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    world.kubectl("delete", "namespace", world.namespace, "--wait", "--timeout=60s")


def test_ten_releases_at_a_hundred_requests_a_second_lose_none(world: World, versions: dict[str, str]) -> None:
    quick = rollout(NAME, [{"setWeight": 50}, {"pause": {"seconds": 1}}], analysis={"onUndecided": "Promote"})
    world.apply(quick, program(NAME, versions["good"]))
    world.wait_condition(NAME, "Available", "True")
    with world.traffic(NAME, rate=100) as traffic:
        for release in range(10):
            wanted = versions["better" if release % 2 == 0 else "good"]
            world.set_model(NAME, wanted)
            number = f"v{wanted.rpartition('/')[2]}"
            world.wait(functools.partial(is_stable, world, number), f"release {release} is done")
    assert not traffic.lost(), traffic.lost()[:5]
    assert not traffic.failed(), traffic.failed()[:5]
    assert len(traffic.answers) > 2_000


def test_kubectl_names_what_is_wrong_with_a_program(world: World) -> None:
    with pytest.raises(ClusterError, match="register the model first"):
        world.apply(program(NAME, "runs:/0123/model"))


def test_pods_that_the_api_refuses_are_told_in_its_own_words_while_stable_serves(serving: World) -> None:
    limits = {"spec": {"resources": {"limits": {"cpu": "a lot"}}}}
    serving.kubectl("patch", "dspyprogram", NAME, "--type=merge", "-p", json.dumps(limits))
    assert "quantities must match" in serving.wait_condition(NAME, "Accepted", "False", "InvalidPod")
    assert serving.condition(NAME, "Available")[0] == "True"
    before = serving.get("dspyprogram", NAME)["metadata"]["resourceVersion"]
    serving.log({"name": "time-passes", "kind": "good"})
    assert serving.get("dspyprogram", NAME)["metadata"]["resourceVersion"] == before
    serving.kubectl(
        "patch", "dspyprogram", NAME, "--type=json", "-p", json.dumps([{"op": "remove", "path": "/spec/resources"}])
    )
    serving.wait_condition(NAME, "Current", "True")


def test_another_model_stands_in_while_a_provider_is_down_and_the_release_says_so(
    world: World, versions: dict[str, str]
) -> None:
    serves = program(NAME, versions["good"])
    lm = serves["spec"]["lm"]
    backup = {**lm, "model": "openai/backup"}
    last = {"category": "unknown", "urgency": "high"}
    serves["spec"]["lm"] = {**lm, "maxRetries": 0, "fallbacks": [backup], "lastResort": last}
    world.apply(rollout(NAME, [{"setWeight": 50}, {"pause": {"approval": True}}]), serves)
    world.wait_condition(NAME, "Available", "True", "Serving")

    def flagged() -> list[int]:
        measured = world.get("dspyrollout", NAME)["status"].get("streams", ())
        (told,) = [each for each in measured if each["name"] == "fallback"] or [{}]
        return [told.get(side, {}).get("bad", 0) for side in ("stable", "candidate")]

    with world.traffic(NAME) as traffic:
        world.set_model(NAME, versions["better"])
        world.wait(lambda: world.rollout(NAME).get("weight") == "50", "both serve")
        assert flagged() == [0, 0]
        world.set_lm(error_models=["standin"])
        try:
            world.wait(lambda: min(flagged()) >= 5, "the status tells how often the other model stood in")
            assert not traffic.failed(), "no request was lost to it"
            assert world.get("dspyrollout", NAME)["status"]["judgement"]["verdict"] != "Worse"
            world.set_lm(error_models=["standin", "backup"])
            world.wait(lambda: traffic.answers[-1].outcome == "upstream_error", "the last resort answers")
            assert not traffic.failed(), "it is an answer all the same"
        finally:
            world.set_lm(error_models=[])
