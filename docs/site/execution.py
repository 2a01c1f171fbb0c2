"""Blocks of the pages, executed before Sphinx reads them: in forks of a process that has imported what pages import.

MyST-NB would start a Jupyter kernel for each page, which imports torch again. Here it finds the results in its cache.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import sys
import tempfile
import traceback
from base64 import b64encode
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from docs.site.markdown import with_blocks_and_tree

PRELOADED = (
    "matplotlib.pyplot",
    "IPython.core.interactiveshell",
    "llvmlite.binding",
    "skimage.data",
    "sympy",
    "torch.export",
)
"""Modules that are imported once for all pages.

None of them computes or starts a thread. Convolith is not among them: it would take every page for a forked child of a
program that uses it, in which torch computes networks.
"""
SLOWEST = 10
"""Number of pages whose times are printed."""

Output = dict[str, Any]
"""An output of a block, as a notebook stores it."""


class Result(NamedTuple):
    """What a page's blocks have shown: a list of outputs for each block, or the reason why they have not ended."""

    outputs: list[list[Output]]
    seconds: float
    error: str | None = None


def execute(app: Any, env: Any, pages: list[str]) -> None:
    """Execute the pages that Sphinx is about to read and whose blocks have changed; store what they show."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from nbformat import from_dict
    from sphinx.errors import ExtensionError

    cache, start = get_cache(app.config.nb_execution_cache_path), perf_counter()
    notebooks = {
        page: notebook for page in pages if (notebook := _notebook(app, page)) and not _is_cached(cache, notebook)
    }
    if not notebooks:
        return
    blocks = {
        page: [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        for page, notebook in notebooks.items()
    }
    results: dict[str, Result] = {}
    for page, result in run_all(blocks, app.parallel, app.config.nb_execution_timeout):
        results[page] = result
        if result.error is None:  # stored at once: a build that is interrupted goes on there
            notebook, outputs = notebooks[page], iter(result.outputs)
            notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    cell.outputs = [from_dict(output) for output in next(outputs)]
            bundle = CacheBundleIn(notebook, env.doc2path(page), data={"execution_seconds": result.seconds})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    _report(results, perf_counter() - start)
    errors = [f"{page}: {result.error}" for page, result in results.items() if result.error is not None]
    if errors:
        raise ExtensionError("\n\n".join(errors))


def _notebook(app: Any, page: str) -> Any:
    """Return a page as MyST-NB reads it; None for a page without blocks."""
    from myst_nb.core.read import create_nb_reader

    path = Path(app.env.doc2path(page))
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = with_blocks_and_tree(text, page)
    reader = create_nb_reader(str(path), app.env.myst_config, app.env.mystnb_config, text)
    return None if reader is None else reader.read(text)


def _is_cached(cache: Any, notebook: Any) -> bool:
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return False
    return True


def _report(results: dict[str, Result], seconds: float) -> None:
    """Print how long the blocks have taken, and the slowest pages."""
    print(f"blocks of {len(results)} pages executed in {seconds:.0f} s; the slowest:")  # noqa: T201 - what the command says
    slowest = sorted(results, key=lambda page: -results[page].seconds)[:SLOWEST]
    for page in slowest:
        print(f"{results[page].seconds:8.1f} s  {page}")  # noqa: T201 - likewise


def run_all(blocks: dict[str, list[str]], processes: int, limit: float) -> Iterator[tuple[str, Result]]:
    """Yield pages and their results as they end, each executed in a process of its own, a few at a time.

    Args:
        blocks: each page's blocks.
        processes: pages that are executed at the same time.
        limit: seconds that a page may take. One that takes longer is ended; where it was then goes to stderr.
    """
    fork = multiprocessing.get_context("forkserver")
    fork.set_forkserver_preload(list(PRELOADED))
    waiting = list(blocks)
    running: dict[Any, tuple[str, Any, float]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                page = waiting.pop()  # tutorials, the last ones, take longest
                receiver, sender = fork.Pipe(duplex=False)
                process = fork.Process(target=_run_page, args=(blocks[page], limit, sender), name=page)
                process.start()
                sender.close()
                running[receiver] = (page, process, perf_counter())
            ready: list[Any] = wait(list(running))
            for ended in ready:
                page, process, start = running.pop(ended)
                try:
                    result = ended.recv()
                    process.join()
                except EOFError:
                    process.join()
                    is_late = perf_counter() - start >= limit
                    error = (
                        f"it took over {limit:g} s" if is_late else f"its process ended: exit code {process.exitcode}"
                    )
                    result = Result([], perf_counter() - start, error)
                yield page, result
    finally:
        for _, process, _ in running.values():
            process.terminate()


def _run_page(blocks: Sequence[str], limit: float, sender: Connection) -> None:
    """Send the result of a page's blocks, which run in an empty folder."""
    faulthandler.dump_traceback_later(limit, exit=True, file=sys.__stderr__ or 2)
    home = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="convolith-page-", ignore_cleanup_errors=True) as folder:
        os.environ["IPYTHONDIR"] = str(Path(folder) / "ipython")  # the settings of this user do not belong on the pages
        (Path(folder) / "work").mkdir()
        os.chdir(Path(folder) / "work")
        try:
            sender.send(run_blocks(blocks))
        finally:
            os.chdir(home)
            sender.close()


def run_blocks(blocks: Sequence[str]) -> Result:
    """Execute blocks of Python one after another, as the cells of a notebook, until one raises an error."""
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    class Shell(InteractiveShell):  # type: ignore[misc]  # IPython is not always installed
        def enable_gui(self, gui: str | None = None) -> None:
            """Do nothing: figures become part of the page."""

    start, shell = perf_counter(), Shell.instance()
    shell.enable_matplotlib("inline")
    outputs: list[list[Output]] = []
    for block in blocks:
        with shell.display_trap, capture_output() as captured:  # the trap first: it would take results from the capture
            ended = shell.run_cell(block)
        error = ended.error_before_exec or ended.error_in_exec
        if error is not None:
            return Result(outputs, perf_counter() - start, "".join(traceback.format_exception(error)))
        shown = [_stream(name, text) for name in ("stdout", "stderr") if (text := getattr(captured, name))]
        outputs.append([*shown, *(_display(output.data, output.metadata) for output in captured.outputs)])
    return Result(outputs, perf_counter() - start)


def _stream(name: str, text: str) -> Output:
    return {"output_type": "stream", "name": name, "text": text}


def _display(data: dict[str, Any], metadata: dict[str, Any] | None) -> Output:
    texts = {kind: b64encode(value).decode() if isinstance(value, bytes) else value for kind, value in data.items()}
    return {"output_type": "display_data", "data": texts, "metadata": metadata or {}}
