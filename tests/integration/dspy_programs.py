"""A program of every module and type of DSPy, as their authors write them. Logged with its code, so it imports DSPy
and what an image has, and nothing of ours."""

import os
from typing import Literal

import dspy
import numpy as np
import pydantic


def search(query: str) -> str:
    """Finds a passage."""
    return f"a passage on {query}"


async def search_later(query: str) -> str:
    """Finds a passage."""
    return f"a later passage on {query}"


def vowels(texts: list[str]) -> np.ndarray:
    """An embedding: how often each vowel is there."""
    return np.array([[text.count(vowel) + 0.1 for vowel in "aeiou"] for text in texts], dtype=np.float32)


class Line(pydantic.BaseModel):
    """A line of an order."""

    article: str
    count: int = pydantic.Field(ge=1)


class Order(pydantic.BaseModel):
    """An order, two levels deep."""

    customer: str | None = None
    lines: list[Line]


class Typed(dspy.Signature):
    """Sorts an order."""

    order: Order = dspy.InputField()
    channel: Literal["shop", "phone"] = dspy.InputField()
    notes: list[str] = dspy.InputField()
    limit: int | None = dspy.InputField()
    total: int = dspy.OutputField()
    accepted: bool = dspy.OutputField()
    first: Line = dspy.OutputField()
    tags: list[str] = dspy.OutputField()
    label: Literal["rush", "calm"] = dspy.OutputField()


class NativeTools(dspy.Module):
    """Offers a tool to the model, and calls what it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.choose = dspy.Predict("question, tools: list[dspy.Tool] -> calls: dspy.ToolCalls")

    def forward(self, question: str) -> dspy.Prediction:
        tools = [dspy.Tool(search)]
        with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
            calls = self.choose(question=question, tools=tools).calls.tool_calls
        return dspy.Prediction(found=[call.execute(functions=tools) for call in calls])


class McpTools(dspy.Module):
    """Agrees with a server of tools anew for each request."""

    def __init__(self, command: str, script: str) -> None:
        super().__init__()
        self.command, self.script = command, script

    async def aforward(self, question: str) -> dspy.Prediction:
        from mcp import Client, StdioServerParameters

        async with Client(StdioServerParameters(command=self.command, args=[self.script])) as client:
            tools = [dspy.Tool.from_mcp_tool(client, tool) for tool in (await client.list_tools()).tools]
            return await dspy.ReAct("question -> answer", tools=tools, max_iters=1).acall(question=question)


class Rag(dspy.Module):
    """Retrieves with embeddings that it carries."""

    def __init__(self) -> None:
        super().__init__()
        self.corpus = ["aaa is the first", "eee is the second", "ooo is the third"]
        self.embed = dspy.Embedder(vowels)
        self.vectors = self.embed(self.corpus)
        self.answer = dspy.ChainOfThought("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        nearest = int(np.argmax(self.vectors @ self.embed(question)))
        context = [self.corpus[nearest]]
        return dspy.Prediction(context=context, answer=self.answer(context=context, question=question).answer)


class RetrieverOfSettings(dspy.Module):
    """Retrieves from the server that its author configured."""

    def __init__(self) -> None:
        super().__init__()
        self.search = dspy.Retrieve(k=2)
        self.answer = dspy.Predict("context: list[str], question -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        context = self.search(question).passages
        return dspy.Prediction(context=context, answer=self.answer(context=context, question=question).answer)


class Overrides(dspy.Predict):
    """Replaces what runs, and leaves what its base class awaits."""

    def __init__(self) -> None:
        super().__init__("question -> answer")

    def forward(self, **fields: object) -> dspy.Prediction:
        return dspy.Prediction(answer=f"overridden: {super().forward(**fields).answer}")


class Unannotated(dspy.Module):
    """Says nothing of what it takes."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.Predict("question -> answer")

    def forward(self, question, **more):  # type: ignore[no-untyped-def]
        return {"answer": self.answer(question=f"{question} {sorted(more)}").answer, "more": more}


def few_shots() -> dspy.Module:
    """A program that looks for its examples anew for each request."""
    examples = [dspy.Example(question=f"{vowel}?", answer=vowel).with_inputs("question") for vowel in "aeiou"]
    search_nearest = dspy.KNNFewShot(2, examples, vectorizer=dspy.Embedder(vowels), max_bootstrapped_demos=0)
    return search_nearest.compile(dspy.Predict("question -> answer"))


PROGRAMS = {
    "Predict": lambda: dspy.Predict("question -> answer"),
    "ChainOfThought": lambda: dspy.ChainOfThought("question -> answer"),
    "ReAct": lambda: dspy.ReAct("question -> answer", tools=[search], max_iters=1),
    "ReActAsync": lambda: dspy.ReAct("question -> answer", tools=[search_later], max_iters=1),
    "ReActV2": lambda: dspy.ReActV2("question -> answer", tools=[search], max_iters=2),
    "NativeTools": NativeTools,
    "McpTools": lambda: McpTools(os.environ["MCP_COMMAND"], os.environ["MCP_SCRIPT"]),
    "ProgramOfThought": lambda: dspy.ProgramOfThought("question -> answer", interpreter_factory=dspy.LocalInterpreter),
    "CodeAct": lambda: dspy.CodeAct(
        "question -> answer", tools=[search], max_iters=1, interpreter_factory=dspy.LocalInterpreter
    ),
    "RLM": lambda: dspy.RLM("context, question -> answer", max_iters=2, interpreter_factory=dspy.LocalInterpreter),
    "KNNFewShot": few_shots,
    "Rag": Rag,
    "RetrieverOfSettings": RetrieverOfSettings,
    "Image": lambda: dspy.Predict("picture: dspy.Image, question -> answer"),
    "Audio": lambda: dspy.Predict("sound: dspy.Audio, question -> answer"),
    "File": lambda: dspy.Predict("file: dspy.File, question -> answer"),
    "History": lambda: dspy.Predict("history: dspy.History, question -> answer"),
    "Typed": lambda: dspy.Predict(Typed),
    "Overrides": Overrides,
    "Unannotated": Unannotated,
}
