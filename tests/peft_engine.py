"""An engine for a gateway: a tiny base and LoRA adapters, run by transformers and PEFT behind vLLM's protocol."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import uvicorn
from peft import PeftModel
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route
from tiny import tiny
from words import SPECIAL, tokenizer

BASE = "the-base"


class PeftEngine:
    """Greedy answers. After `dies_after` pieces of a stream its connection breaks. `seen` are the bodies it got."""

    def __init__(self, family: str = "llama") -> None:
        self.base, self.words = tiny(family).eval(), tokenizer()
        self.base.generation_config.suppress_tokens = list(range(len(SPECIAL)))
        self.model: Any = self.base
        self.adapters: dict[str, str] = {}
        self.seen: list[dict[str, Any]] = []
        self.files: list[str] = []
        self.pause = 0.0  # seconds before every piece of a stream
        self.dies_after: int | None = None
        self.owner = "vllm"
        self._lock = threading.Lock()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/v1/load_lora_adapter", self.load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self.unload, methods=["POST"]),
                Route("/lora-adapters", self.started_with),
            ]
        )

    def restart(self) -> None:
        """As a new process would begin."""
        self.adapters = {}

    async def models(self, request: Request) -> JSONResponse:
        named = [(BASE, None), *((name, BASE) for name in self.adapters)]
        return JSONResponse({"data": [{"id": name, "owned_by": self.owner, "parent": of} for name, of in named]})

    async def load(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.adapters[body["lora_name"]] = body["lora_path"]
        return JSONResponse("loaded")

    async def unload(self, request: Request) -> JSONResponse:
        found = self.adapters.pop((await request.json())["lora_name"], None)
        return JSONResponse({"error": {"message": "no such adapter"}}, 200 if found else 404)

    async def started_with(self, request: Request) -> JSONResponse:
        """As llama.cpp says which files it has loaded."""
        return JSONResponse([{"id": n, "path": path, "scale": 0.0} for n, path in enumerate(self.files)])

    def answer(self, messages: list[dict[str, Any]], most: int, adapter: str | None = None) -> list[str]:
        """The words of an answer. adapter : its path."""
        with self._lock, torch.no_grad():
            if adapter is not None:
                name = re.sub(r"\W", "_", adapter)
                if not isinstance(self.model, PeftModel):
                    self.model = PeftModel.from_pretrained(self.base, adapter, name)
                elif name not in self.model.peft_config:
                    self.model.load_adapter(adapter, name)
                self.model.set_adapter(name)
            asked = self.words.apply_chat_template(
                messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
            )
            plain = adapter is None and isinstance(self.model, PeftModel)
            with self.model.disable_adapter() if plain else nullcontext():
                out = self.model.generate(**asked, max_new_tokens=most, do_sample=False)
        return [self.words.decode([token]) for token in out[0, asked["input_ids"].shape[1] :].tolist()]

    async def chat(self, request: Request) -> Any:
        body = await request.json()
        self.seen.append(body)
        name = body["model"]
        if name != BASE and name not in self.adapters:
            return JSONResponse({"error": {"message": f"The model {name} does not exist."}}, 404)
        words = await run_in_threadpool(self.answer, body["messages"], body["max_tokens"], self.adapters.get(name))
        if body["stream"]:
            return StreamingResponse(self.stream(name, words), media_type="text/event-stream")
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        usage = {"prompt_tokens": 1, "completion_tokens": len(words), "total_tokens": 1 + len(words)}
        return JSONResponse({"id": "1", "created": 0, "object": "chat.completion", "model": name,
                             "choices": [choice], "usage": usage})  # fmt: skip

    async def stream(self, name: str, words: list[str]) -> Any:
        for number, word in enumerate([*words, None]):
            await asyncio.sleep(self.pause)
            if number == self.dies_after:
                raise ConnectionError("the engine dies")
            delta = {} if word is None else {"content": (" " if number else "") + word}
            choice = {"index": 0, "delta": delta, "finish_reason": "length" if word is None else None}
            yield "data: " + json.dumps({"id": "1", "created": 0, "object": "chat.completion.chunk", "model": name,
                                         "choices": [choice]}) + "\n\n"  # fmt: skip
        yield "data: [DONE]\n\n"

    @contextmanager
    def running(self) -> Iterator[str]:
        """The address, while it runs."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            server = uvicorn.Server(uvicorn.Config(self.app, log_level="critical", lifespan="off"))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join()
