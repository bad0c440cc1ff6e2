"""Each stage alone: a value in, a value out, and what becomes of samples that fail."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from splittracr.data.contracts import Sample
from splittracr.edge import stages
from splittracr.edge.frame import Batch, Encoded, Failed, Given, HeadDone, Loaded
from splittracr.edge.stages import then
from splittracr.experiment.codec import Codec
from splittracr.planning.decision import Decision
from tests.edge.local import Counts, frame, given, pipeline, samples
from tests.workers.pair import proven, spec

CUT = 2  # the ReLU after it writes into its input


def loaded(count: int) -> Loaded:
    own = proven(spec(workload={"batchSize": count}))
    made = stages.load(pipeline(own), frame(own, Decision(CUT)), given(count))
    assert isinstance(made, Loaded)
    return made


def broken() -> Sample:
    raise ValueError("broken")


def test_a_failed_sample_is_replaced_by_a_good_one_and_named() -> None:
    own = proven(spec(workload={"batchSize": 3}))
    good, odd = samples(1)[0], Sample("odd", data=torch.zeros(1))
    value = Given(Batch(3), [broken, good, odd])
    made = stages.load(pipeline(own), frame(own, Decision(CUT)), value)
    assert isinstance(made, Loaded)
    assert made.tensor.shape == (3, 3, 8, 8)
    assert torch.equal(made.tensor[0], made.tensor[1])
    assert list(made.batch.usable) == [1]
    assert made.batch.failures[0] == "ValueError: broken"
    assert made.batch.failures[2].startswith("odd became torch.float32 [1]")


def test_a_batch_without_a_good_sample_has_failed() -> None:
    own = proven(spec(workload={"batchSize": 2}))
    made = stages.load(pipeline(own), frame(own, Decision(CUT)), Given(Batch(2), [broken, broken]))
    assert made == Failed("ValueError: broken", {0: "ValueError: broken", 1: "ValueError: broken"})


def test_a_sample_may_be_loaded_by_a_function() -> None:
    own = proven(spec())
    (sample,) = samples(1)
    at = (pipeline(own), frame(own, Decision(CUT)))
    value = stages.load(*at, Given(Batch(1), [lambda: sample]))
    assert isinstance(value, Loaded)
    assert value.batch.usable[0].sample is sample


def test_an_error_fails_all_samples_that_had_not_failed_and_skips_the_next_stage() -> None:
    value = replace(loaded(1), batch=Batch(3, {}, {1: "broken"}))

    def raising(_: Loaded) -> HeadDone:
        raise KeyError("x")

    def never(_: HeadDone) -> Loaded:
        raise AssertionError("a failed frame has no next stage")

    end = then(then(value, raising), never)
    assert end == Failed("KeyError: 'x'", {0: "KeyError: 'x'", 1: "broken", 2: "KeyError: 'x'"})


def test_code_that_exits_fails_its_frame_only() -> None:
    def exiting(_: Loaded) -> HeadDone:
        raise SystemExit(3)

    end = then(loaded(1), exiting)
    assert isinstance(end, Failed)
    assert "called sys.exit(3)" in end.reason


@pytest.mark.parametrize("raw", [False, True])
def test_every_way_to_the_answer_gives_the_same_one(*, raw: bool) -> None:
    own = proven(spec())
    line = pipeline(own, raw=raw)
    whole, split = frame(own, Decision(own.proof.last)), frame(own, Decision(CUT))
    value = loaded(1)
    at_once = stages.output(line, whole, stages.head(line, whole, value))
    kept = stages.packed(line, split, stages.head(line, split, value))
    before = bytes(kept.live.buffers[0])
    first, again = (stages.tail(line, split, kept) for _ in range(2))
    assert bytes(kept.live.buffers[0]) == before, "it may still have to be sent"
    assert at_once.digest == first.digest == again.digest
    assert (at_once.digest is not None) == raw
    assert at_once.predictions[0].described == first.predictions[0].described
    assert set(whole.watch.stages) >= {"head", "reduce", "finish"}
    assert "tail" not in whole.watch.stages
    assert "tail" in split.watch.stages


def test_operations_and_bytes_are_counted() -> None:
    own, counts = proven(spec()), Counts()
    line = replace(pipeline(own), counters=counts)
    at = frame(own, Decision(CUT, codec=Codec.parse("uint8")))
    kept = stages.packed(line, at, stages.head(line, at, loaded(1)))
    sent = then(kept, partial(stages.encoded, line, at))
    assert isinstance(sent, Encoded)
    assert counts.raw_bytes == kept.live.nbytes > sent.payload.nbytes
    assert counts.ran == CUT
    stages.tail(line, at, kept)
    assert counts.ran == own.proof.last
