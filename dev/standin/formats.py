"""The wire formats that providers speak: what a request asks in each, and how an answer, an error and a stream look.

A request with a field that its format does not have, or without one that it must have, is refused as the provider
would: that is how tests notice what is sent wrong.
"""

from __future__ import annotations

import json
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Json = dict[str, Any]
CALL_ID = "call_standin_1"


class RefusedError(Exception):
    """The request is none of this format."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request wants."""

    model: str
    prompt: str
    schema: Json | None = None
    """JSON Schema that the answer must have."""
    tools: tuple[str, ...] = ()
    stream: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says: a text, or a call of a tool."""

    asked: Asked
    text: str
    tool: str = ""
    arguments: Mapping[str, Any] | None = None

    @property
    def input_tokens(self) -> int:
        """About as many as a real model would count."""
        return len(self.asked.prompt) // 4

    @property
    def output_tokens(self) -> int:
        """About as many as a real model would count."""
        return len(self.text) // 4

    def pieces(self) -> list[str]:
        """The text in the pieces that a stream has."""
        return re.findall(r"\S+\s*|\s+", self.text) or [""]


class ChatCompletions:
    """OpenAI's Chat Completions, and everybody's who copied it."""

    path: ClassVar = r"/(v\d+/|openai/.*|serving-endpoints/|inference/v1/)?chat/completions"
    required: ClassVar = {"model", "messages"}
    known: ClassVar = required | {
        "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "n", "stream", "stream_options",
        "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort", "reasoning", "thinking",
        "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "logit_bias", "user", "store",
        "guided_json", "top_k", "service_tier", "chat_template_kwargs",
    }  # fmt: skip

    @staticmethod
    def asked(path: str, body: Json) -> Asked:
        """Reads a request."""
        return Asked(
            body["model"],
            "\n".join(_text(message.get("content")) for message in body["messages"]),
            (body.get("response_format") or {}).get("json_schema", {}).get("schema"),
            tuple(tool["function"]["name"] for tool in body.get("tools", ())),
            bool(body.get("stream")),
        )

    @staticmethod
    def answer(given: Answer) -> Json:
        """The answer's body."""
        message: Json = {"role": "assistant", "content": given.text}
        if given.tool:
            function = {"name": given.tool, "arguments": json.dumps(given.arguments)}
            message = {"role": "assistant", "content": None, "tool_calls": [_called(function)]}
        choice = {"index": 0, "finish_reason": "tool_calls" if given.tool else "stop", "message": message}
        return {**_completion(given, "chat.completion"), "choices": [choice], "usage": _usage(given)}

    @staticmethod
    def events(given: Answer) -> Iterator[bytes]:
        """The answer as a stream."""
        head = _completion(given, "chat.completion.chunk")

        def chunk(delta: Json, finish: str | None = None) -> bytes:
            return _sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

        if given.tool:
            function = {"name": given.tool, "arguments": ""}
            yield chunk({"role": "assistant", "tool_calls": [{"index": 0, **_called(function)}]})
            for piece in _halves(json.dumps(given.arguments)):
                yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        else:
            for piece in given.pieces():
                yield chunk({"role": "assistant", "content": piece})
        yield chunk({}, "tool_calls" if given.tool else "stop")
        yield _sse({**head, "choices": [], "usage": _usage(given)})
        yield b"data: [DONE]\n\n"


