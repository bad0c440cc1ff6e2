"""Every message that edge and server exchange, and the frame that holds one.

A frame is the four bytes `STr` and the protocol version, the length of the header (uint32,
little-endian), the header as JSON with spaces for alignment, then the payload's encoded buffers one
after the other. Sizes are checked against each other before anything is copied, unknown keys are
refused, and nothing in a frame is ever executed. Tensors use one connection, and messages that must
not wait behind them another:

    data     edge    Hello ->            Request -> ...
             server          <- Welcome            <- Reply | Failure ...
                             <- Refusal (and close)
    control  edge    Attach ->    Probe | Check | Meter | Time | Prepare | Cancel -> ...
             server                <- Probed | Checked | Metered | Timed | Prepared   <- Goodbye
"""

import struct
from datetime import datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from splittracr.experiment.contracts import CONTROL_PATH as CONTROL_PATH
from splittracr.experiment.contracts import LINK_AGE_HEADER as LINK_AGE_HEADER
from splittracr.experiment.contracts import REASON_HEADER as REASON_HEADER
from splittracr.experiment.contracts import SESSION_PATH as SESSION_PATH
from splittracr.experiment.errors import InvalidInput, ProtocolError
from splittracr.experiment.explain import validate
from splittracr.experiment.profile import Profile
from splittracr.wire.codec import NOTHING, BufferCoding, EncodedPayload
from splittracr.wire.payload import ALIGNMENT, Closed, PayloadHeader, check_structure

PROTOCOL = 4

_PREFIX = struct.Struct("<3sBI")
_MAGIC = b"STr"
MAX_HEADER = 4 * 2**20
"""Bytes that a frame may have besides its payload."""
MAX_CONTROL = 2**20
"""Bytes that a frame on a control connection may have."""

Text = Annotated[str, Meta(max_length=4096)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Milliseconds = Annotated[float, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1, le=4096)]


Amount = Annotated[float, Meta(ge=0)]
Loads = Annotated[dict[Text, float], Meta(max_length=64)]
Texts = Annotated[dict[Text, Text], Meta(max_length=1024)]


class Summary(Closed, frozen=True):
    """A tensor in numbers that depend little on the processor.

    `kind` is its dtype and shape, `mean` the mean of its elements, `size` that of their absolute
    values, `rms` the root of the mean square. Elements that are not finite count as 0.
    """

    kind: Text
    mean: float
    size: float
    rms: float


class PartDigest(Closed, frozen=True):
    """Digest of what one part of the network computes from seeded inputs.

    `name` names the part, `digest` covers the values to the last bit. It is empty if two runs on
    this machine differ.
    """

    name: Text
    digest: Text
    tensors: Annotated[tuple[Summary, ...], Meta(max_length=64)] = ()


class Identity(Closed, frozen=True):
    """The properties in which both ends must agree before a tensor is sent.

    `settings` defines the network's input and the meaning of its output (identity.py). `versions`
    are those of the libraries that the network uses. `code` holds digests of the user's source
    files by name. `parts` are in the order of the computation. `processor` is equal at two ends if
    their digests have to be.
    """

    network: Text
    fingerprint: Text
    weights: Text
    batch: Number
    outputs: Text
    settings: Text = ""
    versions: Texts = field(default_factory=dict)
    code: Texts = field(default_factory=dict)
    processor: Text = ""
    parts: Annotated[tuple[PartDigest, ...], Meta(max_length=1024)] = ()


class _Tagged(Closed, frozen=True, tag_field="type", tag=str.lower):
    @property
    def type(self) -> str:
        """The kind of the message."""
        return str(self.__struct_config__.tag)


class End(Closed, frozen=True):
    """One of the two machines, for the environment file (`results/environment.py`)."""

    hostname: Text = ""
    processor: Text = ""
    cores: Number = 0
    threads: Number = 0
    runtime: Text = "Torch"
    device: Text = ""
    capability: Text = ""
    graph_fingerprint: Text = ""
    weights_digest: Text = ""
    versions: Texts = field(default_factory=dict)
    classes_cached_at: Annotated[datetime, Meta(tz=True)] | None = None


class CutClass(Closed, frozen=True):
    """How exact a cut is, as `experiment.types.Cut` has it."""

    exactness: Text
    largest_error: float | None = None
    top1_agreement: float | None = None


