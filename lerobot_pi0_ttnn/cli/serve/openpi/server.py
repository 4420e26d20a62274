"""openpi's websocket policy server. Source of the protocol: openpi `src/openpi/serving/websocket_policy_server.py` (15a9616a).

It speaks first: one message of metadata. Then each observation gets one reply, a message of actions and timings; or, as text,
why it got none. openpi's hangs up after that. This one goes on where the observation was at fault, and hangs up, with the same
code, where the policy failed. Each client has its own thread; only inference waits for another client's.
"""

import hmac
import logging
import threading
import time
from http import HTTPStatus
from socket import socket
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.sync.server import Server, ServerConnection, serve

from ..message import message_of
from .layout import Layout
from .served import ServedPolicy
from .wire import pack, unpack

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 64 << 20
"""Of an observation: four pictures of 1920x1080 in float32 would be 100 MB, in uint8 they are 25."""
MAX_CLIENTS = 16
CLOSE_TIMEOUT_S = 2
"""How long a client is waited for that does not answer when it is told that the server ends."""
HEALTH = "/healthz"


class OpenPIServer:
    """Serves a policy to openpi's clients.

    Args:
        served: the policy.
        layout: of the clients' observations.
        metadata: what a client gets when it connects.
        api_key: what clients have to show; none by default.
        takes_resets: whether a message may be RoboArena's `{"endpoint": "reset"}`.
        max_message_bytes: longer ones end their connection, with code 1009.
    """

    def __init__(
        self,
        served: ServedPolicy,
        layout: Layout,
        metadata: dict[str, Any],
        *,
        api_key: str | None = None,
        takes_resets: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._served, self._layout, self._metadata = served, layout, pack(metadata)
        self._api_key, self._takes_resets, self._max_message_bytes = api_key, takes_resets, max_message_bytes
        self._server: Server | None = None
        self._clients: set[ServerConnection] = set()
        self._changing = threading.Lock()

    def start(self, listening: socket) -> None:
        """Serves whoever connects to a socket that listens, in threads, until `stop`."""
        self._server = serve(
            self._talk,
            sock=listening,
            process_request=self._admit,
            origins=[None],  # browsers name one: no page that somebody looks at shall reach a robot's server
            compression=None,
            max_size=self._max_message_bytes,
            max_queue=1,
            close_timeout=CLOSE_TIMEOUT_S,
            logger=_websockets_logger(),
        )
        threading.Thread(target=self._server.serve_forever, name="openpi server").start()

    def stop(self) -> None:
        """Hangs up on all clients. One whose chunk is in work gets it no more."""
        if self._server:
            self._server.shutdown()
        with self._changing:
            clients, self._server = list(self._clients), None
        for client in clients:
            client.close(CloseCode.GOING_AWAY, "the server ends")

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Returns what answers a request that is not, or must not be, a client's; None for a client's."""
        if request.path == HEALTH:
            return connection.respond(HTTPStatus.OK, "OK\n")
        if self._api_key is not None:
            shown = request.headers.get_all("Authorization")
            expected = f"Api-Key {self._api_key}"
            if len(shown) != 1 or not hmac.compare_digest(shown[0].encode(errors="surrogateescape"), expected.encode()):
                logger.warning("%s: rejected, it showed no or another key", peer_of(connection))
                return connection.respond(HTTPStatus.UNAUTHORIZED, "expected the header `Authorization: Api-Key KEY`\n")
        if len(self._clients) >= MAX_CLIENTS:
            logger.warning("%s: rejected, there are %d clients", peer_of(connection), MAX_CLIENTS)
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, f"there are {MAX_CLIENTS} clients already\n")
        return None

    def _talk(self, connection: ServerConnection) -> None:
        """Answers a client until it, or the server, hangs up."""
        peer = peer_of(connection)
        with self._changing:
            if self._server is None:
                return
            self._clients.add(connection)
        logger.info("%s: connected", peer)
        try:
            connection.send(self._metadata)
            self._answer_all(connection, peer)
        except ConnectionClosed as closed:
            logger.info("%s: disconnected%s", peer, f", {closed}" if closed.sent or closed.rcvd else "")
        finally:
            with self._changing:
                self._clients.discard(connection)

    def _answer_all(self, connection: ServerConnection, peer: str) -> None:
        is_first, previous_s = True, None
        while True:
            message = connection.recv()
            begun = time.perf_counter()
            try:
                reply, observation = self._answer(message, begun, previous_s)
                if is_first and observation is not None:
                    is_first = False
                    self._tell_differences(reply, observation, peer)
                connection.send(reply if isinstance(reply, str) else pack(reply))
            except ConnectionClosed:
                raise
            except (ValueError, KeyError, TypeError) as error:
                logger.warning("%s: observation rejected: %s", peer, message_of(error))
                connection.send(message_of(error))
            except Exception as error:
                logger.exception("%s: inference failed", peer)
                connection.send(f"inference failed: {message_of(error)}")
                connection.close(CloseCode.INTERNAL_ERROR, "inference failed, see the text before this")
                return
            previous_s = time.perf_counter() - begun

    def _answer(self, message: str | bytes, begun: float, previous_s: float | None) -> tuple[Any, Any]:
        """Returns the reply to a message, and the observation that it held, if it did."""
        if isinstance(message, str):
            raise ValueError("expected an observation, packed by openpi's msgpack_numpy in a binary frame, got text.")
        observation = unpack(message)
        if self._takes_resets and isinstance(observation, dict) and observation.pop("endpoint", "infer") == "reset":
            self._served.reset()
            return "reset successful", None
        chunk = self._served.infer(self._layout.read(observation))
        timing = {"infer_ms": (time.perf_counter() - begun) * 1000}
        if previous_s is not None:
            timing["prev_total_ms"] = previous_s * 1000
        reply = {"actions": chunk.actions, "policy_timing": {"infer_ms": chunk.policy_ms}, "server_timing": timing}
        # No other array: `ActionChunkBroker` takes a row of each for a tick.
        return (reply | {"warnings": chunk.warnings} if chunk.warnings else reply), observation

    def _tell_differences(self, reply: dict[str, Any], observation: Any, peer: str) -> None:
        for said in self._layout.differences(observation):
            logger.warning("%s: %s", peer, said)
            reply.setdefault("warnings", []).append(said)


def peer_of(connection: ServerConnection) -> str:
    """Returns a client's address, for the log."""
    address = connection.remote_address
    return ":".join(str(part) for part in address[:2]) if isinstance(address, tuple) else str(address)


def _websockets_logger() -> logging.Logger:
    """Returns a logger that is silent of connections that open and close, of which this module speaks itself."""
    quiet = logging.getLogger(f"{__name__}.websockets")
    quiet.setLevel(logging.WARNING)
    return quiet
