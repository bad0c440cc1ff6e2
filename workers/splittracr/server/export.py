"""Hands the model to edges without PyTorch.

It is exported when the first of them asks, by a process of its own: the server's threads and
memory stay as they are. Files are served by digest and in parts, so that an edge goes on where a
broken link stopped it.
"""

import asyncio
import contextlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from splittracr.backends import exported
from splittracr.experiment import manifest
from splittracr.experiment.contracts import MODEL_PATH, REASON_HEADER, Runtime
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import SplitExperiment
from splittracr.results.files import write_atomically

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 2.0
_EXPORTING = "the server exports the model"


class ModelExport:
    """The routes for the model of `experiment`, whose relative paths start at `base`.

    `admit` raises what an edge gets that may not have it.
    """

    def __init__(
        self, experiment: SplitExperiment, base: Path, admit: Callable[[web.Request], None]
    ) -> None:
        self._experiment, self._base, self._admit = experiment, base, admit
        self._temporary: Path | None = None
        self._exporting: asyncio.Task[_Exported] | None = None

    def add_routes(self, app: web.Application) -> None:
        """The description, and the files."""
        app.router.add_get(MODEL_PATH, self._describe)
        app.router.add_get(f"{MODEL_PATH}/{{digest}}/{{name}}", self._send)
        app.on_cleanup.append(self._clean_up)

    async def _describe(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        return web.FileResponse((await self._exported()).folder / exported.INDEX)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        model = await self._exported()
        name = request.match_info["name"]
        if request.match_info["digest"] != model.digest or name not in exported.FILES:
            raise web.HTTPNotFound(text=f"the server has no {name} of this digest")
        return web.FileResponse(model.folder / name)

    async def _exported(self) -> "_Exported":
        """The model, which is exported first. Raises an answer if it is not there."""
        if self._experiment.spec.edge.runtime is not Runtime.ONNX_RUNTIME:
            raise _conflict("spec.edge.runtime is not OnnxRuntime at the server")
        if self._exporting is None:
            self._exporting = asyncio.create_task(self._export())
        await asyncio.wait([self._exporting], timeout=_PATIENCE_SECONDS)
        if not self._exporting.done():
            raise web.HTTPServiceUnavailable(
                text=_EXPORTING, headers={REASON_HEADER: _EXPORTING, "Retry-After": "1"}
            )
        try:
            return self._exporting.result()
        except (SplittracrError, OSError) as error:
            raise _conflict(str(error)) from error

    async def _export(self) -> "_Exported":
        log.info("exporting the model for an edge without PyTorch")
        self._temporary = folder = Path(tempfile.mkdtemp(prefix="splittracr-model-"))
        study = folder / "study.yaml"
        write_atomically(study, manifest.dump(self._experiment).encode())
        arguments = ["export", str(study), "--base", str(self._base), "--out", str(folder)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "splittracr", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, words = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            reason = " ".join(words.decode(errors="replace").rpartition("Error ")[2].split())
            raise SplittracrError(reason[-2000:] or f"the export ended: {process.returncode}")
        model = await asyncio.to_thread(exported.read, folder, "the exported model")
        log.info("the model is exported, %d bytes", sum(one.bytes for one in model.files.values()))
        return _Exported(folder, model.digest)

    async def _clean_up(self, _: web.Application) -> None:
        if self._exporting is not None:
            self._exporting.cancel()
            await asyncio.wait([self._exporting])
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


@dataclass(frozen=True)
class _Exported:
    folder: Path
    digest: str


def _conflict(reason: str) -> web.HTTPConflict:
    return web.HTTPConflict(text=reason, headers={REASON_HEADER: " ".join(reason.split())[:2000]})