class Hello(_Tagged, frozen=True):
    """The edge's first message.

    `codecs` are the codecs of other packages that its manifest names, with the version of each, and
    the formats of pictures that some ends lack, with the version "".
    """

    uid: Text
    edge: Text
    identity: Identity
    codecs: Texts = field(default_factory=dict)


class Welcome(_Tagged, frozen=True):
    """The server's acceptance: its description for the environment file, and the cuts it refuses.

    `session` names this session to the control connection. `profile` is that of the network there,
    if the edge needs it to decide. An edge may have `window` requests without a reply, each with a
    payload of at most `max_message_bytes`. `link` describes the link that the server emulates;
    empty if it emulates none. `codecs` are what it has of those in a Hello. `classes` are those of
    the cuts that are not exact, by name.
    """

    end: End
    refused: dict[str, str]
    session: Text = ""
    profile: Profile | None = None
    window: Count = 1
    max_message_bytes: Number | None = None
    link: Text = ""
    codecs: Texts = field(default_factory=dict)
    classes: dict[str, CutClass] = field(default_factory=dict)


class Refusal(_Tagged, frozen=True):
    """The server's refusal of a Hello; `reason` is a sentence that names the difference."""

    reason: Text


class Request(_Tagged, frozen=True):
    """Finish this frame: the payload is the live values at `cut`.

    `epoch` counts the edge's changes of cut or codec.
    """

    id: Number
    cut: Number
    epoch: Number = 0


class Reply(_Tagged, frozen=True):
    """The payload is the reduced output (or the raw one); times are the server's own stages.

    They begin when the request had arrived completely; `receiving_ms` is how long its bytes took to
    come in, 0 if they came in one piece. `batch` requests were computed together.
    """

    id: Number
    stages: dict[str, Milliseconds]
    receiving_ms: Milliseconds = 0.0
    batch: Count = 1


class Failure(_Tagged, frozen=True):
    """The server could not finish this frame, or it was cancelled; the session continues.

    `waited_ms` is the time since the request had arrived completely.
    """

    id: Number
    reason: Text
    waited_ms: Milliseconds = 0.0


class Attach(_Tagged, frozen=True):
    """The first message on a control connection: the session that it belongs to."""

    session: Text


class Probe(_Tagged, frozen=True):
    """Answer at once; the payload only has a size."""

    id: Number


class Probed(_Tagged, frozen=True):
    """The answer to a probe; `receiving_ms` as in Reply."""

    id: Number
    receiving_ms: Milliseconds = 0.0


class Check(_Tagged, frozen=True):
    """Ask how many bytes of the data connection have arrived."""

    id: Number


class Checked(_Tagged, frozen=True):
    """The answer to a check: bytes of the data connection that the server has read and written.

    `reading` is false while the server takes no bytes for want of memory.
    """

    id: Number
    received: Number
    written: Number
    reading: bool = True


class ZoneTotal(Closed, frozen=True):
    """The energy of one zone since the server's sampler started, as `measure/energy` counts it."""

    component: Text
    zone: Text
    source: Text
    kind: Text
    tick: Amount
    joules: Amount
    readings: Number
    gaps: Number = 0


class Meter(_Tagged, frozen=True):
    """Read the energy sensors now: a window begins or ends."""

    id: Number


class Metered(_Tagged, frozen=True):
    """The answer: the totals at `now`, in seconds of the server's clock; and how busy the server's
    machine has been so far, by figure (`measure/usage.py`), and its largest resident memory. Totals
    of different `counter_id` have nothing in common.
    """

    id: Number
    counter_id: Text
    now: Amount
    zones: Annotated[tuple[ZoneTotal, ...], Meta(max_length=256)] = ()
    samples: Number = 0
    mean: Loads = field(default_factory=dict)
    largest: Loads = field(default_factory=dict)
    memory_bytes: Number | None = None


class Time(_Tagged, frozen=True):
    """Ask how long the operations of the network take at the server."""

    id: Number


class OperationTime(Closed, frozen=True):
    """The time of one operation of the network, from so many readings."""

    mean_ms: Milliseconds
    p95_ms: Milliseconds
    readings: Number


class Timed(_Tagged, frozen=True):
    """The answer: the operations in order; none if their times are not known."""

    id: Number
    operations: Annotated[tuple[OperationTime, ...], Meta(max_length=8192)] = ()


