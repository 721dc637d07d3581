"""A real JupyterLab, driven by a real Chromium: what a student sees and does.

Left out, with one line of why, where Chromium or Playwright is missing. Each test has a page and a
folder of notebooks of its own; all share one server.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PATIENCE = 180_000  # milliseconds, on a machine that does other things too

sync_api = None
with suppress(ImportError):
    from playwright import sync_api  # type: ignore[no-redef]

NEEDED = {"Chromium": CHROMIUM, "package playwright": sync_api}
MISSING = [name for name, there in NEEDED.items() if not there]

# Awaited before anything is run: earlier, "run all cells" answers true and runs nothing.
READY = """async () => {
  const widget = window.jupyterapp && window.jupyterapp.shell.currentWidget;
  if (!widget || !widget.context) return false;
  await widget.context.ready;
  await widget.sessionContext.ready;
  const session = widget.sessionContext.session;
  if (!session || !session.kernel) return false;
  await session.kernel.info;
  return true;
}"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves the browser tests out, and says why, where something they need is missing."""
    here = Path(__file__).parent
    for item in items:
        if MISSING and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no {' and no '.join(MISSING)}"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    running = Server(tmp_path_factory.mktemp("lab"))
    try:
        running.wait()
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Root, as which servers run tests, has to do without the sandbox.
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def lab(server: "Server", browser: Any) -> Iterator["Lab"]:
    lab = Lab(server, browser)
    yield lab
    lab.close()


class Server:
    """JupyterLab on a free port, with settings, kernels and files in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        self.files = folder / "files"
        self.files.mkdir()
        with closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        own = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}
        own |= {"JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
        paths = {
            "JUPYTER_PATH": [str(Path(sys.prefix, "share", "jupyter"))],
            "PYTHONPATH": [str(ROOT)],
        }
        variables = {name: str(folder / place) for name, place in own.items()}
        variables |= {
            name: os.pathsep.join([*some, *filter(None, [os.environ.get(name)])])
            for name, some in paths.items()
        }
        options = [
            f"--ServerApp.port={self.port}",
            "--ServerApp.port_retries=0",
            f"--ServerApp.root_dir={self.files}",
            f"--IdentityProvider.token={self.token}",
            "--ServerApp.open_browser=False",
            "--ServerApp.allow_root=True",
            "--LabApp.expose_app_in_browser=True",
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | variables | {"OMP_NUM_THREADS": "1"},
            stdout=self.log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )

    def wait(self) -> None:
        until = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < until and self.process.poll() is None:
            with suppress(OSError):
                self.ask("api/status")
                return
            time.sleep(0.2)
        raise RuntimeError(f"JupyterLab did not start: {(self.folder / 'log').read_text()[-2000:]}")

    def ask(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}/{path}?token={self.token}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or "null")

    def end_kernels(self) -> None:
        for kernel in self.ask("api/kernels"):
            self.ask(f"api/kernels/{kernel['id']}", "DELETE")

    def close(self) -> None:
        with suppress(OSError):
            self.end_kernels()
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


class Lab:
    """A notebook open in JupyterLab."""

    def __init__(self, server: Server, browser: Any) -> None:
        self.server = server
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000})
        self.context.set_default_timeout(PATIENCE)
        self.folder = Path(server.files, secrets.token_hex(4))
        self.folder.mkdir()

    def open(self, notebook: Path, change: Callable[[str], str] = str) -> None:
        """Copy a notebook, its text changed, and open it, all of it rendered, its kernel ready."""
        text = change(notebook.read_text(encoding="utf-8"))
        (self.folder / notebook.name).write_text(text, encoding="utf-8")
        self.visit(notebook.name)

    def visit(self, name: str) -> None:
        self.page = self.context.new_page()
        place = (self.folder / name).relative_to(self.server.files)
        url = f"{self.server.url}/lab/workspaces/{self.folder.name}/tree/{place}"
        self.page.goto(f"{url}?reset&token={self.server.token}")
        self.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell")
        self.poll(lambda: self.page.evaluate(READY), "the notebook opens")

    def turn_to(self, name: str) -> None:
        """Open another file in the same page, without a kernel."""
        self.page.evaluate(
            """async path => {
              const app = window.jupyterapp;
              const options = {path, kernelPreference: {shouldStart: false, canStart: false}};
              const opened = await app.commands.execute('docmanager:open', options);
              await opened.context.ready;
            }""",
            str((self.folder / name).relative_to(self.server.files)),
        )

    def restart(self) -> None:
        """A new kernel, without the question whether one is sure."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )

    def source(self, index: int, change: Callable[[str], str]) -> None:
        """Change the text of a cell."""
        cell = f"window.jupyterapp.shell.currentWidget.content.widgets[{index}].model.sharedModel"
        text = self.page.evaluate(f"() => {cell}.getSource()")
        self.page.evaluate(f"text => {cell}.setSource(text)", change(text))

    def find(self, index: int, selector: str) -> Any:
        """Where a cell has that, brought into view."""
        self.page.evaluate(
            "index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index)", index
        )
        return self.page.locator(f'.jp-Cell[data-windowed-list-index="{index}"]').locator(selector)

    def command(self, name: str, **options: Any) -> Any:
        return self.page.evaluate(
            "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => 0)",
            [name, options],
        )

    def run_all(self, but: int = 0) -> None:
        """Run the cells, all but the last few, and wait for the end."""
        for index in range(self.count() - but):
            self.run(index)

    def count(self) -> int:
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
        )

    def run(self, index: int) -> None:
        """Run one cell and wait for its end."""
        self.begin(index)
        self.wait_for_cell(index)

    def begin(self, index: int) -> None:
        self.page.evaluate(
            "index => { const notebook = window.jupyterapp.shell.currentWidget.content;"
            " notebook.deselectAll(); notebook.activeCellIndex = index; }",
            index,
        )
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell'); }")

    def wait_for_cell(self, index: int) -> None:
        done = lambda: self.cell(index)["state"] == "done"  # noqa: E731
        self.poll(done, f"cell {index} ends")
        errors = [out["evalue"] for out in self.cell(index)["outputs"] if "evalue" in out]
        assert not errors, f"cell {index}: {errors}"

    def cell(self, index: int) -> dict[str, Any]:
        """State and outputs, from the model: what is off the screen is not in the page."""
        return self.page.evaluate(
            """index => {
              const cell = window.jupyterapp.shell.currentWidget.content.widgets[index];
              if (cell.model.type !== 'code') return {state: 'done', outputs: []};
              const outputs = cell.model.outputs.toJSON();
              const ended = cell.model.executionState === 'idle' && cell.model.executionCount;
              return {state: ended ? 'done' : 'waiting', outputs};
            }""",
            index,
        )

    def text(self, index: int) -> str:
        """What a cell has printed, and its outputs in words."""
        outputs = self.cell(index)["outputs"]
        said = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
        return "\n".join("".join(part) for part in said)

    def picture(self, index: int) -> str:
        """The last picture of a cell, as text that tells it from others."""
        outputs = self.cell(index)["outputs"]
        found = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
        return "".join(found[-1]) if found else ""

    def poll(self, ask: Callable[[], Any], what: str) -> Any:
        """Ask until the answer is yes."""
        until = time.monotonic() + PATIENCE / 1000
        while time.monotonic() < until:
            if answer := ask():
                return answer
            time.sleep(0.1)
        raise AssertionError(f"waited in vain until {what}")

    def close(self) -> None:
        self.context.close()
        self.server.end_kernels()
