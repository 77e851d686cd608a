"""What is said in two places says the same: schemas and dataclasses, variables and settings, reasons and docs."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import yaml

from dspy_contract.routes import PortTable
from dspy_contract.state import EDGES_SECONDS, FAST_EDGES_SECONDS
from dspy_gateway.envoy.listeners import FLUSH_SECONDS, WINDOW_SECONDS
from dspy_gateway.settings import Settings as GatewaySettings
from dspy_operator.api.convert import camel, from_dict
from dspy_operator.api.program import ProgramSpec
from dspy_operator.api.reasons import Reason
from dspy_operator.api.rollout import RolloutSpec
from dspy_operator.domain.analysis.streams import BUILT_IN, OWN_SHARE
from dspy_operator.domain.snapshot import Program, Version
from dspy_operator.kube.pods import FATAL
from dspy_operator.resources.gateway import GatewaySettings as GatewayManifest
from dspy_operator.resources.gateway import gateway
from dspy_operator.resources.runtime_pod import Runtime, settings
from dspy_operator.settings import Settings as OperatorSettings
from dspy_runtime import failures
from dspy_runtime.lm.providers import PROVIDERS, SPELLINGS
from dspy_runtime.settings import CacheSettings, DefaultLMSettings, EndpointSettings, LMSettings, RedisSettings
from dspy_runtime.settings import Settings as RuntimeSettings

ROOT = Path(__file__).parents[2]


def schema_fields(schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The fields of a schema, of lists those of their items; what is free-form ends there."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    for name, field in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from schema_fields(field.get("items", field), f"{path}{name}.")


def dataclass_fields(cls: Any, path: str = "") -> Iterator[str]:
    """The fields of a dataclass as the API writes them."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{path}{camel(field.name)}"
        yield name
        inner = next((each for each in _types(hints[field.name]) if dataclasses.is_dataclass(each)), None)
        if inner is not None:
            yield from dataclass_fields(inner, f"{name}.")


def _types(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) in (types.UnionType, tuple):
        return tuple(each for argument in get_args(hint) for each in _types(argument))
    return (hint,)


@pytest.mark.parametrize(("crd", "spec"), [("dspyprograms", ProgramSpec), ("dspyrollouts", RolloutSpec)])
def test_every_field_of_a_schema_is_read_and_every_field_that_is_read_is_in_the_schema(crd: str, spec: type) -> None:
    version = yaml.safe_load((ROOT / "crds" / f"{crd}.yaml").read_text())["spec"]["versions"][0]
    schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(schema_fields(schema)) == set(dataclass_fields(spec))


def test_docs_list_every_reason_and_no_other() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("## Reasons") : text.index("## Requests")]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", section)) - {"DSPyProgram"}
    assert named == {str(reason) for reason in Reason}


def test_every_row_of_the_comparison_is_shown_by_a_test_that_exists() -> None:
    text = (ROOT / "docs" / "comparison.md").read_text()
    tests = "\n".join(file.read_text() for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) >= 45
    assert not [name for name in named if f"def {name}(" not in tests]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "**" not in line and "|---" not in line]
    assert not [
        row
        for row in rows
        if "`test_" not in row and "not yet" not in row and "| here |" not in row and "| shown by |" not in row
    ]


def test_docs_list_every_metric_and_no_other() -> None:
    made = re.compile(r'(?:Counter|Gauge|Histogram|MetricFamily)\(\s*"(dspy_[a-z_]+)"')
    files = [file for folder in ("operator", "runtime") for file in (ROOT / folder).rglob("*.py")]
    names = {name for file in files for name in made.findall(file.read_text())}
    first_cells = [
        line.split("|")[1] for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if "| `" in line
    ]
    told = {name.removesuffix("_total") for cell in first_cells for name in re.findall(r"`(dspy_[a-z_]+)", cell)}
    assert told == names


def test_docs_list_every_setting_of_the_operator() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    section = text[text.index("## Settings of the operator") : text.index("## Conditions")]
    named = {name.lower() for name in re.findall(r"`([A-Z_]+)`", section)} | {"registries"}
    assert set(OperatorSettings.model_fields) <= named