class Prepare(_Tagged, frozen=True):
    """Make what the tail at `cut` needs before its first request. Sent only to a server whose
    runtime makes anything.
    """

    id: Number
    cut: Number


class Prepared(_Tagged, frozen=True):
    """The answer: the tail is ready, or `reason` says why it cannot be."""

    id: Number
    reason: Text = ""


class Cancel(_Tagged, frozen=True):
    """The edge does not need these replies any more; requests that have not begun are dropped."""

    ids: Annotated[tuple[Number, ...], Meta(max_length=4096)]


class Goodbye(_Tagged, frozen=True):
    """The server stops; requests without a reply stay unanswered."""

    reason: Text


Message = (
    Hello
    | Welcome
    | Refusal
    | Request
    | Reply
    | Failure
    | Attach
    | Probe
    | Probed
    | Check
    | Checked
    | Meter
    | Metered
    | Time
    | Timed
    | Prepare
    | Prepared
    | Cancel
    | Goodbye
)


class _Header(Closed, frozen=True, omit_defaults=True):
    """`codings` describe how each buffer is encoded; empty if none is."""

    message: Message
    payload: PayloadHeader = NOTHING.header
    codings: tuple[BufferCoding, ...] = ()


def _plain(value: Any) -> Any:
    if not isinstance(value, Profile):
        raise TypeError(f"a {type(value).__name__} has no place in a header")
    return value.model_dump(mode="json")


def _profile(_: type, content: Any) -> Profile:
    try:
        return validate(Profile, content, "all of it")
    except InvalidInput as error:
        raise ValueError(f"profile at {error}") from error


# msgspec: frames are written and read with cold caches, where pydantic takes seven times as long.
_WRITER = msgspec.json.Encoder(enc_hook=_plain)
_READER = msgspec.json.Decoder(_Header, dec_hook=_profile)


def encode(message: Message, payload: EncodedPayload = NOTHING) -> list[bytes | memoryview]:
    """One frame, in parts that can be sent without joining them."""
    text = _WRITER.encode(_Header(message, payload.header, payload.codings))
    if payload.buffers:  # the first one can then be used without a copy
        text = text.ljust(len(text) + -(_PREFIX.size + len(text)) % ALIGNMENT)
    return [_PREFIX.pack(_MAGIC, PROTOCOL, len(text)) + text, *payload.buffers]


def encoded_size(message: Message, payload: EncodedPayload = NOTHING) -> int:
    """Bytes of a message as `encode` writes it."""
    return sum(len(part) for part in encode(message, payload))


def decode(frame: bytes | bytearray | memoryview) -> tuple[Message, EncodedPayload]:
    """The message and its payload, whose buffers are views of `frame`.

    Raises ProtocolError for anything that `encode` of this version would not have written.
    """
    if len(frame) < _PREFIX.size:
        raise ProtocolError(f"a frame of {len(frame)} bytes is too short")
    magic, version, length = _PREFIX.unpack_from(frame)
    if magic != _MAGIC:
        raise ProtocolError("a frame does not start with this protocol's mark")
    if version != PROTOCOL:
        raise ProtocolError(f"the peer speaks protocol {version}, this end {PROTOCOL}")
    start = _PREFIX.size + length
    if length > MAX_HEADER or start > len(frame):
        raise ProtocolError(f"a header of {length} bytes in a frame of {len(frame)}")
    try:
        header = _READER.decode(memoryview(frame)[_PREFIX.size : start])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"a header is not valid: {error}") from error
    return header.message, _payload(header, memoryview(frame)[start:])


def _payload(header: _Header, body: memoryview) -> EncodedPayload:
    carried, codings = header.payload, header.codings
    sizes = [coding.size for coding in codings] if codings else carried.buffers
    if sum(sizes) != len(body):
        raise ProtocolError(f"buffers of {sum(sizes)} bytes announced, {len(body)} received")
    if len(sizes) != len(carried.buffers):
        raise ProtocolError(f"{len(carried.buffers)} buffers announced, {len(sizes)} described")
    check_structure(carried)
    buffers, start = [], 0
    for size in sizes:
        buffers.append(body[start : start + size])
        start += size
    return EncodedPayload(carried, codings, tuple(buffers))