class Responses:
    """OpenAI's Responses."""

    path: ClassVar = r"/(v\d+/|openai/v1/)?responses"
    required: ClassVar = {"model", "input"}
    known: ClassVar = required | {
        "instructions", "temperature", "top_p", "max_output_tokens", "stream", "tools", "tool_choice", "text", "store",
        "reasoning", "include", "parallel_tool_calls", "user", "metadata", "truncation",
    }  # fmt: skip

    @staticmethod
    def asked(path: str, body: Json) -> Asked:
        """Reads a request."""
        items = [{"content": body["input"]}] if isinstance(body["input"], str) else body["input"]
        return Asked(
            body["model"],
            "\n".join([str(body.get("instructions") or ""), *(_text(item.get("content")) for item in items)]),
            (body.get("text") or {}).get("format", {}).get("schema"),
            tuple(tool["name"] for tool in body.get("tools", ())),
            bool(body.get("stream")),
        )

    @classmethod
    def answer(cls, given: Answer) -> Json:
        """The answer's body."""
        usage = {"input_tokens": given.input_tokens, "output_tokens": given.output_tokens}
        total = {"total_tokens": given.input_tokens + given.output_tokens}
        return {**cls._head(given, "completed"), "output": [cls._item(given)], "usage": {**usage, **total}}

    @classmethod
    def events(cls, given: Answer) -> Iterator[bytes]:
        """The answer as a stream."""
        number = iter(range(10_000))

        def event(kind: str, **content: Any) -> bytes:
            return _sse({"type": kind, "sequence_number": next(number), **content}, kind)

        yield event("response.created", response={**cls._head(given, "in_progress"), "output": []})
        item = cls._item(given)
        at = {"output_index": 0, "item_id": item["id"]}
        empty: Json = {"arguments": ""} if given.tool else {"content": []}
        yield event("response.output_item.added", output_index=0, item={**item, **empty})
        if given.tool:
            for piece in _halves(json.dumps(given.arguments)):
                yield event("response.function_call_arguments.delta", delta=piece, **at)
            yield event("response.function_call_arguments.done", arguments=json.dumps(given.arguments), **at)
        else:
            for piece in given.pieces():
                yield event("response.output_text.delta", content_index=0, delta=piece, **at)
            yield event("response.output_text.done", content_index=0, text=given.text, **at)
        yield event("response.output_item.done", output_index=0, item=item)
        yield event("response.completed", response=cls.answer(given))

    @staticmethod
    def _head(given: Answer, status: str) -> Json:
        return {
            "id": "resp_standin",
            "object": "response",
            "created_at": 0,
            "status": status,
            "model": given.asked.model,
        }

    @staticmethod
    def _item(given: Answer) -> Json:
        if given.tool:
            call = {"call_id": CALL_ID, "name": given.tool, "arguments": json.dumps(given.arguments)}
            return {"id": "fc_standin", "type": "function_call", "status": "completed", **call}
        content = [{"type": "output_text", "text": given.text, "annotations": []}]
        return {"id": "msg_standin", "type": "message", "role": "assistant", "status": "completed", "content": content}


class Messages:
    """Anthropic's Messages, at its own address, Google's and the others'."""

    path: ClassVar = r"/((v\d+|anthropic/v1)/)?messages|/.*:(rawPredict|streamRawPredict)"
    required: ClassVar = {"messages", "max_tokens"}
    known: ClassVar = required | {
        "model", "system", "temperature", "top_p", "top_k", "stop_sequences", "stream", "tools", "tool_choice",
        "thinking", "output_config", "metadata", "anthropic_version", "service_tier",
    }  # fmt: skip

    @staticmethod
    def asked(path: str, body: Json) -> Asked:
        """Reads a request. At Google's the model stands in the path."""
        found = re.search(r"/models/([^/:]+):", path)
        return Asked(
            found.group(1) if found else body["model"],
            "\n".join([_text(body.get("system")), *(_text(message["content"]) for message in body["messages"])]),
            (body.get("output_config") or {}).get("format", {}).get("schema"),
            tuple(tool["name"] for tool in body.get("tools", ())),
            bool(body.get("stream")),
        )

    @classmethod
    def answer(cls, given: Answer) -> Json:
        """The answer's body."""
        stop = "tool_use" if given.tool else "end_turn"
        return {**cls._head(given), "content": [cls._block(given)], "stop_reason": stop, "usage": cls._usage(given)}

    @classmethod
    def events(cls, given: Answer) -> Iterator[bytes]:
        """The answer as a stream."""
        start = {**cls._head(given), "content": [], "stop_reason": None, "usage": cls._usage(given)}
        yield _sse({"type": "message_start", "message": start}, "message_start")
        blank: Json = {"input": {}} if given.tool else {"text": ""}
        empty = {**cls._block(given), **blank}
        yield _sse({"type": "content_block_start", "index": 0, "content_block": empty}, "content_block_start")
        pieces = _halves(json.dumps(given.arguments)) if given.tool else given.pieces()
        kind, name = ("input_json_delta", "partial_json") if given.tool else ("text_delta", "text")
        for piece in pieces:
            delta = {"type": kind, name: piece}
            yield _sse({"type": "content_block_delta", "index": 0, "delta": delta}, "content_block_delta")
        yield _sse({"type": "content_block_stop", "index": 0}, "content_block_stop")
        end = {"stop_reason": "tool_use" if given.tool else "end_turn", "stop_sequence": None}
        usage = {"output_tokens": given.output_tokens}
        yield _sse({"type": "message_delta", "delta": end, "usage": usage}, "message_delta")
        yield _sse({"type": "message_stop"}, "message_stop")

    @staticmethod
    def _head(given: Answer) -> Json:
        return {"id": "msg_standin", "type": "message", "role": "assistant", "model": given.asked.model}

    @staticmethod
    def _block(given: Answer) -> Json:
        if given.tool:
            return {"type": "tool_use", "id": CALL_ID, "name": given.tool, "input": given.arguments}
        return {"type": "text", "text": given.text}

    @staticmethod
    def _usage(given: Answer) -> Json:
        return {"input_tokens": given.input_tokens, "output_tokens": given.output_tokens}


