"""Many users on a Ray cluster whose processes are killed, and on one process: python -m benchmarks.ray_scale

Each user tells one message, and it becomes memory. Meanwhile a replica, the actor that hands out consolidations and a
worker at work are killed. Then every user is asked for on the cluster, and by a session of its own. Needs `ray[serve]`.
The model is tiny and random: this measures the server, not a memory. `--users 20` is a small run.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch

from ttt_retrofit import ChatSession, ConsolidationConfig, MemoryConfig
from ttt_retrofit.serving import queued
from ttt_retrofit.serving.admission import Limits
from ttt_retrofit.serving.directories import directory_name
from ttt_retrofit.serving.pending import PendingUsers

from .harness.options import command_line
from .harness.store import Report, Store, console, dated
from .harness.tables import markdown_table
from .random_words import WORDS, model_and_tokenizer, shuffled

NAME = "tiny"
QUESTIONS = [f"{WORDS[n]} {WORDS[n + 1]} ?" for n in range(0, 16, 2)]
CONFIG = ConsolidationConfig(
    memory=MemoryConfig(rank=2, layers=(1,)), answer_tokens=4, min_recall=0.0, max_drift=10.0, max_changed=1.0,
    wordings=1, epochs=0.1, least_steps=4,
)  # fmt: skip
SESSION = {"config": CONFIG, "questions": QUESTIONS}
TOKENS = 8  # of an answer
TOGETHER = 8  # requests
IDLE = 2.0  # seconds
LATEST = 1800.0  # seconds until everything must be memory
REPLICAS = WORKERS = 2
LISTED = 100_000  # users who wait, when it is timed how long it takes to find them
LIST = "the list of who waits"
ASKED = f"{WORDS[3]} {WORDS[5]} ?"  # by every user


# ---------------------------------------------------------------------- the processes


def load(notes: Path | None = None) -> tuple[Any, Any]:
    """What every process loads. notes : where it notes that it is there, and when it works for whom."""
    torch.set_num_threads(1)
    if notes is not None:
        _note_work(notes)
    return model_and_tokenizer()


def _note_work(notes: Path) -> None:
    """From now on this process writes when it begins to work for a user, and when it ends."""
    import ray

    work = queued._consolidated
    file = notes / f"{'worker' if ray.get_runtime_context().get_actor_id() is None else 'replica'}-{os.getpid()}"
    file.touch()

    def noted(users: Any, name: str, stamp: int | None) -> bool:
        with file.open("a") as out:
            out.write(f"{name} {time.monotonic()} ")
            out.flush()
            try:
                return work(users, name, stamp)
            finally:
                out.write(f"{time.monotonic()}\n")

    queued._consolidated = noted


# ---------------------------------------------------------------------- what users do


def told(user: int) -> str:
    """What one user says and no other."""
    return shuffled(user)


def name_of(user: int) -> str:
    return f"user-{user}"


class Clients:
    """Asks a server for many users, some at a time; a request that failed is sent again, as OpenAI's client does."""

    def __init__(self, url: str) -> None:
        self.url, self.again = url, 0
        self.http = httpx.Client(timeout=120, limits=httpx.Limits(max_connections=TOGETHER))

    def ask(self, user: int, text: str) -> str:
        body = {"model": NAME, "messages": [{"role": "user", "content": text}], "user": name_of(user),
                "max_tokens": TOKENS, "temperature": 0}  # fmt: skip
        for _ in range(600):
            try:
                reply = self.http.post(f"{self.url}/v1/chat/completions", json=body)
                if reply.status_code == 200:
                    return str(reply.json()["choices"][0]["message"]["content"])
            except httpx.TransportError:
                pass
            self.again += 1
            time.sleep(1)
        raise SystemExit(f"{name_of(user)} got no answer")

    def ask_all(self, users: Sequence[int], text: Callable[[int], str], done: Callable[[int], None]) -> list[str]:
        """The answers, in order. `done` is told how many there are."""
        count, lock = iter(range(1, len(users) + 1)), threading.Lock()

        def one(user: int) -> str:
            answer = self.ask(user, text(user))
            with lock:
                done(next(count))
            return answer

        with ThreadPoolExecutor(TOGETHER) as pool:
            return list(pool.map(one, users))


def learned(store: Path, users: Sequence[int]) -> int:
    """How many users have a memory."""
    return sum((store / directory_name(name_of(user)) / "memory" / "current.json").exists() for user in users)


Counted = Callable[[int], None]