def test_every_variable_that_the_manifests_set_is_a_setting() -> None:
    operator = yaml.safe_load((ROOT / "manifests" / "base" / "operator.yaml").read_text())
    variables = {each["name"] for each in operator["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert variables <= {f"DSPY_OPERATOR_{name.upper()}" for name in OperatorSettings.model_fields}
    manifests = gateway("ns", GatewayManifest("image", 2, 630, "token"), PortTable())
    pod = manifests[-1]["spec"]["template"]["spec"]
    given = {each["name"] for container in pod["containers"] + pod["initContainers"] for each in container["env"]}
    assert given <= {f"DSPY_GATEWAY_{name.upper()}" for name in GatewaySettings.model_fields}


def test_the_settings_of_a_runtime_pod_are_read_whole() -> None:
    lm: dict[str, Any] = {
        "model": "openai/m",
        "api": "responses",
        "apiBase": "http://lm/v1",
        **dict.fromkeys(("region", "project", "location", "resource", "organization"), "x"),
        "headers": {"x-team": "shop"},
        "parameters": {"temperature": 0.5},
        "price": {"input": 0.5, "output": 2.0, "cachedInput": 0.1},
        "credentials": {"apiKey": {"name": "lm", "key": "api-key"}},
    }
    endpoint = {name: value for name, value in lm.items() if name != "parameters"}
    lm |= {"fallbacks": [endpoint], "circuitBreaker": {"minimumCalls": 5}, "hedge": {"percentile": 90}}
    schema = {"input": {"required": ["question"]}, "output": {"required": ["answer"]}}
    content = {
        "model": {"uri": "models:/m/1"},
        "lm": {**lm, "byPredictor": {"draft": lm}, "lastResort": {"answer": "Later."}},
        "serving": {"schema": schema, "priorities": "Allow"},
        "guardrails": [
            {"name": "cards", "target": "Input", "action": "Flag", "pattern": "[0-9]{16}", "fields": ["question"]},
            {"name": "short", "target": "Output", "match": {"maxProperties": 3}, "timeoutSeconds": 2},
            {"name": "own", "target": "Output", "function": "checks:own"},
        ],
        "redis": {"url": "rediss://r/1", "credentials": {"password": {"name": "r", "key": "k"}, "username": "u"}},
        "cache": {"ttlSeconds": 5},
        "budget": {"usdPerDay": 7.5, "onExceeded": "Fallback"},
    }
    version = Version("models:/m/1", "1", "", "digest", "3.11", "")
    program = Program("default", "m", "uid", 1, "1", from_dict(content, ProgramSpec), "", {}, None)
    told = settings(program, "m-1", version, Runtime("image", "url", archived=True))
    assert RuntimeSettings(**told).model_dump(exclude_unset=True, mode="json") == told
    assert told["given_schema"] == schema
    assert set(CacheSettings.model_fields) == set(told["cache"])
    assert set(RedisSettings.model_fields) == set(told["redis"])
    assert set(DefaultLMSettings.model_fields) == set(told["lm"])
    assert set(LMSettings.model_fields) == set(told["lm"]["by_predictor"]["draft"])
    assert set(EndpointSettings.model_fields) == set(told["lm"]["fallbacks"][0])


def test_the_schema_knows_the_providers_of_the_runtime() -> None:
    version = yaml.safe_load((ROOT / "crds" / "dspyprograms.yaml").read_text())["spec"]["versions"][0]
    lm = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["lm"]["properties"]
    (rule,) = (each["rule"] for each in lm["model"]["x-kubernetes-validations"] if " in [" in each["rule"])
    assert set(re.findall(r"'([a-z_]+)'", rule)) == {*PROVIDERS, *SPELLINGS}
    assert lm["byPredictor"]["additionalProperties"]["properties"] == {
        name: field for name, field in lm.items() if name not in ("byPredictor", "lastResort")
    }


def test_fatal_reasons_are_reasons_of_the_runtime() -> None:
    told = {each.reason for each in vars(failures).values() if isinstance(each, type) and hasattr(each, "reason")}
    assert told >= FATAL


def test_the_shares_of_alpha_sum_to_one() -> None:
    assert sum(stream.share for stream in BUILT_IN) + OWN_SHARE == pytest.approx(1.0)
    assert {stream.reason for stream in BUILT_IN} <= {str(reason) for reason in Reason}


def test_slow_edges_are_flushed_and_counted_once() -> None:
    assert list(EDGES_SECONDS) == sorted(set(EDGES_SECONDS))
    assert all(seconds % FLUSH_SECONDS == 0 for seconds in EDGES_SECONDS[len(FAST_EDGES_SECONDS) :])
    assert WINDOW_SECONDS < FLUSH_SECONDS
