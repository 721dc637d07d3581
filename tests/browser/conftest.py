"""Browser tests: a real JupyterLab driven by a real Chromium, as a student would use it.

Skipped with a reason if Chromium or Playwright is missing. Each test has its own page and notebook
folder; all tests share one server.
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
TIMEOUT = 180_000  # milliseconds; generous, because the machine may be busy

sync_api = None
with suppress(ImportError):
    from playwright import sync_api  # type: ignore[no-redef]

REQUIREMENTS = {"Chromium": CHROMIUM, "package playwright": sync_api}
MISSING = [name for name, available in REQUIREMENTS.items() if not available]

# Await this before running cells: until then, "run all cells" returns true but runs nothing.
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
    """Skip the browser tests, with a reason, if a requirement is missing."""
    here = Path(__file__).parent
    for item in items:
        if MISSING and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"no {' and no '.join(MISSING)}"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    server = Server(tmp_path_factory.mktemp("lab"))
    try:
        server.wait()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")  # no longer: while Playwright is there, its event loop runs
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # CI servers run tests as root, and Chromium's sandbox does not work as root.
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
    """JupyterLab on a free port, with its settings, kernels and files in a separate folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(16)
        self.files = folder / "files"
        self.files.mkdir()
        with closing(socket.socket()) as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        folders = {"JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime"}
        folders |= {"JUPYTER_DATA_DIR": "data", "IPYTHONDIR": "ipython"}
        paths = {
            "JUPYTER_PATH": [str(Path(sys.prefix, "share", "jupyter"))],
            "PYTHONPATH": [str(ROOT)],
        }
        variables = {name: str(folder / path) for name, path in folders.items()}
        variables |= {
            name: os.pathsep.join([*added, *filter(None, [os.environ.get(name)])])
            for name, added in paths.items()
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
        deadline = time.monotonic() + TIMEOUT / 1000
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError):
                self.request("api/status")
                return
            time.sleep(0.2)
        raise RuntimeError(
            f"JupyterLab did not start: {(self.folder / 'log').read_text('utf-8')[-2000:]}"
        )

    def request(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(f"{self.url}/{path}?token={self.token}", method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or "null")

    def end_kernels(self) -> None:
        for kernel in self.request("api/kernels"):
            self.request(f"api/kernels/{kernel['id']}", "DELETE")

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
    """A notebook opened in JupyterLab."""

    def __init__(self, server: Server, browser: Any) -> None:
        self.server = server
        self.context = browser.new_context(viewport={"width": 1400, "height": 1000})
        self.context.set_default_timeout(TIMEOUT)
        self.folder = Path(server.files, secrets.token_hex(4))
        self.folder.mkdir()

    def open(self, notebook: Path, change: Callable[[str], str] = str) -> None:
        """Copy a notebook with changed text, open it and wait until its kernel is ready."""
        text = change(notebook.read_text(encoding="utf-8"))
        (self.folder / notebook.name).write_text(text, encoding="utf-8")
        self.visit(notebook.name)

    def visit(self, name: str) -> None:
        self.page = self.context.new_page()
        path = (self.folder / name).relative_to(self.server.files)
        url = f"{self.server.url}/lab/workspaces/{self.folder.name}/tree/{path}"
        self.page.goto(f"{url}?reset&token={self.server.token}")
        self.page.wait_for_function("() => window.jupyterapp && window.jupyterapp.shell")
        self.poll(lambda: self.page.evaluate(READY), "the notebook to open")

    def open_without_kernel(self, name: str) -> None:
        """Open another file in the same page, without starting a kernel."""
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
        """Restart the kernel without a confirmation dialog."""
        self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )

    def edit(self, index: int, change: Callable[[str], str]) -> None:
        """Change the text of a cell."""
        cell = f"window.jupyterapp.shell.currentWidget.content.widgets[{index}].model.sharedModel"
        text = self.page.evaluate(f"() => {cell}.getSource()")
        self.page.evaluate(f"text => {cell}.setSource(text)", change(text))

    def find(self, index: int, selector: str) -> Any:
        """Scroll to a cell and return a locator for the elements in it that match the selector."""
        self.page.evaluate(
            "index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index)", index
        )
        return self.page.locator(f'.jp-Cell[data-windowed-list-index="{index}"]').locator(selector)

    def command(self, name: str) -> None:
        self.page.evaluate("name => window.jupyterapp.commands.execute(name).then(() => 0)", name)

    def run_all(self) -> None:
        """Run all cells one by one and wait for the end."""
        for index in range(self.count()):
            self.run(index)

    def count(self) -> int:
        return self.page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
        )

    def run(self, index: int) -> None:
        """Run one cell and wait until it has finished."""
        self.start(index)
        self.wait_for_cell(index)

    def start(self, index: int) -> None:
        self.page.evaluate(
            """index => {
              const notebook = window.jupyterapp.shell.currentWidget.content;
              const model = notebook.widgets[index].model;
              if (model.type === 'code') model.clearExecution();  // It may have been run before.
              notebook.deselectAll();
              notebook.activeCellIndex = index;
            }""",
            index,
        )
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-cell'); }")

    def wait_for_cell(self, index: int) -> None:
        done = lambda: self.cell(index)["state"] == "done"  # noqa: E731
        self.poll(done, f"cell {index} to finish")
        errors = [out["evalue"] for out in self.cell(index)["outputs"] if "evalue" in out]
        assert not errors, f"cell {index}: {errors}"

    def cell(self, index: int) -> dict[str, Any]:
        """Return state and outputs from the model, because the page omits cells out of view."""
        return self.page.evaluate(
            """index => {
              const cell = window.jupyterapp.shell.currentWidget.content.widgets[index];
              if (cell.model.type !== 'code') return {state: 'done', outputs: []};
              const outputs = cell.model.outputs.toJSON();
              const done = cell.model.executionState === 'idle' && cell.model.executionCount;
              return {state: done ? 'done' : 'waiting', outputs};
            }""",
            index,
        )

    def text(self, index: int) -> str:
        """Return what a cell has printed, and the plain text of its other outputs."""
        outputs = self.cell(index)["outputs"]
        texts = [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]
        return "\n".join("".join(text) for text in texts)

    def picture(self, index: int) -> str:
        """Return the last picture of a cell as base64 text, or an empty string."""
        outputs = self.cell(index)["outputs"]
        images = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
        return "".join(images[-1]) if images else ""

    def poll(self, condition: Callable[[], Any], description: str) -> Any:
        """Wait until a condition is true and return its value."""
        deadline = time.monotonic() + TIMEOUT / 1000
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.1)
        raise AssertionError(f"timed out waiting for {description}")

    def close(self) -> None:
        self.context.close()
        self.server.end_kernels()
