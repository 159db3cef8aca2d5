"""The engines that a gateway knows: how each is given an adapter, and what a request says to let it speak."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import httpx
from transformers.utils import logging

from ..errors import ConfigError, quoted
from ..memory.adapters import delete_exported, export_version, exported
from ..memory.memory import Memory
from ..util.files import remove
from .directories import DIRECTORY_NAME
from .engine import CONNECT, RANK, Engine, EngineError, alone, asked, named, owner_of

logger = logging.get_logger(__name__)


class VLLM(Engine):
    """vLLM with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING`. The `model` of a request is the adapter's name.

    `adapters/NAME` is laid out for vLLM's filesystem resolver, too.
    """

    kind, owner = "vllm", "vllm"

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._loaded: set[str] = set()

    def speaking(self, user: str, memory: Memory) -> dict[str, Any]:
        name = named(user, memory)
        with self._lock:
            if name not in self._loaded:
                path = export_version(memory, self.adapters, name, engine="vllm", rank=self.rank, base_name=self.root)
                body = {"lora_name": name, "lora_path": str(path), "load_inplace": True}
                try:
                    self.ask("POST", "/v1/load_lora_adapter", body)
                except EngineError as error:
                    raise EngineError(
                        f"{error} vLLM loads adapters when started with --enable-lora, --max-lora-rank {self.rank} and "
                        "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
                    ) from error
                self._loaded.add(name)
        return {"model": name}

    def lost(self, fields: dict[str, Any]) -> bool:
        with self._lock:
            known = fields["model"] in self._loaded
            self._loaded.discard(fields["model"])
            return known

    def forget(self, user: str, kept: Collection[str] = ()) -> None:
        with self._lock:
            gone = [name for name in exported(self.adapters) if owner_of(name) == user and name not in kept]
            for name in gone:
                delete_exported(self.adapters, name)
                self._loaded.discard(name)
            for name in gone:  # loaded by this process, or by one before it
                self.ask("POST", "/v1/unload_lora_adapter", {"lora_name": name}, unknown=True)

    def users(self) -> set[str]:
        return {user for name in exported(self.adapters) if (user := owner_of(name)) is not None}


class LlamaCpp(Engine):
    """llama.cpp's server. It loads adapters only when it starts, one file an entry; a request says which of them speak.

    After a consolidation it must be started again. Until then it has not got the new entry.
    """

    kind, owner = "llama.cpp", "llamacpp"

    def plain(self) -> dict[str, Any]:
        # Without a list, or with an empty one, all adapters act as they did at the start, which may be in full. Those
        # that a list does not name are silent.
        return {"model": self.model, "lora": [{"id": 0, "scale": 0.0}]}

    def speaking(self, user: str, memory: Memory) -> dict[str, Any] | None:
        with self._lock:
            names = [self._file(user, entry).name for entry in alone(memory)]
            loaded = {Path(one["path"]).name: int(one["id"]) for one in self.ask("GET", "/lora-adapters")}
        missing = [name for name in names if name not in loaded]
        if missing:
            logger.warning("llama.cpp has not loaded %s. Start it again with --lora for every file there.", missing[0])
            return None
        return {"model": self.model, "lora": [{"id": loaded[name], "scale": 1.0} for name in names]}

    def _file(self, user: str, entry: Memory) -> Path:
        file = self.adapters / user / f"{named(user, entry)}.gguf"
        if not file.exists():
            entry.to_gguf(file, base=self.root if Path(self.root).is_file() else None, rank=self.rank)
        return file

    def forget(self, user: str, kept: Collection[str] = ()) -> None:
        with self._lock:
            for file in (self.adapters / user).glob(f"{user}-*.gguf"):
                if file.stem not in kept:
                    file.unlink()
            if not kept:
                remove(self.adapters / user)

    def users(self) -> set[str]:
        return {path.name for path in self.adapters.iterdir() if DIRECTORY_NAME.fullmatch(path.name)}


KINDS: Sequence[type[Engine]] = (VLLM, LlamaCpp)


def connect(url: str, adapters: Path, *, kind: str | None = None, key: str | None = None, rank: int = RANK) -> Engine:
    """The engine at an address, which must be running.

    Parameters
    ----------
    url : of its server, with or without /v1.
    kind : "vllm" or "llama.cpp"; None finds it by how the engine signs its models.
    key : that it asks for.
    adapters, rank : see `Engine`.

    Raises
    ------
    ConfigError
        When it cannot be reached, lists no model, or is none of those kinds.
    """
    url = url.rstrip("/").removesuffix("/v1")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--engine {url}: expected the address of a server, such as http://127.0.0.1:8001.")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with httpx.Client(headers=headers, timeout=CONNECT) as client:
            listed = asked(client, url, "GET", "/v1/models")
    except EngineError as error:
        raise ConfigError(str(error)) from error
    models = listed.get("data") if isinstance(listed, dict) else None
    bases = [one for one in models or () if isinstance(one, dict) and "id" in one and not one.get("parent")]
    if not bases:
        raise ConfigError(
            f"GET {url}/v1/models lists no model: {quoted(listed)}. Expected a server that runs the base."
        )
    base = bases[0]
    found = next(
        (each for each in KINDS if each.kind == kind or (kind is None and each.owner == base.get("owned_by"))), None
    )
    if found is None:
        raise ConfigError(
            f"The engine at {url} signs its models as {quoted(base.get('owned_by'))}; expected one of "
            f"{[each.owner for each in KINDS]}. If it is one of these, say which: --engine-kind vllm or llama.cpp."
        )
    return found(url, headers, base["id"], base.get("root") or base["id"], adapters, rank)
