"""Exits of the model over a real server: what they are sure of ends there, the rest goes on."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from splittracr.edge import exits
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.study import StudyRunner
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Place, Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Decision, Scheduled
from splittracr.planning.schedule import Step, Trial, order, trials
from splittracr.server.worker import Server
from splittracr.wire.identity import difference
from tests.edge.local import Counts
from tests.scrape import scraped
from tests.workers.exit_samples import CUT, FILE, FIRST, SECOND, trained
from tests.workers.pair import (
    Small,
    Tensors,
    count_operations,
    opened,
    proven,
    run_frames,
    serving,
    spec,
    within,
)

FRAMES = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with trained exits at both cuts."""
    return trained(tmp_path_factory.mktemp("exits"))


def of(cut: int = CUT, sections: dict[str, object] | None = None, **more: object) -> ExperimentSpec:
    """A study in mode Cascade; keyword arguments are keys of `cascade`."""
    keys = {"exits": FILE, "statistic": "Margin", "thresholdPerMillion": 1, **more}
    partition = {"mode": "Cascade", "cut": cut, "cascade": keys}
    return spec(partition=partition, **(sections or {}))


def best(folder: Path, index: int, number: int) -> tuple[int, int]:
    """First class and margin (millionths) of exit `number`, without a tape."""
    tensors = load_file(folder / FILE)
    data = Tensors().load(index).data
    assert data is not None
    with torch.inference_mode():
        live = Small().eval().body[: 1 if number == 0 else 3](data[None] / 255)
        weight, bias = tensors[f"{number}.weight"], tensors[f"{number}.bias"]
        scores = functional.linear(live.mean((2, 3)), weight, bias).softmax(1)[0]
    first, second = scores.sort(descending=True)[0][:2].tolist()
    return int(scores.argmax()), int(1e6 * (first - second))


def large(index: int) -> int:
    data = Tensors().load(index).data
    assert data is not None
    with torch.inference_mode():
        return int(Small().eval()(data[None]).argmax())


def median(folder: Path) -> int:
    """A threshold at which some samples are answered at each exit, and some at none."""
    firsts = sorted(best(folder, i, 0)[1] for i in range(8))
    return firsts[4]


def run(
    wanted: ExperimentSpec, folder: Path, ran: list[str] | None = None
) -> tuple[list[Record], exits.AtExits, EdgeMetrics]:
    """The records of a study over a real server, its exits and its metrics.

    `ran` gets the operations that the edge runs for the samples.
    """
    records: list[Record] = []
    own, metrics = proven(wanted), EdgeMetrics()
    place = own.cut(wanted.partition.static_cut or 0).index
    first = exits.built(wanted, own, folder)
    if ran is not None:
        count_operations(own, ran)

    async def body() -> None:
        async with AsyncExitStack() as stack:
            server = Server(proven(wanted), wanted, None)
            url, _ = await stack.enter_async_context(serving(server))
            link = await stack.enter_async_context(opened(url, own, wanted))
            chooser = Scheduled(wanted, own.network.pictures)
            worker = StudyRunner(own, wanted, Tensors(), link, metrics, chooser, first)
            stack.callback(worker.close)
            metrics.cascade(first.calibrated, first.kind)
            metrics.planned(FRAMES, [])
            steps = order(trials([place], 1), FRAMES, 0)
            async for done in worker.run(steps, FRAMES, asyncio.Event()):
                made = worker.records(done, "u", "edge-0")
                records.extend(made)
                for record in made:
                    metrics.recorded(record)

    within(body())
    return records, first, metrics


def answer(record: Record) -> int:
    found: int = record.prediction[0]["class"]
    return found


def names(*indices: int) -> Sequence[str]:
    cuts = proven(spec()).proof.cuts
    return [cuts[index].name for index in indices]


def test_a_sample_ends_at_the_first_exit_that_is_sure_enough(folder: Path) -> None:
    threshold = median(folder)
    records, _, metrics = run(of(thresholdPerMillion=threshold, auditPercent=0), folder)
    assert [record.sample for record in records] == list(range(FRAMES))
    at = names(FIRST, SECOND, CUT)
    for record in records:
        tried = [best(folder, record.sample % 8, number) for number in (0, 1)]
        sure = [number for number, (_, margin) in enumerate(tried) if margin >= threshold]
        number = sure[0] if sure else None
        exited = number is not None
        assert record.network == ("exit" if exited else "large")
        assert record.cut == at[2 if number is None else number]
        expected = large(record.sample % 8) if number is None else tried[number][0]
        assert answer(record) == expected
        margins = [margin for _, margin in tried[: 1 if number == 0 else 2]]
        assert record.sureness == pytest.approx(max(margins), abs=1)
        assert record.finished_on is (Place.EDGE if exited else Place.SERVER)
        assert (record.bytes_up == 0) is exited
        assert record.total_ms == pytest.approx(sum(record.stages.values()))
        assert {"load", "prepare", "head", "exit"} <= set(record.stages)
        assert ("link" in record.stages) is not exited
        assert record.top1 is (answer(record) == record.sample % 8)
    kinds = [record.network for record in records]
    assert {"exit", "large"} == set(kinds)
    seen = scraped(metrics.exposition).of("splittracr_cascade_samples_total", "network")
    assert seen == {("exit",): kinds.count("exit"), ("large",): kinds.count("large")}


