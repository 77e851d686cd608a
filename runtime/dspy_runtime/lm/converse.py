"""Bedrock's Converse API: the one door of Bedrock that every model stands behind, and that DSPy's engine has none for.

Pure: canonical requests to Converse's JSON, and its answers and events back. The calls are in bedrock.py.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from dspy.lm15 import (
    AuthError,
    ContextLengthError,
    FunctionTool,
    InvalidRequestError,
    Message,
    ProviderError,
    RateLimitError,
    Request,
    Response,
    ServerError,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamStartEvent,
    TextDelta,
    TextPart,
    ThinkingDelta,
    ThinkingPart,
    TimeoutError,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    UnsupportedFeatureError,
    UnsupportedModelError,
    Usage,
)

PROVIDER = "bedrock"
_FINISHED = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_call",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}
_UNSUPPORTED = ("seed", "frequency_penalty", "presence_penalty", "logprobs", "reasoning", "user_id", "store", "cache")
"""Fields of a request that Converse has no word for. Models take some by `additionalModelRequestFields`."""
_ERRORS: Mapping[str, type[ProviderError]] = {
    "ThrottlingException": RateLimitError,
    "ServiceQuotaExceededException": RateLimitError,
    "AccessDeniedException": AuthError,
    "UnrecognizedClientException": AuthError,
    "ExpiredTokenException": AuthError,
    "ResourceNotFoundException": UnsupportedModelError,
    "ValidationException": InvalidRequestError,
    "ModelTimeoutException": TimeoutError,
    "ModelErrorException": ServerError,
    "ModelNotReadyException": ServerError,
    "ModelStreamErrorException": ServerError,
    "InternalServerException": ServerError,
    "ServiceUnavailableException": ServerError,
}
_BY_STATUS = {401: AuthError, 403: AuthError, 404: UnsupportedModelError, 408: TimeoutError, 429: RateLimitError}
_TOO_LONG = ("too long", "too many tokens", "context window", "context length", "maximum tokens")


def body(request: Request) -> dict[str, Any]:
    """A request as Converse takes it. Raises UnsupportedFeatureError for what it cannot carry."""
    config = request.config
    for name in _UNSUPPORTED:
        if getattr(config, name) is not None:
            raise UnsupportedFeatureError(
                f"Bedrock's Converse API has no {name}; a model that takes one has it below extra_body",
                provider=PROVIDER,
                feature=f"config.{name}",
            )
    inference = {
        "maxTokens": config.max_tokens,
        "temperature": config.temperature,
        "topP": config.top_p,
        "stopSequences": list(config.stop) or None,
    }
    more = {**({"top_k": config.top_k} if config.top_k is not None else {}), **(config.extensions or {})}
    found = {
        "system": _system(request),
        "messages": _messages(request.messages),
        "inferenceConfig": {name: value for name, value in inference.items() if value is not None},
        "toolConfig": _tools(request),
        "outputConfig": _output(config.response_format),
        "additionalModelRequestFields": more,
    }
    return {name: value for name, value in found.items() if value}


def response(request: Request, content: Mapping[str, Any]) -> Response:
    """An answer of Converse. Raises ServerError for a body that is none."""
    try:
        parts = [part for block in content["output"]["message"]["content"] if (part := _part(block)) is not None]
        finish = _FINISHED.get(content["stopReason"], "stop")
    except (KeyError, TypeError) as error:
        raise ServerError("Bedrock's answer is no answer of Converse", provider=PROVIDER) from error
    return Response(
        id=None,
        model=request.model,
        message=Message.assistant(parts or [TextPart("")]),
        finish_reason=finish,
        usage=_usage(content.get("usage", {})),
    )


class Events:
    """The events of one stream, in the engine's words."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._finish = "stop"
        self._usage = Usage()

    def start(self) -> Any:
        """The event before all others."""
        return StreamStartEvent(model=self._request.model)

    def read(self, kind: str, content: Mapping[str, Any]) -> Iterator[Any]:
        """What one event of Converse says. Raises what an exception among them stands for."""
        if kind in _ERRORS or kind.endswith("Exception"):
            name = kind[:1].upper() + kind[1:]
            raise error(name, str(content.get("message", "")))
        index = content.get("contentBlockIndex", 0)
        if kind == "contentBlockStart" and (tool := content.get("start", {}).get("toolUse")):
            yield StreamDeltaEvent(ToolCallDelta("", index, tool["toolUseId"], tool["name"]))
        elif kind == "contentBlockDelta":
            yield from self._delta(index, content["delta"])
        elif kind == "messageStop":
            self._finish = _FINISHED.get(content["stopReason"], "stop")
        elif kind == "metadata":
            self._usage = _usage(content.get("usage", {}))

    def end(self) -> Any:
        """The event after all others."""
        return StreamEndEvent(finish_reason=self._finish, usage=self._usage)

    @staticmethod
    def _delta(index: int, delta: Mapping[str, Any]) -> Iterator[Any]:
        if "text" in delta:
            yield StreamDeltaEvent(TextDelta(delta["text"], index))
        elif "toolUse" in delta:
            yield StreamDeltaEvent(ToolCallDelta(delta["toolUse"]["input"], index))
        elif text := delta.get("reasoningContent", {}).get("text"):
            yield StreamDeltaEvent(ThinkingDelta(text, index))


