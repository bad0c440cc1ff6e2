"""One session, as a state machine for each end: frames in, messages out. No sockets, no clock."""

from collections.abc import Mapping
from types import MappingProxyType

from splittracr.experiment.errors import HandshakeRefused, ProtocolError
from splittracr.experiment.types import Cut
from splittracr.wire import registry
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.identity import difference
from splittracr.wire.messages import (
    Failure,
    Hello,
    Identity,
    Refusal,
    Reply,
    Request,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.payload import LIMIT, check_live

Parts = list[bytes | memoryview]
Frame = bytes | bytearray | memoryview


class EdgeSession:
    """The edge's end of one data connection: a welcome, then answers (`requests.py`)."""

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self.welcome: Welcome | None = None

    def opening(self) -> Parts:
        """Return the frame that starts the session."""
        return encode(self._hello)

    def receive(self, frame: Frame) -> tuple[Welcome | Reply | Failure, EncodedPayload]:
        """Return the server's message and its payload.

        Raises HandshakeRefused with the server's reason, and ProtocolError for a message that
        is not allowed at this point.
        """
        message, payload = decode(frame)
        match message:
            case Refusal() if self.welcome is None:
                raise HandshakeRefused(message.reason)
            case Refusal():
                raise ProtocolError(f"the server ended the session: {message.reason}")
            case Welcome() if self.welcome is None:
                self.welcome = message
            case Reply() | Failure() if self.welcome is not None:
                pass
            case _:
                raise ProtocolError(f"unexpected {message.type} from the server")
        return message, payload


class ServerSession:
    """The server's end of one connection.

    `cuts` are the cuts by index that this server offers; a request for another is refused. So is
    one with a live tensor of more than `limit` bytes if pictures keep their own size. `codecs` are
    the codecs of other packages that this server has, with the version of each.
    """

    def __init__(
        self,
        identity: Identity,
        cuts: Mapping[int, Cut],
        variable_shape: bool = False,
        limit: int = LIMIT,
        codecs: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._identity = identity
        self._cuts = cuts
        self._variable_shape = variable_shape
        self._limit = limit
        self._codecs = codecs
        self.hello: Hello | None = None
        self._seen = -1

    def receive(self, frame: Frame) -> tuple[Hello | Request, EncodedPayload]:
        """Return the edge's message and its payload: first a Hello, then Requests with rising ids.

        Raises HandshakeRefused if the Hello names another network, and ProtocolError for a
        message that is out of order or does not fit its cut.
        """
        message, payload = decode(frame)
        match message:
            case Hello() if self.hello is None:
                self._check(message)
                self.hello = message
                return message, payload
            case Request() if self.hello is not None and message.id > self._seen:
                self._seen = message.id
                cut = self._cuts.get(message.cut)
                if cut is None:
                    raise ProtocolError(f"cut {message.cut} is not offered")
                check_live(payload.header, cut, self._variable_shape, self._limit)
                for coding in payload.codings:
                    if coding.codec and coding.codec not in self._codecs:
                        raise ProtocolError(f"there is no codec {coding.codec!r}")
                return message, payload
            case _:
                raise ProtocolError(f"unexpected {message.type} from the edge")

    def is_new(self, number: int) -> bool:
        """Return whether no request with this id has arrived yet."""
        return number > self._seen

    def _check(self, hello: Hello) -> None:
        found = difference(edge=hello.identity, server=self._identity)
        if found is not None:
            raise HandshakeRefused(f"edge and server differ in {found}")
        lacking = registry.mismatch(hello.codecs, self._codecs)
        if lacking is not None:
            raise HandshakeRefused(lacking)
