"""A server on a Ray cluster: replicas answer, and Ray tasks consolidate.

A front reads of each request only whose it is, and hands it to a replica that has this user loaded, where there is one.
A replica is the application of a server in one process, over users that are shared. Any replica can answer any user.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from transformers.utils import logging

from ..errors import MissingExtraError
from .admission import Limits
from .app import Service
from .auth import error_response, read_body
from .directories import delete_leftovers, lock_store
from .protocol import RETRY_AFTER, ApiError
from .queued import QueuedConsolidator
from .ray_consolidation import Consolidations, SharedStore
from .relay import directory_of_request, passed_on, replies
from .resources import Resources
from .routes import application
from .scheduler import Scheduler
from .server import GRACE
from .users import MAX_LOADED

try:
    import ray
    from ray import serve
    from ray.serve.exceptions import BackPressureError
except ImportError as error:
    raise MissingExtraError("serve --ray", "ray[serve]", "ray") from error

logger = logging.get_logger(__name__)

APPLICATION = "ttt_retrofit"
FRONTS = 2  # when one dies the other goes on
MAX_AT_FRONT = 1000  # requests


@dataclass(frozen=True)
class Serving:
    """What every replica serves; see `make_server`."""

    store: SharedStore
    name: str
    key: str | None = None
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    user_header: str | None = None
    batch: int = 4
    split_special_tokens: bool = True


# ---------------------------------------------------------------------- the front


class Relayed(Response):
    """The reply of a replica, ASGI message by ASGI message; an error where it dies before the first."""

    def __init__(self, messages: AsyncIterator[Message]) -> None:
        super().__init__()
        self.messages = messages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            first = await anext(self.messages)
        except BackPressureError:
            busy = ApiError(429, "All replicas are busy.", code="rate_limit_exceeded", headers=_later())
            return await error_response(busy)(scope, receive, send)
        except ray.exceptions.RayError:
            logger.exception("A replica was lost.")
            lost = ApiError(503, "The replica that answered was lost. Send the request again.", headers=_later())
            return await error_response(lost)(scope, receive, send)
        await send(first)
        async for message in self.messages:
            await send(message)


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER)}


class Front:
    """Hands requests to replicas."""

    def __init__(self, replicas: Any, max_body: int, user_header: str | None) -> None:
        self.replicas, self.max_body, self.user_header = replicas, max_body, user_header

    async def __call__(self, request: Request) -> Response:
        try:
            body = await read_body(request, self.max_body) if request.method == "POST" else b""
        except ApiError as error:
            return error_response(error)
        name = directory_of_request(request, body, self.user_header)
        replica = self.replicas.options(stream=True, multiplexed_model_id=name)
        return Relayed(aiter(replica.remote(passed_on(request.scope), body)))


# ---------------------------------------------------------------------- the replicas


class Replica:
    """A model that answers for the users of a shared store."""

    def __init__(self, serving: Serving, consolidations: Any) -> None:
        model, tokenizer = serving.store.load()
        users = serving.store.users(model, tokenizer)
        self.scheduler = Scheduler(model, tokenizer, serving.batch, serving.split_special_tokens)
        queued = QueuedConsolidator(users, lambda name: ray.get(consolidations.ended.remote(name)))
        service = Service(serving.name, self.scheduler, users, queued, serving.limits, serving.user_header)
        self.app = application(service, serving.key, serving.origins)
        self.scheduler.start()

    def __del__(self) -> None:
        self.scheduler.stop()

    @serve.multiplexed(max_num_models_per_replica=MAX_LOADED)
    async def loaded(self, name: str) -> str:
        """Tells Ray Serve that this replica has the user of a directory loaded, and is to be asked for them again."""
        return name

    async def __call__(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """The ASGI messages of a reply. The request is given up when nobody iterates any more."""
        name = serve.get_multiplexed_model_id()
        if name:
            await self.loaded(name)
        async with aclosing(replies(self.app, scope, body)) as messages:
            async for message in messages:
                yield message


# ---------------------------------------------------------------------- all of it


@contextmanager
def deployed(serving: Serving, host: str, port: int, resources: Resources) -> Iterator[Any]:
    """Serve on a cluster until the block ends; gives the actor that hands out consolidations.

    Raises
    ------
    InputError
        When a server is using the store.
    ConfigError
        When a cluster that is started here has too little for the replicas and a consolidation.
    """
    store = serving.store
    lock = lock_store(store.directory)
    delete_leftovers(store.directory)
    lock.release()  # the actor holds it
    here = {"num_cpus": resources.cpus, "include_dashboard": False} if resources.address == "local" else {}
    ray.init(resources.address, namespace=APPLICATION, logging_level="warning", log_to_driver=False, **here)
    try:
        if resources.address == "local":
            found = ray.cluster_resources()
            resources.check(found.get("CPU", 0.0), found.get("GPU", 0.0))
        consolidations = (
            ray.remote(Consolidations)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1)
            .remote(store, resources.task_cpus, resources.task_gpus)
        )
        quiet = {"log_level": "WARNING", "enable_access_log": False}  # addresses hold the ids of users
        serve.start(http_options={"host": host, "port": port}, logging_config=quiet)
        replicas = serve.deployment(Replica).options(
            num_replicas=resources.replicas,
            ray_actor_options={"num_cpus": resources.replica_cpus, "num_gpus": resources.replica_gpus},
            max_ongoing_requests=serving.limits.max_concurrent,
            max_queued_requests=serving.limits.max_concurrent * resources.replicas,
            graceful_shutdown_timeout_s=GRACE,
        )
        front = serve.deployment(Front).options(
            num_replicas=FRONTS,
            ray_actor_options={"num_cpus": 0},
            max_ongoing_requests=MAX_AT_FRONT,
            graceful_shutdown_timeout_s=GRACE,
        )
        bound = front.bind(replicas.bind(serving, consolidations), serving.limits.max_body, serving.user_header)
        try:
            serve.run(bound, name=APPLICATION, route_prefix="/", logging_config=quiet)
            yield consolidations
        finally:
            serve.delete(APPLICATION)
            ray.kill(consolidations)
    finally:
        ray.shutdown()