@pytest.mark.parametrize("cut", [0, CUT])
def test_a_sample_that_goes_on_is_answered_bit_for_bit_as_by_the_whole_network(
    cut: int, folder: Path
) -> None:
    raw: dict[str, object] = {"results": {"outputs": "Raw"}}
    records, _, _ = run(of(cut, raw, thresholdPerMillion=1_000_001), folder)
    assert {(record.network, record.cut_index) for record in records} == {("large", cut)}
    assert {record.finished_on for record in records} == {Place.SERVER}
    plain = spec(partition={"mode": "Static", "cut": cut}, **raw)
    digests: dict[int, str | None] = {}

    async def body() -> None:
        async with serving(Server(proven(plain), plain, None)) as (url, _):
            done = await run_frames(url, proven(plain), plain, [cut], FRAMES)
        for frame in done.frames:
            for record in done.worker.records(frame, "u", "edge-0"):
                digests[record.sample] = record.output_digest

    within(body())
    assert None not in digests.values()
    assert {record.sample: record.output_digest for record in records} == digests


@pytest.mark.parametrize(
    ("threshold", "cut", "last"),
    [(1, CUT, FIRST), (1, 0, FIRST), (1_000_001, CUT, CUT), (1_000_001, 0, SECOND)],
)  # all are sure, or none is
def test_no_operation_runs_twice(threshold: int, cut: int, last: int, folder: Path) -> None:
    ran: list[str] = []
    run(of(cut, thresholdPerMillion=threshold, auditPercent=0), folder, ran)
    operations = [op.name for op in proven(spec()).tape.ops]
    assert ran == operations[:last] * FRAMES


def test_audits_go_on_from_the_exit_and_leave_the_answer(folder: Path) -> None:
    ran: list[str] = []
    wanted = of(auditPercent=100, maxDisagreementPerMillion=50_000)
    records, first, metrics = run(wanted, folder, ran)
    agreeing = [best(folder, i, 0)[0] == large(i) for i in range(8)] * 2
    assert [record.audit == "agrees" for record in records] == agreeing
    assert first.calibrated.audit.disagreeing == agreeing.count(False)
    for record in records:
        assert answer(record) == best(folder, record.sample % 8, 0)[0]
        assert (record.network, record.cut) == ("exit", names(FIRST)[0])
        assert record.bytes_up > 0
        assert "tail" not in record.stages
    assert len(ran) == CUT * FRAMES
    seen = scraped(metrics.exposition).of("splittracr_cascade_audits_total", "outcome")
    assert seen["disagrees",] == agreeing.count(False)


def test_a_sample_that_cannot_be_loaded_fails_once(folder: Path) -> None:
    async def body() -> None:
        own, counts = proven(of()), Counts()
        first, options = exits.built(of(), own, folder), Options(pipelined=False)
        runs = Inferencer(first.backend, None, counts, options)
        try:
            load = partial(Tensors(broken=[3]).load, 3)
            tried = await first.answer(runs, load, Decision(CUT), None)
        finally:
            runs.close()
        assert (tried.answer, tried.rest, tried.sureness) == (None, None, 0)
        assert tried.result.failures == {0: "ValueError: tensor-3 is broken"}
        assert tried.result.cut.index == CUT

    within(body())


def test_the_edge_alone_can_finish_what_no_exit_is_sure_of(folder: Path) -> None:
    async def body() -> None:
        own = proven(of())
        last = own.proof.last
        wanted = of(cut=last, thresholdPerMillion=1_000_001)
        first, options = exits.built(wanted, own, folder), Options(pipelined=True)
        worker = StudyRunner(
            own, wanted, Tensors(), None, EdgeMetrics(), Scheduled(wanted, False), first
        )
        steps = [Step(Trial(0, last, 0), frame) for frame in range(8)]
        try:
            async for done in worker.run(steps, 8, asyncio.Event()):
                (record,) = worker.records(done, "u", "edge-0")
                assert answer(record) == large(record.sample)
                assert (record.network, record.cut) == ("large", "output")
        finally:
            worker.close()
        assert options.pipelined

    within(body())


@pytest.mark.parametrize("cut", [1, FIRST, SECOND])
def test_the_cut_is_input_or_after_all_exits(cut: int, folder: Path) -> None:
    (name,) = names(cut)
    expected = rf"got '{name}', expected input, or a cut after .* body\.2 \(4\)"
    with pytest.raises(InvalidInput, match=expected):
        exits.built(of(cut), proven(of()), folder)
    assert exits.built(of(SECOND + 1), proven(of()), folder).last_exit.index == SECOND


@pytest.mark.parametrize(
    ("sections", "more", "expected"),
    [
        ({}, {"exits": "other.safetensors"}, r"cascade\.exits: got .*there is no such file"),
    ],
)
def test_bad_input_names_the_field_of_the_manifest(
    sections: dict[str, object], more: dict[str, object], expected: str, folder: Path
) -> None:
    wanted = of(CUT, sections, **more)
    with pytest.raises(InvalidInput, match=expected):
        exits.built(wanted, proven(of()), folder)


def test_servers_need_no_exits(folder: Path) -> None:
    edge = exits.built(of(), proven(of()), folder).backend
    assert difference(edge.identity, proven(spec()).identity) is None
