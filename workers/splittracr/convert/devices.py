"""tracr's devices file: the addresses of both ends, and the commands to start them here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from splittracr.convert import checks
from splittracr.convert.checks import Check
from splittracr.convert.notes import Note, Outcome, carried, dropped, replaced
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.explain import short

DEFAULT_PORT = 12345
_NO_SSH = "ssh has settings of its own; `splittracr run --on ssh://USER@HOST` uses them"

CONNECTION: Mapping[str, Check] = {
    "host": checks.text(),
    "user": checks.text(),
    "pkey_fp": checks.text(checks.MAX_PATH),
    "port": checks.integer(1, 65535),
    "ssh_port": checks.integer(1, 65535),
    "default": checks.boolean,
}
DEVICE: Mapping[str, Check] = {
    "device_type": checks.word("SERVER", "PARTICIPANT"),
    "connection_params": checks.listed(
        checks.mapping, "a list of connections, each with host, user and pkey_fp", 1, 64
    ),
}


@dataclass(frozen=True)
class Connection:
    """One address of a device, and its place in the file."""

    device: int
    number: int
    kind: str
    values: Mapping[str, Any]

    @property
    def server(self) -> bool:
        """Whether it is the server's."""
        return self.kind.upper() == "SERVER"

    @property
    def host(self) -> str:
        """Its name or address."""
        return str(self.values["host"])

    @property
    def port(self) -> int:
        """Its port for experiments."""
        return int(self.values.get("port") or DEFAULT_PORT)

    @property
    def default(self) -> bool:
        """Whether tracr tries it first."""
        return self.values.get("default") is not False


@dataclass(frozen=True)
class Devices:
    """The addresses of both ends."""

    connections: Sequence[Connection]

    @property
    def server(self) -> Connection:
        """The server's address that tracr tries first."""
        return self._first(server=True)[0]

    @property
    def edges(self) -> list[Connection]:
        """For each edge the address that tracr tries first."""
        return self._first(server=False)

    def _first(self, *, server: bool) -> list[Connection]:
        found: dict[int, Connection] = {}
        for one in sorted(self.connections, key=lambda one: not one.default):
            if one.server is server:
                found.setdefault(one.device, one)
        return [found[device] for device in sorted(found)]

    def notes(self) -> Iterator[Note]:
        """The outcome for each key."""
        for one in self.connections:
            above = f"devices[{one.device}]"
            if one.number == 0:
                outcome = replaced(f"`splittracr {'serve' if one.server else 'edge'}` runs there")
                yield Note(f"{above}.device_type", one.kind, outcome)
            for key, value in one.values.items():
                outcome = self._outcome(one, key, value)
                yield Note(f"{above}.connection_params[{one.number}].{key}", value, outcome)

    def _outcome(self, one: Connection, key: str, value: Any) -> Outcome:
        chosen = one is self.server
        match key:
            case "host" if one.server:
                return replaced("`splittracr serve --host` has it")
            case "host":
                return replaced("`splittracr edge` runs there; the server does not call it")
            case "port" if chosen and value is not None:
                return carried("server.port", value)
            case "port":
                return replaced(f"the server's port counts, {self.server.port}")
            case "default":
                return replaced(f"edges call {self.server.host}, the first --host")
            case _:
                return dropped(_NO_SSH)

    def commands(self, file: str) -> list[str]:
        """How to run the study in `file` on these machines, as lines of shell."""
        first = self.server.host  # which `serve` puts into the command for the edge
        hosts = [first, *(one.host for one in self.connections if one.server)]
        named = " ".join(f"--host {host}" for host in dict.fromkeys(hosts))
        edges = [one.host for one in self.edges]
        several = f" --set spec.edge.replicas={len(edges)}" if len(edges) > 1 else ""
        return [
            f"# On {first}:",
            f"splittracr serve {file} {named}{several}",
            f"# On {' and on '.join(edges) or 'the edge'}: the command that it prints"
            + (", one each." if several else "."),
        ]


def read(data: Any, origin: str) -> Devices:
    """The devices in a file of tracr. Raises InvalidInput naming file, key and value."""
    listed = data.get("devices") if isinstance(data, dict) else None
    if not isinstance(listed, list) or not listed:
        raise InvalidInput(origin, short(data), "a mapping with a list of devices")
    _known(data, {"devices": lambda _: None}, f"{origin}: ")
    connections: list[Connection] = []
    for i, device in enumerate(listed):
        where = f"{origin}: devices[{i}]"
        _known(device, DEVICE, f"{where}.")
        _there(device, ("device_type", "connection_params"), where)
        for k, values in enumerate(device["connection_params"]):
            here = f"{where}.connection_params[{k}]"
            _known(values, CONNECTION, f"{here}.")
            _there(values, ("host", "user", "pkey_fp"), here)
            connections.append(Connection(i, k, device["device_type"], values))
    servers = {one.device for one in connections if one.server}
    if len(servers) != 1:
        raise InvalidInput(f"{origin}: devices", f"{len(servers)} of type SERVER", "one of them")
    return Devices(connections)


def _known(data: Any, keys: Mapping[str, Check], before: str) -> None:
    if not isinstance(data, dict):
        raise InvalidInput(before.rstrip(".: "), short(data), f"a mapping with {', '.join(keys)}")
    for key, value in data.items():
        if key not in keys:
            raise InvalidInput(f"{before}{key}", short(value), f"a known key, {nearest(key, keys)}")
        expected = None if value is None else keys[key](value)
        if expected is not None:
            raise InvalidInput(f"{before}{key}", short(value), expected)


def _there(data: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in keys:
        if data.get(key) is None:
            raise InvalidInput(f"{where}.{key}", None, "a value, it is required")
