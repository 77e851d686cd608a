"""Bedrock's Converse. The body, the signatures and the frames here were compared with those of AWS's own library
(botocore 1.44.5), whose dependencies do not go together with the operator's."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest
from dspy._vendor.lm15.cloud import sigv4
from dspy._vendor.lm15.credentials import AwsCredentials
from dspy.lm15 import (
    Config,
    ContextLengthError,
    FunctionTool,
    ImagePart,
    Message,
    RateLimitError,
    Request,
    TextPart,
    ToolCallPart,
    ToolChoice,
    ToolResultPart,
    UnsupportedFeatureError,
)

from dev.standin.formats import Answer, Asked
from dev.standin.formats import Converse as Provider
from dspy_runtime.lm import converse
from dspy_runtime.lm.bedrock import addresses

PNG = base64.b64encode(b"\x89PNG").decode()
WEATHER = FunctionTool("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})
REQUEST = Request(
    model="amazon.nova-pro-v1:0",
    system="Be brief.",
    messages=(
        Message.user([TextPart("How is it there?"), ImagePart(media_type="image/png", data=PNG)]),
        Message.assistant([ToolCallPart("call-1", "weather", {"city": "Rome"})]),
        Message(role="tool", parts=(ToolResultPart("call-1", (TextPart("sunny"),)),)),
        Message.user("And tomorrow?"),
    ),
    tools=(WEATHER,),
    config=Config(
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        stop=("END",),
        tool_choice=ToolChoice("required"),
        response_format={"type": "json_schema", "name": "Answer", "schema": {"type": "object"}},
    ),
)


def test_a_request_is_one_of_the_apis_model() -> None:
    assert converse.body(REQUEST) == {
        "system": [{"text": "Be brief."}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"text": "How is it there?"},
                    {"image": {"format": "png", "source": {"bytes": PNG}}},
                ],
            },
            {
                "role": "assistant",
                "content": [{"toolUse": {"toolUseId": "call-1", "name": "weather", "input": {"city": "Rome"}}}],
            },
            {
                "role": "user",
                "content": [
                    {"toolResult": {"toolUseId": "call-1", "content": [{"text": "sunny"}]}},
                    {"text": "And tomorrow?"},
                ],
            },
        ],
        "inferenceConfig": {"maxTokens": 100, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "toolConfig": {
            "tools": [
                {
                    "toolSpec": {
                        "name": "weather",
                        "description": "The weather.",
                        "inputSchema": {"json": WEATHER.parameters},
                    }
                }
            ],
            "toolChoice": {"any": {}},
        },
        "outputConfig": {
            "textFormat": {
                "type": "json_schema",
                "structure": {"jsonSchema": {"schema": '{"type": "object"}', "name": "Answer"}},
            }
        },
        "additionalModelRequestFields": {"top_k": 3},
    }


def test_what_the_api_cannot_carry_is_refused_by_its_name() -> None:
    with pytest.raises(UnsupportedFeatureError, match="seed"):
        converse.body(Request(model="m", messages=(Message.user("x"),), config=Config(seed=1)))


@pytest.mark.parametrize(
    ("model", "signature"),
    [
        ("amazon.nova-pro-v1:0", "ebcba246a396bf90d7dc38348b6792bb0cc42e50c9281b401509ce2bf52cabd2"),
        (
            "arn:aws:bedrock:eu-central-1:1:inference-profile/eu.x-v1:0",
            "08a28187e70114a803a99e1277bb5e3d8107f41f60cfd21534771dbf46a838f5",
        ),
    ],
)
def test_the_signature_is_aws_own(model: str, signature: str) -> None:
    url, signed_url = addresses("https://bedrock-runtime.eu-central-1.amazonaws.com", model, "converse")
    assert quote(model, safe=":") in url
    signed = sigv4.sign(
        method="POST",
        url=signed_url,
        headers={"Content-Type": "application/json"},
        payload=b"{}",
        credentials=AwsCredentials("AKIA", "secret"),
        region="eu-central-1",
        service="bedrock",
        now=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )
    assert signed.headers["authorization"].endswith(f"Signature={signature}")


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_frames_are_taken_apart_in_whatever_pieces_they_come(size: int) -> None:
    answer = Answer(Asked("m", "x" * 40, stream=True), "sunny and wärm")
    data = b"".join(Provider.events(answer))
    frames = converse.Frames()
    found = [each for at in range(0, len(data), size) for each in frames.feed(data[at : at + size])]
    kinds = ["messageStart", *["contentBlockDelta"] * 3, "contentBlockStop", "messageStop", "metadata"]
    assert [kind for kind, _ in found] == kinds
    assert "".join(content["delta"]["text"] for kind, content in found if "delta" in content) == answer.text


def test_a_stream_is_the_answer_in_pieces() -> None:
    for answer in (
        Answer(Asked("m", "p"), "sunny and warm"),
        Answer(Asked("m", "p"), "", "weather", {"city": "Rome"}),
    ):
        whole = converse.response(REQUEST, Provider.answer(answer))
        events, frames = converse.Events(REQUEST), converse.Frames()
        deltas: list[Any] = []
        for data in Provider.events(answer):
            for kind, content in frames.feed(data):
                deltas += [event.delta for event in events.read(kind, content)]
        end = events.end()
        assert (end.finish_reason, end.usage) == (whole.finish_reason, whole.usage)
        if answer.tool:
            (call,) = whole.message.parts
            assert json.loads("".join(delta.input for delta in deltas)) == call.input == answer.arguments
            assert (deltas[0].id, deltas[0].name) == (call.id, call.name)
        else:
            assert "".join(delta.text for delta in deltas) == whole.text == answer.text


def test_errors_are_what_they_stand_for() -> None:
    assert isinstance(converse.error("ThrottlingException", "slow down", 429), RateLimitError)
    assert isinstance(converse.error("ValidationException", "Input is too long", 400), ContextLengthError)
    assert converse.error("", "", 503).status == 503
    with pytest.raises(RateLimitError):
        list(converse.Events(REQUEST).read("throttlingException", {"message": "slow down"}))
