"""Parts of a graph of ONNX whose nodes have branches."""

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from splittracr.backends.onnx import sessions
from splittracr.backends.onnx.graph import Graph, Value
from splittracr.experiment.errors import SplittracrError

SHAPE = (2, 3)
WEIGHT = np.full(SHAPE, 2.0, np.float32)
DEEP = 2
"""Branches that are inside of each other."""


@pytest.fixture(autouse=True)
def one_pool() -> None:
    sessions.use_threads(1)


def described(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, SHAPE)


def choice(name: str, operation: str, deep: int) -> NodeProto:
    """An `If` whose branches read values from around them, one through an Identity."""
    made = f"{name}.made"
    inner = (
        choice(made, operation, deep - 1)
        if deep > 1
        else helper.make_node(operation, ["relu.same", "weight"], [made])
    )
    other = helper.make_node("Neg", ["x"], [f"{name}.other"])
    branches = {
        "then_branch": helper.make_graph([inner], "then", [], [described(made)]),
        "else_branch": helper.make_graph([other], "else", [], [described(f"{name}.other")]),
    }
    return helper.make_node("If", ["positive"], [name], **branches)


def model() -> ModelProto:
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Identity", ["relu"], ["relu.same"]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        choice("chosen", "Add", DEEP),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT, "weight"),
        numpy_helper.from_array(np.zeros((), np.float32), "zero"),
    ]
    made = helper.make_graph(nodes, "all", [described("x")], [described("chosen")], constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(part: bytes, **inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False
    session = onnxruntime.InferenceSession(part, options, providers=["CPUExecutionProvider"])
    (made,) = session.run(None, inputs)
    return np.asarray(made)


@pytest.mark.parametrize("sign", [1, -1])
def test_branches_read_what_is_around_them(sign: int) -> None:
    x = sign * np.arange(6, dtype=np.float32).reshape(SHAPE)
    relu = np.maximum(x, 0)
    graph = Graph(model(), {})
    values = {name: Value(name, "float32", SHAPE) for name in ("x", "relu", "chosen")}
    head = graph.part([values["x"]], [values["relu"]])
    assert np.array_equal(run(head.model, x=x), relu)
    tail = graph.part([values["x"], values["relu"]], [values["chosen"]])
    expected = relu + WEIGHT if sign > 0 else -x
    assert np.array_equal(run(tail.model, x=x, relu=relu), expected)
    whole = graph.part([values["x"]], [values["chosen"]])
    assert np.array_equal(run(whole.model, x=x), expected)


def test_a_part_without_all_that_it_reads_is_refused() -> None:
    relu, chosen = (Value(name, "float32", SHAPE) for name in ("relu", "chosen"))
    with pytest.raises(SplittracrError, match="merged operations of both sides of a cut"):
        Graph(model(), {}).part([relu], [chosen])