class Frames:
    """Takes AWS's event stream apart: frames of headers and a JSON payload, in whatever pieces they come.

    A frame is its length, that of its headers, a checksum of both (4 bytes each), headers, payload, and a checksum.
    TLS has checked the bytes already.
    """

    _PRELUDE, _CHECKSUM = 12, 4

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        """The frames that are whole now: the kind of event, and its content."""
        self._buffer += data
        while len(self._buffer) >= self._PRELUDE:
            length, headers_length = struct.unpack_from(">II", self._buffer)
            if len(self._buffer) < length:
                return
            frame = bytes(self._buffer[:length])
            del self._buffer[:length]
            split = self._PRELUDE + headers_length
            headers = _headers(frame[self._PRELUDE : split])
            kind = headers.get(":event-type") or headers.get(":exception-type") or "InternalServerException"
            yield kind, json.loads(frame[split : -self._CHECKSUM] or b"{}")


def error(name: str, message: str, status: int | None = None, retry_after: float | None = None) -> ProviderError:
    """What an answer that is no success stands for."""
    kind = _ERRORS.get(name) or _BY_STATUS.get(status or 0) or (ServerError if (status or 0) >= 500 else None)
    if kind in (None, InvalidRequestError):
        kind = ContextLengthError if any(words in message.lower() for words in _TOO_LONG) else InvalidRequestError
    return kind(message or name, provider=PROVIDER, provider_code=name or None, status=status, retry_after=retry_after)


def _system(request: Request) -> list[dict[str, Any]]:
    if request.system is None:
        return []
    if isinstance(request.system, str):
        return [{"text": request.system}]
    return [_block(part) for part in request.system]


def _messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Turns of user and assistant, which Converse wants one after the other."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [_block(part) for part in message.parts]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _block(part: Any) -> dict[str, Any]:
    match part.type:
        case "text":
            return {"text": part.text}
        case "image":
            return {"image": {"format": _format(part), "source": _source(part)}}
        case "document":
            return {"document": {"format": _format(part), "name": "document", "source": _source(part)}}
        case "video":
            return {"video": {"format": _format(part), "source": _source(part)}}
        case "tool_call":
            return {"toolUse": {"toolUseId": part.id, "name": part.name, "input": part.input}}
        case "tool_result":
            return _tool_result(part)
        case "thinking":
            return {"text": part.text}
    raise UnsupportedFeatureError(
        f"Bedrock's Converse API takes no {part.type}", provider=PROVIDER, feature=f"message.{part.type}"
    )


def _tool_result(part: ToolResultPart) -> dict[str, Any]:
    status = {"status": "error"} if part.is_error else {}
    return {"toolResult": {"toolUseId": part.id, "content": [_block(each) for each in part.content], **status}}


def _format(part: Any) -> str:
    subtype = str(part.media_type).partition("/")[2].partition(";")[0]
    return {"plain": "txt", "markdown": "md", "jpg": "jpeg"}.get(subtype, subtype)


def _source(part: Any) -> dict[str, Any]:
    if part.url and part.url.startswith("s3://"):
        return {"s3Location": {"uri": part.url}}
    if part.data is None:
        raise UnsupportedFeatureError(
            "Bedrock's Converse API fetches nothing but s3:// addresses: give the bytes",
            provider=PROVIDER,
            feature=f"message.{part.type}.url",
        )
    return {"bytes": part.data}


def _tools(request: Request) -> dict[str, Any]:
    specs = []
    for tool in request.tools:
        if not isinstance(tool, FunctionTool):
            raise UnsupportedFeatureError(
                f"Bedrock's Converse API has no tool {tool.name!r} of its own", provider=PROVIDER, feature="tools"
            )
        description = {"description": tool.description} if tool.description else {}
        specs.append({"toolSpec": {"name": tool.name, **description, "inputSchema": {"json": tool.parameters}}})
    choice = request.config.tool_choice
    if not specs or (choice is not None and choice.mode == "none"):
        return {}
    return {"tools": specs, **({"toolChoice": _choice(choice)} if choice is not None else {})}


def _choice(choice: Any) -> dict[str, Any]:
    if len(choice.allowed) == 1:
        return {"tool": {"name": choice.allowed[0]}}
    return {"any": {}} if choice.mode == "required" else {"auto": {}}


def _output(response_format: Mapping[str, Any] | None) -> dict[str, Any]:
    if response_format is None:
        return {}
    if response_format["type"] != "json_schema":
        raise UnsupportedFeatureError(
            "Bedrock's Converse API has no JSON without a schema", provider=PROVIDER, feature="config.response_format"
        )
    schema = {"schema": json.dumps(response_format["schema"]), "name": response_format.get("name") or "answer"}
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _part(block: Mapping[str, Any]) -> Any:
    if "text" in block:
        return TextPart(block["text"])
    if tool := block.get("toolUse"):
        return ToolCallPart(tool["toolUseId"], tool["name"], tool["input"])
    if text := block.get("reasoningContent", {}).get("reasoningText", {}).get("text"):
        return ThinkingPart(text)
    return None


def _usage(content: Mapping[str, Any]) -> Usage:
    return Usage(
        input_tokens=content.get("inputTokens"),
        output_tokens=content.get("outputTokens"),
        total_tokens=content.get("totalTokens"),
        cache_read_tokens=content.get("cacheReadInputTokens"),
        cache_write_tokens=content.get("cacheWriteInputTokens"),
    )


def _headers(data: bytes) -> dict[str, str]:
    """The headers of a frame that are strings, which all that say what it is are."""
    found, at = {}, 0
    while at < len(data):
        name_length = data[at]
        name = data[at + 1 : at + 1 + name_length].decode()
        at += 1 + name_length
        if data[at] != 7:  # the type of strings
            break
        (length,) = struct.unpack_from(">H", data, at + 1)
        found[name] = data[at + 3 : at + 3 + length].decode()
        at += 3 + length
    return found