def measured(clients: Clients, store: Path, users: Sequence[int], tell: Counted, learn: Counted) -> dict[str, Any]:
    """Every user tells, and all of it becomes memory. Called with how many have told, and how many have a memory."""
    began, before = time.monotonic(), cpu_seconds()
    clients.ask_all(users, told, tell)
    answered, between = time.monotonic(), cpu_seconds()
    have = 0
    while have < len(users):
        if time.monotonic() - answered > LATEST:
            console.print(f"only {have} of {len(users)} became memory")
            break
        time.sleep(0.2)
        now = learned(store, users)
        if now != have:
            learn(now)
        have = now
    ended = time.monotonic()
    return {
        "users": len(users), "requests/s": len(users) / (answered - began), "sent again": clients.again,
        "memories": have, "seconds": ended - began,
        "cpu": (between - before) / len(users), "cpu memory": (cpu_seconds() - between) / len(users),
    }  # fmt: skip


def cpu_seconds() -> float:
    """That the processes of the server have taken so far."""
    taken = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            times = process.cpu_times()
            taken += times.user + times.system
    return taken


# ---------------------------------------------------------------------- servers


def serve_one(store: Path, listening: socket.socket) -> None:
    from ttt_retrofit.serving.server import make_server

    model, words = load()
    limits = Limits(max_concurrent=64)
    server = make_server(model, words, store, name=NAME, limits=limits, idle=IDLE, **SESSION)
    server.run(sockets=[listening])