class Gemini:
    """Google's generateContent, at Gemini's address and at Vertex."""

    path: ClassVar = r"/.*:(generateContent|streamGenerateContent)"
    required: ClassVar = {"contents"}
    known: ClassVar = required | {
        "systemInstruction", "generationConfig", "tools", "toolConfig", "safetySettings", "cachedContent",
    }  # fmt: skip

    @staticmethod
    def asked(path: str, body: Json) -> Asked:
        """Reads a request. The model stands in the path."""
        contents = [body.get("systemInstruction") or {}, *body["contents"]]
        config = body.get("generationConfig") or {}
        found = re.search(r"/models/([^/:]+):", path)
        return Asked(
            found.group(1) if found else "",
            "\n".join(str(part.get("text", "")) for content in contents for part in content.get("parts", ())),
            config.get("responseJsonSchema") or config.get("responseSchema"),
            tuple(f["name"] for tool in body.get("tools", ()) for f in tool.get("functionDeclarations", ())),
            ":stream" in path,
        )

    @classmethod
    def answer(cls, given: Answer) -> Json:
        """The answer's body."""
        return cls._content(given, given.text, "STOP")

    @classmethod
    def events(cls, given: Answer) -> Iterator[bytes]:
        """The answer as a stream."""
        if given.tool:
            yield _sse(cls._content(given, "", "STOP"))
            return
        *pieces, last = given.pieces()
        for piece in pieces:
            yield _sse(cls._content(given, piece, None))
        yield _sse(cls._content(given, last, "STOP"))

    @staticmethod
    def _content(given: Answer, text: str, finish: str | None) -> Json:
        part = {"functionCall": {"name": given.tool, "args": given.arguments}} if given.tool else {"text": text}
        usage = {"promptTokenCount": given.input_tokens, "candidatesTokenCount": given.output_tokens}
        candidate: Json = {"content": {"role": "model", "parts": [part]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        total = {"totalTokenCount": given.input_tokens + given.output_tokens}
        return {"candidates": [candidate], "usageMetadata": {**usage, **total}, "modelVersion": given.asked.model}


class Converse:
    """Bedrock's Converse."""

    path: ClassVar = r"/model/.*/(converse|converse-stream)"
    required: ClassVar = {"messages"}
    known: ClassVar = required | {
        "system", "inferenceConfig", "toolConfig", "outputConfig", "additionalModelRequestFields",
    }  # fmt: skip

    @staticmethod
    def asked(path: str, body: Json) -> Asked:
        """Reads a request. The model stands in the path."""
        structure = (body.get("outputConfig") or {}).get("textFormat", {}).get("structure", {}).get("jsonSchema")
        contents = [body.get("system") or [], *(message["content"] for message in body["messages"])]
        return Asked(
            path.split("/")[2],
            "\n".join(str(block.get("text", "")) for content in contents for block in content),
            json.loads(structure["schema"]) if structure else None,
            tuple(tool["toolSpec"]["name"] for tool in (body.get("toolConfig") or {}).get("tools", ())),
            path.endswith("-stream"),
        )

    @classmethod
    def answer(cls, given: Answer) -> Json:
        """The answer's body."""
        block: Json = {"text": given.text}
        if given.tool:
            block = {"toolUse": {"toolUseId": CALL_ID, "name": given.tool, "input": given.arguments}}
        message = {"role": "assistant", "content": [block]}
        return {"output": {"message": message}, "stopReason": cls._stop(given), "usage": cls._usage(given)}

    @classmethod
    def events(cls, given: Answer) -> Iterator[bytes]:
        """The answer as a stream of AWS's frames."""
        yield _frame("messageStart", {"role": "assistant"})
        if given.tool:
            start = {"toolUse": {"toolUseId": CALL_ID, "name": given.tool}}
            yield _frame("contentBlockStart", {"contentBlockIndex": 0, "start": start})
        pieces = _halves(json.dumps(given.arguments)) if given.tool else given.pieces()
        for piece in pieces:
            delta = {"toolUse": {"input": piece}} if given.tool else {"text": piece}
            yield _frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": delta})
        yield _frame("contentBlockStop", {"contentBlockIndex": 0})
        yield _frame("messageStop", {"stopReason": cls._stop(given)})
        yield _frame("metadata", {"usage": cls._usage(given), "metrics": {"latencyMs": 1}})

    @staticmethod
    def _stop(given: Answer) -> str:
        return "tool_use" if given.tool else "end_turn"

    @staticmethod
    def _usage(given: Answer) -> Json:
        counts = {"inputTokens": given.input_tokens, "outputTokens": given.output_tokens}
        return {**counts, "totalTokens": given.input_tokens + given.output_tokens}


FORMATS: tuple[Any, ...] = (ChatCompletions, Responses, Messages, Gemini, Converse)


def format_of(path: str) -> Any:
    """The format that is spoken at an address; None where none is."""
    return next((each for each in FORMATS if re.fullmatch(each.path, path)), None)


def checked(spoken: Any, path: str, body: Any) -> Asked:
    """A request that this format has. Raises RefusedError."""
    if not isinstance(body, dict):
        raise RefusedError("the body is no object")
    if missing := spoken.required - body.keys():
        raise RefusedError(f"missing: {', '.join(sorted(missing))}")
    if unknown := body.keys() - spoken.known:
        raise RefusedError(f"unknown: {', '.join(sorted(unknown))}")
    try:
        asked: Asked = spoken.asked(path, body)
    except (KeyError, TypeError, AttributeError) as error:
        raise RefusedError(f"{type(error).__name__}: {error}") from error
    return asked


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")


def _called(function: Json) -> Json:
    return {"id": CALL_ID, "type": "function", "function": function}


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def _completion(given: Answer, kind: str) -> Json:
    return {"id": "chatcmpl-standin", "object": kind, "created": 0, "model": given.asked.model}


def _usage(given: Answer) -> Json:
    usage = {"prompt_tokens": given.input_tokens, "completion_tokens": given.output_tokens}
    return {**usage, "total_tokens": sum(usage.values())}


def _sse(content: Json, event: str = "") -> bytes:
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {json.dumps(content)}\n\n".encode()


def _frame(kind: str, content: Json) -> bytes:
    """A frame of AWS's event stream."""
    headers = b""
    for name, value in ((":event-type", kind), (":content-type", "application/json"), (":message-type", "event")):
        headers += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    payload = json.dumps(content).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack(">I", zlib.crc32(prelude))
    message = prelude + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))
