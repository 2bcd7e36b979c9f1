"""A small client of a real ComfyUI server: HTTP and the event websocket, behind plain blocking calls."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
from PIL import Image

T = TypeVar("T")
Graph = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Event:
    """One message of the websocket. Binary ones have the type "preview" or "text" and their payload in ``image``."""

    type: str
    data: dict[str, Any]
    image: bytes = field(default=b"", repr=False)

    def picture(self) -> np.ndarray:
        """The preview as uint8 [H, W, 3]."""
        return np.asarray(Image.open(io.BytesIO(self.image)).convert("RGB"))


@dataclass(frozen=True)
class RunError:
    """Why a prompt did not finish. A refused prompt (HTTP 400) has no node when several inputs are wrong."""

    message: str
    node_id: str | None = None
    node_type: str | None = None
    exception_type: str | None = None
    traceback: str = ""


@dataclass
class Result:
    """What became of one queued graph; ``status`` is "success", "error", "interrupted" or "refused"."""

    client: Client
    prompt_id: str
    status: str
    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)  # node id -> its ui output
    executed: list[str] = field(default_factory=list)  # ids of the nodes that really ran, in order
    cached: list[str] = field(default_factory=list)
    error: RunError | None = None
    events: list[Event] = field(default_factory=list)
    seconds: float = 0.0

    def files(self, node_id: str, key: str = "images") -> list[dict[str, str]]:
        """The files a node reported: dicts of filename, subfolder, type."""
        return self.outputs.get(node_id, {}).get(key, [])

    def images(self, node_id: str, key: str = "images") -> list[np.ndarray]:
        """The pictures a node saved, uint8 [H, W, 3 or 4]."""
        return [np.asarray(Image.open(io.BytesIO(self.client.view(file)))) for file in self.files(node_id, key)]

    def previews(self, node_id: str | None = None) -> list[Event]:
        """Binary previews sent while the prompt ran, of one node or of all."""
        found = [event for event in self.events if event.type == "preview"]
        return [event for event in found if node_id is None or event.data.get("node_id") == node_id]

    def progress(self, node_id: str) -> list[tuple[int, int]]:
        """(value, max) of every progress event of a node."""
        found = [event.data for event in self.events if event.type == "progress"]
        return [(data["value"], data["max"]) for data in found if data.get("node") == node_id]


class Client:
    """Talks to one server; one websocket under one client id, read by a thread of its own."""

    def __init__(self, url: str, alive: Callable[[], None] = lambda: None) -> None:
        """``alive`` is called while waiting and raises when the server has gone."""
        self.url = url.rstrip("/")
        self.id = uuid.uuid4().hex
        self._alive = alive
        self._events: list[Event] = []
        self._arrived = threading.Condition()
        self._connected = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._session = self._call(self._open())
        self._listener: Future[None] = asyncio.run_coroutine_threadsafe(self._listen(), self._loop)
        if not self._connected.wait(30):
            raise TimeoutError(f"no websocket at {self.url}")

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=600))

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(600)

    def close(self) -> None:
        self._listener.cancel()
        self._call(self._session.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _listen(self) -> None:
        async with self._session.ws_connect(f"{self.url}/ws?clientId={self.id}", max_msg_size=0) as socket:
            await socket.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
            self._connected.set()
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    content = json.loads(message.data)
                    event = Event(content["type"], content.get("data") or {})
                elif message.type == aiohttp.WSMsgType.BINARY:
                    event = _binary_event(message.data)
                else:
                    continue
                with self._arrived:
                    self._events.append(event)
                    self._arrived.notify_all()

    # HTTP

    async def _request(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        async with self._session.request(method, self.url + path, **options) as response:
            return response.status, await response.read()

    def get(self, path: str, **query: str) -> bytes:
        """The body of a GET; raises on any status but 200."""
        status, body = self._call(self._request("GET", path, params=query))
        if status != 200:
            raise RuntimeError(f"GET {path}: {status} {body[:500]!r}")
        return body

    def get_json(self, path: str, **query: str) -> Any:
        return json.loads(self.get(path, **query))

    def post(self, path: str, content: Any = None) -> tuple[int, Any]:
        """Status and parsed body (None when it is not JSON) of a POST of JSON."""
        status, body = self._call(self._request("POST", path, json=content if content is not None else {}))
        try:
            return status, json.loads(body)
        except ValueError:
            return status, None

    def object_info(self, node_type: str | None = None) -> dict[str, Any]:
        """Every node's description, or one node's (an empty dict when the server has no such node)."""
        info = self.get_json("/object_info" + (f"/{node_type}" if node_type else ""))
        return info.get(node_type, {}) if node_type else info

    def upload_image(self, image: np.ndarray | Image.Image | Path | str, name: str = "photo.png") -> str:
        """Put a picture (uint8 or 0..1 float array, PIL image, or file) into the server's input folder.

        Returns the name that LoadImage takes.
        """
        if isinstance(image, (Path, str)):
            content = Path(image).read_bytes()
        else:
            if isinstance(image, np.ndarray):
                if image.dtype != np.uint8:
                    image = (image.clip(0, 1) * 255).round().astype(np.uint8)
                image = Image.fromarray(image)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            content = buffer.getvalue()
        form = aiohttp.FormData()
        form.add_field("image", content, filename=name)
        form.add_field("overwrite", "true")
        status, body = self._call(self._request("POST", "/upload/image", data=form))
        if status != 200:
            raise RuntimeError(f"upload of {name}: {status} {body[:500]!r}")
        return json.loads(body)["name"]

    def view(self, file: dict[str, str]) -> bytes:
        """The bytes of a file that a node reported."""
        return self.get("/view", **{key: file[key] for key in ("filename", "subfolder", "type") if key in file})

    def free(self) -> None:
        """Unload all models and forget all cached outputs. The server does it after the prompt that it takes next, if
        one is there when it wakes: so one that costs nothing is run. What is queued next finds it done; a route that is
        asked at once may not."""
        self.post("/free", {"unload_models": True, "free_memory": True})
        self.run_ok({"1": {"class_type": "PreviewAny", "inputs": {"source": "freed"}}})

    # running graphs

    def queue(self, graph: Graph, extra_data: dict[str, Any] | None = None) -> Result | str:
        """The prompt id of the queued graph, or a Result with status "refused"."""
        content = {"prompt": graph, "client_id": self.id, "extra_data": extra_data or {}}
        status, answer = self.post("/prompt", content)
        if status == 200:
            return answer["prompt_id"]
        return Result(self, "", "refused", error=_refusal(status, answer))

    def run(self, graph: Graph, timeout: float = 300, extra_data: dict[str, Any] | None = None) -> Result:
        """Queue a graph and wait for its end, whatever that is."""
        queued = self.queue(graph, extra_data)
        return queued if isinstance(queued, Result) else self.wait(queued, timeout)

    def run_ok(self, graph: Graph, timeout: float = 300, extra_data: dict[str, Any] | None = None) -> Result:
        """``run``, and the prompt must succeed."""
        result = self.run(graph, timeout, extra_data)
        if result.status != "success":
            error = result.error
            raise AssertionError(
                f"{result.status}: {error.message}\nnode {error.node_id} {error.node_type}\n{error.traceback}"
                if error
                else result.status
            )
        return result

    def wait(self, prompt_id: str, timeout: float = 300) -> Result:
        """Wait for the end of a queued prompt."""
        start = time.monotonic()
        self.wait_event(
            lambda event: (
                event.type == "executing"
                and event.data.get("node") is None
                and event.data.get("prompt_id") == prompt_id
            ),
            timeout,
        )
        events = self.events(prompt_id)
        history = self.get_json(f"/history/{prompt_id}")[prompt_id]
        result = Result(self, prompt_id, "success", outputs=history["outputs"], events=events)
        result.seconds = time.monotonic() - start
        for event in events:
            if event.type == "executing" and event.data.get("node") is not None:
                result.executed.append(event.data["node"])
            elif event.type == "execution_cached":
                result.cached = list(event.data["nodes"])
            elif event.type == "execution_interrupted":
                result.status = "interrupted"
            elif event.type == "execution_error":
                data = event.data
                result.status = "error"
                result.error = RunError(
                    data["exception_message"].strip(),
                    data["node_id"],
                    data["node_type"],
                    data["exception_type"],
                    "".join(data["traceback"]),
                )
        return result

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Cancel what runs now (wait for the prompt's "executing" event first: an earlier word is lost)."""
        self.post("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    # events

    def events(self, prompt_id: str | None = None, since: int = 0) -> list[Event]:
        """Events so far; with a prompt id those between that prompt's first and last message, binary ones included.

        ``since`` counts all events, see ``mark``.
        """
        with self._arrived:
            events = self._events[since:]
        if prompt_id is None:
            return events
        own = [i for i, event in enumerate(events) if event.data.get("prompt_id") == prompt_id]
        if not own:
            return []
        return [event for event in events[own[0] : own[-1] + 1] if event.data.get("prompt_id", prompt_id) == prompt_id]

    def mark(self) -> int:
        """The number of events so far, for ``since``."""
        with self._arrived:
            return len(self._events)

    def wait_event(self, wanted: str | Callable[[Event], bool], timeout: float = 60, since: int = 0) -> Event:
        """The first event of a type, or that a function accepts; TimeoutError when none comes."""
        accepts = (lambda event: event.type == wanted) if isinstance(wanted, str) else wanted
        end = time.monotonic() + timeout
        seen = since
        while True:
            with self._arrived:
                if len(self._events) <= seen:
                    self._arrived.wait(1)
                events = self._events[seen:]
            for event in events:
                if accepts(event):
                    return event
            seen += len(events)
            self._alive()
            if time.monotonic() > end:
                raise TimeoutError(f"no such event in {timeout} s; last: {self.events()[-5:]}")


def _binary_event(message: bytes) -> Event:
    """Decode the server's binary messages: 1 preview, 3 text of a node, 4 preview with metadata."""
    kind, size = int.from_bytes(message[:4], "big"), int.from_bytes(message[4:8], "big")
    if kind == 1:
        return Event("preview", {"format": {1: "JPEG", 2: "PNG"}.get(size)}, message[8:])
    if kind == 3:
        return Event("text", {"node_id": message[8 : 8 + size].decode(), "text": message[8 + size :].decode()})
    if kind == 4:
        return Event("preview", json.loads(message[8 : 8 + size]), message[8 + size :])
    return Event(f"binary {kind}", {}, message[4:])


def _refusal(status: int, answer: Any) -> RunError:
    """One readable error of a refused prompt: each wrong input on a line of its own."""
    if not isinstance(answer, dict) or not isinstance(answer.get("error"), dict):
        return RunError(f"HTTP {status}: {answer}")
    lines, nodes = [answer["error"]["message"]], answer.get("node_errors") or {}
    for node_id, content in nodes.items():
        for error in content["errors"]:
            lines.append(f"{content['class_type']} {node_id}: {error['message']}: {error['details']}")
    only = next(iter(nodes.items())) if len(nodes) == 1 else None
    message = "\n".join(lines)
    return RunError(message, only[0], only[1]["class_type"], "refused") if only else RunError(message)