@contextmanager
def one_process(store: Path) -> Iterator[tuple[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        process = get_context("spawn").Process(target=serve_one, args=(store, listening))
        process.start()
    _until_healthy(url)
    try:
        yield url, process
    finally:
        process.terminate()
        process.join()


@contextmanager
def cluster(store: Path, replicas: int, workers: int, notes: Path | None) -> Iterator[tuple[str, Any]]:
    from ttt_retrofit.serving.ray_consolidation import SharedStore
    from ttt_retrofit.serving.ray_serve import Serving, deployed
    from ttt_retrofit.serving.resources import Resources

    # A machine with fewer cores than processes: that one is slow does not mean that it is dead.
    # Nor are Ray's workers to wait for everything else, unlike the one process that they are held against.
    checks = dict.fromkeys(("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"), "60")
    os.environ |= {**checks, "RAY_worker_niceness": "0"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = SharedStore(partial(load, notes), store, idle=IDLE, session=SESSION)
    serving = Serving(shared, NAME, limits=Limits(max_concurrent=64))
    share = 1 / (replicas + workers)  # of a CPU: as many processes as are asked for, however few cores there are
    resources = Resources(replicas=replicas, replica_cpus=share, task_cpus=share, cpus=1)
    with deployed(serving, "127.0.0.1", port, resources) as consolidations:
        url = f"http://127.0.0.1:{port}"
        _until_healthy(url)
        yield url, consolidations


def _until_healthy(url: str) -> None:
    for _ in range(600):
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("the server did not start")


# ---------------------------------------------------------------------- what is killed, and what is left


class Killer:
    """Kills processes of a cluster when so many users have told, or have a memory."""

    def __init__(self, notes: Path, consolidations: Any, users: int) -> None:
        self.notes, self.consolidations, self.users = notes, consolidations, users
        self.killed: dict[str, float] = {}  # when, by the name of the process

    def told(self, count: int) -> None:
        if count in (self.users // 4, self.users // 2):  # the second time what has replaced the first, or the other
            replicas = sorted(self.notes.glob("replica-*"), key=lambda path: path.stat().st_mtime)
            self._kill(next(path for path in replicas if path.name not in self.killed))
        if count == 3 * self.users // 4:
            import ray

            ray.kill(self.consolidations, no_restart=False)
            self.killed["actor"] = time.monotonic()

    def learned(self, count: int) -> None:
        if count > self.users // 2 and not any(name.startswith("worker") for name in self.killed):
            for path in self.notes.glob("worker-*"):
                if path.read_text() and not path.read_text().endswith("\n"):  # at work
                    return self._kill(path)

    def _kill(self, path: Path) -> None:
        os.kill(int(path.name.partition("-")[2]), signal.SIGKILL)
        self.killed[path.name] = time.monotonic()
        console.print(f"killed {path.name}", markup=False)


def at_once(notes: Path, killed: dict[str, float]) -> int:
    """How often a user was worked for while another process did so. Work that has no end ended with its process."""
    work: dict[str, list[tuple[float, float]]] = {}
    for path in notes.glob("worker-*"):
        for line in path.read_text().splitlines():
            name, begun, *ended = line.split()
            end = float(ended[0]) if ended else killed.get(path.name, killed.get("actor", float(begun)))
            work.setdefault(name, []).append((float(begun), end))
    spans = [sorted(times) for times in work.values()]
    return sum(after[0] < before[1] for times in spans for before, after in pairwise(times))


def sessions(store: Path, users: Sequence[int]) -> list[ChatSession]:
    model, words = load()
    places = [store / directory_name(name_of(user)) for user in users]
    return [ChatSession(model, words, place, keep_turns=0, **SESSION) for place in places]


def left(opened: Sequence[ChatSession], users: Sequence[int]) -> dict[str, int]:
    """What users told that is neither memory nor waits, or is so twice; and what is somebody else's."""
    lost = twice = foreign = 0
    for session, user in zip(opened, users):
        facts = [] if session.memory is None else session.memory.facts(None)
        known = [*(fact.text for fact in facts), *(m["content"] for m in session.messages if m["role"] == "user")]
        own = sum(told(user).removesuffix(" .") in text for text in known)
        lost, twice, foreign = lost + (own == 0), twice + (own > 1), foreign + (own < len(known))
    return {"lost": lost, "twice": twice, "foreign": foreign}


def killed_row(work: Path, count: int) -> dict[str, Any]:
    store, notes, users = work / "killed", work / "notes", range(count)
    notes.mkdir()
    with cluster(store, REPLICAS, WORKERS, notes) as (url, consolidations):
        clients, killer = Clients(url), Killer(notes, consolidations, count)
        row = measured(clients, store, users, killer.told, killer.learned)
        opened = sessions(store, users)
        row |= left(opened, users)
        asked = [{"role": "user", "content": ASKED}]
        expected = [session.answer(asked, max_new_tokens=TOKENS, do_sample=False) for session in opened]
        answers = clients.ask_all(users, lambda user: ASKED, lambda count: None)
    return dated(row | {
        "killed": sorted(name.partition("-")[0] for name in killer.killed),
        "at once": at_once(notes, killer.killed),
        "as alone": sum(map(str.__eq__, answers, expected)),
        "as another user": sum(map(str.__eq__, answers, [*expected[1:], expected[0]])),
    })  # fmt: skip


def list_row(store: Path) -> dict[str, Any]:
    """Seconds to find who is due, where very many are."""
    store.mkdir()
    pending = PendingUsers(store)
    for user in range(LISTED):
        pending.add(f"{user:032x}", -1.0)
    began = time.monotonic()
    assert len(pending.due()) == LISTED
    return dated({"users": LISTED, "seconds": time.monotonic() - began})


def row(server: Any, store: Path, count: int) -> dict[str, Any]:
    with server as (url, _):
        return dated(measured(Clients(url), store, range(count), lambda count: None, lambda count: None))


def page(report: Report) -> list[str]:
    settings, rows = report["settings"], report["rows"]
    speeds = [
        [name, str(found["users"]), f"{found['requests/s']:.2g}", f"{60 * found['memories'] / found['seconds']:.2g}",
         f"{found['cpu']:.2g}", f"{found['cpu memory']:.2g}"]
        for name, found in rows.items()
        if "requests/s" in found and "killed" not in found
    ]  # fmt: skip
    lines = [
        f"A random model of two layers, on {settings['cores']} of the machine's cores, which all processes share. "
        f"Clients send {TOGETHER} requests at a time; each answer has {TOKENS} tokens. A user is idle after {IDLE:g} "
        "seconds. CPU seconds are those of all processes of the server, and do not depend on what else the core does.",
        "",
        *markdown_table(
            [
                "server",
                "users",
                "requests/s",
                "memories/minute, from the first request",
                "CPU seconds of a request",
                "CPU seconds of a memory",
            ],
            speeds,
        ),
        "",
    ]
    if LIST in rows:
        lines += [f"Who is due of {LISTED:,} waiting users was found in {rows[LIST]['seconds']:.2f} seconds.", ""]
    for found in [found for found in rows.values() if "killed" in found]:
        counts = [
            ["killed meanwhile", ", ".join(found["killed"])],
            ["users whose message was acknowledged", found["users"]],
            ["requests that failed and were sent again", found["sent again"]],
            ["users with a memory at the end", found["memories"]],
            ["messages lost", found["lost"]],
            ["messages learned twice", found["twice"]],
            ["users with anything that another told", found["foreign"]],
            ["times that two processes worked for one user at once", found["at once"]],
            ["answers as of a session of that user alone", f"{found['as alone']}/{found['users']}"],
            ["answers as of a session of the next user", f"{found['as another user']}/{found['users']}"],
        ]
        lines += [*markdown_table(["while processes were killed", ""], [[what, str(n)] for what, n in counts]), ""]
    return lines


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--users", type=int, default=200, help="while processes are killed")
    parser.add_argument("--timed", type=int, default=50, help="users of a run that is timed")
    options = parser.parse_args()
    settings = {"users": options.users, "timed": options.timed, "cores": len(os.sched_getaffinity(0))}
    name = "ray_scale" if options.users >= 200 else "ray_scale_quick"
    store = Store.of_machine(name, settings, page)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        alone, several = work / "alone", work / "several"
        store.fill({
            LIST: lambda: list_row(work / "list"),
            "one process": lambda: row(one_process(alone), alone, options.timed),
            f"Ray, {REPLICAS} replicas, {WORKERS} workers":
                lambda: row(cluster(several, REPLICAS, WORKERS, None), several, options.timed),
            "the same, while processes are killed": lambda: killed_row(work, options.users),
        })  # fmt: skip
    store.show()


if __name__ == "__main__":
    main()
