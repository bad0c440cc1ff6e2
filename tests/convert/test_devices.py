"""tracr's devices file."""

import copy
from typing import Any

import pytest

from splittracr.convert.devices import CONNECTION, DEVICE, read
from splittracr.experiment.errors import InvalidInput
from tests.convert.tracr_files import DEVICES, converted, data

CONFIG = data("alexnetsplit")
TWO: Any = data(DEVICES.stem)


def server(**values: Any) -> dict[str, Any]:
    """A server's entry."""
    plain = {"host": "192.0.2.7", "user": "me", "pkey_fp": "key.rsa"}
    return {"device_type": "SERVER", "connection_params": [plain | values]}


def test_every_key_has_one_fate() -> None:
    notes = [note.key for note in converted(CONFIG, TWO).notes if note.key.startswith("devices")]
    keys = [
        f"devices[{i}].{key}"
        for i, device in enumerate(TWO["devices"])
        for key in (
            "device_type",
            *(
                f"connection_params[{k}].{name}"
                for k, values in enumerate(device["connection_params"])
                for name in values
            ),
        )
    ]
    assert sorted(notes) == sorted(keys)
    assert {key.rpartition(".")[2] for key in keys} == {*CONNECTION, *DEVICE} - {
        "connection_params"
    }


def test_the_servers_port_is_carried_over() -> None:
    assert converted(CONFIG, TWO).manifest["spec"]["server"]["port"] == 12345


def test_commands_for_both_machines() -> None:
    assert read(TWO, "devices.yaml").commands("study.yaml") == [
        "# On 192.168.1.100:",
        "splittracr serve study.yaml --host 192.168.1.100 --host 10.0.0.100",
        "# On 192.168.1.101: the command that it prints.",
    ]


def test_several_edges_have_a_command_each() -> None:
    devices = {
        "devices": [
            server(host="2001:db8::7", port=9000),
            *({**server(host=f"192.0.2.{i}"), "device_type": "participant"} for i in (8, 9)),
        ]
    }
    assert read(devices, "devices.yaml").commands("s.yaml")[1:] == [
        "splittracr serve s.yaml --host 2001:db8::7 --set spec.edge.replicas=2",
        "# On 192.0.2.8 and on 192.0.2.9: the command that it prints, one each.",
    ]


def test_the_default_address_comes_first_and_a_missing_port_is_the_seeds() -> None:
    both = server()
    both["connection_params"] = [
        {**both["connection_params"][0], "default": False},
        {**both["connection_params"][0], "host": "198.51.100.7"},
    ]
    found = read({"devices": [both]}, "devices.yaml")
    assert (found.server.host, found.server.port) == ("198.51.100.7", 12345)


def spoilt(path: list[Any], value: Any) -> Any:
    """The devices with another value at `path`."""
    made = copy.deepcopy(TWO)
    target = made
    for part in path[:-1]:
        target = target[part]
    target[path[-1]] = value
    return made


FIRST = ["devices", 0, "connection_params", 0]


TYPE, CONNECTIONS = ["devices", 0, "device_type"], ["devices", 0, "connection_params"]
BAD = [
    (spoilt(TYPE, "PHONE"), "devices[0].device_type: got 'PHONE', expected one of SERVER, PART"),
    (spoilt(["devices", 1, *TYPE[2:]], "SERVER"), "devices: got '2 of type SERVER', expected one"),
    (spoilt(["devices", 0, "typ"], 1), "devices[0].typ: got 1, expected a known key"),
    (spoilt(CONNECTIONS, []), "devices[0].connection_params: got [], expected a list of conn"),
    (spoilt([*FIRST, "port"], 70000), "[0].connection_params[0].port: got 70000, expected an int"),
    (
        spoilt([*FIRST, "host"], None),
        "[0].connection_params[0].host: got nothing, expected a value",
    ),
    (spoilt([*FIRST, "hosts"], "x"), "[0].hosts: got 'x', expected a known key, one of: host"),
    (spoilt(["device"], 1), "device: got 1, expected a known key, one of: devices"),
    ({"devices": 3}, "got {'devices': 3}, expected a mapping with a list of devices"),
    ({"devices": [3]}, "devices[0]: got 3, expected a mapping with device_type"),
    (None, "got nothing, expected a mapping with a list of devices"),
]


@pytest.mark.parametrize(("devices", "message"), BAD)
def test_errors_name_file_key_value_and_what_was_expected(devices: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as error:
        read(devices, "devices.yaml")
    assert str(error.value).startswith("devices.yaml: ")
    assert message in str(error.value)
